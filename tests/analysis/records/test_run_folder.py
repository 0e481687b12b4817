"""A run folder as objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.records.run_folder import load, settings_text
from analysis.records.trials import Trial
from analysis.text.plain import plain, shown
from tests.analysis.made_records import PAPER, SPACE, make


def test_trials_have_their_last_recorded_state(finished: Path) -> None:
    run = load(finished)
    assert [trial.name for trial in run.search] == [f"t{n:03d}" for n in range(12)]
    assert [trial.name for trial in run.finals] == [f"f{n:02d}" for n in range(9)]
    first = run.search[0]
    assert first.params == PAPER
    assert first.status == "complete"
    assert [epoch for epoch, _ in first.curve] == [1, 2, 3, 4]
    assert first.error == first.curve[-1][1]
    assert first.tokens == 52_400
    assert first.seconds == 30
    assert {trial.status for trial in run.search} == {"complete", "stopped", "diverged", "failed"}
    assert all(trial.test for trial in run.finals)
    assert run.sizes == {"train": 640, "validation": 160, "test": 200}
    assert run.state == "finished"


def test_a_curve_is_that_of_fine_tuning(tmp_path: Path) -> None:
    """A stage on several tasks that a trial computes by itself has validation errors of its own."""
    told = {"trial": "t000", "stage": "multitask", "stage_id": "several", "split": "validation", "epoch": 1.0, "step": 9}
    folder = make(tmp_path, edit=lambda s: s.write("evaluation", **told, error_rate_percent=99.0, by_task={"x": {"loss": 1.0}}))
    run = load(folder)
    assert not run.problems
    assert all(error != 99 for _, error in next(trial for trial in run.search if trial.name == "t000").curve)


def test_a_trial_that_began_again_is_running(tmp_path: Path) -> None:
    folder = make(tmp_path, part="search", edit=lambda s: s.write("trial", trial="t008", phase="search", status="started"))
    run = load(folder)
    assert next(trial for trial in run.search if trial.name == "t008").status == "running"
    assert run.state == "unfinished"


def test_the_space_comes_from_the_study_file(finished: Path) -> None:
    space = {dimension.path: dimension for dimension in load(finished).space}
    assert list(space) == list(SPACE)
    assert space["finetune.learning_rate"].kind == "log"
    assert space["finetune.xi"].kind == "linear"
    assert space["finetune.truncation"].values == ("head", "tail", "head+tail")
    assert space["finetune.head_tokens"].conditional
    assert not space["finetune.xi"].conditional
    assert space["pretrain.steps"].name == "pretrain steps"
    assert space["pretrain.steps"].numeric
    assert not space["finetune.truncation"].numeric


def test_without_a_study_file_the_space_is_inferred_from_the_trials(tmp_path: Path) -> None:
    space = {d.path: d for d in load(make(tmp_path, part="search", study_file=False)).space}
    assert set(space) == set(SPACE)
    assert space["finetune.learning_rate"].kind == "log"
    assert space["finetune.xi"].kind == "linear"
    assert set(space["finetune.truncation"].values) == {"head", "tail", "head+tail"}
    assert space["finetune.head_tokens"].conditional


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "name: [", "\x00", "a: !!python/object:os.system x", "space: 3\nfinal: x\nencoder: 4"]
)
def test_a_damaged_study_file_is_done_without(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path, part="search")
    (folder / "study.yaml").write_text(text)
    assert {d.path for d in load(folder).space} == set(SPACE)


def test_trials_sort_by_number_beyond_a_thousand(tmp_path: Path) -> None:
    names = ["t1000", "t999", "f10", "f9", "x"]
    rows = [{"event": "trial", "trial": n, "phase": "final" if n[0] == "f" else "search", "status": "started"} for n in names]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [trial.name for trial in load(tmp_path).trials] == ["t999", "t1000", "x", "f9", "f10"]


def test_a_missing_records_file_is_reported() -> None:
    with pytest.raises(FileNotFoundError, match=r"no run folder \(there is no records\.jsonl in it\)"):
        load("/nowhere/at/all")


def test_predictions_are_read_from_the_run_folder_only(finished: Path) -> None:
    run = load(finished)
    found = run.predictions("f00")
    assert found is not None
    test = run.finals[0].test
    assert test is not None
    assert 100 * (found.has != found.predicted).mean() == pytest.approx(test["error_rate_percent"])
    assert run.predictions("../predictions/f00") is None
    assert run.predictions("t000") is None


def test_damaged_predictions_are_done_without(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "predictions" / "f00-test.parquet").write_bytes(b"PAR1 nothing")
    assert load(folder).predictions("f00") is None


def test_plain_text_has_no_escapes_and_no_second_line() -> None:
    assert plain("a\x1b]0;title\x07\x1b[31mred\x1b[0m\nb\t\u202ec\x07") == "ared b c"
    assert plain("x" * 50, 10) == "x" * 9 + "…"


def test_values_as_people_write_them() -> None:
    assert [shown(v) for v in (2e-5, 0.95, 6, True, None, ["a", "b"], "head+tail")] == [
        "2e-05",
        "0.95",
        "6",
        "yes",
        "–",
        "a + b",
        "head+tail",
    ]
    assert settings_text({"b.c": 1, "x": 2.0}, []) == "b.c 1, x 2"


def test_trials_are_plain_values() -> None:
    assert Trial("t000", "search").status == "running"
