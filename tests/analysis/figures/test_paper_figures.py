"""The papers' figures: the positions of our points and the papers', and marks of diverged runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from analysis.figures.paper_figures import figures
from analysis.figures.svg import SVG, Figure
from analysis.pages import ablation_page
from analysis.results.ledger import Ledger
from analysis.results.read_ablation import ledger
from tests.analysis.ablations import Story, build, wrong

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
    assert "A cross at the upper edge: seeds that diverged" in figure.caption
    assert group(figure, "lost") == ["10K further pre-training steps: 2 of 2 seeds diverged"]
    assert "pretrain steps" in figure.svg


def test_the_page_names_the_leader(tmp_path: Path) -> None:
    assert ablation_page.answer(figure3(tmp_path), [])[0] == "1K further pre-training steps leads with 13.25 % error"


def test_the_same_bytes(tmp_path: Path) -> None:
    assert [f.svg for f in figures(figure3(tmp_path / "a"))] == [f.svg for f in figures(figure3(tmp_path / "b"))]


def test_learning_curves_with_divergence_and_numbers_read_off_a_figure(tmp_path: Path) -> None:
    outcomes: dict[tuple[str, str], list[Any]] = {("imdb", f"lr={rate}"): [wrong(40), wrong(44, 1)] for rate in RATES[:3]}
    outcomes["imdb", "lr=4e-4"] = ["diverged", wrong(200)]
    curves = {("imdb", "lr=4e-4"): [[10.0], [10.0, 50.0, 50.0]]}
    found = ledger(build(tmp_path / "run", FIGURE2, outcomes, curves=curves))
    (figure,) = figures(found)
    assert "lr=4e-4 ends at 30.00 %" in figure.description
    assert "A cross: a run diverged and ends there" in figure.caption
    assert group(figure, "ended") == ["lr=4e-4, seed 0: diverged after epoch 1"]
    assert "lr=4e-4, seed 0, diverged after epoch 1" in figure.description
    assert "validation error, %" in figure.svg
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


# Divergence and other metrics -------------------------------------------------------------------------------------------------


def crosses(figure: Figure, gid: str) -> list[tuple[float, float]]:
    """Where the crosses of a group are, in points from the upper left."""
    root = ElementTree.fromstring(figure.svg.partition("\n")[2])
    found = next(e for e in root.iter() if e.get("id") == f"{figure.name}-{gid}")
    return [(float(e.get("x", "nan")), float(e.get("y", "nan"))) for e in found.iter(f"{{{SVG}}}use")]


def f1_study(folder: Path, about: dict[str, Any], seeds: dict[str, list[Any]]) -> Ledger:
    """Write a run whose metric is macro-F1. `seeds` holds, by row, F1 after each epoch, and whether the run then diverged."""
    build(folder, about, {})
    (task,) = about["tasks"]
    story = Story(folder / task, task)
    story.write("plan", metric="macro_f1")
    for row, runs in seeds.items():
        for seed, (curve, diverged) in enumerate(runs):
            name, stage = f"f{story.count:02d}", f"{row}-{seed}"
            story.count += 1
            who = {"trial": name, "phase": "final", "setting": row, "seed": seed}
            for epoch, f1 in enumerate(curve, 1):
                story.write("evaluation", **who, stage="finetune", stage_id=stage, split="validation", epoch=float(epoch),
                            macro_f1=f1, error_rate_percent=40.0, train_error_rate_percent=39.0)  # fmt: skip
            status = "diverged" if diverged else "complete"
            story.write("trial", **who, status=status, label=row, params={}, stage_ids=[stage], metric="macro_f1")
            if not diverged:
                scored = {"macro_f1": curve[-1], "error_rate_percent": 41.0, "examples": 10}
                story.write("evaluation", **who, stage="test", stage_id=f"{stage}-test", split="test", **scored)
    return ledger(folder)


MINE = {"source": None, "tasks": {"mine": {"train": "a.csv"}}}


def test_curves_of_a_metric_of_which_more_is_better(tmp_path: Path) -> None:
    about = FIGURE2 | MINE
    found = f1_study(tmp_path / "run", about, {
        "lr=2e-5": [([0.5, 0.8], False), ([0.6, 0.9], False)],
        "lr=4e-4": [([0.4], True), ([], True)],
    })  # fmt: skip
    (figure,) = figures(found)
    assert "validation macro-F1, %" in figure.svg
    assert "validation error" not in figure.svg + figure.caption
    assert "validation macro-F1 after each epoch" in figure.caption
    assert "lr=2e-5 ends at 85.00 %" in figure.description
    assert "training texts" not in figure.caption, "their error is no F1"
    assert group(figure, "ended") == ["lr=4e-4, seed 0: diverged after epoch 1"]
    assert group(figure, "never") == ["lr=4e-4, seed 1: diverged before its first validation"]
    assert "Crosses at the lower left: diverged before the first validation" in figure.caption
    (_, never), (_, ended) = crosses(figure, "never")[0], crosses(figure, "ended")[0]
    assert never > ended, "below: the y of an SVG grows downwards"


def test_a_published_error_is_not_drawn_among_f1(tmp_path: Path) -> None:
    found = f1_study(tmp_path / "run", FIGURE2, {"lr=2e-5": [([0.5, 0.8], False)]})
    assert found.cells[0].published is not None
    (figure,) = figures(found)
    assert "Hollow marks" not in figure.caption


def test_divergence_of_a_single_seed_shows_with_any_metric(tmp_path: Path) -> None:
    rows = {row["row"]: [([0.7], False), ([0.6], place == 1)] for place, row in enumerate(FIGURE3["settings"])}
    (figure,) = figures(f1_study(tmp_path / "run", FIGURE3 | MINE, rows))
    assert group(figure, "lost") == ["1K further pre-training steps: 1 of 2 seeds diverged"]
    assert "A cross at the lower edge: seeds that diverged" in figure.caption
    assert "test macro-F1, %" in figure.svg
    assert "1 of 2 seeds diverged" in figure.description


@pytest.mark.parametrize("about", [FIGURE2, FIGURE3])
def test_all_diverged_is_a_figure_too(tmp_path: Path, about: dict[str, Any]) -> None:
    rows = {setting["row"]: [([], True), ([], True)] for setting in about["settings"][:2]}
    (figure,) = figures(f1_study(tmp_path / "run", about | MINE, rows))
    assert "iverged before" in figure.description or "2 of 2 seeds diverged" in figure.description
    assert len(crosses(figure, "never" if about is FIGURE2 else "lost")) == (4 if about is FIGURE2 else 2)


def test_a_final_that_is_known_to_diverge_has_the_curve_of_the_search(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", FIGURE2, {})
    story = Story(folder / "imdb", "imdb")
    about = {"setting": "s", "label": "lr=4e-4", "seed": 0, "params": {}, "stage_ids": ["one"]}
    for epoch, error in ((1.0, 10.0), (2.0, 50.0)):
        story.write("evaluation", trial="t000", phase="search", setting="s", seed=0, stage="finetune", stage_id="one",
                    split="validation", epoch=epoch, error_rate_percent=error)  # fmt: skip
    story.write("trial", trial="t000", phase="search", status="diverged", **about)
    story.write("trial", trial="f00", phase="final", status="diverged", source="loaded", **about)
    (figure,) = figures(ledger(folder))
    assert group(figure, "ended") == ["lr=4e-4, seed 0: diverged after epoch 2"]
