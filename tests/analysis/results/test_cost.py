"""Cost of a run: every training once, those from the store apart, measured energy, the training saved by sharing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.pages import reports
from analysis.records.record import Records
from analysis.records.run_folder import load
from analysis.results import cost, sharing
from analysis.results.cost import Cost
from analysis.results.read_ablation import ledger
from analysis.text.numbers import NARROW
from tests.analysis.ablations import TABLE2, build, table2_outcomes
from tests.analysis.made_records import TOKENS_PER_EPOCH, TOKENS_PER_STEP, make


def study(folder: Path, task: str) -> Records:
    """Return a writer of records in a new run folder."""
    (folder / task).mkdir(parents=True)
    return Records(folder / task / "records.jsonl", task)


def stage(records: Records, name: str, steps: int, tokens: int, status: str = "computed", **more: Any) -> None:
    records.append("stage", stage_id=name, trajectory_id="run", name="pretrain", kind="pretrain", steps=steps, tokens=tokens,
                   status=status, seconds=99.0, **more)  # fmt: skip


def trial(records: Records, name: str, stages: list[str], tokens: int, source: str = "computed", **more: Any) -> None:
    about: dict[str, Any] = {"phase": "final", "status": "complete", "label": name[:1], "setting": name[:1], "params": {}}
    records.append("trial", trial=name, stage_ids=stages, tokens=tokens, source=source, **(about | more))


@pytest.fixture
def told(tmp_path: Path) -> Cost:
    """With measured energy: one trajectory with two milestones, four trials, two of one fine-tuning, one loaded."""
    records = study(tmp_path, "a")
    stage(records, "m1", 10, 1_000, wall_s=10.0, energy_j=100.0)
    stage(records, "m2", 20, 2_000, wall_s=20.0, energy_j=200.0)
    trial(records, "x0", ["m1", "fx0"], 500, phase="search", wall_s=5.0, energy_j=50.0, seed=0)
    trial(records, "x1", ["m1", "fx0"], 500, "loaded", wall_s=5.0, energy_j=50.0, seed=0)
    trial(records, "x2", ["m1", "fx1"], 500, wall_s=5.0, energy_j=3_600_000.0, seed=1)
    trial(records, "y0", ["m2", "fy0"], 700, "loaded", wall_s=7.0, energy_j=70.0, seed=0)
    records.append("study", status="interrupted", cpu_energy_j=7_200_000.0)
    found = cost.of_study(load(tmp_path / "a"))
    assert found is not None
    return found


def test_each_training_counts_once(told: Cost) -> None:
    rows = {part.name: part for part in told.parts}
    assert {name: (part.trained, part.loaded, part.tokens, part.seconds) for name, part in rows.items()} == {
        "pretrain": (1, 0, 2_000, 20.0),
        "fine-tuning, search": (1, 0, 500, 5.0),
        "fine-tuning, finals": (1, 1, 500, 5.0),
    }
    assert (told.total.trained, told.total.tokens, told.total.seconds) == (3, 3_000, 30.0)
    assert told.total.energy_j == 200 + 50 + 3_600_000
    assert told.total.cells == ["3", "1", "3\N{NO-BREAK SPACE}k", "30\N{NO-BREAK SPACE}s", "100", "1\N{NO-BREAK SPACE}kWh"]


def test_seconds_of_stages_agree_with_the_stage_tree(tmp_path: Path) -> None:
    """The record of a milestone holds the training up to it; the table counts the last one, not their sum."""
    records = study(tmp_path, "a")
    for name, steps, wall_s in (("m1", 10, 10.0), ("m2", 20, 21.0), ("m3", 30, 31.0)):
        stage(records, name, steps, 100 * steps, wall_s=wall_s)
    run = load(tmp_path / "a")
    account = cost.of_study(run)
    assert account is not None
    (trajectory,) = sharing.tree(run).children
    spent = [fact.replace(NARROW, " ") for node in trajectory.children for fact in node.facts if fact.endswith("s")]
    assert [fact for fact in spent if "tokens" not in fact] == ["10 s", "21 s", "31 s"]
    assert account.total.seconds == 31.0


def test_the_training_saved_by_sharing(told: Cost) -> None:
    # Apart: 500 + 500 + 500 + 700 of fine-tuning, 3 x 1,000 + 2,000 before it. Once: 500 + 500 + 700, and one run to 2,000.
    said = next(text for text in told.facts if "sharing saved" in text).replace("\N{NO-BREAK SPACE}", " ")
    assert "7.2 k tokens; each stage once is 3.7 k: sharing saved 3.5 k, 49 %" in said


def test_measured_energy_is_reported(told: Cost) -> None:
    said = " ".join(told.facts).replace("\N{NO-BREAK SPACE}", " ")
    assert "GPU energy: 1 kWh, by the driver's counters" in said
    assert "CPU energy: 2 kWh, of all CPU packages of the machine, other programs included" in said
    assert "not measured" not in said


def test_energy_that_is_known_in_part(tmp_path: Path) -> None:
    records = study(tmp_path, "a")
    trial(records, "x0", ["f0"], 500, wall_s=5.0, energy_j=36_000.0)
    trial(records, "x1", ["f1"], 500, wall_s=5.0)
    records.append("study", status="interrupted", cpu_energy_j=3_600.0)
    Records(records.path, "a").append("study", status="finished")
    found = cost.of_study(load(tmp_path / "a"))
    assert found is not None
    said = " ".join(found.facts).replace("\N{NO-BREAK SPACE}", " ")
    assert found.total.cells[-1].replace("\N{NO-BREAK SPACE}", " ") == "0.01 kWh (1 of 2)"
    assert "0.01 kWh in 1 of 2 trainings; the others' is unknown" in said
    assert "CPU energy: 1 Wh in 1 of 2 sessions" in said


def test_unmeasured_energy_is_reported_in_one_line(finished: Path) -> None:
    found = cost.of_study(load(finished))
    assert found is not None
    assert [text for text in found.facts if "nergy" in text] == ["Energy: not measured (no trial had an NVIDIA GPU to itself)."]
    assert {part.cells[-1] for part in found.parts} == {"–"}


def test_records_without_times_of_training_have_those_of_their_session(finished: Path) -> None:
    run = load(finished)
    found = cost.of_study(run)
    assert found is not None
    rows = {part.name: part for part in found.parts}
    # Of the milestones 100 and 200 were computed, in one go of 40 seconds; the trajectory counts from its start.
    assert (rows["pretrain"].trained, rows["pretrain"].tokens, rows["pretrain"].seconds) == (1, 200 * TOKENS_PER_STEP, 40.0)
    searched = [each for each in run.search if each.tokens]
    once = {each.stage_ids[-1]: each for each in searched}
    finals = {each.stage_ids[-1]: each for each in run.finals if each.stage_ids[-1] not in once}
    assert rows["fine-tuning, search"].tokens == sum(each.tokens for each in once.values())
    assert rows["fine-tuning, finals"].trained == len(finals)
    assert rows["fine-tuning, finals"].tokens == 4 * TOKENS_PER_EPOCH * len(finals)


def test_stages_that_each_trial_has_to_itself(tmp_path: Path) -> None:
    records = study(tmp_path, "a")
    for name, rate in (("x0", 10.0), ("x1", 30.0)):
        for step in (1, 2):
            records.append("evaluation", trial=name, phase="final", stage="pretrain", stage_name="tapt",
                           stage_id=f"p{name}", split="heldout",
                           step=step, epoch=float(step), tokens=100 * step, wall_s=rate * step, source="computed")  # fmt: skip
        trial(records, name, [f"p{name}", f"f{name}"], 50, wall_s=1.0)
    found = cost.of_study(load(tmp_path / "a"))
    assert found is not None
    assert {part.name: (part.trained, part.tokens, part.seconds) for part in found.parts} == {
        "tapt": (2, 400, 80.0),
        "fine-tuning, finals": (2, 100, 2.0),
    }


def test_nothing_trained_has_no_cost(tmp_path: Path) -> None:
    run = make(tmp_path / "run", part="started")
    (run / "records.jsonl").write_text("")
    assert cost.of_study(load(run)) is None
    assert "Nothing has trained yet" in reports.write([run], tmp_path / "out").page.read_text(encoding="utf-8")


def test_studies_of_an_ablation_count_together(tmp_path: Path) -> None:
    about = TABLE2 | {"tasks": {"imdb": {"known": "imdb"}, "trec": {"known": "trec"}}, "claims": []}
    folder = build(tmp_path / "run", about, {})
    for place, task in enumerate(about["tasks"]):
        records = Records(folder / task / "records.jsonl", task)
        stage(records, "m1", 10, 1_000, "loaded" if place else "computed", wall_s=10.0)
        for seed in (0, 1):
            name = f"{task}{seed}"
            trial(records, name, ["m1", f"f{name}"], 100, wall_s=2.0, label="head-only", setting="s", seed=seed)
    found = ledger(folder)
    made = cost.together(found.accounts, [run.trial for cell in found.cells for run in cell.runs], "every cell")
    assert made is not None
    assert {part.name: (part.trained, part.loaded, part.tokens) for part in made.parts} == {
        "pretrain": (1, 0, 1_000),
        "fine-tuning on imdb": (2, 0, 200),
        "fine-tuning on trec": (2, 0, 200),
    }
    # Each of the four cells by itself: 4 x (1,000 + 100); once: 1,000 + 4 x 100.
    said = " ".join(made.facts).replace("\N{NO-BREAK SPACE}", " ")
    assert "4.4 k tokens; each stage once is 1.4 k: sharing saved 3 k, 68 %" in said


def test_the_pages_have_the_section(tmp_path: Path, finished: Path) -> None:
    page = reports.write([build(tmp_path / "run", TABLE2, table2_outcomes())], tmp_path / "a").page.read_text(encoding="utf-8")
    for text in (page, reports.write([finished], tmp_path / "b").page.read_text(encoding="utf-8")):
        assert '<section id="cost"' in text
        assert 'href="#cost"' in text
        assert "Energy: not measured" in text


@pytest.mark.parametrize(
    ("joules", "text"), [(0.0, "0 Wh"), (360.0, "0.1 Wh"), (36_000, "0.01 kWh"), (4.5e6, "1.25 kWh"), (3.6e13, "10,000,000 kWh")]
)
def test_energy_as_text(joules: float, text: str) -> None:
    assert cost.energy_text(joules).replace("\N{NO-BREAK SPACE}", " ") == text
