"""Every kind of page checked by axe-core, in light and dark, wide and narrow; keyboard use and printing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.pages import reports
from tests.analysis.ablations import TABLE2, build, table2_outcomes, wrong
from tests.analysis.figures.test_paper_figures import figure3
from tests.analysis.made_records import make
from tests.analysis.pages.test_browser import CONTRAST, OVERFLOW
from tests.browser import Page, browser

AXE = "20c09fe157a8a34a30e241aaa1fcdade657734f08ab379ecfbeb7d45cc46e878"
"""SHA-256 of axe-core 4.14.0 (Mozilla Public License 2.0), which lies beside this file as its authors built it."""
PAGES = ("study", "table", "curve", "overview")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one page of every kind."""
    folder = tmp_path_factory.mktemp("pages")
    make(folder / "study")
    make(folder / "search", part="search")
    build(folder / "table2", TABLE2, table2_outcomes(), finished=False)
    figure3(folder)  # into `run`
    runs = [folder / name for name in ("study", "table2", "run", "search", "none", "study")]
    overview = reports.write(runs, folder / "report").page
    named = {"study": "study", "table": "table2", "curve": "run"}
    return {"overview": overview} | {name: folder / "report" / run / "report.html" for name, run in named.items()}


@pytest.fixture(scope="module")
def axe() -> str:
    script = Path(__file__).with_name("axe.min.js").read_bytes()
    assert hashlib.sha256(script).hexdigest() == AXE, "another release? Then its digest belongs here, in the same commit"
    return script.decode()


def faults(page: Page, axe: str) -> list[dict[str, Any]]:
    """Return the violations that axe-core finds, with the first places of each."""
    if page.run("typeof axe") == "undefined":
        page.run(f"{axe}; 0")
    found = page.run("axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r))")
    return [
        {"rule": each["id"], "impact": each["impact"], "nodes": [node["html"][:120] for node in each["nodes"][:3]]}
        for each in json.loads(found)["violations"]
    ]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_no_fault(page: Page, written: dict[str, Path], axe: str, name: str, look: str) -> None:
    page.viewport(390 if look == "phone" else 1280, 844, phone=look == "phone")
    page.media(dark=look == "dark")
    page.open(written[name])
    assert faults(page, axe) == []


def test_axe_would_find_one(page: Page, written: dict[str, Path], axe: str) -> None:
    page.open(written["study"])
    page.run("document.body.append(Object.assign(document.createElement('img'), {src: 'data:,'}))")
    page.run("document.querySelector('h2').style.color = '#eee'")
    assert {"image-alt", "color-contrast"} <= {each["rule"] for each in faults(page, axe)}


# Keyboard ------------------------------------------------------------------------------------------------------------------------

FOCUSED = """
(() => {
  const e = document.activeElement, style = getComputedStyle(e);
  return [e.className + '|' + e.tagName, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
})()
"""
REACHABLE = "[...document.querySelectorAll('a[href], button, input, summary, .scroll')].filter(e => e.checkVisibility()).length"


@pytest.mark.parametrize("name", PAGES)
def test_tab_reaches_everything_and_shows_where_it_is(page: Page, written: dict[str, Path], name: str) -> None:
    page.viewport(1280, 844)
    page.media()
    page.open(written[name])
    count = page.run(REACHABLE)
    seen = []
    for _ in range(count):
        page.key("Tab", 9)
        seen.append(page.run(FOCUSED))
    assert all(outlined for _, outlined in seen)
    kinds = {what for what, _ in seen}
    assert {"skip|A", "|BUTTON"} <= kinds
    assert any(what.startswith("scroll") for what in kinds)
    if name != "study":
        assert {"cell|A", "|INPUT"} <= kinds
    page.key("Tab", 9)  # after the last comes the browser itself or the first again
    assert page.run("document.activeElement === document.body || document.activeElement.className === 'skip'")


def test_the_overview_leads_to_the_runs_behind_a_number(page: Page, written: dict[str, Path]) -> None:
    page.viewport(1280, 844)
    page.media()
    page.console.clear(), page.exceptions.clear()
    page.open(written["overview"])
    links = page.run("[...document.querySelectorAll('#all a.cell')].map(a => a.href)")
    assert len(links) >= 10
    for link in links:
        path, _, anchor = link.partition("#")
        page.open(Path(path.removeprefix("file://")))
        assert page.run(f"Boolean(document.getElementById({json.dumps(anchor)}))"), link
    page.open(written["overview"])
    page.click("#all a.cell")
    page.until("Boolean(document.querySelector('tr:target'))")
    assert "study" in page.run("location.pathname")
    assert (page.console, page.exceptions) == ([], [])


@pytest.mark.parametrize("dark", [False, True])
def test_the_overview_can_be_read_on_a_phone(page: Page, written: dict[str, Path], dark: bool) -> None:
    page.viewport(320, 740, phone=True)
    page.media(dark=dark)
    page.open(written["overview"])
    assert page.run(CONTRAST) == []
    assert page.run(OVERFLOW) <= 0


# Paper ---------------------------------------------------------------------------------------------------------------------------

CUT_OFF = "[...document.querySelectorAll('.scroll')].filter(s => s.scrollHeight > s.clientHeight + 1).length"
ROW_PX = 12
"""A printed row of a table is at least that high, and a page of A4 at most 1123."""


def pages(pdf: Path) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))


@pytest.mark.parametrize("name", PAGES)
def test_on_paper_no_box_is_cut_off_and_nothing_is_folded(page: Page, written: dict[str, Path], tmp_path: Path, name: str) -> None:
    page.viewport(794, 1123)
    page.open(written[name])
    page.media("print")
    assert page.run(CUT_OFF) == 0
    page.pdf(tmp_path / "page.pdf")
    assert page.run("[...document.querySelectorAll('details')].every(d => d.open)")


def test_a_pdf_has_every_row(page: Page, tmp_path: Path) -> None:
    rows = [f"row {i}" for i in range(80)]
    settings = [{"row": row, "set": {}} for row in rows]
    tasks = {"imdb": TABLE2["tasks"]["imdb"]}
    about = TABLE2 | {"settings": settings, "tasks": tasks, "claims": [], "notes": []}
    outcomes = {("imdb", row): [wrong(60 + i, s) for s in range(3)] for i, row in enumerate(rows)}
    build(tmp_path / "run", about, outcomes)  # type: ignore[arg-type]
    reports.write([tmp_path / "run"], names=["pdf"])
    pdf = tmp_path / "run" / "report" / "report.pdf"
    assert pages(pdf) >= 80 * 5 * ROW_PX / 1123  # one row each in the table and in details, three in provenance
    if tool := shutil.which("pdftotext"):
        said = subprocess.run([tool, "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
        assert all(len(re.findall(rf"(?m)^\s*{row}\s", said)) >= 5 for row in rows)
