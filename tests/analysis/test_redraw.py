"""The papers' figures with ours: every point where it belongs, the paper's beside it, divergence to be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from analysis import ablation
from analysis.cells import Ledger, ledger
from analysis.redraw import figures
from analysis.svg import SVG, Figure
from tests.analysis.ablations import build, wrong

STEPS = ("0K", "1K", "10K", "100K")
FIGURE3: dict[str, Any] = {
    "name": "figure3",
    "title": "Further pre-training steps",
    "source": {"paper": "sun2019", "table": "Figure 3"},
    "tasks": {"sls_imdb": {"known": "sls_imdb", "published": "IMDb"}},
    "settings": [
        {"row": f"{name} further pre-training steps", "set": {"pretrain.steps": steps}}
        for name, steps in zip(STEPS, (0, 10, 100, 1000), strict=True)
    ],
    "layout": "curve",
    "x": "pretrain.steps",
    "seeds": 2,
}
RATES = ("2e-5", "5e-5", "1e-4", "4e-4")
FIGURE2: dict[str, Any] = {
    "name": "figure2",
    "title": "Learning rates and forgetting",
    "source": {"paper": "sun2019", "table": "Figure 2"},
    "tasks": {"imdb": {"known": "imdb", "published": "IMDb"}},
    "settings": [{"row": f"lr={rate}", "set": {"finetune.learning_rate": float(rate)}} for rate in RATES],
    "layout": "curve",
    "seeds": 2,
}


def figure3(tmp_path: Path) -> Ledger:
    rows = [setting["row"] for setting in FIGURE3["settings"]]
    outcomes: dict[tuple[str, str], list[Any]] = {
        ("sls_imdb", rows[0]): [wrong(60), wrong(66, 1)],
        ("sls_imdb", rows[1]): [wrong(56), wrong(50, 1)],
        ("sls_imdb", rows[2]): ["diverged", "diverged"],
    }
    return ledger(build(tmp_path / "run", FIGURE3, outcomes))


def group(figure: Figure, gid: str) -> list[str]:
    """Tips of the marks of a group."""
    root = ElementTree.fromstring(figure.svg.partition("\n")[2])
    found = next((e for e in root.iter() if e.get("id") == f"{figure.name}-{gid}"), None)
    return [] if found is None else [title.text or "" for title in found.iter(f"{{{SVG}}}title")]


def test_ours_and_the_papers_points(tmp_path: Path) -> None:
    (figure,) = figures(figure3(tmp_path))
    assert group(figure, "ours-0") == [
        "0K further pre-training steps: 15.75 ± 1.06 % (2 seeds)",
        "1K further pre-training steps: 13.25 ± 1.06 % (2 seeds)",
    ]
    assert group(figure, "paper-0") == [f"{row} further pre-training steps: the paper's {error} %" for row, error in
                                        zip(STEPS, ("5.63", "5.54", "5.06", "4.37"), strict=True)]  # fmt: skip
    assert "1000" in figure.svg
    assert "(100K)" in figure.svg  # our steps, and the paper's under them
    assert "diverged in all seeds" in figure.caption
    assert "pretrain steps" in figure.svg


def test_the_page_names_the_leader(tmp_path: Path) -> None:
    assert ablation.answer(figure3(tmp_path), [])[0] == "1K further pre-training steps leads with 13.25 % error"


def test_the_same_bytes(tmp_path: Path) -> None:
    assert [f.svg for f in figures(figure3(tmp_path / "a"))] == [f.svg for f in figures(figure3(tmp_path / "b"))]


def test_learning_curves_with_divergence_and_what_was_read_by_eye(tmp_path: Path) -> None:
    outcomes: dict[tuple[str, str], list[Any]] = {("imdb", f"lr={rate}"): [wrong(40), wrong(44, 1)] for rate in RATES[:3]}
    outcomes["imdb", "lr=4e-4"] = ["diverged", wrong(200)]
    curves = {("imdb", "lr=4e-4"): [[10.0], [10.0, 50.0, 50.0]]}
    found = ledger(build(tmp_path / "run", FIGURE2, outcomes, curves=curves))
    (figure,) = figures(found)
    assert "lr=4e-4 ends at 30.00 %" in figure.description
    assert "A cross: a run diverged and ends there." in figure.caption
    assert "read by eye" in figure.caption
    assert [cell.published.shown if cell.published else None for cell in found.cells] == ["~5.5", "~6.0", "~8.5", "~50.0"]


@pytest.mark.parametrize("about", [FIGURE2, FIGURE3])
def test_nothing_yet_gives_no_figure(tmp_path: Path, about: dict[str, Any]) -> None:
    assert figures(ledger(build(tmp_path / "run", about, {}))) == []


def test_tables_have_no_figure(tmp_path: Path) -> None:
    assert figures(ledger(build(tmp_path / "run", FIGURE3 | {"layout": "table"}, {}))) == []


def test_errors_on_training_texts_are_drawn_where_records_have_them(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", FIGURE2, {("imdb", "lr=2e-5"): [wrong(40)]})
    path = folder / "imdb" / "records.jsonl"
    lines = path.read_text().replace('"epoch":', '"train_error_rate_percent":3.5,"epoch":')
    path.write_text(lines)
    found = ledger(folder)
    assert found.training == {("imdb", "f00"): [(1.0, 3.5), (2.0, 3.5), (3.0, 3.5)]}
    assert "Thin lines: errors on training texts" in figures(found)[0].caption
