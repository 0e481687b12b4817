"""Run a trial, the rows of one recipe, in a warm Tune actor or on the workers of a TorchTrainer, with retries.

Both ways look the same to the caller: a row is computed when it is requested, and closing the generator stops the trial early.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from ray.tune import Trainable

from study.cluster.machine_faults import poisons
from study.cluster.switchboard import under_train
from study.cluster.work import Ended, Placement, Rows, Work, ended, here, tested
from study.definition.models import Study
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.stages import Finetune
from trainables.stages.inputs import Reader

log = logging.getLogger(__name__)
FIRST_PAUSE_S = 1.0
"""Seconds until work is retried after a failure of the machine; doubled for every further retry."""


def start(work: Work, placement: Placement, board: Any, reader: Reader | None = None) -> Rows:
    """Yield the rows of the work, computed where `placement` says; work that is only loaded needs no workers."""
    return under_train(work, placement, board) if placement.under_train and not is_done(work, reader) else here(work, reader)


def is_done(work: Work, reader: Reader | None = None) -> bool:
    """Whether the work runs a whole recipe and the store holds all its stages."""
    from trainables.stages.identity import nodes
    from trainables.stages.inputs import Inputs
    from trainables.store.store import Store

    store, inputs = Store(work.store), Inputs(work.recipe, reader or Reader())
    return work.last is None and all(store.get(node.stage_id) is not None for node in nodes(inputs))


def persistent(begin: Callable[[], Rows], retries: int, patience_s: float = 0.0) -> Rows:
    """Yield the rows of `begin()`, restarted after a failure up to `retries` times; rows from before a failure are not repeated.

    After a failure of the machine that may pass, restart until `patience_s` seconds were waited in vain, with doubling pauses.
    Every row holds the number of its try in `attempt`. Raises Ended; divergence and wrong input are not retried. Closing it begins
    nothing anew: it raises the failure of a last save as it is.
    """
    seen: set[tuple[Any, ...]] = set()
    failures, waited, closed = 0, 0.0, False
    for attempt in count():
        try:
            with contextlib.closing(begin()) as rows:
                for row in rows:
                    key = tuple(row.get(name) for name in ("stage_id", "split", "step"))
                    if key not in seen:
                        seen.add(key)
                        waited = 0.0
                        closed = True  # unless another row is requested
                        yield row | {"attempt": attempt}
                        closed = False
            return
        except Exception as error:
            if closed:
                raise
            end = ended(error)
            if end.status == "halted":
                pause = min(max(waited, FIRST_PAUSE_S), patience_s - waited) if end.passing else 0.0
                if pause <= 0:
                    raise end from error
                time.sleep(pause)
                waited += pause
                continue
            if end.status == "diverged" or isinstance(error, ConfigError) or failures == retries:
                raise end from error
            failures += 1


class TrialActor(Trainable):  # type: ignore[misc]
    """Runs one trial after another in a warm process; libraries, data, token caches and the base encoder stay in memory.

    The configuration holds `trial` (its name), `params` and `seed`; with `read_test` the finished trial is scored on the test split
    instead of trained. A step is one validation of the last stage. It never raises: the last result of a trial that ends early has
    `status` and `reason`.
    """

    def setup(
        self, config: dict[str, Any], study: Study, store: str, placement: Placement, execution: Execution, board: Any = None
    ) -> None:
        """Begin a trial."""
        self._study, self._store, self._placement, self._execution, self._board = study, store, placement, execution, board
        self._reader = Reader()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same process; if its GPU context is broken, exit, so that Tune starts another process."""
        if self._poisoned:
            os._exit(1)
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._recipe = self._study.recipe_for(config["params"], config["seed"])
        work = Work(config["trial"], self._recipe, self._store, self._execution)
        begin = partial(start, work, self._placement, self._board, self._reader)
        if config.get("read_test"):
            begin = partial(tested, work, self._placement, self._reader)
        self._poisoned = False
        self._rows = persistent(begin, self._placement.retries, self._placement.patience_s)

    def step(self) -> dict[str, Any]:
        """Compute until the next validation of the last stage, or until the end."""
        last, rows = self._recipe.stages[-1], []
        assert isinstance(last, Finetune)
        result: dict[str, Any] = {"status": "running", "done": False}
        try:
            for row in self._rows:
                rows.append(row)
                if row.get("stage_name") == last.name and row.get("split") == "validation":
                    result |= {"epoch": row["epoch"], "objective_percent": self._loss(row)}
                    if row["epoch"] < last.epochs:
                        break
            else:
                result |= {"status": "complete", "done": True}
        except Ended as end:
            fields = {name: getattr(end, name) for name in ("status", "reason", "details", "where", "advice")}
            result |= fields | {"done": True}
            self._poisoned = not self._placement.under_train and poisons(end.details)
        return result | {"rows": rows}

    def _loss(self, row: dict[str, Any]) -> float:
        """The loss that the search minimises. Raises Ended for a row of the store that lacks the metric."""
        metric = self._study.metric
        loss = metric.loss(row)
        if loss is None:
            why = f"the stored result lacks the metric {metric.name}: an earlier version computed it; use another --store"
            raise Ended("failed", f"{why} ({row['stage_name']} {row['stage_id'][:12]})")
        return loss

    def cleanup(self) -> None:
        """Stop the current trial: close its generator, so that no further row is computed. A failed last save is only logged."""
        try:
            self._rows.close()
        except Exception:
            log.exception("the trial's last state was not saved")


def resources(placement: Placement) -> Any:
    """Return the resources of a trial's own actor.

    Under Ray Train its workers take the CPUs, and it requests one byte of memory: if the workers fill the machine, even a hundredth
    of a CPU would keep the last worker from starting.
    """
    from ray.tune import PlacementGroupFactory

    if placement.under_train:
        return PlacementGroupFactory([{"memory": 1}])
    return PlacementGroupFactory([{"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {})])
