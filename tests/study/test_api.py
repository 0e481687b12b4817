"""The Python API in a notebook: the tutorial, interrupted once and resumed, then the example of the document on its study."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import study
import trainables
from analysis.records import record_fields
from analysis.tables import csv_export
from study import Best, ConfigError, Run, Study
from study.cluster.variables import QUIET
from tests.helpers import reviews, write_csv
from tests.study.tiny import ROOT, environment, family, records, tiny_study, wait_for
from tests.trainables.families import checkpoint

TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
DOCUMENT = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
TEXTS = ["A film to remember.", "Two hours that nobody gives back."]
LEARNING_RATE = "param.finetune.learning_rate"
SMALL = {
    "budget.trials": 2,
    "final.top_k": 1,
    "final.seeds": 2,
    "baseline": False,
    "precision": "float32",
    "recipe.finetune.epochs": 1,
    "recipe.finetune.train_examples": 40,
    "resources.concurrent": 1,
}
BEFORE = """
import logging, os, signal, sys
from study import Study
import optuna  # sets the level of its logger

def state():
    \"\"\"All of this process that a cell may rely on.\"\"\"
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "logging": (list(logging.getLogger().handlers), logging.getLogger().level, logging.getLogger("optuna").level),
        "streams": (sys.stdout, sys.stderr, *(os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2))),
        "ray": "ray" in sys.modules and sys.modules["ray"].is_initialized(),
    }

before = state()
print(os.getpid())
"""
AFTER = """
import json
print(json.dumps({
    "changed": {name: [repr(before[name]), repr(value)] for name, value in state().items() if before[name] != value},
    "pyplot": "matplotlib.pyplot" in sys.modules,
    "predicted": [found.labels, found.probabilities.tolist()],
}))
"""
PYPLOT = """
from matplotlib import pyplot
assert not pyplot.get_fignums()
run.figures["finals"]
"""
"""A cell that shows a figure as the tutorial does, after pyplot has told the notebook how to show figures."""


@dataclass(frozen=True)
class Notebook:
    """The tutorial after it was run, and what it left behind."""

    folder: Path
    """Where it ran."""
    outputs: dict[str, list[Any]]
    """{last line of a cell: its outputs}"""
    interrupted: list[Any]
    """Outputs of the cell that was interrupted."""
    after: dict[str, Any]
    """What AFTER printed."""
    left: set[int]
    """Processes that its studies have left behind."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "runs" / "my-reviews"

    def printed(self, line: str) -> str:
        """What the cell with this last line printed."""
        return printed(self.outputs[line])


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    tutorial = nbformat.read(TUTORIAL, as_version=4)
    cells = [cell for cell in tutorial.cells if cell.cell_type == "code"]
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = f"encoder = {str(checkpoint('bert'))!r}\nchanges = {SMALL}"
    added = {name: nbformat.v4.new_code_cell(source) for name, source in (("before", BEFORE), ("after", AFTER), ("pyplot", PYPLOT))}
    tutorial.cells = [added["before"], *cells, added["after"], added["pyplot"]]
    places = {"IPYTHONDIR": folder / "ipython", "FINETUNE_STUDY_STORE": folder / "store", "JUPYTER_RUNTIME_DIR": folder / "jupyter"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in QUIET:
            patch.delenv(name, raising=False)
        for name, place in places.items():
            patch.setenv(name, str(place))
        client = NotebookClient(tutorial, timeout=300)
        with client.setup_kernel(env=environment(), cwd=folder):
            outputs, interrupted = {}, []
            for index, cell in enumerate(tutorial.cells):
                if "study.run()" in cell.source:
                    interrupt = threading.Thread(target=_interrupt, args=(client, folder / "runs" / "my-reviews"))
                    interrupt.start()
                    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
                        client.execute_cell(cell, index)
                    interrupt.join()
                    interrupted = cell.outputs
                client.execute_cell(cell, index)
                outputs[cell.source.splitlines()[-1]] = cell.outputs
                if cell is added["before"]:
                    kernel = int(printed(cell.outputs))
                    others = family(kernel)
            left = (family(kernel) - others) | _writers(folder / "runs" / "my-reviews" / "study.log")
        yield Notebook(folder, outputs, interrupted, json.loads(printed(added["after"].outputs)), left)


def _interrupt(client: NotebookClient, run: Path) -> None:
    """Interrupt the kernel, as the stop button does, when Ray runs and the plan is recorded."""
    wait_for(lambda: records(run, "plan"))
    asyncio.run(client.km.interrupt_kernel())


def _writers(log: Path) -> set[int]:
    """Processes that have a file open, as all of a local cluster have the log of their study."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            if any(os.readlink(opened.path) == str(log) for opened in os.scandir(entry)):
                found.add(int(entry.parent.name))
    return found


@pytest.fixture(scope="module")
def example(notebook: Notebook) -> dict[str, Any]:
    """The names that the example of the document leaves behind, and as `printed` what it printed."""
    (block,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, flags=re.M | re.S)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.chdir(notebook.folder)
        patch.setenv("FINETUNE_STUDY_STORE", str(notebook.folder / "store"))
        shutil.rmtree(notebook.run / "model")  # the tutorial exports too
        exec(block, names)
    return names | {"printed": said.getvalue()}


def test_an_interrupted_cell_is_run_again_and_goes_on(notebook: Notebook) -> None:
    assert [row["status"] for row in records(notebook.run, "study")] == ["started", "interrupted", "resumed", "finished"]
    assert "interrupted; nothing that was evaluated is lost. Run it again to resume." in printed(notebook.interrupted)
    shown = notebook.outputs["run"][-1].data["text/plain"]
    assert shown == f"Run({str(notebook.run)!r}: finished, 2 trials, 2 finals)"


def test_nothing_is_left_behind_in_the_process(notebook: Notebook) -> None:
    assert notebook.after["changed"] == {}
    assert not notebook.left


def test_progress_is_shown_once_and_without_noise(notebook: Notebook) -> None:
    said = notebook.printed("run")
    lines = said.splitlines()
    assert len([line for line in lines if line.startswith("t001  epoch 1/1")]) == 1
    assert lines.count("my-reviews finished") == 1
    everything = printed([*notebook.interrupted, *(output for outputs in notebook.outputs.values() for output in outputs)])
    assert not re.search(r"warning|\bINFO\b|ray\.init|Traceback|\x1b", everything, flags=re.I)
    assert "epoch 1/1" not in (notebook.run / "study.log").read_text(encoding="utf-8")


def test_the_cells_of_the_tutorial_show_what_their_texts_promise(notebook: Notebook) -> None:
    said = printed([output for outputs in notebook.outputs.values() for output in outputs])
    for part in ("510 train, 127 validation, 159 test", "2 classes: 'negative'", "budget: {trials: 2", "memory", "Best(f0"):
        assert part in said
    (table,) = (outputs[-1].data["text/html"] for line, outputs in notebook.outputs.items() if line.startswith("run.finals[["))
    assert ["f00" in table, "f01" in table, "t000" in table] == [True, True, False]


def test_a_figure_is_shown_once_with_and_without_pyplot(notebook: Notebook) -> None:
    assert not notebook.after["pyplot"], "it would have chosen a backend"
    for name in ("curves", "finals"):
        (output,) = notebook.outputs[f'run.figures["{name}"]']
        assert (output.output_type, set(output.data)) == ("execute_result", {"image/png", "text/plain"})


def test_the_tutorial_has_no_outputs_in_git() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None), "clear all outputs"
        for link in re.findall(r"\]\(([^)#:]+)\)", cell.source) if cell.cell_type == "markdown" else ():
            assert (TUTORIAL.parent / link).exists(), link
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


def test_frames_hold_the_records(example: dict[str, Any]) -> None:
    run = example["run"]
    assert (run.name, run.state) == ("my-reviews", "finished")
    assert run.notices[0].startswith("tasks.my-reviews.test: 159 of 796 texts of train are the test split")
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


def test_figures_are_those_of_the_report(example: dict[str, Any]) -> None:
    run = example["run"]
    assert {f"{name}.svg" for name in run.figures} == {path.name for path in (run.folder / "report" / "figures").iterdir()}
    assert len(run.figures["curves"].axes[0].lines) == 2
    assert run.figures["history"].axes[0].get_ylabel() == "validation error, %"


def test_the_best_final_predicts_and_is_exported(notebook: Notebook, example: dict[str, Any]) -> None:
    best: Best = example["run"].best
    assert (best.trial, best.seed) in [("f00", 0), ("f01", 1)]
    assert f"Best({best.trial}, seed {best.seed} of the chosen setting, the best of 2 seeds on validation: " in example["printed"]
    found, exported = example["found"], trainables.load(notebook.run / "model").predict(TEXTS)
    labels, probabilities = notebook.after["predicted"]
    for each in (found.labels, exported.labels):
        assert each == labels
    for each in (found.probabilities, exported.probabilities):
        assert np.abs(each - probabilities).max() < 1e-6
    assert best.model is example["run"].best.model, "it is loaded once"
    with pytest.raises(ConfigError, match="`force` replaces it"):
        best.export()
    assert best.export(force=True) == notebook.run / "model"


def test_the_page_and_the_plan_are_those_of_the_command_line(example: dict[str, Any]) -> None:
    assert example["page"].name == "report.html"
    assert "my-reviews" in example["page"].read_text(encoding="utf-8")
    assert "my-reviews: 2 trials of BERT-FiT on my-reviews, then 2 more over seeds\n" in example["printed"]
    with pytest.raises(ConfigError, match="odt: there are html, md"):
        example["same"].report(formats=["odt"])


def test_a_finished_study_is_not_run_again(example: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert "my-reviews is finished; nothing was run again" in example["printed"]
    loaded = Study.load(example["run"].folder)
    assert loaded.run(progress=False).folder == example["run"].folder
    assert capsys.readouterr().out == ""


def test_every_column_and_every_public_name_is_documented() -> None:
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
