"""Ray Tune's interfaces over our own search, early stopping and parts: thin, and nothing of them is restored from Ray's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study.cluster.machine_faults import stops
from study.definition.space import Params
from study.search.early_stopping import Stopping
from study.search.history import STATES, trial_name, trial_number, whole_epoch
from study.search.search import Search

DEATHS = 2
"""How often a trial whose process was killed is begun again in another one."""


class TuneSearcher(Searcher):  # type: ignore[misc]
    """Ray Tune's searcher: asks and tells our search. Use it with `num_samples=-1`: it says itself when the search is at its end.

    A trial's configuration is what `config(number, params)` gives and holds `trial`, its name. Results hold `epoch`,
    `objective_percent` and `status`; each may be missing or not finite. `ended(number, state, result)` hears of every trial that
    ended. A trial that was neither finished nor stopped by our own early stopping stays unfinished: a resume asks for it again.
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
        """The next trial's configuration; None while as many as allowed are running; FINISHED at the end."""
        if len(self._live) >= self._max_concurrent:
            return None
        asked = None if self._out_of_time() else self._search.ask()
        if asked is None:
            return str(Searcher.FINISHED)
        number, params = asked
        self._live[trial_id] = number
        return {"trial": trial_name(number), **self._config(number, params)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an epoch of a trial that goes on."""
        if trial_id in self._live and (epoch := whole_epoch(result)) is not None:
            self._search.report(self._live[trial_id], epoch, result.get("objective_percent"))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell how a trial ended."""
        number = self._live.pop(trial_id, None)
        if number is None:
            return
        result = result or {}
        if (epoch := whole_epoch(result)) is not None:
            self._search.report(number, epoch, result.get("objective_percent"))
        state = "failed" if error else self._state(number, result)
        if state is not None:
            self._search.tell(number, state, result.get("objective_percent"))
            self._ended(number, state, result)

    def _state(self, number: int, result: Mapping[str, Any]) -> str | None:
        """How a trial ended by its last result; None: it did not end, but was taken down."""
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
        """Nothing to restore: a new search is made of the records."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration, and nothing reads it


class TuneAsha(FIFOScheduler):  # type: ignore[misc]
    """Ray Tune's scheduler over our own early stopping."""

    def __init__(self, stopping: Stopping) -> None:
        super().__init__()
        self._stopping = stopping

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial or let it go on."""
        return str(TrialScheduler.STOP if self._report(trial, result, decide=True) else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take the value of a trial that ended by itself: Tune does not ask about the last result."""
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

    @stops()
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next configuration; None to wait, FINISHED after the last part. Raises StudyStopped where the machine failed."""
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

    @stops()
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """For the search, which knows its own trials."""
        if trial_id in self._live:
            self._search.on_trial_result(self._live[trial_id].name, result)

    @stops()
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


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")
