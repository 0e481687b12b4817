"""Inputs that change between two sessions: named and refused, or accepted, and then nothing of before counts any more."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from analysis.records.record import Records, read
from analysis.records.run_folder import load
from study.cluster.machine import Machine
from study.cluster.machine_faults import StudyStopped
from study.definition.models import Study
from study.definition.paths import in_place, portable
from study.definition.study_file import load_study
from study.review.trace import trace
from study.run import finals, inputs, launch
from study.run.screen import Screen
from study.run.scribe import Scribe, TrialSpec, trial_of
from study.run.session import Session
from study.run.to_records import to_records
from tests.helpers import TINY_BERT, documents_file, reviews, write_csv
from tests.study.conftest import Run
from tests.study.tiny import answer, records, refused, study_here, write_study
from trainables.encoder import checkpoint
from trainables.settings.errors import ConfigError
from trainables.stages import node as node_module
from trainables.stages.inputs import Inputs, Reader
from trainables.store.artifact_files import WEIGHTS
from trainables.store.store import Store

PARAMS = {"finetune.learning_rate": 1e-3, "pretrain.steps": 3}


def with_encoder(folder: Path) -> dict[str, Any]:
    """An encoder's files, as far as it is known by them."""
    (folder / "encoder").mkdir(parents=True, exist_ok=True)
    (folder / "encoder" / "config.json").write_text(json.dumps(TINY_BERT))
    (folder / "encoder" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\n")
    save_file({"a": np.zeros(3, np.float32)}, folder / "encoder" / "model.safetensors")
    return {"folder": str(folder / "encoder")}


def scribe_of(found: Study, run: Path) -> Scribe:
    rows, written = in_place(found, run, read(run / "records.jsonl")[0])
    return Scribe(Records(run / "records.jsonl", found.name), Screen(io.StringIO(), found.name), rows, found.metric, written)


def trial(found: Study, name: str = "t000", phase: str = "search", params: dict[str, Any] = PARAMS, seed: int = 0) -> TrialSpec:
    return trial_of(found, name, phase, params, seed, "it", Reader())


def complete(scribe: Scribe, ended: TrialSpec, **test: Any) -> None:
    """A trial as a session leaves it."""
    scribe.starts(ended)
    about = {"stage": "finetune", "stage_name": "finetune", "stage_id": ended.stage_ids[-1], "seed": ended.seed, "loss": 0.5}
    row = about | {"split": "validation", "epoch": 3.0, "step": 9, "error_rate_percent": 20.0, "tokens": 9, "source": "computed"}
    scribe.evaluated(ended.name, row)
    scribe.ends(ended.name, "complete")
    if test:
        scribe.tested(ended, about | {"split": "test", "stage": "test", "error_rate_percent": 30.0, "source": "computed"} | test)


def begun(folder: Path, recorded: bool = True, params: dict[str, Any] = PARAMS, **changes: Any) -> tuple[Path, Path]:
    """(study file, run folder with a trial and a tested final), in a folder of everything; `recorded`: with its inputs."""
    path, run = write_study(folder / "input", **changes), folder / "run"
    found = load_study(path)
    run.mkdir()
    (run / "study.yaml").write_text(portable(found, run).to_yaml())
    scribe = scribe_of(found, run)
    scribe.write("study", status="started", versions={"torch": "1.0"})
    if recorded:
        inputs.write(inputs.ComparedInputs(inputs.of(found, Reader()), {}), scribe, run)
    complete(scribe, trial(found, params=params))
    final = trial(found, "f00", "final", params)
    test_id = node_module.test_id(Inputs(found.recipe_for(params, 0)).target, final.stage_ids[-1])
    complete(scribe, final, stage_id=test_id)
    return path, run


def another_label(folder: Path) -> None:
    rows = reviews("sls_imdb", "train", 60)
    write_csv(folder / "train.csv", [*rows[:-1], (rows[-1][0], "1" if rows[-1][1] == "0" else "0")])


def more_tests(folder: Path) -> None:
    write_csv(folder / "test.csv", reviews("sls_imdb", "test", 26))


def other_documents(folder: Path) -> None:
    documents_file(folder, 1, 2, 3)


def other_weights(folder: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, folder / "encoder" / "model.safetensors")


def another_piece(folder: Path) -> None:
    (folder / "encoder" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nbad\n")


def rewritten(folder: Path) -> None:
    """The same texts and labels in other bytes."""
    rows = reviews("sls_imdb", "train", 60)
    lines = ['"label","more","text"', *(f'"{label}","x","{text.replace(chr(34), chr(34) * 2)}"' for text, label in rows)]
    (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


CHANGES = [
    pytest.param(another_label, ["tasks.reviews.train: same number of texts, but other texts, order or labels"], id="a label"),
    pytest.param(more_tests, ["tasks.reviews.test: 26 texts, was 24"], id="size of the test split"),
    pytest.param(other_documents, ["corpus documents.txt: 3 texts, was 4"], id="a corpus"),
    pytest.param(other_weights, ["encoder.weights: other content"], id="weights"),
    pytest.param(another_piece, ["encoder.tokenizer: other content"], id="a tokenizer"),
]


def with_all(folder: Path) -> dict[str, Any]:
    """A study that reads texts, a corpus and an encoder."""
    (folder / "input").mkdir()
    stage = {"corpus": [documents_file(folder / "input", 2, 1, 1, 3)], "schedule_steps": 6, "steps": 0, "batch_size": 8}
    finetune = {"epochs": 3, "batch_size": 8, "max_length": 24, "head_tokens": 6, "learning_rate": 1e-3}
    return {
        "encoder": with_encoder(folder / "input"),
        "recipe": [{"pretrain": stage | {"max_length": 24}}, {"finetune": finetune}],
    }


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "an older folder"])
@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_changed_inputs_are_refused_and_named(
    change: Callable[[Path], None], said: list[str], recorded: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = begun(tmp_path, recorded, **with_all(tmp_path))
    change(tmp_path / "input")
    before = (run / "records.jsonl").read_bytes()
    told = refused(capsys, "run", path, "--out", run)
    for line in said if recorded else ["have changed, so that", "not recorded here"]:
        assert line in told
    assert "--accept-changed-inputs" in told
    assert "another run folder" in told
    assert (run / "records.jsonl").read_bytes() == before, "nothing was computed"
    finished, found = launch.opened(load_study(path), run, accept=True)
    assert not finished
    assert found.changed


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    "setting", ["budget.trials=9", "final.seeds=5", "resources.micro_batch=2", "precision=auto", "baseline=false", "store=/tmp/x"]
)
def test_what_may_change_does_not_change_the_inputs(recorded: bool, setting: str, tmp_path: Path) -> None:
    path, run = begun(tmp_path, recorded)
    finished, found = launch.opened(load_study(path, [setting]), run)
    assert (finished, found.changed) == (False, ())
    assert found.notices == (() if recorded else (inputs.UNRECORDED,))
    assert found.now


def test_the_same_content_in_other_bytes_is_no_change(tmp_path: Path) -> None:
    path, run = begun(tmp_path)
    rewritten(tmp_path / "input")
    assert launch.opened(load_study(path), run)[1].changed == ()


def moved(folder: Path, old: str, new: str) -> str:
    (folder / new).parent.mkdir(parents=True, exist_ok=True)
    (folder / old).rename(folder / new)
    return str(folder / new)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "an older folder"])
@pytest.mark.parametrize(
    ("old", "new", "setting"),
    [
        ("train.csv", "reviews.csv", "tasks.reviews.train"),
        ("test.csv", "held/out.csv", "tasks.reviews.test"),
        ("encoder", "bert", "encoder.folder"),
    ],
)
def test_the_same_content_under_another_name_goes_on(recorded: bool, old: str, new: str, setting: str, tmp_path: Path) -> None:
    path, run = begun(tmp_path, recorded, **with_all(tmp_path))
    names = [f"{setting}={moved(tmp_path / 'input', old, new)}"]
    finished, found = launch.opened(load_study(path, names), run)
    assert (finished, found.changed) == (False, ())
    (said,) = [notice for notice in found.notices if "other names" in notice and "same content" in notice]
    assert f'{setting}: "{Path(new).name}", was "{Path(old).name}"' in said


@pytest.mark.parametrize("change", [another_label, more_tests, other_weights])
def test_another_content_under_another_name_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    path, run = begun(tmp_path, **with_all(tmp_path))
    folder = tmp_path / "input"
    change(folder)
    names = [
        ("train.csv", "a.csv", "tasks.reviews.train"),
        ("test.csv", "b.csv", "tasks.reviews.test"),
        ("encoder", "c", "encoder.folder"),
    ]
    settings = [f"{setting}={moved(folder, old, new)}" for old, new, setting in names]
    with pytest.raises(ConfigError, match="inputs have changed since this was computed"):
        launch.opened(load_study(path, settings), run)


def test_another_version_of_the_stages_is_told_apart_from_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, run = begun(tmp_path)
    monkeypatch.setitem(node_module.LATER, "schedule", "cosine")
    with pytest.raises(ConfigError, match=r"ids of the stages of .* have changed, although data, corpora and encoder are the same"):
        launch.opened(load_study(path), run)


def test_a_finished_study_is_asked_again_and_its_data_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = begun(tmp_path)
    digest = launch._digest(load_study(path))
    Records(run / "records.jsonl", "tiny").append("study", status="finished", config_digest=digest)
    assert "note:" not in answer(capsys, "run", path, "--out", run)
    another_label(tmp_path / "input")
    assert "tasks.reviews.train" in refused(capsys, "run", path, "--out", run)
    assert "has changed since: tasks.reviews.train" in answer(capsys, "status", run)
    (tmp_path / "input" / "train.csv").unlink()
    said = answer(capsys, "run", path, "--out", run)
    assert "nothing was run again" in said
    assert "note: whether inputs have changed is unknown, since they cannot be read: tasks.reviews.train" in said
    assert "changed" not in answer(capsys, "status", run)


def test_what_counts_after_a_change_was_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = begun(tmp_path)
    (run / "predictions").mkdir()
    (run / "predictions" / "f00-test.parquet").write_text("old")
    more_tests(tmp_path / "input")
    found = load_study(path)
    scribe = scribe_of(found, run)
    inputs.write(launch.opened(found, run, accept=True)[1], scribe, run)
    assert [row["event"] for row in scribe.rows] == ["study", "inputs", "inputs", "notice"]
    assert not (run / "predictions").exists()
    assert (run / "predictions-before-session-1" / "f00-test.parquet").read_text() == "old"
    complete(scribe, trial(found))  # the same evaluation once more
    rows = read(run / "records.jsonl")[0]
    assert [(row["event"], row["session"]) for row in rows if row["event"] in ("trial", "evaluation")] == [
        ("trial", 1),
        ("evaluation", 1),
        ("trial", 1),
    ]
    assert [each.name for each in load(run).trials] == ["t000"]
    assert launch.opened(found, run)[1].changed == (), "what was accepted is what is known"
    words = "inputs changed before session 1, which was accepted: tasks.reviews.test: 26 texts, was 24"
    assert words in answer(capsys, "status", run)
    answer(capsys, "report", run)
    assert words in (run / "report" / "report.html").read_text()


def test_a_searched_corpus_is_found_where_folders_were_moved_together(tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "input").mkdir(parents=True)
    file = documents_file(old / "input", 2, 1, 1, 3)
    params = PARAMS | {"pretrain.corpus": (file,)}
    space = {
        "finetune.learning_rate": {"log_uniform": [1e-4, 1e-2]},
        "pretrain.steps": {"choice": [0, 3, 6]},
        "pretrain.corpus": {"choice": [["reviews"], [file]]},
    }
    first = params | {"pretrain.corpus": [file]}
    _, run = begun(old, params=params, space=space, search={"sampler": "random", "first": [first]})
    written = [row["params"]["pretrain.corpus"] for row in records(run, "trial")]
    assert written == [["../input/documents.txt"]] * 4
    assert str(tmp_path) not in (run / "study.yaml").read_text()
    assert len({row["setting"] for row in records(run) if "setting" in row}) == 1
    old.rename(tmp_path / "new")
    run = tmp_path / "new" / "run"
    found = load_study(run / "study.yaml")
    assert launch.opened(found, run)[1].changed == ()
    scribe = scribe_of(found, run)
    mine = trial(found, params=params | {"pretrain.corpus": (str(tmp_path / "new" / "input" / "documents.txt"),)})
    assert {row["setting"] for row in scribe.rows if "setting" in row} == {mine.setting}
    complete(scribe, trial(found, "f01", "final", mine.params | {}, 1))
    rows = records(run)
    assert len({row["setting"] for row in rows if "setting" in row}) == 1
    assert rows[-1]["params"]["pretrain.corpus"] == ["../input/documents.txt"]


@pytest.mark.parametrize("held", ["nothing", "no weights", "weights", "predictions"])
def test_a_final_whose_weights_another_store_lacks_is_computed_again(held: str, tmp_path: Path) -> None:
    path = write_study(tmp_path / "input", final={"top_k": 1, "seeds": 1})
    found, run, store = load_study(path), tmp_path / "run", Store(str(tmp_path / "another"))
    scribe = scribe_of(found, run)
    complete(scribe, trial(found))
    final = trial(found, "f00", "final")
    complete(scribe, final)
    (file := tmp_path / "file").write_text("x")
    if held != "nothing":
        test = node_module.test_id(Inputs(found.recipe_for(PARAMS, 0)).target, final.stage_ids[-1])
        name = test if held == "predictions" else final.stage_ids[-1]
        store.publish(name, {"kind": "features"}, {WEIGHTS if held == "weights" else "more.json": file})
    session = Session(found, run, store, scribe, *[None] * 2)  # type: ignore[arg-type]
    todo = [each["trial"] for each in finals.runs(session, {})]
    assert todo == (["f00"] if held in ("nothing", "no weights") else [])


def test_other_libraries_and_another_store_are_told() -> None:
    rows = [{"event": "study", "versions": {"torch": "2.12", "ray": "2.60"}, "store": "~/old"}]
    (said,) = inputs.library_changes(rows, {"torch": "2.13", "ray": "2.60", "sentencex": "1.0"})
    assert "torch 2.12, now 2.13" in said
    assert "ray" not in said
    assert inputs.library_changes([], {"torch": "2.13"}) == inputs.library_changes(rows, {"torch": "2.12"}) == []
    (said,) = inputs.store_changes(rows, "s3://key:secret@bucket")
    assert "was ~/old and is s3://bucket now" in said
    assert inputs.store_changes([], "x") == inputs.store_changes(rows, "~/old") == []


def test_the_revision_of_a_hub_is_what_its_cache_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--a--b" / "refs").mkdir(parents=True)
    (tmp_path / "models--a--b" / "refs" / "main").write_text("abc\n")
    assert checkpoint.hub_commit("models", "a/b") == "abc"
    assert checkpoint.hub_commit("models", "a/b", "v2") is checkpoint.hub_commit("datasets", "a/b") is None
    before, now = ({"encoder.weights": {"digest": each, "revision": each}} for each in ("abc", "def"))
    assert inputs.changes(before, now) == ["encoder.weights: other content (revision def, was abc)"]
    assert inputs.changes(before, {}) == ["encoder.weights: no longer exists"]


def test_a_run_is_moved_goes_on_with_changed_tests_and_names_no_home(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home" / "ann"
    folder, run, store = home / "input", home / "the run", home / "the store"
    for name in (finished.file.parent, finished.folder, finished.store):
        shutil.copytree(name, home / name.name)
    assert str(finished.folder.parent) not in (run / "study.yaml").read_text()
    assert "nothing was run again" in answer(capsys, "run", run)
    more_tests(folder)
    said = refused(capsys, "run", run)
    assert "tasks.reviews.test: 26 texts, was 24" in said
    assert "train" not in said.replace("trainings", "")
    found = trace(run, "f00", store=str(store))
    assert "not comparable, since the inputs have changed" in str(found)
    assert "tasks.reviews.test: 26 texts, was 24" in found.differs
    before = (run / "records.jsonl").read_bytes()
    done = study_here("run", run, "--store", store, "--accept-changed-inputs", HOME=str(home))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run / "records.jsonl").read_bytes().startswith(before)
    new = records(run)[len(before.splitlines()) :]
    evaluations = [row for row in new if row["event"] == "evaluation"]
    baselines = [row for row in new if row["event"] == "baseline"]
    assert {row["examples"] for row in [*evaluations, *baselines] if row["split"] == "test"} == {26}
    searched = [row for row in evaluations if row.get("phase") == "search"]
    assert {row["source"] for row in searched} == {"loaded"}, "what the change does not reach is not computed again"
    tested = load(run)
    assert {each.test["examples"] for each in tested.finals if each.test} == {26}
    assert len(list((run / "predictions").iterdir())) == len([each for each in tested.finals if each.test]) + 1
    for file in [path for path in (run / "report").rglob("*") if path.is_file()] + [run / "study.yaml", run / "records.jsonl"]:
        assert "/ann" not in file.read_text(encoding="utf-8"), file


def test_a_trial_that_read_a_file_after_it_was_changed_stops_the_study(tmp_path: Path) -> None:
    path, run = begun(tmp_path)
    found, reader = load_study(path), Reader()
    session = Session(found, run, Store(str(tmp_path / "store")), scribe_of(found, run), Machine(((1, 0),)), None, reader)  # type: ignore[arg-type]
    proposed = trial_of(found, "t001", "search", PARAMS, 0, "it", reader)
    callback, running = to_records(session, None, {"t001": proposed}), SimpleNamespace(config={"trial": "t001"})  # type: ignore[arg-type]
    row = {"stage": "finetune", "stage_name": "finetune", "split": "validation", "epoch": 1.0, "step": 3, "loss": 0.5}
    row |= {"error_rate_percent": 20.0, "source": "computed", "seed": 0}
    callback.on_trial_start(0, [], running)
    callback.on_trial_result(0, [], running, {"rows": [row | {"stage_id": proposed.stage_ids[-1]}]})
    another_label(path.parent)
    later = trial(found, "t001").stage_ids[-1]  # as a process names it that reads the file now
    with pytest.raises(StudyStopped, match=r"t001 read other ones than it began with: tasks.reviews.train: same number of texts"):
        callback.on_trial_result(0, [], running, {"rows": [row | {"stage_id": later, "step": 6}]})
    assert [row["step"] for row in records(run, "evaluation") if row["trial"] == "t001"] == [3]
