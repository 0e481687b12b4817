"""Every kind of page before axe-core, in light and dark, wide and narrow; and by keyboard and on paper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from analysis import reports
from tests.analysis.ablations import TABLE2, build, table2_outcomes
from tests.analysis.records import make
from tests.analysis.test_browser import CONTRAST, OVERFLOW
from tests.analysis.test_redraw import figure3
from tests.browser import Page, browser

PAGES = ("study", "table", "curve", "overview")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind."""
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
    return (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


def faults(page: Page, axe: str) -> list[dict[str, Any]]:
    """What axe-core finds wrong, with the first places of each."""
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
