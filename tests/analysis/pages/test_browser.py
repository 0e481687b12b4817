"""The report in a real browser: sorting, layout, legibility, no network requests, no errors in the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.pages import reports
from tests.analysis.made_records import make
from tests.analysis.tables.test_result_table import nasty
from tests.browser import Page, browser, chromium

COLUMN = "[...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[{}].dataset.value ?? r.cells[{}].textContent)"
SORTED = "[...document.querySelectorAll('table.sortable th')].map(h => h.getAttribute('aria-sort'))"
CONTRAST = """
(() => {
  const parts = (colour) => {
    const c = document.createElement('canvas').getContext('2d');
    c.fillStyle = colour;
    c.fillRect(0, 0, 1, 1);
    return [...c.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    const c = parts(getComputedStyle(e).backgroundColor);
    return c[3] === 255 ? c : e.parentElement ? behind(e.parentElement) : [255, 255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest('.visually-hidden, script, style, title, desc, .skip')) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const front = light(parts(svg ? style.fill : style.color)), back = light(behind(e));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < 4.5) found.push(`${e.tagName} ${ratio.toFixed(2)}: ${e.textContent.trim().slice(0, 40)}`);
  }
  return found;
})()
"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def written(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reports.write([finished], tmp_path_factory.mktemp("report")).page


@pytest.fixture
def shown(page: Page, written: Path) -> Iterator[Page]:
    """Open the report of a finished run; afterwards there must be no error and no network request."""
    page.console.clear(), page.exceptions.clear(), page.requests.clear()
    page.viewport(1280, 900)
    page.media()
    url = page.open(written)
    yield page
    assert page.exceptions == []
    assert page.console == []
    assert page.requests == [url]


@pytest.mark.parametrize(("ci", "user", "outcome"), [("1", 1000, pytest.fail), ("", 0, pytest.fail), ("", 1000, pytest.skip)])
def test_a_missing_browser_is_reported(monkeypatch: pytest.MonkeyPatch, ci: str, user: int, outcome: Any) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr("os.geteuid", lambda: user)
    with pytest.raises(outcome.Exception, match="apt-get install chromium"):
        chromium()


def numbers(page: Page, column: int) -> list[float]:
    """Return a column of the table of trials, without empty cells."""
    return [float(value) for value in page.run(COLUMN.format(column, column)) if value != ""]


def test_a_click_sorts_and_a_second_one_turns_round(shown: Page) -> None:
    assert shown.run(SORTED).index("ascending") == 3
    learning_rate = 5
    head = f"table.sortable th:nth-child({learning_rate + 1}) button"
    shown.click(head)
    up = numbers(shown, learning_rate)
    assert up == sorted(up)
    assert len(up) == 21
    assert [i for i, state in enumerate(shown.run(SORTED)) if state] == [learning_rate]
    shown.click(head)
    assert numbers(shown, learning_rate) == sorted(up, reverse=True)
    assert shown.run(SORTED)[learning_rate] == "descending"
    assert shown.run("document.getElementById('sorted').textContent") == "Sorted by learning rate, descending"


def test_the_keyboard_sorts_too(shown: Page) -> None:
    shown.run("document.querySelector('table.sortable th button').focus()")
    shown.key("Tab", 9)
    shown.key("Tab", 9)
    shown.key("Enter", 13, "\r")
    states = shown.run(COLUMN.format(2, 2))
    assert states == sorted(states)
    assert len(set(states)) > 2
    shown.key("Tab", 9)
    shown.key(" ", 32, " ")
    assert shown.run(SORTED)[3] == "ascending"
    shown.key(" ", 32, " ")
    errors = numbers(shown, 3)
    assert errors == sorted(errors, reverse=True)


def test_empty_cells_come_last_both_ways(shown: Page) -> None:
    for _ in range(2):
        shown.click("table.sortable th:nth-child(5) button")  # test error: the search's trials have none
        values = shown.run(COLUMN.format(4, 4))
        assert "" in values
        assert "" not in values[: values.index("")]
        assert set(values[values.index("") :]) == {""}


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read(shown: Page, dark: bool) -> None:
    shown.media(dark=dark)
    background = shown.run("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in background[4:-1].split(",")]
    assert (max(channels) < 60) == dark
    assert shown.run(CONTRAST) == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_window(shown: Page, width: int) -> None:
    shown.viewport(width, 740, phone=width < 700)
    assert shown.run("innerWidth") == width
    assert shown.run(OVERFLOW) <= 0
    scrolls = shown.run("[...document.querySelectorAll('.scroll')].map(s => s.scrollWidth - s.clientWidth)")
    assert max(scrolls) > 0  # the table of trials scrolls inside its own frame


def test_print_is_light_and_shows_every_trial(shown: Page, tmp_path: Path) -> None:
    shown.media("print", dark=True)
    assert shown.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.run("getComputedStyle(document.querySelector('.scroll.tall')).maxHeight") == "none"
    assert shown.run(CONTRAST) == []
    shown.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000


def test_figures_name_themselves(shown: Page) -> None:
    name = "document.getElementById(s.getAttribute('aria-labelledby').split(' ')[0]).textContent"
    names = shown.run(f"[...document.querySelectorAll('figure svg')].map(s => {name})")
    assert len(names) >= 8
    assert all(names)
    assert shown.run("[...document.querySelectorAll('figure')].every(f => f.querySelector('figcaption').textContent.trim())")


@pytest.mark.parametrize("changes", [{"part": "started"}, {"part": "search", "only_failures": True}, {"edit": nasty}])
def test_odd_runs_open_without_complaint(page: Page, tmp_path: Path, changes: dict[str, object]) -> None:
    page.console.clear(), page.exceptions.clear(), page.requests.clear()
    page.viewport(360, 740, phone=True)
    page.media()
    url = page.open(reports.write([make(tmp_path / "run", **changes)]).page)  # type: ignore[arg-type]
    assert page.run(OVERFLOW) <= 0
    assert page.run(CONTRAST) == []
    assert page.exceptions == []
    assert page.console == []
    assert page.requests == [url]


def test_the_page_forbids_itself_to_ask_the_outside(page: Page, written: Path) -> None:
    """The tests above would see a request: one attempted here is recorded, and the page's policy blocks it."""
    page.viewport(1280, 900)
    page.open(written)
    page.console.clear()
    page.run("fetch('http://127.0.0.1:9/').catch(() => 'refused')")
    page.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    page.until("true")
    assert any("Content Security Policy" in line for line in page.console)
