"""Error rate by text length: how many of the shorter and of the longer test texts are misclassified?

The bins are quantiles of the lengths before truncation, so that they hold about equally many texts; texts of one length share a
bin. The error counts misclassified texts whatever the task's metric: F1 and Matthews' coefficient of a part of the texts depend on
the classes in it, and their losses of texts are meaningful only over all texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.records.predictions import Array, Predictions
from analysis.stats import inference
from analysis.stats.inference import Estimate

BINS = 5
"""Largest number of bins."""
TEXTS = 10
"""Smallest number of texts in one of several bins, except for ties."""


@dataclass(frozen=True)
class LengthBin:
    """Texts with at least `low` and at most `high` pieces."""

    low: int
    high: int
    texts: Array
    """[n]: whether a text is in the bin."""


def bins(pieces: Array) -> list[LengthBin]:
    """Return the bins for texts of these lengths [n], the shortest first."""
    count = max(1, min(BINS, len(pieces) // TEXTS))
    ordered = np.sort(pieces)
    uppers = np.unique(ordered[[-(-len(pieces) * k // count) - 1 for k in range(1, count + 1)]])
    places = np.searchsorted(uppers, pieces)
    return [LengthBin(int(pieces[places == i].min()), int(upper), places == i) for i, upper in enumerate(uppers)]


def errors(seeds: Sequence[Predictions]) -> Array:
    """Return errors [seeds, texts]: 100 for a misclassified text, else 0."""
    return np.stack([100.0 * ~predictions.right for predictions in seeds])


def error(seeds: Sequence[Predictions], part: LengthBin) -> Estimate:
    """Estimate the mean error in a bin, percent."""
    return inference.mean(errors(seeds)[:, part.texts])


def gap(one: Sequence[Predictions], other: Sequence[Predictions], part: LengthBin) -> Estimate:
    """Estimate the error of `one` minus that of `other` in a bin, paired over its texts, in points."""
    return inference.difference(errors(one)[:, part.texts], errors(other)[:, part.texts])


def interval(estimate: Estimate, least: float, most: float = 100.0) -> tuple[float, float] | None:
    """Return the 95 % interval, clipped to possible values; None for one seed, and for zero variance, which is no certainty."""
    if estimate.interval is None or not estimate.variance:
        return None
    return max(least, estimate.interval[0]), min(most, estimate.interval[1])
