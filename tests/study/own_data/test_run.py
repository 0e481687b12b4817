"""`study run --data`: the study file is written and run; the same command resumes, other options are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from study.definition.study_file import load_study
from study.own_data import commented
from tests.helpers import reviews, write_csv
from tests.study.tiny import records, refused, study_here
from tests.trainables.families import checkpoint


def test_own_data_are_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "shop.csv", reviews(limit=100), ("review", "stars"))
    small = ("budget.trials=1", "final.seeds=1", "recipe.finetune.epochs=1", "precision=float32", "baseline=false")
    call = ("run", "--data", "shop.csv", "--encoder", checkpoint("bert"), "--store", tmp_path / "store")
    options = [part for text in small for part in ("--set", text)]
    done = study_here(*call, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index("written: shop.yaml; it runs now") < done.stdout.index("shop finished")
    said = re.sub(r"\s+", " ", done.stdout)
    assert "The test split is a share of 0.2 of the training texts, drawn by class with seed 0." in said
    run = tmp_path / "runs" / "shop"
    assert {row["trial"] for row in records(run, "trial") if row["status"] == "complete"} == {"t000", "f00"}
    assert any("by test_share 0.2" in row["text"] for row in records(run, "notice"))
    before = (tmp_path / "shop.yaml").read_bytes()
    assert load_study("shop.yaml").budget.trials == 1
    again = study_here(*call, *options)
    assert "shop.yaml was written from the same options; it is used as it is now" in again.stdout
    assert "shop is finished; nothing was run again" in again.stdout
    assert (tmp_path / "shop.yaml").read_bytes() == before
    said = refused(capsys, *call, "--label", "stars")
    assert "shop.yaml: exists and was written from other options: --data shop.csv --encoder " in said
    assert "give --name NAME for another file, or: study run shop.yaml" in said


def test_a_commented_file_loads_as_what_was_proposed(tmp_path: Path) -> None:
    data = {
        "name": "yes",
        "tasks": {"yes": {"train": "a, b: c.csv", "text": ["on", "1"], "label": "# no", "labels": ["0", "no", "1e3"]}},
        "task": "yes",
        "encoder": {"hub": "a/b"},
        "recipe": [{"finetune": {"epochs": 2, "learning_rate": 2e-5}}],
        "space": {"finetune.learning_rate": {"log_uniform": [1.25e-5, 0.01]}, "finetune.xi": {"uniform": [0.5, 1.0]}},
        "search": {"first": [{"finetune.learning_rate": 2e-5, "finetune.xi": 1.0}], "startup_trials": 2},
        "budget": {"trials": 3},
    }
    reasons = {"tasks.yes.label": "a: reason", "recipe.finetune.epochs": "few", "budget.trials": "enough"}
    text = commented.render(data, reasons, ["a head"])
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    assert load_study(tmp_path / "s.yaml") == load_study(data, folder=tmp_path)
    assert text.startswith("# a head\nname:")
    assert "epochs: 2 # few\n" in text
    assert "learning_rate: 2e-5\n" in text
    assert "budget: {trials: 3} # trials: enough\n" in text
