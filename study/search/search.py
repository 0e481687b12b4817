"""The search: Optuna's ask and tell over a study's space. Imports no Ray; Optuna is imported when a search begins.

The records are authoritative: a search is rebuilt from the study and the trials in its records, and its journal, which
optuna-dashboard reads, is rewritten from them. Every trial n has a new sampler with a seed derived from (search.seed, n), so that a
resumed study asks for exactly the settings that an uninterrupted one would have asked for.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.definition import space as spaces
from study.definition.models import Study
from study.definition.space import Params
from study.search.history import STATES, Past

if TYPE_CHECKING:
    import optuna


class Search:
    """Proposes settings and takes the results of their trials. Trials are numbered in the order in which they are proposed."""

    def __init__(self, study: Study, past: Sequence[Past] = (), journal: str | Path | None = None) -> None:
        self.study = study
        self._points = given_points(study)
        self._enumerated = study.search.how.enumerated or not study.space
        self._unfinished: list[tuple[int, Params]] = []
        aside = None if journal is None else Path(f"{journal}.rebuilt")
        if aside is not None:
            _remove_stale(aside)
        self._storage, self.optuna = _open(study, aside)
        self._replay(past)
        if journal is not None and aside is not None:
            _remove_stale(Path(journal))
            os.replace(aside, journal)
            self._storage, self.optuna = _open(study, Path(journal))

    def _replay(self, past: Sequence[Past]) -> None:
        known = {trial.number: trial for trial in past}
        for number in range(max(known, default=-1) + 1):
            trial = known.get(number)
            if trial is None:  # the study was killed after it had asked for the trial and before it recorded it
                self._unfinished.append(self._begin())
                continue
            self._add(trial)
            if trial.state is None:
                self._unfinished.append((number, trial.params))

    @property
    def asked(self) -> int:
        """Number of trials proposed so far, over all sessions."""
        return len(self.optuna.get_trials(deepcopy=False))

    @property
    def exhausted(self) -> bool:
        """Whether no trial is left to propose: the budget is spent, or every point of a grid was tried."""
        limit = self.study.budget.trials
        if self._enumerated:
            limit = min(limit, len(self._points))
        return not self._unfinished and self.asked >= limit

    def ask(self) -> tuple[int, Params] | None:
        """Return (number, parameters) of the next trial, unfinished trials of earlier sessions first; None at the end."""
        if self._unfinished:
            return self._unfinished.pop(0)
        return None if self.exhausted else self._begin()

    def _begin(self) -> tuple[int, Params]:
        """Begin the next new trial."""
        number = self.asked
        if number < len(self._points):
            params = self._points[number]
            self._add(Past(number, params))
            return number, params
        settings = self.study.search
        assert settings.how.create is not None
        seed = int.from_bytes(hashlib.sha256(f"{settings.seed}/{number}".encode()).digest()[:4], "big")
        self.optuna.sampler = settings.how.create(seed, settings.startup_trials)
        trial = self.optuna.ask()
        params = spaces.suggest(trial, self.study.space, self.study.fixed)
        self.describe(number, {"setting": spaces.setting_id(params)})
        return number, params

    def report(self, number: int, epoch: int, error: float | None) -> None:
        """Store a running trial's validation loss after an epoch, in percent. Values that are not finite are ignored."""
        trial_id = self._trial_id(number)
        if error is not None and math.isfinite(error) and epoch not in self._storage.get_trial(trial_id).intermediate_values:
            self._storage.set_trial_intermediate_value(trial_id, epoch, error)

    def describe(self, number: int, attrs: Mapping[str, Any]) -> None:
        """Add attributes of a trial to the journal, for optuna-dashboard; nothing else reads them."""
        for key, value in attrs.items():
            if value is not None:
                self._storage.set_trial_user_attr(self._trial_id(number), key, value)

    def tell(
        self,
        number: int,
        state: str,
        value: float | None = None,
        intermediate: Mapping[int, float] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Store how a trial ended: complete, stopped, diverged or failed.

        In Optuna a complete trial is COMPLETE with its value, and a stopped one PRUNED with its last intermediate value. All
        others, and complete ones without a finite value, are FAIL.
        """
        from optuna.trial import TrialState

        for epoch, error in (intermediate or {}).items():
            self.report(number, epoch, error)
        self.describe(number, attrs or {})
        name, value = _final_state(state, value, {})
        self.optuna.tell(number, value if name == "COMPLETE" else None, state=TrialState[name])

    def _add(self, past: Past) -> None:
        """Add a finished or running trial to Optuna's study."""
        from optuna.trial import TrialState, create_trial

        params, distributions = spaces.to_optuna(past.params, self.study.space)
        finite = {epoch: error for epoch, error in past.intermediate.items() if math.isfinite(error)}
        state, value = ("RUNNING", None) if past.state is None else _final_state(past.state, past.value, finite)
        self.optuna.add_trial(
            create_trial(
                state=TrialState[state],
                value=value,
                params=params,
                distributions=distributions,
                intermediate_values=finite,
                user_attrs={"setting": spaces.setting_id(past.params), **past.attrs},
            )
        )

    def _trial_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.study.name)
        return int(self._storage.get_trial_id_from_study_id_trial_number(study_id, number))


def _final_state(state: str, value: float | None, intermediate: Mapping[int, float]) -> tuple[str, float | None]:
    """Return (name of Optuna's state, value) of a finished trial."""
    name = STATES[state]
    if name == "PRUNED":
        return name, intermediate[max(intermediate)] if intermediate else None
    if name == "COMPLETE" and value is not None and math.isfinite(value):
        return name, value
    return "FAIL", None


def given_points(study: Study) -> list[Params]:
    """Return the points that need no sampler, up to the budget: `search.first`, then a grid, or the one point of an empty space."""
    first = study.first_points()
    if study.search.how.only_first:
        return first[: study.budget.trials]
    if study.space and not study.search.how.enumerated:
        return first
    others = (point for point in spaces.grid(study.space, study.fixed) if point not in first)
    return first + list(islice(others, max(0, study.budget.trials - len(first))))


def different_settings(study: Study) -> int:
    """Return the number of different settings that the search can try, at most the budget."""
    most, points = study.budget.trials, given_points(study)
    if study.space and not study.search.how.enumerated:
        if any(dimension.values is None for dimension in study.space.values()):
            return most
        points += islice(spaces.grid(study.space, study.fixed), most)
    return min(most, len({spaces.setting_id(point) for point in points}))


def repeats(study: Study) -> str | None:
    """Return a notice if the search has more trials than there are different settings, else None."""
    settings, trials = different_settings(study), trial_count(study)
    if settings >= trials:
        return None
    few = f"{settings} different setting{'s' * (settings != 1)}"
    rest = "1 trial repeats an earlier one" if trials - settings == 1 else f"{trials - settings} trials repeat earlier ones"
    return f"space: it holds {few}, and the budget is {trials} trials: at least {rest}, which trains nothing"


def trial_count(study: Study) -> int:
    """Return the number of trials of the search: the budget, or the number of points of a grid if that is smaller."""
    if study.space and not study.search.how.enumerated:
        return study.budget.trials
    return min(study.budget.trials, len(given_points(study)))


def _open(study: Study, journal: Path | None) -> tuple[optuna.storages.BaseStorage, optuna.Study]:
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = InMemoryStorage() if journal is None else JournalStorage(JournalFileBackend(str(journal)))
    opened = optuna.create_study(storage=storage, study_name=study.name, direction="minimize", load_if_exists=True)
    if not opened.metric_names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            opened.set_metric_names([loss_name(study)])
    return storage, opened


def loss_name(study: Study) -> str:
    """Name of what the search minimises: the validation error, or 100 minus the metric where higher is better."""
    metric = study.metric
    return f"validation {metric.label} %" if not metric.higher else f"100 - validation {metric.label} %"


def _remove_stale(journal: Path) -> None:
    """Remove a journal and its lock, which a killed session may have left: Optuna would wait half a minute for it."""
    for path in (journal, Path(f"{journal}.lock")):
        path.unlink(missing_ok=True)
