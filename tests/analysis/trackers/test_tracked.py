"""The form that all trackers get."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from analysis.trackers.names import TRACKERS, faults
from analysis.trackers.send import reason, runs_in, send
from analysis.trackers.tracked import TrackedRun, read
from tests.analysis.made_records import Story, make


def by_name(folder: Path) -> dict[str, TrackedRun]:
    """{name: run} of all but the study."""
    return {run.name: run for run in read(folder).runs}


def test_all_that_a_run_holds(finished: Path) -> None:
    tracked, runs = read(finished), by_name(finished)
    rows = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["event"] == "evaluation"]
    assert sum(len(run.points) for run in tracked.runs) == len(evaluations) + 2  # the bag of words on two splits
    assert {run.kind for run in tracked.runs} == {"search", "final", "baseline"}
    first = [row for row in evaluations if row["trial"] == "t000"]
    assert [(point.step, point.values["validation/error_rate_percent"]) for point in runs["t000"].points] == [
        (row["step"], row["error_rate_percent"]) for row in first
    ]
    assert runs["t000"].points[0].values["train_loss"] == first[0]["train_loss"]
    assert runs["t000"].params["finetune.truncation"] == "head+tail"
    assert {runs[name].status for name in ("t005", "t008")} == {"failed"}
    assert runs["t008"].tags["reason"].startswith("OSError")
    assert "killed" in {run.status for run in tracked.runs if run.kind == "search"}
    tested = runs["f00"].points[-1].values
    assert set(tested) == {"test/error_rate_percent", "test/macro_f1", "test/loss"}
    assert tracked.study.status == "finished"
    assert tracked.study.tags["chosen"].startswith("best")
    assert (
        tracked.study.results["chosen/test/error_rate_percent"]
        == pytest.approx(sum(runs[name].points[-1].values["test/error_rate_percent"] for name in ("f00", "f01", "f02")) / 3)
        or tracked.study.tags["chosen"] != runs["f00"].tags["label"]
    )
    assert "study.yaml" in tracked.files


def test_identity_lasts_as_long_as_the_results_count(tmp_path: Path, finished: Path) -> None:
    """A moved folder and a resumed run keep it; after changed inputs were accepted, trials of the same names are other ones."""
    keys = {run.key for run in read(finished).runs}
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    assert {run.key for run in read(moved).runs} == keys
    begun = read(make(tmp_path / "begun", part="search"))
    resumed = read(make(tmp_path / "resumed"))
    assert {run.key for run in begun.runs} <= {run.key for run in resumed.runs}

    def accept(story: Story) -> None:
        story.write("inputs", inputs={"task": {"digest": "b"}}, changed=["train.csv"])

    changed = read(make(tmp_path / "changed", edit=accept))
    assert changed.study.key != resumed.study.key
    assert not [run for run in changed.runs if run.kind == "search"], "earlier results no longer count"


def test_what_is_unknown_or_missing_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert faults(["mlfow"]) == ["no tracker is called 'mlfow'; did you mean 'mlflow'?"]
    assert "there are mlflow, tensorboard, wandb, trackio" in faults(["comet"])[0]
    monkeypatch.setattr("analysis.trackers.names.find_spec", lambda name: None)
    assert faults(TRACKERS) == [f"{name} is not installed; run: pip install 'finetune-study[{name}]'" for name in TRACKERS]
    with pytest.raises(FileNotFoundError, match=r"no records\.jsonl"):
        runs_in(tmp_path)
    with pytest.raises(ValueError, match="pip install"):
        send(tmp_path, "mlflow")


def test_no_message_quotes_a_secret() -> None:
    error = ConnectionError("no answer from https://me:hunter22@example.com/api with the key abcdef123456")
    text = reason(error, {"WANDB_API_KEY": "abcdef123456", "HOME": "https"})
    assert text == "ConnectionError: no answer from https://example.com/api with the key ***"


def test_a_shared_stage_is_the_same_run_before_and_after_its_end(tmp_path: Path) -> None:
    """Its record comes last: its evaluations must not belong to another run until then."""

    def trained(story: Story) -> None:
        about = {"stage": "pretrain", "stage_name": "pretrain", "stage_id": "a" * 32, "split": "heldout"}
        for step in (1, 2):
            story.write("evaluation", step=step, loss=3.0 / step, train_loss=4.0 / step, **about)

    def ended(story: Story) -> None:
        trained(story)
        about = {"stage_id": "a" * 32, "trajectory_id": "b" * 32, "kind": "pretrain", "name": "pretrain"}
        story.write("stage", steps=2, status="computed", **about)

    shape = {"part": "started", "baseline": False}
    (before,), (after,) = (read(make(tmp_path / edit.__name__, edit=edit, **shape)).runs for edit in (trained, ended))
    assert (before.key, before.name, before.kind, before.status) == (after.key, "pretrain-aaaaaaaa", "stage", "running")
    assert after.status == "finished"
    assert [(point.step, point.values) for point in after.points] == [
        (1, {"heldout/loss": 3.0, "train_loss": 4.0}),
        (2, {"heldout/loss": 1.5, "train_loss": 2.0}),
    ]


def test_the_studies_of_an_ablation_are_its_runs(tmp_path: Path) -> None:
    """As far as they have begun; a folder outside is none of them."""
    make(tmp_path / "ablation" / "one", trials=1, part="search")
    make(tmp_path / "outside", trials=1, part="search")
    studies = "[{folder: one, task: a}, {folder: two, task: b}, {folder: ../outside, task: c}]"
    (tmp_path / "ablation" / "ablation.yaml").write_text(f"name: mine\nstudies: {studies}\n")
    assert runs_in(tmp_path / "ablation") == [tmp_path / "ablation" / "one"]
    assert runs_in(tmp_path / "outside") == [tmp_path / "outside"]
