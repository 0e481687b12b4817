"""A number again: the same where nothing changed, another one where the records or the code say otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from analysis.records import record
from study import cli
from study.cluster.work import Work, here, read_test
from study.definition.study_file import load_study
from study.review.trace import sources, trace
from study.run.scribe import scored
from tests.study.tiny import write_study
from trainables.settings.errors import ConfigError
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.artifact_files import PREDICTIONS
from trainables.store.store import Store

PARAMS = {"finetune.learning_rate": 1e-3, "pretrain.steps": 3}


def final(folder: Path, seeds: int = 1) -> tuple[Path, Store]:
    """A run folder with the finals of one setting, as a study leaves them, and its store."""
    run, store = folder / "run", Store(str(folder / "store"))
    path = write_study(run)
    study = load_study(path)
    path.write_text(study.to_yaml())
    records = record.Records(run / "records.jsonl", "tiny")
    for seed in range(seeds):
        name = f"f{seed:02d}"
        work = Work(name, study.recipe_for(PARAMS, seed), store.url, study.on(0).execution_for(keep_weights=True))
        list(here(work))
        about = {"trial": name, "phase": "final", "setting": "abc"}
        ids = [node.stage_id for node in nodes(Inputs(work.recipe))]
        records.append(
            "trial", status="complete", params=PARAMS, seed=seed, label="it", error_rate_percent=1.0, stage_ids=ids, **about
        )
        row = read_test(work)
        records.append("evaluation", **scored(row), status="complete", **about)
        artifact = store.get(row["stage_id"])
        assert artifact is not None
        (run / "predictions").mkdir(exist_ok=True)
        (run / "predictions" / f"{name}-test.parquet").write_bytes(artifact.path(PREDICTIONS).read_bytes())
    return run, store


def test_it_comes_out_again_until_something_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, store = final(tmp_path, seeds=2)
    held = sorted(path for path in Path(store.url).rglob("*") if path.is_file())
    found = trace(run, "it", seed=1, store=store.url)
    assert found.again
    assert (found.source.trial, found.changed, found.texts, found.recomputed) == ("f01", 0, 24, ())
    assert "reproduced; all predictions are the same" in str(found)
    assert sorted(path for path in Path(store.url).rglob("*") if path.is_file()) == held  # nothing was left in the store

    empty = trace(run, "f01", store=str(tmp_path / "another store"))
    assert empty.again
    assert empty.recomputed[0].startswith("pretrain ")

    path = run / "predictions" / "f00-test.parquet"
    table = pq.read_table(path).to_pydict()
    table["prediction"][:3] = [1 - value for value in table["prediction"][:3]]
    pq.write_table(pa.table(table), path)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["trace", str(run), "it", "--seed", "0", "--store", store.url])
    said = capsys.readouterr().out
    assert "NOT reproduced; 3 of 24 predictions differ" in said
    assert np.isfinite(found.error)


def test_cells_of_an_ablation_are_found_by_their_label(tmp_path: Path) -> None:
    final(tmp_path / "ablation")
    run = tmp_path / "ablation"
    about = {"name": "mine", "tasks": {"reviews": {}}, "settings": [{"row": "it"}], "seeds": 1}
    about |= {"studies": [{"folder": "run", "task": "reviews", "settings": [0]}]}
    (run / "ablation.yaml").write_text(yaml.safe_dump(about))
    (source,) = sources(run)
    assert (source.label, source.task, source.study, source.trial, source.params) == ("it", "reviews", run / "run", "f00", PARAMS)
    with pytest.raises(ConfigError, match="did you mean 'it'"):
        trace(run, "itt")
    with pytest.raises(ConfigError, match="--task other"):
        trace(run, "it", task="other")
    with pytest.raises(ConfigError, match="--seed 7: 'it' has no number for it; there are 0"):
        trace(run, "it", seed=7)


def test_no_run_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        trace(tmp_path, "it")
    record.Records(tmp_path / "records.jsonl", "x").append("notice", text="nothing yet")
    with pytest.raises(ConfigError, match="no number yet"):
        trace(tmp_path, "it")


def test_changed_data_are_said_to_have_changed(tmp_path: Path) -> None:
    run, store = final(tmp_path)
    assert trace(run, "it", store=store.url).differs == ""
    file = run / "study.yaml"
    as_run = file.read_text()
    for split, words in (("test", "the test texts have changed"), ("train", "training or validation texts")):
        old = run / f"{split}.csv"
        new = run / f"other-{split}.csv"
        new.write_text("".join(old.read_text().splitlines(keepends=True)[:-1]))
        file.write_text(as_run.replace(str(old), str(new)))
        found = trace(run, "it", store=store.url)
        assert words in found.differs
        assert f"\nnot the same as recorded: {found.differs}" in str(found)


def test_a_cell_that_diverged_is_said_to_have(tmp_path: Path) -> None:
    run, _ = final(tmp_path)
    about = {"trial": "f07", "phase": "final", "setting": "x", "seed": 0, "label": "lost", "params": {}}
    record.Records(run / "records.jsonl", "tiny").append("trial", status="diverged", reason="Diverged: nan", **about)
    with pytest.raises(ConfigError, match="CELL 'lost': it has no number to compute again; its state is diverged"):
        trace(run, "lost")
