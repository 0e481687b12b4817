"""Early stopping by asynchronous successive halving (Li et al. 2020, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from study.definition.models import EarlyStopping
from study.search.history import Past


def asha_stops(own: Mapping[int, float], others: Iterable[Mapping[int, float]], epoch: int, grace: int, reduction: int) -> bool:
    """Whether a trial stops after `epoch`: asynchronous successive halving (Li et al. 2020, algorithm 2, stopping variant).

    `own` and `others` are {epoch: validation loss}; rungs lie at grace * reduction^k epochs (r * eta^k in the paper). A trial that
    reaches a rung continues if its loss is within the best 1/reduction of the other trials that have reached it: the rule of Ray's
    AsyncHyperBandScheduler. A trial with a value beyond `epoch` has passed before; one with a loss that is not finite stops.
    """
    import numpy as np

    if not math.isfinite(own[epoch]):
        return True
    rung = grace
    while rung * reduction <= epoch:
        rung *= reduction
    if epoch < rung or any(rung <= other != epoch for other in own):
        return False
    reached = [value for losses in others if (value := _value_at(losses, rung)) is not None and math.isfinite(value)]
    return bool(reached) and -own[epoch] < float(np.percentile([-value for value in reached], (1 - 1 / reduction) * 100))


def _value_at(values: Mapping[int, float], rung: int) -> float | None:
    """Loss at the first epoch at or after a rung; None if it was not reached."""
    past = [epoch for epoch in values if epoch >= rung]
    return values[min(past)] if past else None


class Stopping:
    """Early stopping of one study: all known losses, also from before a resume, and the numbers of stopped trials."""

    def __init__(self, settings: EarlyStopping, past: Iterable[Past] = ()) -> None:
        self._settings = settings
        self._values = {trial.number: dict(trial.intermediate) for trial in past}
        self.stopped: set[int] = set()

    def report(self, number: int, epoch: int, error: float, decide: bool = True) -> bool:
        """Store a trial's validation loss after an epoch; return whether it must stop, which without `decide` is always False."""
        own = self._values.setdefault(number, {})
        own[epoch] = error
        if not decide or (self._settings.kind == "none" and math.isfinite(error)):
            return False
        others = [values for other, values in self._values.items() if other != number]
        if asha_stops(own, others, epoch, self._settings.grace_epochs, self._settings.reduction):
            self.stopped.add(number)
        return number in self.stopped
