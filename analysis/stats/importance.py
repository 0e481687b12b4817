"""How much each dimension of the search matters, as far as its trials can tell.

Trials are compared at the last epoch that all of them reached: those that early stopping let finish are a choice, and what made
them finish would hardly vary among them. A random forest (Breiman 2001) learns validation scores from the settings. Each trial is
predicted by a forest that has not seen it; then one of its settings is replaced by that of every other trial in turn. How much the
squared error grows is the dimension's importance (permutation importance, with all replacements instead of random ones). Where the
forest predicts no better than the mean of the trials nothing can be said, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.records.trials import Dimension, Trial
from analysis.text.plain import shown

Array = np.ndarray[Any, Any]
FEWEST, FEW = 6, 30
"""Fewer trials give no answer; under FEW the answer is a hint, and the report says so."""
FOLDS, TREES, MOST = 5, 50, 400
"""Forests, trees in each, and trials that are looked at (the last ones; the work grows with their square)."""


@dataclass(frozen=True)
class Importance:
    """Shares of what the forest explains, by path; empty where nothing can be said, and then `why`."""

    shares: dict[str, float]
    trials: int
    epoch: float | None = None
    """At which they are compared; None where each is at its last."""
    explained: float = 0.0
    """Share of the variance between unseen trials that the forest explains, 0 to 1."""
    why: str = ""

    @property
    def few(self) -> bool:
        """Whether there are so few trials that this is a hint only."""
        return self.trials < FEW


def importance(trials: Sequence[Trial], space: Sequence[Dimension]) -> Importance:
    """Importance of each dimension from the completed and the early-stopped trials of a search. Deterministic."""
    done = [trial for trial in trials if trial.status in ("complete", "stopped") and trial.curve][-MOST:]
    epoch = min((trial.curve[-1][0] for trial in done), default=0)
    done = [trial for trial in done if epoch in dict(trial.curve)]
    scores = np.array([dict(trial.curve)[epoch] for trial in done], dtype=float)
    if len(done) < FEWEST:
        return Importance({}, len(done), why=f"Too few validated trials to tell: {len(done)}, where {FEWEST} are needed.")
    if np.ptp(scores) == 0:
        return Importance({}, len(done), why="All trials have the same score on validation: no dimension made a difference.")
    features, active = encode(done, space)
    varies = [j for j in range(len(space)) if len(np.unique(features[:, j])) > 1]
    if not varies:
        return Importance({}, len(done), why="All trials have the same settings.")
    explained, growth = _permute(features, active, scores)
    if explained <= 0 or growth.max(initial=0.0) <= 0:
        why = f"From {len(done)} trials, a model of the settings predicts an unseen one no better than their mean does."
        why += " No dimension stands out."
        return Importance({}, len(done), why=why)
    shares = np.maximum(growth, 0) / np.maximum(growth, 0).sum()
    shared = {dimension.path: float(share) for dimension, share in zip(space, shares, strict=True)}
    return Importance(shared, len(done), epoch if any(trial.curve[-1][0] > epoch for trial in done) else None, explained)


def encode(trials: Sequence[Trial], space: Sequence[Dimension]) -> tuple[Array, Array]:
    """(settings [n, dimensions] as numbers, whether a trial has the dimension [n, dimensions]).

    Where a conditional dimension does not apply it takes the median of the others, so that it carries no news of its condition.
    """
    features, active = np.zeros((len(trials), len(space))), np.zeros((len(trials), len(space)), dtype=bool)
    for j, dimension in enumerate(space):
        values = [position(dimension, trial.params.get(dimension.path)) for trial in trials]
        active[:, j] = [value is not None for value in values]
        known = [value for value in values if value is not None]
        middle = float(np.median(known)) if known else 0.0
        features[:, j] = [middle if value is None else value for value in values]
    return features, active


def position(dimension: Dimension, value: Any) -> float | None:
    """Where a value lies on its axis: its logarithm on a log axis, its number among categories. None for no such value."""
    if dimension.kind == "category":
        name = shown(value)
        return float(dimension.values.index(name)) if value is not None and name in dimension.values else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if dimension.kind == "log":
        return math.log10(value) if value > 0 else None
    return float(value)


def _permute(features: Array, active: Array, scores: Array) -> tuple[float, Array]:
    """(share of variance explained on unseen trials, growth of the mean squared error per dimension)."""
    from sklearn.ensemble import RandomForestRegressor

    count, dimensions = features.shape
    order = np.random.default_rng(0).permutation(count)
    predicted, growth = np.zeros(count), np.zeros(dimensions)
    for fold in np.array_split(order, min(FOLDS, count)):
        seen = np.setdiff1d(order, fold)
        forest = RandomForestRegressor(TREES, random_state=0, n_jobs=1).fit(features[seen], scores[seen])
        predicted[fold] = forest.predict(features[fold])
        for j in range(dimensions):
            growth[j] += _growth(forest, features, active[:, j], scores, fold, predicted, j)
    residual = float(np.mean((scores - predicted) ** 2))
    return 1 - residual / float(np.var(scores)), growth / count


def _growth(forest: Any, features: Array, active: Array, scores: Array, fold: Array, predicted: Array, j: int) -> float:
    """Growth of the squared error, summed over the fold, when dimension j takes the values of all other trials that have it."""
    rows, others = fold[active[fold]], np.flatnonzero(active)
    if not len(rows) or len(others) < 2:
        return 0.0
    replaced = np.repeat(features[rows], len(others), axis=0)
    replaced[:, j] = np.tile(features[others, j], len(rows))
    squared = (forest.predict(replaced).reshape(len(rows), -1) - scores[rows, None]) ** 2
    return float((squared.mean(axis=1) - (predicted[rows] - scores[rows]) ** 2).sum())
