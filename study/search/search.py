"""The search: Optuna's ask and tell over the study's space, and early stopping. Knows no Ray; optuna comes when a search begins.

The records are the one truth. A search is made of the study and of what the records say about earlier sessions; its journal, which
optuna-dashboard reads, is rebuilt from them. The sampler of trial n is made afresh with a seed derived from (search.seed, n), so
that a resumed study asks exactly what an undisturbed one would have asked.
"""

from __future__ import annotations

import hashlib
import math
import os
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
    """Asks for settings and is told how they did. Trials are numbered in the order asked."""

    def __init__(self, study: Study, past: Sequence[Past] = (), journal: str | Path | None = None) -> None:
        self.study = study
        self._points = given_points(study)
        self._enumerated = study.search.how.gone_through or not study.space
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
        known = {each.number: each for each in past}
        for number in range(max(known, default=-1) + 1):
            each = known.get(number)
            if each is None:  # asked, but killed before that was recorded
                self._unfinished.append(self._begin())
                continue
            self._add(each)
            if each.state is None:
                self._unfinished.append((number, each.params))

    @property
    def asked(self) -> int:
        """Number of trials asked so far, over all sessions."""
        return len(self.optuna.get_trials(deepcopy=False))

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more to ask: the budget is spent, or every point of a grid was tried."""
        limit = self.study.budget.trials
        if self._enumerated:
            limit = min(limit, len(self._points))
        return not self._unfinished and self.asked >= limit

    def ask(self) -> tuple[int, Params] | None:
        """(number, parameters) of the next trial; None at the end. Those that an earlier session did not finish come first."""
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
        assert settings.how.made is not None
        seed = int.from_bytes(hashlib.sha256(f"{settings.seed}/{number}".encode()).digest()[:4], "big")
        self.optuna.sampler = settings.how.made(seed, settings.startup_trials)
        trial = self.optuna.ask()
        params = spaces.suggest(trial, self.study.space, self.study.fixed)
        self._note(number, {"setting": spaces.setting_id(params)})
        return number, params

    def report(self, number: int, epoch: int, error: float | None) -> None:
        """Tell a running trial's loss on validation after an epoch, in percent. Values that are not finite are passed over."""
        trial_id = self._trial_id(number)
        if error is not None and math.isfinite(error) and epoch not in self._storage.get_trial(trial_id).intermediate_values:
            self._storage.set_trial_intermediate_value(trial_id, epoch, error)

    def tell(
        self,
        number: int,
        state: str,
        value: float | None = None,
        intermediate: Mapping[int, float] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell how a trial ended: complete, stopped, diverged or failed.

        Optuna takes complete as COMPLETE with its value, stopped as PRUNED with the last intermediate one, the others, and a
        complete one without a finite value, as FAIL.
        """
        from optuna.trial import TrialState

        for epoch, error in (intermediate or {}).items():
            self.report(number, epoch, error)
        self._note(number, attrs or {})
        told, value = _told(state, value, {})
        self.optuna.tell(number, value if told == "COMPLETE" else None, state=TrialState[told])

    def _add(self, past: Past) -> None:
        """Put a trial into Optuna's study as it stands: finished, or running."""
        from optuna.trial import TrialState, create_trial

        params, distributions = spaces.to_optuna(past.params, self.study.space)
        finite = {epoch: error for epoch, error in past.intermediate.items() if math.isfinite(error)}
        state, value = ("RUNNING", None) if past.state is None else _told(past.state, past.value, finite)
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

    def _note(self, number: int, attrs: Mapping[str, Any]) -> None:
        for key, value in attrs.items():
            self._storage.set_trial_user_attr(self._trial_id(number), key, value)

    def _trial_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.study.name)
        return int(self._storage.get_trial_id_from_study_id_trial_number(study_id, number))


def _told(state: str, value: float | None, intermediate: Mapping[int, float]) -> tuple[str, float | None]:
    """(Optuna's state, value) of a finished trial."""
    told = STATES[state]
    if told == "PRUNED":
        return told, intermediate[max(intermediate)] if intermediate else None
    if told == "COMPLETE" and value is not None and math.isfinite(value):
        return told, value
    return "FAIL", None


def given_points(study: Study) -> list[Params]:
    """Points that need no sampler, up to the budget: the given first ones, then a grid, or the one point of an empty space."""
    first = study.first_points()
    if study.search.how.only_first:
        return first[: study.budget.trials]
    if study.space and not study.search.how.gone_through:
        return first
    others = (point for point in spaces.grid(study.space, study.fixed) if point not in first)
    return first + list(islice(others, max(0, study.budget.trials - len(first))))


def different_settings(study: Study) -> int:
    """How many different settings the search can try, counted up to the budget."""
    most, points = study.budget.trials, given_points(study)
    if study.space and not study.search.how.gone_through:
        if any(dimension.values is None for dimension in study.space.values()):
            return most
        points += islice(spaces.grid(study.space, study.fixed), most)
    return min(most, len({spaces.setting_id(point) for point in points}))


def repeats(study: Study) -> str | None:
    """What to say where the search has more trials than there are different settings."""
    settings, trials = different_settings(study), trial_count(study)
    if settings >= trials:
        return None
    few = f"{settings} different setting{'s' * (settings != 1)}"
    rest = "1 trial repeats an earlier one" if trials - settings == 1 else f"{trials - settings} trials repeat earlier ones"
    return f"space: it holds {few}, and the budget is {trials} trials: at least {rest}, which trains nothing"


def trial_count(study: Study) -> int:
    """How many trials the search has: the budget, or the points of a grid where these are fewer."""
    if study.space and not study.search.how.gone_through:
        return study.budget.trials
    return min(study.budget.trials, len(given_points(study)))


def _open(study: Study, journal: Path | None) -> tuple[optuna.storages.BaseStorage, optuna.Study]:
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = InMemoryStorage() if journal is None else JournalStorage(JournalFileBackend(str(journal)))
    made = optuna.create_study(storage=storage, study_name=study.name, direction="minimize", load_if_exists=True)
    return storage, made


def _remove_stale(journal: Path) -> None:
    """Remove a journal, and the lock that a killed session may have left: Optuna would wait half a minute for it."""
    for path in (journal, Path(f"{journal}.lock")):
        path.unlink(missing_ok=True)
