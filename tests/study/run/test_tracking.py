"""Trackers beside a running study: what they get, and that their failures do not disturb it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from analysis.trackers import follow
from analysis.trackers.ledger import alone
from analysis.trackers.send import send
from study.definition.study_file import load_study
from tests.analysis.made_records import make
from tests.study.tiny import inside, records, refused, study_here, tiny_study, write_study
from trainables.settings.errors import ConfigError

SMALL: dict[str, Any] = {
    "recipe": [{"finetune": {"epochs": 2, "batch_size": 8, "max_length": 24, "head_tokens": 6, "learning_rate": 1e-3}}],
    "space": {},
    "search": {},
    "budget": {"trials": 1},
    "final": {"seeds": 1},
    "baseline": False,
}
NOBODY = "http://127.0.0.1:9"
"""An address where nothing answers."""


def test_a_tracker_without_a_server_is_noted_once_and_the_other_gets_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'finetune-study[tensorboard]'")
    pytest.importorskip("mlflow", reason="pip install 'finetune-study[mlflow]'")
    path, run = write_study(tmp_path / "in", **SMALL, track={"tensorboard": None, "mlflow": NOBODY}), tmp_path / "run"
    done = study_here("run", path, "--out", run, "--store", tmp_path / "store", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == 0, done.stderr
    (note,) = [row["text"] for row in records(run, "notice") if "mlflow" in row["text"]]
    assert "the study goes on" in note
    assert f"study track {run} --to mlflow" in note
    assert "mlflow gets nothing at present" in done.stdout + done.stderr
    with alone(run, "tensorboard", 200):  # its process may still write on a busy machine
        pass
    assert inside(capsys, "track", run, "--to", "tensorboard")[:2] == (0, "tensorboard: up to date\n")
    assert {path.parent.name for path in (run / "tensorboard").rglob("t000/events.*")} == {"t000"}
    code, _, err = inside(capsys, "track", run, "--to", "mlflow")
    assert code == 1
    assert "mlflow: MlflowException" in err
    again = study_here("run", path, "--out", run, "--store", tmp_path / "store", "--set", "track=[tensorboard]")
    assert "nothing was run again" in again.stdout, "trackers may change"


def test_after_a_failure_the_rest_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written at first; only its first failure is told."""
    pytest.importorskip("tensorboard", reason="pip install 'finetune-study[tensorboard]'")
    monkeypatch.setattr(follow, "EVERY_S", 0.02)
    run, at, ended, told = make(tmp_path / "run", trials=2), tmp_path / "events", threading.Event(), list[str]()
    at.write_text("no folder")

    def tell(text: str) -> None:
        told.append(text)
        threading.Timer(0.3, repair).start()

    def repair() -> None:
        at.unlink()
        ended.set()

    assert follow.follow(run, "tensorboard", str(at), ended, tell) == 0
    assert [text.partition(":")[0] for text in told] == ["NotADirectoryError"]
    assert send(run, "tensorboard", str(at)) == 0, "everything is there"


@pytest.mark.parametrize(
    ("track", "fault"),
    [
        ("mlfow", "track: no tracker is called 'mlfow'; did you mean 'mlflow'?"),
        (["comet"], "track: no tracker is called 'comet'; allowed: mlflow, tensorboard, trackio, wandb"),
        ({"mlflow": "https://me:secret1@host"}, "track: the address of mlflow holds a user or password, which this file must not"),
        ({"mlflow": 3}, "track.mlflow: 3 given; it should be a valid string"),
    ],
)
def test_faults_in_the_study_file(tmp_path: Path, track: Any, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(tiny_study(tmp_path, track=track))
    (text,) = caught.value.faults
    assert text.startswith(fault)
    assert "secret1" not in text


def test_names_become_a_table_of_addresses(tmp_path: Path) -> None:
    made = load_study(tiny_study(tmp_path, track=["wandb", "mlflow"]), ["track={mlflow: sqlite:///a.db}"])
    assert made.track == {"mlflow": "sqlite:///a.db"}
    assert load_study(tiny_study(tmp_path, track="wandb")).track == {"wandb": None}
    assert made.digest() == load_study(tiny_study(tmp_path)).digest(), "trackers are in no identity"


def test_what_is_not_installed_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("analysis.trackers.names.find_spec", lambda name: None)
    path = write_study(tmp_path / "in", **SMALL, track=["wandb"])
    text = refused(capsys, "run", path, "--out", tmp_path / "run", "--store", tmp_path / "store")
    assert text == "error: track: wandb is not installed; run: pip install 'finetune-study[wandb]'\n"
    assert not (tmp_path / "run").exists()


def test_the_command_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run folder" in refused(capsys, "track", tmp_path, "--to", "mlflow")
    run = make(tmp_path / "run", trials=2, study_file=False)
    write_study(tmp_path / "in")
    (run / "study.yaml").write_bytes((tmp_path / "in" / "study.yaml").read_bytes())
    assert "--to: no tracker given, and the study has no `track`; there are mlflow" in refused(capsys, "track", run)
    assert "did you mean 'mlflow'?" in refused(capsys, "track", run, "--to", "mlfow")
    several = refused(capsys, "track", run, "--to", "mlflow", "--to", "tensorboard", "--at", "x")
    assert "--at: one address for 2 trackers" in several
