"""An undisturbed run of a recipe, runs that are cut short, and what it means that both come to the same."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
import torch
from safetensors.torch import load_file

from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.background import THREAD
from trainables.store.store import Store
from trainables.training import loop

ONE_THREAD = Execution(threads=1)
EVERY_FOUR_STEPS = Execution(threads=1, state_every_steps=4)
TIMES = ("wall_s", "tokens_per_s", "source")


class Whole(NamedTuple):
    """An undisturbed run: the reference."""

    recipe: Recipe
    store: Store
    rows: list[dict[str, Any]]


def undisturbed(recipe: Recipe, folder: Path) -> Whole:
    """Run a recipe to its end."""
    store = Store(str(folder / "whole"))
    return Whole(recipe, store, list(runner.run(recipe, store, ONE_THREAD)))


def results(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows less what depends on the clock."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def weights(store: Store, stage_id: str) -> dict[str, torch.Tensor]:
    artifact = store.get(stage_id)
    assert artifact is not None
    return load_file(artifact.path("model.safetensors"))


def tuned_weights(store: Store, recipe: Recipe) -> dict[str, torch.Tensor]:
    """What the last stage left."""
    return weights(store, nodes(Inputs(recipe))[-1].stage_id)


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def begin(recipe: Recipe, store: Store, evaluations: int) -> list[dict[str, Any]]:
    """Rows of a run that is left after so many."""
    running = runner.run(recipe, store, ONE_THREAD)
    rows = [next(running) for _ in range(evaluations)]
    running.close()
    return rows


def interrupt(recipe: Recipe, store: Store, step: int) -> None:
    """Run up to a step of a stage, in the middle of which an exception ends it."""

    def stop() -> NoReturn:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        _run_up_to(recipe, store, step, stop)


def kill(recipe: Recipe, store: Store, step: int) -> None:
    """The same in a process that dies without a word, once the last state is written."""
    arguments = (recipe.canonical(), store.url, step)
    process = multiprocessing.get_context("spawn").Process(target=_die, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == 9


def all_written() -> None:
    """Wait for what this process writes in the background, so that what is saved does not depend on the speed of the disk."""
    for thread in threading.enumerate():
        if thread.name.startswith(THREAD):
            thread.join()


def _die(recipe: dict[str, Any], store: str, step: int) -> None:
    def die() -> NoReturn:
        all_written()
        os._exit(9)

    _run_up_to(validate(Recipe, recipe), Store(store), step, die)


def _run_up_to(recipe: Recipe, store: Store, step: int, end: Callable[[], NoReturn]) -> None:
    ahead = loop._ahead

    def ending(examples: Any, steps: range) -> Any:
        for current, batch in ahead(examples, steps):
            if current == step:
                end()
            yield current, batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_ahead", ending)
        list(runner.run(recipe, store, EVERY_FOUR_STEPS))


def saved_step(recipe: Recipe, store: Store, index: int) -> int:
    """The step at which the state of an unfinished stage stands."""
    state = store.load_state(nodes(Inputs(recipe))[index].trajectory_id)
    assert state is not None
    return state.step


def assert_goes_on(whole: Whole, store: Store) -> list[dict[str, Any]]:
    """Run what is left, and come to the same rows and weights to the bit; the rows."""
    rows = list(runner.run(whole.recipe, store, EVERY_FOUR_STEPS))
    assert results(rows) == results(whole.rows)
    for node in nodes(Inputs(whole.recipe)):
        assert same_bits(weights(whole.store, node.stage_id), weights(store, node.stage_id))
    return rows
