"""Calibration of probabilities: of the texts classified with 80 % confidence, are 80 % classified correctly?

The expected calibration error (Guo et al. 2017, section 2: ECE) is the distance between mean confidence and accuracy in bins of
equal width, weighted by the number of texts. Confident classifiers have nearly all texts in the last bin, so it is also computed
for bins of equal mass (Nguyen and O'Connor 2015; Nixon et al. 2019), which the choice of bins biases less (Roelofs et al. 2022).
With few texts it is above zero even for perfect probabilities: `by_chance` is its expectation then, the idea of Broecker and
Smith's (2007) consistency bars. Beside it two proper scores: Brier's (1950) and the log loss.

Temperature scaling (Guo et al. 2017, section 4.2) divides logits by a number that is fitted on validation: `scaled`.

With one label per text the confidence is the probability of the predicted class. With several labels per text every decision
counts: the probability that a text has a label is compared with whether it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.records.predictions import Array, Predictions

BINS = 15
"""M of Guo et al. 2017."""
LEAST = 1e-12
"""Smallest probability in the log loss, which would be infinite for zero."""


@dataclass(frozen=True)
class ConfidenceBin:
    """Texts whose confidence is above `low` and at most `high`, over all seeds. All shares are from 0 to 1."""

    low: float
    high: float
    texts: float
    """Number of texts, with several labels per text of decisions: the mean over seeds."""
    confidence: float
    """Mean confidence."""
    right: float
    """Share classified correctly, with several labels per text the share that has the label."""


@dataclass(frozen=True)
class Calibration:
    """Calibration of a setting: one value per seed, and a reliability diagram over all seeds."""

    ece: tuple[float, ...]
    """Expected calibration error in BINS bins of equal width, percent."""
    ece_equal_mass: tuple[float, ...]
    """The same in bins with equally many texts, percent."""
    by_chance: tuple[float, ...]
    """Expected `ece` if the probabilities were perfect, percent."""
    brier: tuple[float, ...]
    """Mean over texts of the squared distance from the truth, summed over the classes: 0 to 2; with several labels per text the
    mean over decisions: 0 to 1."""
    log_loss: tuple[float, ...]
    """Mean negative log probability of the truth, in nats."""
    confidence: tuple[float, ...]
    """Mean confidence, percent."""
    right: tuple[float, ...]
    """Share classified correctly, with several labels per text the share that has the label, percent."""
    bins: tuple[ConfidenceBin, ...]
    """Bins that hold any texts."""
    texts: int
    several: bool
    """Whether a text may have several labels, so that decisions are counted."""


def calibration(seeds: Sequence[Predictions], probabilities: Sequence[Array]) -> Calibration:
    """Return the calibration of all seeds' predictions, with probabilities [texts, classes]. Raises ValueError without seeds."""
    if not seeds:
        raise ValueError("no seeds: there are no probabilities to calibrate")
    pairs = [_decisions(*seed) for seed in zip(seeds, probabilities, strict=True)]
    edges = np.linspace(0, 1, BINS + 1)
    proper = [_proper(*seed) for seed in zip(seeds, probabilities, strict=True)]
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


def scaled(probabilities: Array, temperature: float, several: bool) -> Array:
    """Return the probabilities [texts, classes] of logits divided by the temperature; 1 changes nothing."""
    p = probabilities.astype(float)
    if several:
        yes, no = p ** (1 / temperature), (1 - p) ** (1 / temperature)
        return np.asarray(yes / (yes + no))
    powers = (p / p.max(axis=1, keepdims=True)) ** (1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def equal_mass(confidence: Array) -> Array:
    """Return the edges of at most BINS bins with equally many confidences; equal confidences share a bin."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, BINS + 1)))
    return edges if len(edges) > 1 else np.array([0.0, 1.0])


def _decisions(predictions: Predictions, probabilities: Array) -> tuple[Array, Array]:
    """(confidence, 1 if it is right else 0) of every text, or of every label of every text."""
    if predictions.several:
        return probabilities[:, : predictions.has.shape[1]].ravel(), predictions.has.ravel().astype(float)
    return probabilities[np.arange(len(predictions.has)), predictions.predicted], predictions.right.astype(float)


def _proper(predictions: Predictions, probabilities: Array) -> tuple[float, float]:
    """(Brier score, log loss in nats)."""
    if predictions.several:
        has = predictions.has.astype(float)
        of_right = np.where(predictions.has, probabilities[:, : has.shape[1]], 1 - probabilities[:, : has.shape[1]])
        return float(((1 - of_right) ** 2).mean()), _nats(of_right)
    of_right = probabilities[np.arange(len(predictions.has)), predictions.has]
    return float(((probabilities**2).sum(axis=1) - 2 * of_right + 1).mean()), _nats(of_right)


def _nats(of_right: Array) -> float:
    return float(-np.log(np.maximum(of_right, LEAST)).mean()) + 0.0  # no -0.0


def _places(confidence: Array, edges: Array) -> Array:
    """Bin [n] of every confidence: above its lower edge and at most at its upper one; the first bin holds its lower edge too."""
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, len(edges) - 2)


def _sums(values: Array, places: Array, edges: Array) -> Array:
    return np.bincount(places, weights=values, minlength=len(edges) - 1)


def _ece(confidence: Array, right: Array, edges: Array) -> float:
    return float(abs(_sums(right - confidence, _places(confidence, edges), edges)).sum() / len(confidence))


def _by_chance(confidence: Array, edges: Array) -> float:
    """Expected `_ece` if every text is right with probability equal to its confidence.

    The distance of a bin is that of a sum of independent 0/1 variables from its mean. With variance v it is sqrt(2 v / pi) by the
    normal approximation, and never more than 2 v.
    """
    variance = _sums(confidence * (1 - confidence), _places(confidence, edges), edges)
    return float(np.minimum(np.sqrt(2 * variance / np.pi), 2 * variance).sum() / len(confidence))


def _bins(pairs: Sequence[tuple[Array, Array]], edges: Array) -> tuple[ConfidenceBin, ...]:
    """Bins over all seeds together."""
    confidence, right = (np.concatenate(part) for part in zip(*pairs, strict=True))
    places = _places(confidence, edges)
    count, sure, true = (_sums(values, places, edges) for values in (np.ones(len(places)), confidence, right))
    return tuple(
        ConfidenceBin(
            float(edges[i]), float(edges[i + 1]), float(count[i] / len(pairs)), float(sure[i] / count[i]), float(true[i] / count[i])
        )
        for i in np.flatnonzero(count)
    )
