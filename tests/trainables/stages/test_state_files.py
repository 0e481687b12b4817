"""Weights, moments and position of an unfinished stage: what does not fit the stage is told, dropped and computed again."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import tiny_recipe
from tests.trainables.resume import (
    EVERY_FOUR_STEPS,
    ONE_THREAD,
    Whole,
    all_written,
    assert_goes_on,
    begin,
    interrupt,
    results,
    same_bits,
    saved_step,
    tuned_weights,
    undisturbed,
)
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate
from trainables.stages import finetune, state_files
from trainables.stages import node as node_module
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store import states
from trainables.store.artifact_files import PREDICTIONS, marker_bytes
from trainables.store.store import DamagedArtifact, Store, StoreError
from trainables.training.runtime import Runtime
from trainables.training.world import World

WEIGHTS, MOMENTS = "model.safetensors", "optimizer.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    return undisturbed(tiny_recipe(folder), folder)


def rewritten(file: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[dict[str, Any], Path], None]:
    def apply(position: dict[str, Any], folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)

    return apply


def first(tensors: dict[str, torch.Tensor]) -> str:
    return max(tensors, key=lambda name: tensors[name].numel())


def garbled(header: bytes) -> Callable[[dict[str, Any], Path], Any]:
    return lambda position, folder: (folder / WEIGHTS).write_bytes(header + b"{}" * 50)


POSITIONS: list[dict[str, Any]] = [
    {"step": 5},
    {"rows": [{}]},
    {"rows": None},
    {"tokens": -1},
    {"energy_j": "x"},
    {"unreached": [0]},
]
CHANGES: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    **{str(change): lambda position, folder, change=change: position.update(change) for change in POSITIONS},  # type: ignore[misc]
    "unknown": lambda position, folder: position.update(unknown=1),
    "no energy": lambda position, folder: position.pop("energy_j"),
    "no position": lambda position, folder: position.clear(),
    "one row for all": rewritten(WEIGHTS, lambda it: it.update({first(it): it[first(it)][:1]})),
    "half numbers": rewritten(WEIGHTS, lambda it: it.update({first(it): it[first(it)].half()})),
    "a weight is gone": rewritten(WEIGHTS, lambda it: it.pop(first(it))),
    "another weight": rewritten(WEIGHTS, lambda it: it.update(another=torch.zeros(1))),
    "moment of another shape": rewritten(MOMENTS, lambda it: it.update({first(it): it[first(it)][:1]})),
    "another moment": rewritten(MOMENTS, lambda it: it.update({"999.exp_avg": torch.zeros(1)})),
    "header without end": garbled((2**63 - 1).to_bytes(8, "little")),
    "header is no table": garbled((100).to_bytes(8, "little")),
}


@pytest.fixture(scope="module")
def half(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the stage stands in its middle."""
    store = Store(tmp_path_factory.mktemp("half"))
    begin(whole.recipe, store, 1)
    return store


@pytest.mark.parametrize("which", CHANGES)
def test_a_state_that_does_not_fit_is_told_and_computed_again(whole: Whole, half: Store, tmp_path: Path, which: str) -> None:
    """Its digests are right: whoever writes to a shared store can make them so."""
    said: list[str] = []
    store, name = Store(tmp_path / "store", notice=said.append), nodes(Inputs(whole.recipe))[0].trajectory_id
    state = half.load_state(name)
    assert state is not None
    for file in (WEIGHTS, MOMENTS):
        (tmp_path / file).write_bytes(state.path(file).read_bytes())
    position = json.loads(json.dumps(state.meta["position"]))
    CHANGES[which](position, tmp_path)
    store.save_state(name, state.step, {"position": position}, {file: tmp_path / file for file in (WEIGHTS, MOMENTS)})
    rows = list(runner.run(whole.recipe, store, ONE_THREAD))
    assert {row["source"] for row in rows} == {"computed"}
    assert results(rows) == results(whole.rows)
    assert len(said) == 1
    assert f"the state of stage {name} at step {state.step} is damaged and not used: " in said[0]


@pytest.mark.parametrize(
    "header", [(2**63 - 1).to_bytes(8, "little"), (90).to_bytes(8, "little"), b""], ids=["bomb", "garbled", "empty"]
)
def test_weights_that_are_none_are_damage(whole: Whole, tmp_path: Path, header: bytes) -> None:
    recipe, said = whole.recipe, list[str]()
    store, stage = Store(tmp_path / "store", notice=said.append), nodes(Inputs(whole.recipe))[-1].stage_id
    there = whole.store.get(stage)
    assert there is not None
    store.publish(stage, there.manifest, {WEIGHTS: header + b"{" * 200})
    with pytest.raises(DamagedArtifact, match=WEIGHTS):
        runner.evaluate_test(recipe, store, ONE_THREAD)
    assert store.get(stage) is None
    assert "is damaged and counts as missing: model.safetensors: " in said[0]


def test_artifacts_of_another_kind_are_computed_again(whole: Whole, tmp_path: Path) -> None:
    recipe, said = whole.recipe, list[str]()
    store, stage = Store(tmp_path / "store", notice=said.append), nodes(Inputs(recipe))[-1].stage_id
    list(runner.run(recipe, store, ONE_THREAD))
    first = runner.evaluate_test(recipe, store, ONE_THREAD)
    for name, kind in ((stage, "features"), (node_module.test_id(Inputs(recipe).target, stage), None)):
        path = f"artifacts/{name}/COMPLETE.json"
        marker = json.loads(store.files.read(path))
        del marker["sha256"]
        store.files.write(path, marker_bytes(marker | {"manifest": {"kind": kind}}))
    rows = list(runner.run(recipe, store, ONE_THREAD))
    assert results(rows) == results(whole.rows)
    assert same_bits(tuned_weights(store, recipe), tuned_weights(whole.store, recipe))
    again = runner.evaluate_test(recipe, store, ONE_THREAD)
    assert results([again]) == results([first])
    assert again["source"] == "computed"
    assert len(said) == 2
    assert all("its manifest is one of" in line for line in said)
    assert store.get(node_module.test_id(Inputs(recipe).target, stage), needs=(PREDICTIONS,)) is not None


TRAINED: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
    "everything": ({}, lambda name: True),
    "adapters": ({"lora_rank": 2}, lambda name: "lora_" in name or not name.startswith("encoder.")),
    "the head": ({"freeze": "encoder"}, lambda name: not name.startswith("encoder.")),
    "thawed later": ({"unfreeze_layers": 1}, lambda name: True),
}


@pytest.mark.parametrize("which", TRAINED)
def test_a_state_holds_what_is_trained_and_is_a_copy(tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written late, when training has gone on; a state with all weights, of an earlier version, is used as well."""
    settings, is_trained = TRAINED[which]
    recipe = tiny_recipe(tmp_path, **settings)
    whole, broken, early = undisturbed(recipe, tmp_path), Store(tmp_path / "broken"), Store(tmp_path / "early")
    name, write = nodes(Inputs(recipe))[-1].trajectory_id, state_files.saved

    def late(*arguments: Any) -> Path:
        time.sleep(0.1)
        return write(*arguments)

    monkeypatch.setattr(state_files, "saved", late)
    interrupt(recipe, broken, 9)
    monkeypatch.undo()
    state = broken.load_state(name)
    assert state is not None
    assert state.step == 8
    weights, runtime = load_file(state.path(WEIGHTS)), Runtime(torch.device("cpu"), World(), autocast=False)
    model = runner.job_of(Inputs(recipe), nodes(Inputs(recipe))[-1], None, frozenset(), broken, runtime).model
    assert weights.keys() == {key for key, _ in model.named_parameters() if is_trained(key)}
    whole_weights = {key: weight.detach() for key, weight in model.named_parameters()} | weights
    files = {WEIGHTS: state_files.saved(whole_weights, tmp_path / WEIGHTS), MOMENTS: state.path(MOMENTS)}
    early.save_state(name, 8, state.meta, files)
    for store in (broken, early):
        assert_goes_on(whole, store)


def test_a_row_whose_state_cannot_be_written_is_not_given(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what is recorded is never computed again; a later run goes on as if there had been no state."""
    store, stage = Store(tmp_path / "store"), nodes(Inputs(whole.recipe))[-1].stage_id

    def full(tensors: Any, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(state_files, "saved", full)
    with pytest.raises(StoreError, match="No space left on device; free some space there"):
        next(runner.run(whole.recipe, store, ONE_THREAD))
    monkeypatch.undo()
    assert store.get(stage) is None
    assert_goes_on(whole, store)


def evaluating(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call `act` with the number of the evaluation within every evaluation."""
    plain, count = finetune.measured, itertools.count(1)

    def measured(*arguments: Any) -> Any:
        act(next(count))
        return plain(*arguments)

    monkeypatch.setattr(finetune, "measured", measured)


def test_a_state_is_written_during_the_evaluation_and_counts_after_it(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name, put = Store(tmp_path / "store"), nodes(Inputs(whole.recipe))[0].trajectory_id, threading.Event()
    begin_state, seen = Store.begin_state, list[bool]()

    def noted(*arguments: Any, **more: Any) -> Any:
        draft = begin_state(*arguments, **more)
        put.set()
        return draft

    def look(number: int) -> None:
        if number == 1:
            assert put.wait(60), "weights and moments are written while the evaluation goes on"
            seen.append(store.load_state(name) is None)

    monkeypatch.setattr(Store, "begin_state", noted)
    evaluating(monkeypatch, look)
    running = runner.run(whole.recipe, store, ONE_THREAD)
    row = next(running)
    assert seen == [True], "no state counts that has no position"
    state = store.load_state(name)
    assert state is not None
    assert state.step == row["step"]
    running.close()
    monkeypatch.undo()
    assert_goes_on(whole, store)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_evaluation_that_fails_leaves_the_state_before_it(
    whole: Whole, tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = Store(tmp_path / "store"), nodes(Inputs(whole.recipe))[0].trajectory_id

    def fail(number: int) -> None:
        raise error("in the evaluation")

    evaluating(monkeypatch, fail)
    with pytest.raises(error, match="in the evaluation") as raised:
        next(runner.run(whole.recipe, store, EVERY_FOUR_STEPS))
    assert not any("not saved" in note for note in getattr(raised.value, "__notes__", []))
    assert saved_step(whole.recipe, store, 0) == 4
    assert len(store.files.names(f"states/{name}")) == 1, "what was begun is removed"
    monkeypatch.undo()
    assert_goes_on(whole, store)


def _die_while_evaluating(recipe: dict[str, Any], store: str) -> None:
    def die(number: int) -> None:
        all_written()
        os._exit(9)

    with pytest.MonkeyPatch.context() as patch:
        evaluating(patch, die)
        list(runner.run(validate(Recipe, recipe), Store(store), EVERY_FOUR_STEPS))


def test_killed_when_all_is_written_but_the_position(whole: Whole, tmp_path: Path) -> None:
    """The state before it counts."""
    store, name = Store(tmp_path / "store"), nodes(Inputs(whole.recipe))[0].trajectory_id
    process = multiprocessing.get_context("spawn").Process(target=_die_while_evaluating, args=(whole.recipe.canonical(), store.url))
    process.start()
    process.join(240)
    assert process.exitcode == 9
    assert len(store.files.names(f"states/{name}")) == 2
    assert saved_step(whole.recipe, store, 0) == 4
    assert_goes_on(whole, store)


def _die_while_writing(recipe: dict[str, Any], store: str) -> None:
    put_all, written = states.put_all, list[str]()

    def dying(*arguments: Any, **more: Any) -> Any:
        written.append("")
        if len(written) == 2:
            os._exit(9)
        return put_all(*arguments, **more)

    states.put_all = dying
    list(runner.run(validate(Recipe, recipe), Store(store), EVERY_FOUR_STEPS))


def test_killed_while_a_state_is_written(whole: Whole, tmp_path: Path) -> None:
    """The state before it counts."""
    store = Store(tmp_path / "store")
    process = multiprocessing.get_context("spawn").Process(target=_die_while_writing, args=(whole.recipe.canonical(), store.url))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert saved_step(whole.recipe, store, 0) == 4
    assert_goes_on(whole, store)
