"""Early stopping by asynchronous successive halving (Li et al. 2020, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from study.definition.models import EarlyStopping
from study.search.history import Past

# early stopping -------------------------------------------------------------------------------------------------------------------


def asha_stops(own: Mapping[int, float], others: Iterable[Mapping[int, float]], epoch: int, grace: int, reduction: int) -> bool:
    """Whether a trial is to stop after `epoch`: asynchronous successive halving (Li et al. 2020, algorithm 2, stopping variant).

    `own` and `others` are {epoch: loss on validation}; rungs lie at grace * reduction^k epochs (r * eta^k in the paper). A trial
    that reaches a rung goes on if its loss is within the best 1/reduction of all that have reached it, itself not counted: the rule
    of Ray's AsyncHyperBandScheduler. A trial that has a value past `epoch` was let through before; one that is not finite stops.
    """
    import numpy as np

    if not math.isfinite(own[epoch]):
        return True
    rung = grace
    while rung * reduction <= epoch:
        rung *= reduction
    if epoch < rung or any(rung <= each != epoch for each in own):
        return False
    reached = [value for each in others if (value := _value_at(each, rung)) is not None and math.isfinite(value)]
    return bool(reached) and -own[epoch] < float(np.percentile([-value for value in reached], (1 - 1 / reduction) * 100))


def _value_at(values: Mapping[int, float], rung: int) -> float | None:
    """Loss at the first epoch at or past a rung; None if it was not reached."""
    past = [epoch for epoch in values if epoch >= rung]
    return values[min(past)] if past else None


class Stopping:
    """Early stopping of one study: all values known, those from before a resume included, and whom it has stopped."""

    def __init__(self, settings: EarlyStopping, past: Iterable[Past] = ()) -> None:
        self._settings = settings
        self._values = {each.number: dict(each.intermediate) for each in past}
        self.stopped: set[int] = set()

    def report(self, number: int, epoch: int, error: float, decide: bool = True) -> bool:
        """Take a trial's loss on validation after an epoch; True if it is to stop. Without `decide` it goes on in any case."""
        own = self._values.setdefault(number, {})
        own[epoch] = error
        if not decide or (self._settings.kind == "none" and math.isfinite(error)):
            return False
        others = [values for other, values in self._values.items() if other != number]
        if asha_stops(own, others, epoch, self._settings.grace_epochs, self._settings.reduction):
            self.stopped.add(number)
        return number in self.stopped
