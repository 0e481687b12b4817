"""Errors by length: of the shorter and the longer test texts, how many are given something else than what they have?

The bins are quantiles of the lengths before any cut, so that each holds about as many texts; texts of one length stay together.
Whatever a task's metric is, the error counts texts that are not given just what they have: F1 and Matthews' coefficient of a part
of the texts depend on the classes in it, and their losses of texts only mean something over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.records.predictions import Array, Predictions
from analysis.stats import inference
from analysis.stats.inference import Estimate

BINS = 5
"""At most."""
TEXTS = 10
"""At least in each of several bins, but for ties: fewer would say nothing."""


@dataclass(frozen=True)
class LengthBin:
    """Texts with at least `low` and at most `high` pieces."""

    low: int
    high: int
    texts: Array
    """[n]: which they are."""


def bins(pieces: Array) -> list[LengthBin]:
    """Quantiles of the lengths [n] of texts, the shortest first."""
    count = max(1, min(BINS, len(pieces) // TEXTS))
    ordered = np.sort(pieces)
    uppers = np.unique(ordered[[-(-len(pieces) * k // count) - 1 for k in range(1, count + 1)]])
    places = np.searchsorted(uppers, pieces)
    return [LengthBin(int(pieces[places == i].min()), int(upper), places == i) for i, upper in enumerate(uppers)]


def errors(seeds: Sequence[Predictions]) -> Array:
    """[seeds, texts]: 100 where a text is not given just what it has."""
    return np.stack([100.0 * ~each.right for each in seeds])


def error(seeds: Sequence[Predictions], part: LengthBin) -> Estimate:
    """Mean error in a bin, percent."""
    return inference.mean(errors(seeds)[:, part.texts])


def gap(one: Sequence[Predictions], other: Sequence[Predictions], part: LengthBin) -> Estimate:
    """Error of the one less that of the other in a bin, paired over its texts, points."""
    return inference.difference(errors(one)[:, part.texts], errors(other)[:, part.texts])


def interval(found: Estimate, least: float, most: float = 100.0) -> tuple[float, float] | None:
    """Its 95 % interval within what is possible; None for one seed, and where nothing varies, which is no certainty."""
    if found.interval is None or not found.variance:
        return None
    return max(least, found.interval[0]), min(most, found.interval[1])
