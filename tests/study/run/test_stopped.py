"""Studies that the machine stops, or that fail alike, and their resumption; failed trials that are run again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from study.ablations import reproduce
from study.ablations.ablation_file import load
from study.ablations.grid import grid
from study.cluster import ray_session
from study.cluster.machine_faults import StudyStopped
from study.definition.study_file import load_study
from study.run import launch
from study.run.parts import _train_shared
from study.run.session import Session
from tests import s3
from tests.study.conftest import Run
from tests.study.tiny import answer, inside, records, study, study_here, table, write_study
from trainables.settings.pretraining import Pretrain

LITTLE: dict[str, Any] = {
    "recipe": [{"finetune": {"epochs": 2, "batch_size": 8, "max_length": 24, "head_tokens": 6}}],
    "space": {"finetune.learning_rate": {"choice": [1e-3, 2e-3]}},
    "search": {"sampler": "grid", "early_stopping": "none"},
    "budget": {"trials": 2},
    "final": {"top_k": 1, "seeds": 1},
    "baseline": False,
    "resources": {"concurrent": 1, "patience_seconds": 1},
}


def last_of(folder: Path) -> dict[str, tuple[str, str]]:
    """{trial: (status, reason) of its last record}."""
    return {row["trial"]: (row["status"], row.get("reason") or "") for row in records(folder, "trial")}


def test_a_lost_store_stops_the_study_which_is_resumed_once_it_is_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder, store = write_study(tmp_path / "input", **LITTLE), tmp_path / "run", tmp_path / "store"
    store.mkdir()
    (store / "states").write_text("in the way of a folder")  # root, too, cannot write below a file
    call = ("run", path, "--out", folder, "--store", store)
    done = study(*call)
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"stopped: store {store}: cannot" in done.stderr
    assert "(stage finetune)" in done.stderr
    assert f"study run {path} --out {folder} --store {store}" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert list(last_of(folder)) == ["t000"], "the next trial would have met the same"
    assert last_of(folder)["t000"][0] == "unfinished"
    end = records(folder, "study")[-1]
    assert end["status"] == "stopped"
    assert end["reason"] == last_of(folder)["t000"][1]
    assert "stopped after" in answer(capsys, "status", folder)
    answer(capsys, "report", folder)
    assert "The study was stopped: store" in " ".join((folder / "report" / "table.txt").read_text().split())
    (store / "states").unlink()
    done = study_here(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: status for name, (status, _) in last_of(folder).items()} == dict.fromkeys(("t000", "t001", "f00"), "complete")
    assert {row.get("device") for row in records(folder, "study")} == {None, "cpu"}


class RayWasStarted(Exception):
    """What a study does next where nothing is wrong with its store."""


@pytest.mark.parametrize("kind", ["a file in the way", "below a file", "no bucket"])
def test_a_store_that_cannot_be_written_stops_the_study_before_anything_starts(
    kind: str, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: object) -> Any:
        raise RayWasStarted

    monkeypatch.setattr(launch, "ray_session", start)
    made, folder, file = load_study(write_study(tmp_path / "input", **LITTLE)), tmp_path / "run", tmp_path / "file"
    file.touch()
    store = {"a file in the way": str(file), "below a file": f"{file}/store", "no bucket": f"{bucket}-more/store"}[kind]
    with pytest.raises(StudyStopped, match=f"store {store}: cannot write .*, or choose another store"):
        launch.run(made, folder, store)
    assert [row["status"] for row in records(folder, "study")] == ["started", "stopped"]
    assert records(folder, "trial") == []
    capsys.readouterr()
    assert "stopped after" in answer(capsys, "status", folder)
    if kind == "no bucket":
        s3.make_bucket(f"{bucket}-more")
    file.unlink()
    with pytest.raises(RayWasStarted):
        launch.run(made, folder, store)


def test_an_ablation_finds_that_before_anything_starts_too(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: object) -> Any:
        raise RayWasStarted

    monkeypatch.setattr(ray_session, "ray_session", start)
    store, folder, said = f"{bucket}-gone/store", tmp_path / "run", list[str]()
    with pytest.raises(StudyStopped, match=f"store {store}: cannot write {store}: .* bucket does not exist; make the bucket"):
        reproduce.run(grid(load("table2"), "smoke"), folder, store, say=said.append)
    assert ["study 1 of" in line for line in said] == [False, True]
    capsys.readouterr()
    rows = [row for part in folder.iterdir() if part.is_dir() for row in records(part)]
    assert {row["event"] for row in rows} <= {"study", "inputs", "notice"}
    assert [row["status"] for row in rows if row["event"] == "study"] == ["started", "stopped"]


def test_trials_that_fail_alike_from_their_beginning_stop_the_study_and_none_counts_as_failed(tmp_path: Path) -> None:
    path, folder = write_study(tmp_path / "input", **LITTLE | {"budget": {"trials": 2}}), tmp_path / "run"
    wrong = ("--set", "encoder.config.vocab_size=10")  # what the tokenizer has is known once its vocabulary is trained
    done = study_here("run", path, "--out", folder, "--store", tmp_path / "store", *wrong)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "stopped: t000 and t001 failed alike at their beginning" in done.stderr
    assert "vocab_size: 10 given, but the tokenizer has" in done.stderr
    assert {status for status, _ in last_of(folder).values()} == {"unfinished"}
    assert records(folder, "study")[-1]["status"] == "stopped"


@pytest.fixture
def with_a_failure(finished: Run, tmp_path: Path) -> Path:
    """The finished run, in which a trial of the search has failed."""
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    failed = next(row for row in records(folder, "trial") if row["trial"] == "t001") | {"status": "failed", "reason": "why not"}
    with open(folder / "records.jsonl", "a") as file:
        file.write(json.dumps(failed) + "\n")
        file.write(json.dumps(records(finished.folder, "study")[-1]) + "\n")
    return folder


def test_failed_trials_are_named_and_begun_again_when_that_is_asked(
    finished: Run, with_a_failure: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("run", finished.file, "--out", with_a_failure, "--store", finished.store)
    said = answer(capsys, *call)
    assert "nothing was run again" in said
    assert "1 trial failed: t001. --retry-failed runs it again" in said
    shutil.rmtree(with_a_failure / "report")
    assert "trials of the search are complete, 1 failed. --retry-failed runs them again." in " ".join(answer(capsys, *call).split())
    done = study_here(*call, "--retry-failed")
    assert done.returncode == 0, done.stdout + done.stderr
    mine = [(row["status"], row["params"]) for row in records(with_a_failure, "trial") if row["trial"] == "t001"]
    assert [status for status, _ in mine][-4:-1] == ["failed", "unfinished", "started"]
    assert mine[-1] == (last_of(finished.folder)["t001"][0], mine[0][1])
    assert table(with_a_failure) == table(finished.folder)
    assert "--retry-failed" not in done.stdout
    assert "nothing was run again" in answer(capsys, *call, "--retry-failed")


def test_a_shared_stage_stops_the_study_where_the_machine_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from study.cluster import trial
    from study.definition import models
    from study.planning import plan

    made: models.Study = load_study(write_study(tmp_path))
    (trajectory,) = plan.trajectories(made)
    assert isinstance(trajectory.nodes[0].whole, Pretrain)

    def gone(*_: object) -> Any:
        raise OSError(28, os.strerror(28), "/store")

    monkeypatch.setattr(trial, "start", gone)
    session = _stub(made)
    with pytest.raises(StudyStopped, match="No space left on device: '/store'"):
        _train_shared(session, trajectory)

    def broken(*_: object) -> Any:
        raise IndexError("of its own")

    monkeypatch.setattr(trial, "start", broken)
    assert _train_shared(session, trajectory) == ({}, "IndexError: of its own"), "left to the trials"


def _stub(made: Any) -> Session:
    """A sitting of which a shared stage needs little."""
    from unittest.mock import MagicMock

    from study.cluster.machine import Machine
    from study.cluster.work import Placement

    session = Session(made.on(0), Path(), MagicMock(url="store"), MagicMock(), Machine(((2, 0),)), Placement(1, 1, 0, False, ""))
    session.board = MagicMock()
    return session


def test_an_ablation_stops_too_and_names_its_own_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def stops(*given: Any, **_: Any) -> Any:
        asked.append(given[-1])
        raise StudyStopped("OSError: no space", "free some space")

    monkeypatch.setattr(launch, "run", stops)
    monkeypatch.setattr(reproduce, "_check_all", lambda *_: None)
    call = ("reproduce", "table2", "--scale", "smoke", "--out", tmp_path / "run", "--store", tmp_path / "store")
    for more in ((), ("--retry-failed",)):
        code, _, err = inside(capsys, *call, *more)
        assert code == 4, err
        assert "stopped: OSError: no space\n  free some space\n" in err
        assert f"study reproduce table2 --scale smoke --out {tmp_path / 'run'}" in err
    assert asked == [False, True]


def test_a_finished_study_whose_report_cannot_be_written_has_its_result(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    shutil.rmtree(folder / "report")
    (folder / "report").write_text("in the way of a folder")
    outcome = launch._outcome(folder, "tiny finished", anew=True)
    assert outcome.has_result
    assert "no report was written" in outcome.text
    assert f"study report {folder}" in outcome.text
