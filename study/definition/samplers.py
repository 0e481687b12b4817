"""How the search comes to its settings: a table of samplers. Optuna comes when one draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import optuna


class Sampler(NamedTuple):
    """One line of the table."""

    made: Callable[[int, int], optuna.samplers.BaseSampler] | None = None
    """Makes what draws the settings of one trial, of a seed and `startup_trials`; None where settings can be counted up."""
    only_first: bool = False
    """Whether there are no settings but those of `first`, which need not be in the space."""

    @property
    def gone_through(self) -> bool:
        """Whether the settings are counted up, not drawn."""
        return self.made is None


def _tpe(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna 4 calls these experimental
        return TPESampler(
            seed=seed,
            n_startup_trials=startup_trials,
            multivariate=True,  # defaults differ between Optuna 4 and 5
            group=True,  # conditional dimensions are sampled jointly with what they belong to
            constant_liar=True,  # running trials repel
        )


def _random(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


SAMPLERS = {
    "tpe": Sampler(_tpe),
    "random": Sampler(_random),
    "grid": Sampler(),
    "given": Sampler(only_first=True),
}
"""By the name that a study file gives."""
