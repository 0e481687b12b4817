"""Run work on the workers of a TorchTrainer as a generator: a row is computed when the caller requests it.

Before every evaluation the workers wait for permission from the switchboard. So closing the generator lets the training function
end by itself and Train frees its resources; killing it would leak placement groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from study.cluster.work import Ended, Placement, Row, Rows, Work, ended, here

STOP_TIMEOUT_S = 30.0
"""Seconds that a closed Train run may take to end before its actors are killed with their owner."""


@dataclass
class _Run:
    granted: int = 0
    closed: bool = False
    rows: deque[Any] = field(default_factory=deque)
    placement_group: str | None = None


class Switchboard:
    """Connects the caller of `under_train` with its workers: permissions go one way, rows the other. One actor for a study.

    It also stores the placement group of every run: it outlives a killed trial and can then free its resources.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._changed = asyncio.Condition()

    async def open(self, run: str) -> None:
        """Begin a run; free the resources of a killed run of that name."""
        await self.close(run)
        self.free(run)
        self._runs[run] = _Run()

    async def close(self, run: str) -> None:
        """End the requests for rows, so that waiting workers return."""
        async with self._changed:
            if run in self._runs:
                self._runs[run].closed = True
            self._changed.notify_all()

    def free(self, run: str) -> None:
        """Forget a run; remove its placement group unless it ended by itself."""
        old = self._runs.pop(run, None)
        if old is not None and old.placement_group is not None:
            _remove_placement_group(old.placement_group)

    def sweep(self, running: Sequence[str]) -> None:
        """Free the resources of all runs but these: a process killed between two trials could not do so itself."""
        for run in set(self._runs) - set(running):
            self.free(run)

    async def holds(self, run: str, placement_group: str) -> None:
        """Store the placement group of a run; called by a worker."""
        if run in self._runs:
            self._runs[run].placement_group = placement_group

    async def done(self, run: str) -> None:
        """Mark a run as ended by itself, with its resources freed."""
        if run in self._runs:
            self._runs[run].placement_group = None
            await self.put(run, None)

    async def next(self, run: str) -> Any:
        """Permit one more evaluation and wait for its result: a row, an `Ended`, or None at the end."""
        mine = self._runs[run]
        async with self._changed:
            mine.granted += 1
            self._changed.notify_all()
            await self._changed.wait_for(lambda: bool(mine.rows))
            return mine.rows.popleft()

    async def may_continue(self, run: str, computed: int) -> bool:
        """Wait until the caller requests evaluation number `computed`; False if it never will. All ranks get the same answer."""
        mine = self._runs.get(run, _Run(closed=True))
        async with self._changed:
            await self._changed.wait_for(lambda: mine.closed or mine.granted > computed)
        return mine.granted > computed

    async def put(self, run: str, item: Any) -> None:
        """Pass on a row, an `Ended`, or None for the end of the run."""
        async with self._changed:
            if run in self._runs:
                self._runs[run].rows.append(item)
            self._changed.notify_all()


def _remove_placement_group(name: str) -> None:
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with contextlib.suppress(Exception):
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))


def _worker(settings: dict[str, Any]) -> None:
    """Training function of every rank: all ranks compute one evaluation after the other while the caller requests them."""
    import ray.train

    work, board = settings["work"], settings["board"]
    if ray.train.get_context().get_world_rank() == 0:
        group = ray.util.get_current_placement_group()
        ray.get(board.holds.remote(work.name, group.id.hex()))
    rows, computed = here(work), 0
    try:
        with contextlib.closing(rows):
            while ray.get(board.may_continue.remote(work.name, computed)):
                row = next(rows, None)
                if row is None:
                    return
                ray.train.report(row)
                computed += 1
    except Exception as error:
        ray.get(board.put.remote(work.name, ended(error)))
        raise


def _forward(board: Any, run: str) -> Any:
    """Callback of Train's controller that passes on the rows of rank 0."""
    import ray.train

    class Forward(ray.train.UserCallback):  # type: ignore[misc]
        def after_report(self, run_context: Any, metrics: list[Row], checkpoint: Any) -> None:
            ray.get(board.put.remote(run, metrics[0]))

    return Forward()


def under_train(work: Work, placement: Placement, board: Any) -> Rows:
    """Yield the rows of the work, computed by the workers of a TorchTrainer. Raises Ended if a worker ends early."""
    import ray.train
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _worker,
        train_loop_config={"work": work, "board": board},
        scaling_config=ray.train.ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpus > 0,
            resources_per_worker={"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=work.name,
            storage_path=placement.storage,
            callbacks=[_forward(board, work.name)],
            # `persistent` restarts workers from the store; a controller that cannot start them gives up.
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
    )
    fault: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            fault.append(error)
        with contextlib.suppress(Exception):
            ray.get(board.done.remote(work.name))

    ray.get(board.open.remote(work.name))
    thread = threading.Thread(target=fit, daemon=True, name=f"train {work.name}")  # not the main one: Train would take SIGINT there
    thread.start()
    try:
        while (item := ray.get(board.next.remote(work.name))) is not None:
            if isinstance(item, Ended):
                raise item
            yield item
        if fault:
            raise ended(fault[0])
    finally:
        ray.get(board.close.remote(work.name))
        thread.join(STOP_TIMEOUT_S)
        ray.get(board.free.remote(work.name))
