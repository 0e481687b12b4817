"""The model of a study as a folder: the chosen seed's own weights, which give the recorded predictions again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import pipeline

import trainables
from study.review.chosen import choose
from study.review.export import export
from tests.analysis.ablations import TABLE2, build, table2_outcomes
from tests.helpers import reviews
from tests.study.conftest import Run
from tests.study.tiny import answer, inside, records, refused
from trainables.settings.errors import ConfigError
from trainables.store.artifact_files import VALIDATED, WEIGHTS
from trainables.store.store import Store

TEXTS = [text for text, _ in reviews("sls_imdb", "test", 24)]


@pytest.fixture(scope="module")
def copied(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run in a folder of its own, beside its data."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(finished.folder, folder / "the run")
    shutil.copytree(finished.file.parent, folder / "input")
    return folder / "the run"


@pytest.fixture(scope="module")
def exported(copied: Path, finished: Run) -> str:
    """What the command says to the export of the copied run."""
    return str(export(copied, store=str(finished.store)))


def best_of(run: Path) -> dict[str, object]:
    """The record of the best final on validation of the chosen setting, read without the code under test."""
    chosen = records(run, "selection")[-1]["settings"][0]["setting"]
    last = {row["trial"]: row for row in records(run, "trial")}
    finals = [row for row in last.values() if row["phase"] == "final" and row["setting"] == chosen]
    return min(finals, key=lambda row: (row["error_rate_percent"], row["seed"]))


def test_the_best_seed_of_the_chosen_setting_predicts_what_the_study_recorded(copied: Path, exported: str) -> None:
    best, folder = best_of(copied), copied / "model"
    assert f"{best['trial']}, seed {best['seed']} of the chosen setting, the best of 2 seeds on validation" in exported
    assert f"pipeline('text-classification', '{folder}')" in exported
    recorded = pq.read_table(copied / "predictions" / f"{best['trial']}-test.parquet").to_pydict()
    model = trainables.load(folder, "cpu")
    found = model.predict(TEXTS, raw=True)
    assert np.abs(found.probabilities - np.array(recorded["probabilities"])).max() < 1e-5
    assert found.labels == [model.labels[place] for place in recorded["prediction"]]
    short = [text for text, length in zip(TEXTS, recorded["pieces"], strict=True) if length <= 24]
    theirs = pipeline("text-classification", str(folder), device="cpu")(short, top_k=None)
    ours = model.predict(short, raw=True).probabilities
    for scores, row in zip(theirs, ours, strict=True):
        by_name = {score["label"]: score["score"] for score in scores}
        assert [by_name[name] for name in model.labels] == pytest.approx(row.tolist(), abs=1e-5)
    assert len(short) > 2


def test_the_card_states_what_was_measured(copied: Path, exported: str, finished: Run) -> None:
    card = (copied / "model" / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    fields = yaml.safe_load(front)
    best = best_of(copied)
    test = next(row for row in records(copied, "evaluation") if row.get("trial") == best["trial"] and row["split"] == "test")
    assert fields["pipeline_tag"] == "text-classification"
    scores = {score["type"]: score["value"] for score in fields["model-index"][0]["results"][0]["metrics"]}
    assert scores["accuracy"] == pytest.approx(1 - test["error_rate_percent"] / 100, abs=1e-6)
    assert scores["f1"] == pytest.approx(test["macro_f1"], abs=1e-6)
    assert f"| test error | {test['error_rate_percent']:.2f} |" in body
    assert "`train.csv`" in body
    assert str(finished.file.parent) not in card  # no path of a machine
    settings = json.loads((copied / "model" / "study_model.json").read_text())["finetune"]
    assert f"learning_rate: {settings['learning_rate']}" in body


def test_another_final_by_its_name_and_an_earlier_export(
    copied: Path, finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = next(row for row in records(copied, "trial") if row["phase"] == "final" and row["trial"] != best_of(copied)["trial"])
    to = tmp_path / "mine"
    said = answer(capsys, "export", copied, "--trial", other["trial"], "--to", to, "--store", finished.store)
    assert f"{other['trial']}, seed {other['seed']} of the setting {other['label']!r}, named by --trial" in said
    assert "--force replaces it" in refused(capsys, "export", copied, "--to", to, "--store", finished.store)
    before = trainables.load(to, "cpu").logits(TEXTS)
    answer(capsys, "export", copied, "--to", to, "--store", finished.store, "--force")
    assert not np.array_equal(trainables.load(to, "cpu").logits(TEXTS), before)
    (to / "notes.md").write_text("mine")
    assert "notes.md; give another folder" in refused(capsys, "export", copied, "--to", to, "--store", finished.store, "--force")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]
    assert "did you mean" in refused(capsys, "export", copied, "--trial", "f0", "--to", tmp_path / "no", "--store", finished.store)
    assert "--seed 9" in refused(capsys, "export", copied, "--seed", 9, "--to", tmp_path / "no", "--store", finished.store)


def test_weights_that_are_gone_are_trained_again(
    copied: Path, exported: str, finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    empty = tmp_path / "another store"
    said = refused(capsys, "export", copied, "--to", tmp_path / "no", "--store", empty)
    assert "are gone: the store" in said
    assert "--again trains" in said
    shutil.copytree(finished.store, empty)
    Store(empty).drop_files(choose(copied).trial.stage_ids[-1], [WEIGHTS])
    assert "deleted to save space" in refused(capsys, "export", copied, "--to", tmp_path / "no", "--store", empty)
    said = answer(capsys, "export", copied, "--to", tmp_path / "anew", "--store", empty, "--again")
    assert "trained once more" in said
    assert "as recorded" in said
    same = [(folder / "model.safetensors").read_bytes() for folder in (copied / "model", tmp_path / "anew")]
    assert same[0] == same[1]  # the same seed gives the same bits on a CPU


def test_a_run_of_an_earlier_version_is_exported_with_a_temperature_or_a_remark(
    copied: Path, finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Records without a temperature: it is fitted on the validation predictions, as long as the store has them."""
    run, store = copied.with_name("earlier"), tmp_path / "store"
    shutil.copytree(copied, run)
    rows = [{name: value for name, value in row.items() if name != "temperature"} for row in records(copied)]
    (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.copytree(finished.store, store)
    assert "not calibrated" not in answer(capsys, "export", run, "--to", tmp_path / "fitted", "--store", store)
    tested = [row for row in records(copied, "evaluation") if row["split"] == "test"]
    (recorded,) = {row["temperature"] for row in tested if row.get("trial") == best_of(copied)["trial"]}
    assert trainables.load(tmp_path / "fitted", "cpu").temperature == pytest.approx(recorded)
    Store(store).drop_files(choose(run).trial.stage_ids[-1], [VALIDATED])
    said = answer(capsys, "export", run, "--to", tmp_path / "plain", "--store", store)
    assert "its probabilities are not calibrated: an earlier version trained it" in said
    said = inside(capsys, "predict", run, run.parent / "input" / "test.csv", "--store", store)[2]
    assert "its probabilities are not calibrated" in said


def test_a_study_without_finals_is_refused(finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished.folder / "study.yaml", run)
    lines = (finished.folder / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line).get("phase") not in ("final", "test") and '"selection"' not in line]
    (run / "records.jsonl").write_text("".join(kept), encoding="utf-8")
    said = refused(capsys, "export", run, "--store", finished.store)
    assert "no final has ended: the run is finished and has 4 trials of the search" in said
    assert "no run folder" in refused(capsys, "export", tmp_path)


def test_another_encoder_is_refused(copied: Path, finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The vocabulary is trained on the training texts: with others the tokenizer would be another."""
    train = copied.parent / "input" / "train.csv"
    text = train.read_text(encoding="utf-8")
    try:
        train.write_text("".join(text.splitlines(keepends=True)[:-1]), encoding="utf-8")
        said = refused(capsys, "export", copied, "--to", tmp_path / "no", "--store", finished.store)
    finally:
        train.write_text(text, encoding="utf-8")
    assert "the encoder is not the one that was fine-tuned" in said
    assert "tasks.reviews.train: 44 texts, was 45" in said


def test_a_cell_of_an_ablation_is_named(tmp_path: Path) -> None:
    run = build(tmp_path / "run", TABLE2, table2_outcomes())
    with pytest.raises(ConfigError, match="an ablation has no best cell: give --trial with one of its cells: head-only; "):
        choose(run)
    with pytest.raises(ConfigError, match="several tasks have it; give --task, one of imdb, sls_yelp"):
        choose(run, "head-only")
    with pytest.raises(ConfigError, match=r"no cell of .* with a result; did you mean 'head-only'"):
        choose(run, "head-onyl")
    with pytest.raises(ConfigError, match="--task yelp: 'head-only' has no result for it"):
        choose(run, "head-only", task="yelp")
    found = choose(run, "head-only", task="imdb")
    assert "of the cell 'head-only' on imdb, the best of 3 seeds on validation" in found.why
    assert found.setting.label == "head-only"
    assert found.trial.score == min(trial.score for trial in found.setting.trials if trial.score is not None)
    assert choose(run, "head-only", task="imdb", seed=2).trial.seed == 2
    with pytest.raises(ConfigError, match="--seed 7"):
        choose(run, "head-only", task="imdb", seed=7)
