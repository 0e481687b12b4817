"""Adapters that present our search, early stopping and parts to Ray Tune; they keep no state in Ray's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.progress_reporter import ProgressReporter
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.widgets.util import in_notebook

from study.cluster.machine_faults import stops
from study.definition.space import Params
from study.search.early_stopping import Stopping
from study.search.history import STATES, trial_name, trial_number, whole_epoch
from study.search.search import Search

DEATHS = 2
"""Number of restarts of a trial whose process was killed."""


class Unseen(ProgressReporter):  # type: ignore[misc]
    """Shows nothing. In a notebook Tune adds a table of its own below ours, whatever its verbosity."""

    def should_report(self, trials: Any, done: bool = False) -> bool:
        """Never."""
        return False

    def report(self, trials: Any, done: bool, *sys_info: Any) -> None:
        """Report nothing."""


def reporter() -> ProgressReporter | None:
    """What keeps Tune silent in a notebook; None elsewhere, where its verbosity 0 does."""
    return Unseen() if in_notebook() else None


class TuneSearcher(Searcher):  # type: ignore[misc]
    """Ray Tune's searcher over our search. Use it with `num_samples=-1`: it returns FINISHED at the end of the search.

    A trial's configuration is the result of `config(number, params)` plus `trial`, its name. Results hold `epoch`,
    `objective_percent` and `status`; each may be missing or not finite. `ended(number, state, result)` is called for every trial
    that ended. A trial that neither finished nor was stopped by our early stopping stays unfinished: a resume runs it again.
    """

    def __init__(
        self,
        search: Search,
        stopping: Stopping,
        config: Callable[[int, Params], dict[str, Any]],
        max_concurrent: int = 1,
        out_of_time: Callable[[], bool] = lambda: False,
        ended: Callable[[int, str, Mapping[str, Any]], None] = lambda number, state, result: None,
    ) -> None:
        super().__init__()
        self._search, self._stopping, self._config = search, stopping, config
        self._max_concurrent, self._out_of_time, self._ended = max_concurrent, out_of_time, ended
        self._live: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's configuration; None while the maximum number of trials is running; FINISHED at the end."""
        if len(self._live) >= self._max_concurrent:
            return None
        proposal = None if self._out_of_time() else self._search.ask()
        if proposal is None:
            return str(Searcher.FINISHED)
        number, params = proposal
        self._live[trial_id] = number
        return {"trial": trial_name(number), **self._config(number, params)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an epoch of a running trial."""
        if trial_id in self._live and (epoch := whole_epoch(result)) is not None:
            self._search.report(self._live[trial_id], epoch, result.get("objective_percent"))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report the end of a trial."""
        number = self._live.pop(trial_id, None)
        if number is None:
            return
        result = result or {}
        if (epoch := whole_epoch(result)) is not None:
            self._search.report(number, epoch, result.get("objective_percent"))
        state = "failed" if error else self._state(number, result)
        if state is not None:
            errors = [row["error_rate_percent"] for row in result.get("rows") or () if row.get("error_rate_percent") is not None]
            attributes = {"error_rate_percent": errors[-1] if errors else None, "reason": result.get("reason")}
            self._search.tell(number, state, result.get("objective_percent"), attrs=attributes)
            self._ended(number, state, result)

    def _state(self, number: int, result: Mapping[str, Any]) -> str | None:
        """State in which a trial ended, by its last result; None if it was killed before its end."""
        if result.get("status") == "complete" and not _finite(result.get("objective_percent")):
            return "failed"
        if result.get("status") in STATES:
            return str(result["status"])
        if number not in self._stopping.stopped:
            return None
        return "stopped" if _finite(result.get("objective_percent")) else "diverged"

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records hold all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a new search is built from the records."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, and nothing reads it


class TuneAsha(FIFOScheduler):  # type: ignore[misc]
    """Ray Tune's scheduler over our own early stopping."""

    def __init__(self, stopping: Stopping) -> None:
        super().__init__()
        self._stopping = stopping

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial stops or continues."""
        return str(TrialScheduler.STOP if self._report(trial, result, decide=True) else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Report the value of a trial that ended by itself: Tune does not call `on_trial_result` for the last result."""
        self._report(trial, result, decide=False)

    def _report(self, trial: Any, result: Mapping[str, Any], decide: bool) -> bool:
        epoch, error = whole_epoch(result), result.get("objective_percent")
        if epoch is None or error is None:
            return False
        return self._stopping.report(trial_number(trial.config["trial"]), epoch, float(error), decide)

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass
class _Ticket:
    """A trial in Tune: its name in the search, its configuration, and how often its process has died."""

    name: str
    config: dict[str, Any]
    deaths: int = 0


class InTurn(Searcher):  # type: ignore[misc]
    """Searcher for the search and the parts after it, one after the other, in the same warm processes.

    `then` are functions that return the configurations of a part, called when the part before is finished. A trial whose process
    died is restarted up to `deaths` times: Tune itself restarts only running trials, and fails one that was about to begin.
    """

    def __init__(
        self, search: Searcher, then: Sequence[Callable[[], list[dict[str, Any]]]], concurrent: int, deaths: int = DEATHS
    ) -> None:
        super().__init__()
        self._search, self._then, self._concurrent, self._deaths = search, list(then), concurrent, deaths
        self._searching, self._queue = True, list[dict[str, Any]]()
        self._live: dict[str, _Ticket] = {}
        self._again: list[_Ticket] = []

    @stops()
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next configuration; None to wait, FINISHED after the last part. Raises StudyStopped if the machine failed."""
        if self._again:
            ticket = self._live[trial_id] = self._again.pop(0)
            return ticket.config
        answer = self._search.suggest(trial_id) if self._searching else self._next()
        if self._searching and answer == Searcher.FINISHED:
            self._searching = bool(self._live)
            answer = None if self._searching else self._next()
        if isinstance(answer, dict):
            self._live[trial_id] = _Ticket(trial_id, answer)
        return answer

    def _next(self) -> dict[str, Any] | str | None:
        while not self._queue:
            if self._live:
                return None
            if not self._then:
                return str(Searcher.FINISHED)
            self._queue = self._then.pop(0)()
        return None if len(self._live) >= self._concurrent else self._queue.pop(0)

    def is_restarted(self, trial: str) -> bool:
        """Whether the trial of that name, whose process died, will be restarted."""
        return any(ticket.config["trial"] == trial for ticket in self._again)

    @stops()
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a result on to the search."""
        if trial_id in self._live:
            self._search.on_trial_result(self._live[trial_id].name, result)

    @stops()
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the end of a trial on to the search, unless the trial is restarted."""
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
    """Early stopping of search trials only: finals run to their end."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial stops or continues."""
        if trial.config["phase"] == "search":
            return super().on_trial_result(tune_controller, trial, result)
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Report the last value of a search trial."""
        if trial.config["phase"] == "search":
            super().on_trial_complete(tune_controller, trial, result)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")
