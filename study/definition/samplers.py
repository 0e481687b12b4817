"""The samplers of the search, as a table by name. Optuna is imported when a sampler is created."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import optuna


class Sampler(NamedTuple):
    """One entry of the table: how the search chooses its settings."""

    create: Callable[[int, int], optuna.samplers.BaseSampler] | None = None
    """Creates Optuna's sampler of one trial from a seed and `startup_trials`; None if the settings are enumerated."""
    only_first: bool = False
    """Whether only the settings of `first` are tried; these need not be in the space."""

    @property
    def enumerated(self) -> bool:
        """Whether the settings are enumerated, not drawn."""
        return self.create is None


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
"""{name in the study file: sampler}"""
