"""The page of an ablation in a real browser: links from numbers to runs, the filter, legibility."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.pages import reports
from tests.analysis.ablations import TABLE2, build, table2_outcomes
from tests.analysis.figures.test_paper_figures import figure3
from tests.analysis.pages.test_browser import CONTRAST, OVERFLOW
from tests.analysis.pages.test_details import enrich
from tests.browser import Page, browser

VISIBLE = "[...document.querySelectorAll('#runs tbody tr')].filter(r => r.offsetParent).length"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=["table", "curve"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "table":
        build(folder / "run", TABLE2, table2_outcomes(), finished=False)
        enrich(folder / "run")
    else:
        figure3(folder)
    return reports.write([folder / "run"]).page


@pytest.fixture
def shown(page: Page, written: Path) -> Iterator[Page]:
    page.console.clear(), page.exceptions.clear(), page.requests.clear()
    page.viewport(1280, 900)
    page.media()
    url = page.open(written)
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    yield page
    assert page.exceptions == []
    assert page.console == []
    assert {request.partition("#")[0] for request in page.requests} == {url}


def test_a_number_leads_to_its_runs_even_through_a_filter(shown: Page) -> None:
    rows = shown.run("document.querySelectorAll('#runs tbody tr').length")
    shown.run("document.getElementById('filter').focus()")
    for letter in "zzz":
        shown.key(letter, ord(letter.upper()), letter)
    shown.until(f"{VISIBLE} === 0")
    assert shown.run("document.getElementById('sorted').textContent") == f"0 of {rows} rows"
    shown.click("table.beside-paper a.cell")
    shown.until("document.activeElement.id === 'cell-0'")
    assert shown.run("document.querySelector('tr:target').id") == "cell-0"
    assert shown.run(VISIBLE) == rows


def test_the_filter_keeps_rows_with_all_words(shown: Page) -> None:
    some = shown.run("document.querySelector('#runs tbody tr').cells[6].textContent")
    shown.run("document.getElementById('filter').focus()")
    for letter in some:
        shown.key(letter, ord(letter.upper()), letter)
    shown.until(f"{VISIBLE} < document.querySelectorAll('#runs tbody tr').length")
    assert shown.run(VISIBLE) >= 1


def test_a_click_on_a_head_sorts(shown: Page) -> None:
    shown.click("#runs th:nth-child(4) button")
    scores = shown.run("[...document.querySelectorAll('#runs tbody tr')].map(r => r.cells[3].dataset.value)")
    numbers = [float(score) for score in scores if score]
    assert numbers == sorted(numbers)
    assert scores[len(numbers) :] == [""] * (len(scores) - len(numbers))


def test_collapsed_sections_open_by_keyboard_and_in_print(shown: Page) -> None:
    shown.run("document.querySelectorAll('details').forEach((each) => { each.open = false; })")
    shown.media("print")
    shown.until("document.querySelector('#errors details table').checkVisibility()")
    shown.media()
    shown.run("document.querySelector('#errors summary').focus()")
    shown.key("Enter", 13, "\r")
    shown.until("document.querySelector('#errors details').open")


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read(shown: Page, dark: bool) -> None:
    shown.media(dark=dark)
    assert shown.run(CONTRAST) == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window(shown: Page, width: int) -> None:
    shown.viewport(width, 740, phone=width < 700)
    assert shown.run(OVERFLOW) <= 0


def test_print_is_light(shown: Page) -> None:
    shown.media("print", dark=True)
    assert shown.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.run(CONTRAST) == []


def test_a_pdf_is_printed(written: Path, tmp_path: Path) -> None:
    reports.write([written.parents[1]], tmp_path, ["pdf"])
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
