"""Each shipped ablation is run: every cell of its smoke scale, on few texts, in this process, and then reported."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.pages import reports
from analysis.records.record import Records
from analysis.results.read_ablation import FILE, ledger
from study.ablations import grid_plan
from study.ablations.ablation_file import FOLDER, Loaded, load, parse
from study.ablations.grid import AblationGrid, grid
from study.ablations.studies import AblationStudy
from study.cluster.machine import Machine
from study.cluster.work import Placement, Work, ended, here, read_test
from study.definition.models import STAGE_KINDS
from study.planning import plan
from study.planning.check import check
from study.run import finals
from study.run.screen import Screen
from study.run.scribe import Row, Scribe, trial_of
from study.run.session import Session
from study.search.search import given_points
from tests.helpers import TINY_BERT, reviews, write_csv
from tests.study.tiny import records
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.settings.execution import Execution
from trainables.store.store import Store

TRAINING = [path.stem for path in sorted(FOLDER.glob("*.yaml")) if not load(path.stem).ablation.statistics]
SETS = ("sls_imdb", "sls_yelp", "sls_amazon")
FEWER = 25
"""Steps of further pre-training, and texts whose words are scored, are divided by it."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As many layers as the smoke scales' encoder, and the same pieces for all tasks."""
    folder = tmp_path_factory.mktemp("encoder")
    train_wordpiece([text for name in SETS for text, _ in reviews(name, limit=60)], 400).save_pretrained(folder)
    return {"config": TINY_BERT | {"num_hidden_layers": 6}, "tokenizer": str(folder)}


def shrunk(name: str, encoder: dict[str, Any], folder: Path) -> AblationGrid:
    """The smoke scale on 60 texts of each set, two sentences each, in one epoch, a few steps, one seed."""
    data = _less(load(name).ablation.canonical(), encoder)
    for task, about in data["scales"]["smoke"]["tasks"].items():
        for split, count in (("train", 60), ("test", 24)):
            rows = [(f"{text} Well, {text}", label) for text, label in reviews(task, split, count)]
            about[split] = write_csv(folder / f"{task}-{split}.csv", rows)
        about["validation_share"] = 0.25
    overrides = ("precision=float32", "finetune.batch_size=8")
    return grid(Loaded(parse(data), folder), "smoke", seeds=1, overrides=overrides)


def _less(data: Any, encoder: dict[str, Any], name: str = "") -> Any:
    """The same data with less to compute, wherever a setting says how much, and with next-sentence prediction."""
    if isinstance(data, dict) and name == "encoder":
        return encoder
    if isinstance(data, dict):
        return {key: _less(value, encoder, key.rpartition(".")[2]) for key, value in data.items()}
    if isinstance(data, list):
        return [_less(each, encoder) for each in data]
    if name in ("steps", "schedule_steps", "scored_texts") and data:
        return math.ceil(data / FEWER)
    if name == "objective":
        return "mlm+nsp"
    return 1 if name == "epochs" and data else data


def carry_out(part: AblationStudy, folder: Path, store: Store) -> Iterator[Row]:
    """Run a study as its parts do, without Ray: shared stages, every cell, its test split. Yields what the loop tells."""
    study = part.study
    check(study)
    folder.mkdir(parents=True)
    screen = Screen(io.StringIO(), study.name, study.metric)
    scribe = Scribe(Records(folder / "records.jsonl", study.name), screen, [], study.metric)
    session = Session(study, folder, store, scribe, Machine(((1, 0),)), Placement(1, 1, 0, False, ""))
    scribe.write("study", status="started")
    for shared in plan.trajectories(study):
        for row in here(Work(shared.name, shared.recipe, store.url, Execution(), shared.name, shared.milestones)):
            scribe.shared(row)
            yield row
    for number, params in enumerate(given_points(study)):
        trial = trial_of(study, f"f{number:02d}", "final", params, study.seed, str(study.label_of(params)), session.reader)
        work = Work(trial.name, study.recipe_for(params, study.seed), store.url, Execution())
        scribe.starts(trial)
        try:
            for row in here(work):
                scribe.evaluated(trial.name, row)
                yield row
        except Exception as error:
            end = ended(error)
            assert end.status == "diverged", end.details
            scribe.ends(trial.name, "diverged", end.reason)
            continue
        scribe.ends(trial.name, "complete")
        tested = read_test(work)
        scribe.tested(trial, tested)
        yield tested
    finals.copy_predictions(session)
    finals.prune(session, last=True)
    scribe.write("study", status="finished")


def trained(store: Store) -> set[str]:
    """Identities of all stages in a store, without the test splits and what stages only read."""
    found = (store.get(name) for name in store.files.names("artifacts"))
    return {each.stage_id for each in found if each is not None and each.manifest["kind"] in STAGE_KINDS}


@pytest.mark.parametrize("name", TRAINING)
def test_every_cell_comes_to_a_number_and_every_stage_is_computed_once(name: str, encoder: dict[str, Any], tmp_path: Path) -> None:
    made, store = shrunk(name, encoder, tmp_path), Store(str(tmp_path / "store"))
    planned = grid_plan.plan(made, store)
    assert planned.tokens_missing == planned.tokens_shared, "nothing is there, and every stage has an identity"
    run = tmp_path / "run"
    rows = [row for part in made.parts for row in carry_out(part, run / part.folder, store)]
    assert trained(store) == {step.stage_id for step in planned.steps}
    runs = {step.stage_id: step.run for step in planned.steps}
    computed = [row for row in rows if row["source"] == "computed"]
    assert max(Counter((runs.get(row["stage_id"], row["stage_id"]), row["split"], row["step"]) for row in computed).values()) == 1
    assert grid_plan.plan(made, store).tokens_missing == 0
    (run / FILE).write_text(made.to_yaml(), encoding="utf-8")
    page = reports.write([run]).page
    found = ledger(run)
    assert found.problems == []
    assert found.finished
    assert {cell.label for cell in found.cells} == {setting.label for setting in made.ablation.settings}
    assert sum(cell.wanted for cell in found.cells) == planned.cells
    for cell in found.cells:
        assert cell.state in ("complete", "diverged"), cell.label
        assert cell.state == "diverged" or all(0 <= score <= 100 for score in cell.scores)
    assert all(cell.label in page.read_text(encoding="utf-8") for cell in found.cells if not cell.column)


def test_another_ablation_in_the_same_store_reruns_none_of_what_they_share(encoder: dict[str, Any], tmp_path: Path) -> None:
    """Table 3 after table 2, whose weights are gone: its last layer is what the other calls head+tail."""
    store = Store(str(tmp_path / "store"))
    rows = {
        name: list(carry_out(part, tmp_path / name, store))
        for name in ("table2", "table3")
        for part in shrunk(name, encoder, tmp_path).parts
    }
    assert {row["source"] for row in rows["table2"]} == {"computed"}
    ends = {row["label"]: row for row in records(tmp_path / "table3", "trial")}
    assert {label for label, row in ends.items() if row["source"] == "loaded"} == {"Layer-11"}
    assert Counter(row["source"] for row in rows["table3"] if row["split"] == "test") == {"loaded": 1, "computed": len(ends) - 1}
