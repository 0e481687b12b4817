"""The Python API, as in a notebook: one study that is interrupted, resumed by the example of the document, and looked at."""

from __future__ import annotations

import io
import logging
import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml

import study
import trainables
from analysis.records import record_fields
from analysis.tables import csv_export
from study import Best, ConfigError, Run, Study
from study.cluster.variables import QUIET
from tests.helpers import reviews, write_csv
from tests.study.tiny import ROOT, family, records, tiny_study, wait_for
from tests.trainables.families import checkpoint

DOCUMENT = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
LEARNING_RATE = "param.finetune.learning_rate"


@dataclass(frozen=True)
class Cell:
    """What the example of the document left behind, and what was printed before and by it."""

    names: dict[str, Any]
    interrupted: str
    printed: str
    changed: list[str]
    """What an interrupted and a finished study have changed in this process."""
    left: set[int]
    """Processes that they have left behind."""


def state() -> dict[str, Any]:
    """All of this process that a cell may rely on."""
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "logging": (list(logging.getLogger().handlers), logging.getLogger().level, logging.getLogger("optuna").level),
        "streams": (sys.stdout, sys.stderr, *(os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2))),
        "ray": ray.is_initialized(),
    }


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    folder = tmp_path_factory.mktemp("notebook")
    (block,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, flags=re.M | re.S)
    recipe = [{"finetune": {"epochs": 1, "batch_size": 8, "max_length": 24, "head_tokens": 6}}]
    small = {"recipe": recipe, "space": {"finetune.learning_rate": {"log_uniform": [1e-4, 1e-2]}}, "search": {"sampler": "random"}}
    data = tiny_study(
        folder, **small, name="my-reviews", baseline=False, final={"top_k": 1, "seeds": 2}, store=str(folder / "store")
    )
    (folder / "my-reviews.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32)))  # Ray reads it once a process
        for name in QUIET:
            patch.delenv(name, raising=False)
        before, others = state(), family(os.getpid())
        interrupt = threading.Thread(target=_interrupt, args=(folder / "runs" / "my-reviews",))
        interrupt.start()
        with redirect_stdout(io.StringIO()) as first, pytest.raises(KeyboardInterrupt):
            Study.load("my-reviews.yaml", {"budget.trials": 2}).run()
        interrupt.join()
        names: dict[str, Any] = {}
        with redirect_stdout(io.StringIO()) as second:
            exec(block, names)
        after = state()
        changed = [name for name in before if before[name] != after[name]]
        left = (family(os.getpid()) - others) | _writers(names["run"].folder / "study.log")
        yield Cell(names, first.getvalue(), second.getvalue(), changed, left)


def _interrupt(run: Path) -> None:
    """Interrupt this process, as a notebook does, when Ray runs and the plan is recorded."""
    wait_for(lambda: records(run, "plan"))
    os.kill(os.getpid(), signal.SIGINT)


def _writers(log: Path) -> set[int]:
    """Processes that have a file open, as all of a local cluster have the log of their study."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            if any(os.readlink(opened.path) == str(log) for opened in os.scandir(entry)):
                found.add(int(entry.parent.name))
    return found


def test_an_interrupted_study_is_resumed_in_the_same_process(cell: Cell) -> None:
    run = cell.names["run"]
    assert [row["status"] for row in records(run.folder, "study")] == ["started", "interrupted", "resumed", "finished"]
    assert "interrupted; nothing that was evaluated is lost. Run it again to resume." in cell.interrupted
    assert (run.name, run.state, run.notices) == ("my-reviews", "finished", [])
    assert repr(run) == f"Run({str(run.folder)!r}: finished, 2 trials, 2 finals)"


def test_nothing_is_left_behind_in_the_process(cell: Cell) -> None:
    assert cell.changed == []
    assert not cell.left


def test_progress_is_shown_once_and_without_noise(cell: Cell) -> None:
    lines = cell.printed.splitlines()
    assert len([line for line in lines if line.startswith("t001  epoch 1/1")]) == 1
    assert lines.count("my-reviews finished") == 1
    assert not any(word in cell.printed + cell.interrupted for word in ("WARNING", "INFO", "ray.init", "Traceback", "\x1b"))
    assert "epoch 1/1" not in (cell.names["run"].folder / "study.log").read_text(encoding="utf-8")


def test_frames_hold_the_records(cell: Cell) -> None:
    run = cell.names["run"]
    assert run.trials["trial"].tolist() == ["t000", "t001", "f00", "f01"]
    assert run.finals["seed"].tolist() == [0, 1]
    last = {row["trial"]: row for row in records(run.folder, "trial")}
    wanted = [last[name]["params"]["finetune.learning_rate"] for name in run.trials["trial"]]
    assert run.trials[LEARNING_RATE].tolist() == wanted
    rows = records(run.folder, "evaluation")
    assert run.evaluations["loss"].tolist() == [row["loss"] for row in rows]
    assert run.evaluations["trial_status"].tolist() == [last[row["trial"]]["status"] for row in rows]
    tests = {row["trial"]: row["error_rate_percent"] for row in rows if row["split"] == "test"}
    assert dict(zip(run.finals["trial"], run.finals["test_percent"], strict=True)) == tests


def test_the_best_final_predicts_and_is_exported(cell: Cell) -> None:
    best: Best = cell.names["run"].best
    assert (best.trial, best.seed) in [("f00", 0), ("f01", 1)]
    assert f"Best({best.trial}, seed {best.seed} of the chosen setting, the best of 2 seeds on validation: " in cell.printed
    texts = ["A film to remember.", "Two hours that nobody gives back."]
    found, exported = cell.names["found"], trainables.load(cell.names["folder"]).predict(texts)
    assert found.labels == exported.labels
    assert np.abs(found.probabilities - exported.probabilities).max() < 1e-6
    assert best.model is cell.names["run"].best.model, "it is loaded once"
    with pytest.raises(ConfigError, match="`force` replaces it"):
        best.export()
    assert best.export(force=True) == cell.names["folder"]


def test_the_page_and_the_plan_are_those_of_the_command_line(cell: Cell) -> None:
    assert cell.names["page"].name == "report.html"
    assert "my-reviews" in cell.names["page"].read_text(encoding="utf-8")
    assert "my-reviews: 2 trials of BERT-FiT on reviews, then 1 more over seeds\n" in cell.printed
    assert cell.names["study"].plan().plan.trials == 2
    with pytest.raises(ConfigError, match="odt: there are html, md"):
        cell.names["same"].report(formats=["odt"])


def test_a_finished_study_is_not_run_again(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = Study.load(cell.names["run"].folder)
    assert loaded.run(progress=False).folder == cell.names["run"].folder
    assert capsys.readouterr().out == ""
    loaded.run()
    assert "my-reviews is finished; nothing was run again" in capsys.readouterr().out


def test_every_column_and_every_public_name_is_documented(cell: Cell) -> None:
    fields = record_fields.fields("evaluation").keys() | record_fields.fields("baseline").keys()
    for column in {*csv_export.TRIAL_COLUMNS, *csv_export.RESULT_COLUMNS} - fields:
        assert f"`{column}`" in DOCUMENT, column
    for each in study.__all__:
        assert f"`{each}" in DOCUMENT, each
        assert each in dir(study)
    for owner, prefix in ((Study, "study."), (Run, "run."), (Best, ".")):
        own = {name for name in vars(owner) | owner.__annotations__ if not name.startswith("_")}
        for name in own - {"load", "from_data", "open", "run"}:
            assert f"`{prefix}{name}" in DOCUMENT, name


# Wrong input ----------------------------------------------------------------------------------------------------------------------


def test_all_faults_of_a_study_are_raised_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Study.load(tiny_study(tmp_path, budget={"trials": 0}, sed=1), {"recipe.finetun.epochs": 2, "final.seeds": np.int64(2)})
    faults = caught.value.faults
    assert len(faults) == 3, faults
    assert any(fault.startswith("`changes` recipe.finetun.epochs: no stage 'finetun'") for fault in faults)
    with pytest.raises(ConfigError, match=r"budget: .* numbers, text, lists and mappings only"):
        Study.load(tiny_study(tmp_path), {"budget": {1, 2}})
    with pytest.raises(ConfigError, match="no run folder"):
        Run.open(tmp_path)
    with pytest.raises(AttributeError, match="has no attribute 'Studdy'"):
        _ = study.Studdy


def test_a_study_runs_in_the_main_thread_only(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            Study.load(tiny_study(tmp_path)).run(tmp_path / "run")
        except ConfigError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "call it there" in str(caught[0])
    assert not (tmp_path / "run").exists()


def test_a_study_of_own_data_is_written_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(write_csv(tmp_path / "shop.csv", reviews(limit=60), ("review", "stars")))
    said: list[str] = []
    given = {"encoder": checkpoint("bert"), "store": str(tmp_path / "store"), "changes": {"budget.trials": 3}, "say": said.append}
    first = Study.from_data(path, text="review", **given)
    assert first.definition.budget.trials == 3
    assert first.definition.tasks["shop"].label == "stars"
    assert any("review" in text for text in said)
    before = (tmp_path / "shop.yaml").read_bytes()
    again = Study.from_data(path, text=["review"], **given | {"changes": {"budget.trials": 2}})
    assert again.definition.budget.trials == 2
    assert said[-1] == "shop.yaml was written from the same options; it is used as it is now"
    with pytest.raises(ConfigError, match=r"shop.yaml: exists and was written from other options: .*give `name` NAME"):
        Study.from_data(path, label="stars", **given)
    assert (tmp_path / "shop.yaml").read_bytes() == before
    with pytest.raises(ConfigError, match=r"`data` gone.csv: there is no such file"):
        Study.from_data("gone.csv")
    with pytest.raises(ConfigError, match="`data`: a dict given"):
        Study.from_data({"text": ["a"]})  # type: ignore[arg-type]
