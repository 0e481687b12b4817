"""An owner that seemed dead and goes on beside its successor: neither hurts the other, and both come to the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny_recipe
from tests.trainables.resume import Whole, all_written, results, same_bits, tuned_weights, undisturbed
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store import lease, states
from trainables.store.local_files import LocalFiles
from trainables.store.store import Store
from trainables.training import loop

EVERY_STEP = Execution(threads=1, state_every_steps=1)
TTL_S = 0.5
WHERE = ("while saving", "between two steps", "while publishing")


def short_leases(patch: pytest.MonkeyPatch) -> None:
    attempt = lease.attempt
    patch.setattr(lease, "attempt", lambda files, folder, ttl_s, watch: attempt(files, folder, TTL_S, watch))
    patch.setattr(states, "TTL_S", TTL_S)


def stopping(patch: pytest.MonkeyPatch, where: str) -> None:
    """Let this process stop itself, once, at that place; whoever watches lets it go on."""
    left = {"while saving": 4, "between two steps": 5, "while publishing": 2}[where]

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGSTOP)

    put, ahead = LocalFiles.put, loop._ahead

    def counting(self: LocalFiles, path: str, *rest: Any) -> tuple[int, str]:
        if path.startswith({"while saving": "states/", "while publishing": "artifacts/"}.get(where, "nowhere")):
            count()
        return put(self, path, *rest)

    def stepping(examples: Any, steps: range) -> Any:
        for pair in ahead(examples, steps):
            if where == "between two steps":
                all_written()
                count()
            yield pair

    patch.setattr(LocalFiles, "put", counting)
    patch.setattr(loop, "_ahead", stepping)


def first_owner(recipe: dict[str, Any], folder: str) -> None:
    """Own the stage in three stores, one after the other, and stop in each."""
    for where in WHERE:
        with pytest.MonkeyPatch.context() as patch:
            short_leases(patch)
            stopping(patch, where)
            store = Store(f"{folder}/{where}")
            rows = list(runner.run(validate(Recipe, recipe), store, EVERY_STEP))
        Path(folder, f"{where}.tmp").write_text(json.dumps(rows))
        os.replace(Path(folder, f"{where}.tmp"), Path(folder, f"{where}.json"))


def until(condition: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), "the first owner ended"
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    return undisturbed(tiny_recipe(folder), folder)


def test_two_owners_do_not_hurt_each_other(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stops and is overtaken, goes on and ends while the second is in the middle, which then ends too."""
    short_leases(monkeypatch)
    first = multiprocessing.get_context("spawn").Process(target=first_owner, args=(whole.recipe.canonical(), str(tmp_path)))
    first.start()
    try:
        for where in WHERE:
            said: list[str] = []
            store, told = Store(tmp_path / where, notice=said.append), tmp_path / f"{where}.json"
            until(lambda: is_stopped(first.pid or 0), first)
            second = runner.run(whole.recipe, store, EVERY_STEP)
            rows = [next(second)]
            all_written()
            half = store.files.names(f"states/{nodes(Inputs(whole.recipe))[0].trajectory_id}")
            os.kill(first.pid or 0, signal.SIGCONT)
            if where != WHERE[-1]:
                until(told.exists, first)
            assert set(half) <= set(store.files.names(f"states/{nodes(Inputs(whole.recipe))[0].trajectory_id}")), where
            rows += list(second)
            until(lambda told=told: told.exists() or not first.is_alive(), first)  # type: ignore[misc]
            assert results(rows) == results(json.loads(told.read_text())) == results(whole.rows), where
            assert same_bits(tuned_weights(store, whole.recipe), tuned_weights(whole.store, whole.recipe)), where
            assert [line for line in said if "waiting for stage" not in line] == [], where
            assert (store.files.names("leases"), store.files.names("states")) == ([], []), where
    finally:
        os.kill(first.pid or 0, signal.SIGCONT)
        first.join(60)
    assert first.exitcode == 0
