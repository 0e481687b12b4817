"""Where the training loop meets Ray: one generator of rows, run in a warm Tune actor or by the workers of a TorchTrainer.

Both ways look the same to the caller: `here` and `under_train` are generators, a row is computed when it is asked for, and stopping
early is closing the generator. Under Ray Train the workers ask the switchboard for leave before each evaluation. So a stopped trial
ends its training function by itself and Train frees its resources; nothing has to be killed, which is what leaks placement groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray.tune import Trainable
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from study.settings import Study
from study.tune_adapters import TuneAsha
from trainables.config import ConfigError, Execution, Finetune, Recipe

Row = dict[str, Any]
Rows = Generator[Row, None, None]
DEATHS = 2
"""How often a trial whose process was killed is begun again in another one."""
STOP_TIMEOUT_S = 30.0
"""How long a closed Train run may take to end before its actors are killed with their owner."""


@dataclass(frozen=True)
class Work:
    """What is to be run: a recipe (up to the stage `last`, leaving the `milestones` of it), and how. Ray can send it."""

    name: str
    recipe: Recipe
    store: str
    execution: Execution
    last: str | None = None
    milestones: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How a piece of work is spread: several workers, or one under Ray Train, or one right here."""

    workers: int
    cpus: float
    gpus: float
    under_train: bool
    storage: str
    """Folder or URL that all nodes see, for what Ray Train wants to keep."""
    retries: int = 1
    """How often work that failed is begun again, each time from its last saved state."""


class Ended(Exception):
    """The work ended without finishing: status diverged or failed, the reason in one line, and where it happened."""

    def __init__(self, status: str, reason: str, details: str = "") -> None:
        super().__init__(status, reason, details)
        self.status, self.reason, self.details = status, reason, details


def ended(error: BaseException) -> Ended:
    """Any exception of the training loop as what the records keep of it."""
    if isinstance(error, Ended):
        return error
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
    status = "diverged" if type(error).__name__ == "Diverged" else "failed"
    return Ended(status, reason[:500], "".join(traceback.format_exception(error)))


# in this process ------------------------------------------------------------------------------------------------------------------


def here(work: Work) -> Rows:
    """Rows of the work, computed in this process."""
    from trainables import recipe
    from trainables.store import Store

    yield from recipe.run(work.recipe, Store(work.store), work.execution, last=work.last, milestones=work.milestones)


# by the workers of a TorchTrainer -------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    granted: int = 0
    closed: bool = False
    rows: deque[Any] = field(default_factory=deque)
    placement_group: str | None = None


class Switchboard:
    """Between the caller of `under_train` and its workers: leave to go on one way, rows the other. One actor for a study.

    It also remembers the placement group of every run: it outlives a killed trial, whose resources it can then give back.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._changed = asyncio.Condition()

    async def open(self, run: str) -> None:
        """Begin a run; what a killed run of that name held is given back."""
        await self.close(run)
        self.free(run)
        self._runs[run] = _Run()

    async def close(self, run: str) -> None:
        """No more rows are asked for: waiting workers leave."""
        async with self._changed:
            if run in self._runs:
                self._runs[run].closed = True
            self._changed.notify_all()

    def free(self, run: str) -> None:
        """Forget a run and remove the placement group of one that did not end by itself."""
        old = self._runs.pop(run, None)
        if old is not None and old.placement_group is not None:
            _remove_placement_group(old.placement_group)

    def sweep(self, running: Sequence[str]) -> None:
        """Free what runs of other names hold: a process that was killed between two trials could not do so itself."""
        for run in set(self._runs) - set(running):
            self.free(run)

    async def holds(self, run: str, placement_group: str) -> None:
        """A worker says which placement group the run has."""
        if run in self._runs:
            self._runs[run].placement_group = placement_group

    async def done(self, run: str) -> None:
        """The run ended by itself and gave everything back."""
        if run in self._runs:
            self._runs[run].placement_group = None
            await self.put(run, None)

    async def next(self, run: str) -> Any:
        """Grant one more evaluation and wait for what comes of it: a row, an `Ended`, or None at the end."""
        mine = self._runs[run]
        async with self._changed:
            mine.granted += 1
            self._changed.notify_all()
            await self._changed.wait_for(lambda: bool(mine.rows))
            return mine.rows.popleft()

    async def may_go_on(self, run: str, computed: int) -> bool:
        """Wait until the caller asks for evaluation number `computed`; False when it never will. The same answer to every rank."""
        mine = self._runs.get(run, _Run(closed=True))
        async with self._changed:
            await self._changed.wait_for(lambda: mine.closed or mine.granted > computed)
        return mine.granted > computed

    async def put(self, run: str, item: Any) -> None:
        """A row, or how the run ended."""
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
    """The training function of every rank: iterate together, evaluation by evaluation, as long as the caller asks."""
    import ray.train

    work, board = settings["work"], settings["board"]
    if ray.train.get_context().get_world_rank() == 0:
        group = ray.util.get_current_placement_group()
        ray.get(board.holds.remote(work.name, group.id.hex()))
    rows, computed = here(work), 0
    try:
        with contextlib.closing(rows):
            while ray.get(board.may_go_on.remote(work.name, computed)):
                row = next(rows, None)
                if row is None:
                    return
                ray.train.report(row)
                computed += 1
    except Exception as error:
        ray.get(board.put.remote(work.name, ended(error)))
        raise


def _forward(board: Any, run: str) -> Any:
    """Callback of Train's controller that passes rank 0's rows on."""
    import ray.train

    class Forward(ray.train.UserCallback):  # type: ignore[misc]
        def after_report(self, run_context: Any, metrics: list[Row], checkpoint: Any) -> None:
            ray.get(board.put.remote(run, metrics[0]))

    return Forward()


def under_train(work: Work, layout: Layout, board: Any) -> Rows:
    """Rows of the work, computed by the workers of a TorchTrainer. Raises Ended for what ends a worker."""
    import ray.train
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _worker,
        train_loop_config={"work": work, "board": board},
        scaling_config=ray.train.ScalingConfig(
            num_workers=layout.workers,
            use_gpu=layout.gpus > 0,
            resources_per_worker={"CPU": layout.cpus} | ({"GPU": layout.gpus} if layout.gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=work.name,
            storage_path=layout.storage,
            callbacks=[_forward(board, work.name)],
            # Workers are begun again by `persistent`, from the store; a controller that cannot start them gives up.
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


# as often as it takes -------------------------------------------------------------------------------------------------------------


def start(work: Work, layout: Layout, board: Any) -> Rows:
    """Rows of the work, computed where the layout says; what is only to be loaded needs no workers."""
    return under_train(work, layout, board) if layout.under_train and not is_done(work) else here(work)


def is_done(work: Work) -> bool:
    """Whether every stage that leads to the end of the work is in the store."""
    from trainables.identity import nodes
    from trainables.store import Store

    store = Store(work.store)
    return work.last is None and all(store.get(node.stage_id) is not None for node in nodes(work.recipe))


def persistent(begin: Callable[[], Rows], retries: int) -> Rows:
    """Rows of what `begin` starts, begun again after a failure up to `retries` times. Rows that came before a failure come once.

    Every row says in `attempt` which try gave it. Raises Ended; divergence and wrong input would only happen again.
    """
    seen: set[tuple[Any, ...]] = set()
    for attempt in range(retries + 1):
        try:
            with contextlib.closing(begin()) as rows:
                for row in rows:
                    key = tuple(row.get(name) for name in ("stage_id", "split", "step"))
                    if key not in seen:
                        seen.add(key)
                        yield row | {"attempt": attempt}
            return
        except Exception as error:
            end = ended(error)
            if end.status == "diverged" or isinstance(error, ConfigError) or attempt == retries:
                raise end from error


class TrialActor(Trainable):  # type: ignore[misc]
    """A trial after another in one warm process; libraries, token caches and the base encoder stay in memory.

    The configuration holds `trial` (its name), `params` and `seed`; with `read_test` the finished trial is scored on the test split
    instead of trained. A step is one validation of the last stage. It never raises: a trial that ends early says so in its last
    result, as `status` and `reason`.
    """

    def setup(
        self, config: dict[str, Any], study: Study, store: str, layout: Layout, execution: Execution, board: Any = None
    ) -> None:
        """Begin a trial."""
        self._study, self._store, self._layout, self._execution, self._board = study, store, layout, execution, board
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same process."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._recipe = self._study.recipe_for(config["params"], config["seed"])
        work = Work(config["trial"], self._recipe, self._store, self._execution)
        begin = partial(tested, work, self._layout) if config.get("read_test") else partial(start, work, self._layout, self._board)
        self._rows = persistent(begin, self._layout.retries)

    def step(self) -> dict[str, Any]:
        """Compute up to the next validation of the last stage, or to the end."""
        last, rows = self._recipe.stages[-1], []
        assert isinstance(last, Finetune)
        result: dict[str, Any] = {"status": "running", "done": False}
        try:
            for row in self._rows:
                rows.append(row)
                if row.get("stage_name") == last.name and row.get("split") == "validation":
                    result |= {"epoch": row["epoch"], "error_rate_percent": row["error_rate_percent"]}
                    if row["epoch"] < last.epochs:
                        break
            else:
                result |= {"status": "complete", "done": True}
        except Ended as end:
            result |= {"status": end.status, "reason": end.reason, "details": end.details, "done": True}
        return result | {"rows": rows}

    def cleanup(self) -> None:
        """Stop: whatever is not asked for any more is not computed."""
        with contextlib.suppress(Exception):
            self._rows.close()


def tested(work: Work, layout: Layout) -> Rows:
    """The one row of a finished trial's test split, in this process or, where its own has no CPUs and GPUs, in a task that has."""
    if not layout.under_train:
        yield read_test(work)
        return
    import ray

    # By default a task would be held to this actor's placement group, which has no CPU.
    task = ray.remote(num_cpus=layout.cpus, num_gpus=layout.gpus, scheduling_strategy="DEFAULT")(read_test)
    yield ray.get(task.remote(work))


@dataclass
class _Ticket:
    """A trial on its way through Tune: its name towards the search, its configuration, how often its process has died."""

    name: str
    config: dict[str, Any]
    deaths: int = 0


class InTurn(Searcher):  # type: ignore[misc]
    """The search, then what follows from it, part by part, in the same warm processes. A part begins when the one before is over.

    `then` are functions that give the configurations of a part once its turn has come. A trial whose process died is handed out
    again, up to `deaths` times: Tune itself does so for running trials only, and fails one that was about to begin.
    """

    def __init__(
        self, search: Searcher, then: Sequence[Callable[[], list[dict[str, Any]]]], concurrent: int, deaths: int = DEATHS
    ) -> None:
        super().__init__()
        self._search, self._then, self._concurrent, self._deaths = search, list(then), concurrent, deaths
        self._searching, self._given = True, list[dict[str, Any]]()
        self._live: dict[str, _Ticket] = {}
        self._again: list[_Ticket] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next configuration; None to wait, FINISHED after the last part."""
        if self._again:
            ticket = self._live[trial_id] = self._again.pop(0)
            return ticket.config
        found = self._search.suggest(trial_id) if self._searching else self._next()
        if self._searching and found == Searcher.FINISHED:
            self._searching = bool(self._live)
            found = None if self._searching else self._next()
        if isinstance(found, dict):
            self._live[trial_id] = _Ticket(trial_id, found)
        return found

    def _next(self) -> dict[str, Any] | str | None:
        while not self._given:
            if self._live:
                return None
            if not self._then:
                return str(Searcher.FINISHED)
            self._given = self._then.pop(0)()
        return None if len(self._live) >= self._concurrent else self._given.pop(0)

    def goes_on(self, trial: str) -> bool:
        """Whether the trial of that name, whose process died, is about to be handed out again."""
        return any(ticket.config["trial"] == trial for ticket in self._again)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """For the search, which knows its own trials."""
        if trial_id in self._live:
            self._search.on_trial_result(self._live[trial_id].name, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """For the search, unless the trial is begun again."""
        ticket = self._live.pop(trial_id, None)
        if ticket is None:
            return
        if error and ticket.deaths < self._deaths:
            ticket.deaths += 1
            self._again.append(ticket)
        else:
            self._search.on_trial_complete(ticket.name, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records hold all."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, and nothing reads it


class StopInSearch(TuneAsha):
    """Early stopping for the search alone: finals run to their end."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial or let it go on."""
        if trial.config["phase"] == "search":
            return super().on_trial_result(tune_controller, trial, result)
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take the last value of a trial of the search."""
        if trial.config["phase"] == "search":
            super().on_trial_complete(tune_controller, trial, result)


def fits(concurrent: int | None, layout: Layout, cpus: float, gpus: float) -> int:
    """How many trials may run at once: never so many that one waits for workers while it holds others up."""
    limits = [int(cpus // (layout.cpus * layout.workers))]
    if layout.gpus:
        limits.append(int(gpus // (layout.gpus * layout.workers)))
    if concurrent is not None:
        limits.append(concurrent)
    return max(1, min(limits))


def resources(layout: Layout) -> Any:
    """What a trial's own actor takes.

    Under Ray Train its workers take the CPUs, and it asks for one byte of memory: a hundredth of a CPU would already keep the last
    worker from starting where the workers fill the machine.
    """
    from ray.tune import PlacementGroupFactory

    if layout.under_train:
        return PlacementGroupFactory([{"memory": 1}])
    return PlacementGroupFactory([{"CPU": layout.cpus} | ({"GPU": layout.gpus} if layout.gpus else {})])


# Tasks: short work besides the trials ---------------------------------------------------------------------------------------------


def best_precision(execution: Execution) -> str:
    """float32 or bfloat16: what a worker of this study does best."""
    from trainables import precision

    return str(precision.resolve("auto", execution.device))


def bag_of_words(recipe: Recipe) -> Row:
    """The baseline on the recipe's target task."""
    from trainables.baseline import bag_of_words
    from trainables.identity import target_of

    return dict(bag_of_words(target_of(recipe)))


def read_test(work: Work) -> Row:
    """Scores of a finished recipe on the test split."""
    from trainables.recipe import evaluate_test
    from trainables.store import Store

    return evaluate_test(work.recipe, Store(work.store), work.execution)
