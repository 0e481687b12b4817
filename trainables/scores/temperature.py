"""Temperature scaling (Guo et al. 2017, section 4.2): one number, fitted on validation, that makes probabilities calibrated.

Logits are divided by the temperature T before the softmax; with several labels per text, before the sigmoid of every decision. The
most probable class stays the same. Imports no torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LEAST, MOST = 0.1, 10.0
"""Range of temperatures: beyond it the likelihood of a few texts is flat."""
NEAR = 1e-4
"""A temperature that is so near to an end of the range, in proportion, is the end."""
TINY = 2.0**-25
"""Probabilities are stored as float32: a decision of less than half a step below 1 is stored as 1, whose logit is infinite."""


def fit(labels: Array, probabilities: Array) -> float:
    """Return the temperature that minimises the negative log likelihood of the labels; 1 if every text is classified correctly.

    It is exactly LEAST or MOST if the likelihood still grows there.

    `labels` are classes [n], or 0/1 [n, labels] with several labels per text, where every decision counts; `probabilities`
    [n, classes] are those at temperature 1. Without an error there is no minimum: the likelihood grows down to temperature 0.
    """
    from scipy.optimize import minimize_scalar

    several = labels.ndim > 1
    right = (probabilities >= 0.5) == (labels > 0) if several else probabilities.argmax(axis=1) == labels
    if right.all():
        return 1.0
    logits = logits_of(probabilities, several)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if several:
            return float(np.logaddexp(0, np.where(labels > 0, -scaled, scaled)).mean())
        return float((_log_sum(scaled) - scaled[np.arange(len(labels)), labels]).mean())

    found = minimize_scalar(loss, bounds=(np.log(LEAST), np.log(MOST)), method="bounded", options={"xatol": 1e-6})
    value = float(np.exp(found.x))
    return next((end for end in (LEAST, MOST) if abs(value / end - 1) < NEAR), value)


def doubt(temperature: float) -> str | None:
    """What to say of a temperature at the end of its range, which the validation texts do not determine; None of others."""
    if LEAST < temperature < MOST:
        return None
    known = "too few validation texts, or too many wrong ones, to calibrate probabilities: do not rely on them"
    return f"the temperature is {temperature:g}, the end of its range ({LEAST:g} to {MOST:g}): {known}"


def logits_of(probabilities: Array, several: bool) -> Array:
    """Logits [n, classes] of probabilities: with one label per text up to a constant of every text, which changes nothing."""
    p = probabilities.astype(np.float64)
    if several:
        p = np.clip(p, TINY, 1 - TINY)
        return np.asarray(np.log(p) - np.log1p(-p))
    return np.asarray(np.log(np.maximum(p, np.finfo(np.float32).smallest_subnormal)))


def _log_sum(logits: Array) -> Array:
    """Logarithm of the sum of exponentials of every row [n]."""
    most = logits.max(axis=1)
    return np.asarray(most + np.log(np.exp(logits - most[:, None]).sum(axis=1)))
