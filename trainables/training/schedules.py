"""Learning rate schedules: the factor of the peak rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable


def climb(step: int, total: int, warmup: float) -> float | None:
    """Factor of the peak rate during the warm-up, the first `warmup` share of steps; None after it."""
    ramp = round(total * warmup)
    return step / ramp if step < ramp else None


def progress(step: int, total: int, warmup: float) -> float:
    """Finished share of the steps after the warm-up, 0 to 1."""
    ramp = round(total * warmup)
    return 1.0 - max(0, total - step) / max(1, total - ramp)


def linear(step: int, total: int, warmup: float) -> float:
    """Factor at step 0, 1, ...: rises to 1 over the first `warmup` share of steps, then falls linearly to 0 at `total`."""
    rising = climb(step, total, warmup)
    return 1.0 - progress(step, total, warmup) if rising is None else rising


def cosine(step: int, total: int, warmup: float) -> float:
    """Rises to 1, then falls as half a cosine to 0 at `total` (Loshchilov and Hutter 2017, without restarts)."""
    rising = climb(step, total, warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress(step, total, warmup))) if rising is None else rising


def constant(step: int, total: int, warmup: float) -> float:
    """Rises to 1 and stays there."""
    rising = climb(step, total, warmup)
    return 1.0 if rising is None else rising


def slanted(step: int, total: int, warmup: float, ratio: float = 32.0) -> float:
    """Slanted triangle (Howard and Ruder 2018, equation 3): `warmup` is its cut_frac; from 1/ratio to 1 and back to 1/ratio."""
    cut = math.floor(total * warmup)
    if step < cut:
        p = step / cut
    else:  # the formula's cut * (1 / cut_frac - 1) equals total - cut except for rounding, which could give less than 1/ratio
        p = 1.0 - progress(step, total, cut / total)
    return (1.0 + p * (ratio - 1.0)) / ratio


SCHEDULES: dict[str, Callable[[int, int, float], float]] = {
    "linear": linear,
    "slanted": slanted,
    "cosine": cosine,
    "constant": constant,
}
