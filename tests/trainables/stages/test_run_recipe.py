"""Recipes end to end in plain PyTorch: same bits for the same seed, after any interruption, and for any number of milestones."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.helpers import tiny_recipe
from tests.trainables.resume import (
    ONE_THREAD,
    Whole,
    assert_goes_on,
    begin,
    kill,
    results,
    same_bits,
    saved_step,
    undisturbed,
    weights,
)
from trainables import __main__ as command_line
from trainables.scores import temperature
from trainables.settings.execution import Execution
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.node import milestone_id
from trainables.stages.state_files import StateWriter
from trainables.store.store import Store, StoreError
from trainables.training.loop import Diverged


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An undisturbed run with further pre-training: the reference."""
    folder = tmp_path_factory.mktemp("whole")
    return undisturbed(tiny_recipe(folder, pretrain={"steps": 6}), folder)


def test_rows(whole: Whole) -> None:
    recipe, store, rows = whole
    finetune = nodes(Inputs(recipe))[-1]
    assert [row["stage"] for row in rows] == ["pretrain"] * 6 + ["finetune"] * 2
    assert [row["epoch"] for row in rows[-2:]] == [1, 2]
    assert all(row["source"] == "computed" for row in rows)
    assert rows[0]["train_loss"] == pytest.approx(torch.log(torch.tensor(400.0)).item(), abs=0.7)  # near chance over 400 pieces
    last = rows[-1]
    assert last["stage_id"] == finetune.stage_id
    assert last["step"] == finetune.steps
    assert last["split"] == "validation"
    assert last["examples"] == 15
    assert 0 <= last["error_rate_percent"] <= 100
    assert set(last["group_rates"]) == {"embeddings", "layer 0", "layer 1", "head"}
    artifact = store.get(finetune.stage_id)
    assert artifact is not None
    assert artifact.has("predictions-validation.parquet")
    assert store.load_state(finetune.trajectory_id) is None


def test_finished_stages_are_loaded(whole: Whole) -> None:
    recipe, store, rows = whole
    again = list(runner.run(recipe, store, ONE_THREAD))
    assert {row["source"] for row in again} == {"loaded"}
    assert results(again) == results(rows)


def test_same_seed_same_bits_whatever_ran_before(whole: Whole, tmp_path: Path) -> None:
    recipe, store, rows = whole
    torch.manual_seed(123)
    torch.randn(1000)
    other = Store(str(tmp_path / "store"))
    assert results(list(runner.run(recipe, other, ONE_THREAD))) == results(rows)
    for node in nodes(Inputs(recipe)):
        assert same_bits(weights(store, node.stage_id), weights(other, node.stage_id))
    different = recipe.model_copy(update={"seed": 1})
    assert results(list(runner.run(different, other, ONE_THREAD)))[-1]["loss"] != rows[-1]["loss"]


@pytest.mark.parametrize("stop_after", range(1, 8))
def test_resume_from_every_evaluation_is_bit_for_bit(whole: Whole, tmp_path: Path, stop_after: int) -> None:
    other = Store(str(tmp_path / "store"))
    assert results(begin(whole.recipe, other, stop_after)) == results(whole.rows[:stop_after])
    resumed = assert_goes_on(whole, other)
    assert [row["source"] for row in resumed[:stop_after]] == ["loaded"] * stop_after


def test_resume_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    whole, broken = undisturbed(tiny_recipe(tmp_path), tmp_path), Store(str(tmp_path / "broken"))
    kill(whole.recipe, broken, 9)
    assert saved_step(whole.recipe, broken, 0) == 8  # six steps are an epoch
    assert_goes_on(whole, broken)


def test_milestones_equal_separately_run_lengths(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, pretrain={"steps": 8})
    one = Store(str(tmp_path / "one"))
    list(runner.run(recipe, one, ONE_THREAD, last="pretrain", milestones=(2, 5)))
    trajectory = nodes(Inputs(recipe))[0].trajectory_id
    for steps in (2, 5, 8):
        alone = Store(str(tmp_path / f"alone-{steps}"))
        stage = recipe.stages[0].model_copy(update={"steps": steps})
        short = recipe.model_copy(update={"stages": (stage, recipe.stages[1])})
        list(runner.run(short, alone, ONE_THREAD, last="pretrain"))
        assert nodes(Inputs(short))[0].stage_id == milestone_id(trajectory, steps)
        assert same_bits(weights(one, milestone_id(trajectory, steps)), weights(alone, milestone_id(trajectory, steps))), steps


def test_a_trajectory_goes_on_from_where_it_stands(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, pretrain={"steps": 3})
    store, straight = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    list(runner.run(recipe, store, ONE_THREAD, last="pretrain"))
    further = recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"steps": 7}), recipe.stages[1])})
    rows = list(runner.run(further, store, ONE_THREAD, last="pretrain"))
    assert [row["source"] for row in rows] == ["loaded"] * 3 + ["computed"] * 4
    list(runner.run(further, straight, ONE_THREAD, last="pretrain"))
    assert same_bits(weights(store, nodes(Inputs(further))[0].stage_id), weights(straight, nodes(Inputs(further))[0].stage_id))


def test_a_milestone_below_the_state_is_resumed_too_and_the_state_is_kept(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, pretrain={"steps": 8})
    store, alone = Store(str(tmp_path / "store")), Store(str(tmp_path / "alone"))
    begin(recipe, store, 6)
    assert saved_step(recipe, store, 0) == 6
    stage = recipe.stages[0].model_copy(update={"steps": 4})
    below = recipe.model_copy(update={"stages": (stage, recipe.stages[1])})
    kill(below, store, 3)  # in a process that dies without a word
    assert sorted(int(name[:12]) for name in store.files.names(f"states/{nodes(Inputs(recipe))[0].trajectory_id}")) == [3, 6]
    rows = list(runner.run(below, store, ONE_THREAD, last="pretrain"))
    assert [row["source"] for row in rows] == ["loaded"] * 3 + ["computed"]
    assert results(rows) == results(list(runner.run(below, alone, ONE_THREAD, last="pretrain")))
    assert same_bits(weights(store, nodes(Inputs(below))[0].stage_id), weights(alone, nodes(Inputs(below))[0].stage_id))
    further = list(runner.run(recipe, store, ONE_THREAD, last="pretrain"))
    assert [row["source"] for row in further] == ["loaded"] * 6 + ["computed"] * 2
    list(runner.run(recipe, alone, ONE_THREAD, last="pretrain"))
    assert same_bits(weights(store, nodes(Inputs(recipe))[0].stage_id), weights(alone, nodes(Inputs(recipe))[0].stage_id))


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_do_not_change_the_result(tmp_path: Path, micro_batch: int) -> None:
    """With dropout on: its bits follow the text, not the micro-batch."""
    recipe = tiny_recipe(tmp_path, pretrain={"steps": 2})
    a, b = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    whole = list(runner.run(recipe, a, ONE_THREAD))
    split = list(runner.run(recipe, b, Execution(threads=1, micro_batch=micro_batch)))
    for one, other in zip(whole, split, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
    end = nodes(Inputs(recipe))[-1].stage_id
    for name, tensor in weights(a, end).items():
        torch.testing.assert_close(tensor, weights(b, end)[name], rtol=0, atol=1e-4, msg=name)


def test_divergence_stops_before_the_step(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, learning_rate=1.0, clip_norm=0.0, epochs=40, warmup=0.0, dropout=0.0, weight_decay=1e3)
    store = Store(str(tmp_path / "store"))
    with pytest.raises(Diverged, match=r"step \d+ is (nan|inf)"):
        list(runner.run(recipe, store, ONE_THREAD))
    assert store.get(nodes(Inputs(recipe))[0].stage_id) is None


def test_test_split_is_read_once(whole: Whole) -> None:
    recipe, store, _ = whole
    first = runner.evaluate_test(recipe, store, ONE_THREAD)
    second = runner.evaluate_test(recipe, store, ONE_THREAD)
    assert (first["source"], second["source"]) == ("computed", "loaded")
    assert results([first]) == results([second])
    assert first["examples"] == 24
    assert first["split"] == "test"
    validated = pq.read_table(store.get(nodes(Inputs(recipe))[-1].stage_id).path("predictions-validation.parquet")).to_pydict()  # type: ignore[union-attr]
    fitted = temperature.fit(np.array(validated["label"]), np.array(validated["probabilities"]))
    assert first["temperature"] == second["temperature"] == pytest.approx(fitted)
    assert 0 < fitted != 1
    assert store.get(first["stage_id"]).rows("test")[0]["temperature"] == first["temperature"], "fitted once"  # type: ignore[union-attr]


def test_test_needs_the_weights(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, epochs=1)
    store = Store(str(tmp_path / "store"))
    list(runner.run(recipe, store, Execution(threads=1, keep_weights=False)))
    with pytest.raises(FileNotFoundError, match="no weights"):
        runner.evaluate_test(recipe, store, ONE_THREAD)


def test_command_line(tmp_path: Path) -> None:
    """`python -m trainables` prints rows as JSON, tells wrong input apart, and imports no Ray."""
    recipe = tiny_recipe(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.canonical()))
    arguments = [str(path), "--store", f"{tmp_path}/store", "--threads", "1"]
    code = f"import sys; from trainables.__main__ import main; code = main({arguments})"
    code += "; assert not [name for name in sys.modules if name == 'ray' or name.startswith('ray.')]; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["split"] for line in lines] == ["validation", "validation", "test"]
    assert "LOAD REPORT" not in done.stderr
    path.write_text("tasks: {sls_imbd: known}")
    unknown = subprocess.run(
        [sys.executable, "-m", "trainables", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert unknown.returncode == 2
    assert "did you mean 'sls_imdb'?" in unknown.stderr
    path.write_text("task: 3")
    wrong = subprocess.run([sys.executable, "-m", "trainables", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2
    assert "tasks: missing" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_an_interrupt_tells_of_a_last_state_that_was_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(tmp_path).canonical()))

    def full(*arguments: Any) -> None:
        raise StoreError(["the disk is full"])

    def stopped(*arguments: Any) -> Any:
        with contextlib.closing(train(*arguments)) as rows:
            next(rows)  # its state is being written
        raise KeyboardInterrupt
        yield

    train = runner.train
    monkeypatch.setattr(StateWriter, "_mark", full)
    monkeypatch.setattr(runner, "train", stopped)
    assert command_line.main([str(path), "--store", f"{tmp_path}/store", "--threads", "1"]) == 130
    assert "interrupted; the last state was not saved: the disk is full; run the same" in capsys.readouterr().err
