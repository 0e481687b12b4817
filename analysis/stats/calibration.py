"""Whether probabilities mean what they say: of the texts that are given a class with 80 %, are 80 % given the right one?

The expected calibration error (Guo et al. 2017, section 2: ECE) is the distance between mean confidence and share of right ones,
in bins of equal width, weighted by their texts. Confident classifiers have nearly all texts in the last bin, so it is given for
bins of equal mass too (Nguyen and O'Connor 2015; Nixon et al. 2019), which the choice of bins biases less (Roelofs et al. 2022).
With few texts it is above zero for perfect probabilities as well: `by_chance` says by how much, the idea of Broecker and Smith's
(2007) consistency bars. Beside it two proper scores: Brier's (1950) and the log loss.

Of one label per text the confidence is the probability of the class that is given. Of several labels per text each decision counts:
the probability that a text has a label, against whether it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.records.predictions import Array, Predictions

BINS = 15
"""M of Guo et al. 2017."""
LEAST = 1e-12
"""Probabilities below count as this in the log loss, which would be infinite for zero."""


@dataclass(frozen=True)
class ConfidenceBin:
    """Texts whose confidence is above `low` and at most `high`, over all seeds. Shares of 1."""

    low: float
    high: float
    texts: float
    """Number, or of several labels per text decisions: the mean over seeds."""
    confidence: float
    """Mean."""
    right: float
    """Share that is right, or has the label."""


@dataclass(frozen=True)
class Calibration:
    """Of a setting: of each seed in turn, and its reliability diagram over all seeds."""

    ece: tuple[float, ...]
    """Expected calibration error in BINS bins of equal width, percent."""
    ece_equal_mass: tuple[float, ...]
    """The same in bins with as many texts each."""
    by_chance: tuple[float, ...]
    """What `ece` would come to if the probabilities were perfect, percent."""
    brier: tuple[float, ...]
    """Mean over texts of the squared distance from what is right, summed over the classes: 0 to 2; of several labels per text the
    mean over decisions: 0 to 1."""
    log_loss: tuple[float, ...]
    """Mean negative log probability of what is right, in nats."""
    confidence: tuple[float, ...]
    """Mean, percent."""
    right: tuple[float, ...]
    """Share that is right, or has the label, percent."""
    bins: tuple[ConfidenceBin, ...]
    """Those that hold any texts."""
    texts: int
    several: bool
    """Whether a text may have several labels, so that decisions are counted."""


def calibration(seeds: Sequence[Predictions], probabilities: Sequence[Array]) -> Calibration:
    """Of the predictions of each seed with their probabilities [texts, classes]. Raises ValueError for no seeds."""
    if not seeds:
        raise ValueError("no seeds: nothing to say of their probabilities")
    pairs = [_decisions(*each) for each in zip(seeds, probabilities, strict=True)]
    edges = np.linspace(0, 1, BINS + 1)
    proper = [_proper(*each) for each in zip(seeds, probabilities, strict=True)]
    return Calibration(
        ece=tuple(100 * _ece(*pair, edges) for pair in pairs),
        ece_equal_mass=tuple(100 * _ece(*pair, equal_mass(pair[0])) for pair in pairs),
        by_chance=tuple(100 * _by_chance(confidence, edges) for confidence, _ in pairs),
        brier=tuple(brier for brier, _ in proper),
        log_loss=tuple(loss for _, loss in proper),
        confidence=tuple(100 * float(confidence.mean()) for confidence, _ in pairs),
        right=tuple(100 * float(right.mean()) for _, right in pairs),
        bins=_bins(pairs, edges),
        texts=len(seeds[0].has),
        several=seeds[0].several,
    )


def equal_mass(confidence: Array) -> Array:
    """Edges of at most BINS bins with as many of these each; equal ones stay together."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, BINS + 1)))
    return edges if len(edges) > 1 else np.array([0.0, 1.0])


def _decisions(found: Predictions, probabilities: Array) -> tuple[Array, Array]:
    """(confidence, 1 where it is right) of each text, or of each label of each text."""
    if found.several:
        return probabilities[:, : found.has.shape[1]].ravel(), found.has.ravel().astype(float)
    return probabilities[np.arange(len(found.has)), found.given], found.right.astype(float)


def _proper(found: Predictions, probabilities: Array) -> tuple[float, float]:
    """(Brier score, log loss)."""
    if found.several:
        has = found.has.astype(float)
        of_right = np.where(found.has, probabilities[:, : has.shape[1]], 1 - probabilities[:, : has.shape[1]])
        return float(((1 - of_right) ** 2).mean()), _nats(of_right)
    of_right = probabilities[np.arange(len(found.has)), found.has]
    return float(((probabilities**2).sum(axis=1) - 2 * of_right + 1).mean()), _nats(of_right)


def _nats(of_right: Array) -> float:
    return float(-np.log(np.maximum(of_right, LEAST)).mean()) + 0.0  # no -0.0


def _places(confidence: Array, edges: Array) -> Array:
    """[n]: the bin of each, above its lower edge and at most at its upper one; the first holds its lower edge too."""
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, len(edges) - 2)


def _sums(values: Array, places: Array, edges: Array) -> Array:
    return np.bincount(places, weights=values, minlength=len(edges) - 1)


def _ece(confidence: Array, right: Array, edges: Array) -> float:
    return float(abs(_sums(right - confidence, _places(confidence, edges), edges)).sum() / len(confidence))


def _by_chance(confidence: Array, edges: Array) -> float:
    """Expected `_ece` where each text is right with just its confidence.

    The distance of a bin is that of a sum of independent 0/1 from its mean. With variance v it is sqrt(2 v / pi) by the normal
    approximation, and never more than 2 v.
    """
    variance = _sums(confidence * (1 - confidence), _places(confidence, edges), edges)
    return float(np.minimum(np.sqrt(2 * variance / np.pi), 2 * variance).sum() / len(confidence))


def _bins(pairs: Sequence[tuple[Array, Array]], edges: Array) -> tuple[ConfidenceBin, ...]:
    """Of all seeds together."""
    confidence, right = (np.concatenate(part) for part in zip(*pairs, strict=True))
    places = _places(confidence, edges)
    count, said, was = (_sums(each, places, edges) for each in (np.ones(len(places)), confidence, right))
    return tuple(
        ConfidenceBin(
            float(edges[i]), float(edges[i + 1]), float(count[i] / len(pairs)), float(said[i] / count[i]), float(was[i] / count[i])
        )
        for i in np.flatnonzero(count)
    )
