"""Estimate the importance of each dimension of the search for the validation score.

Trials are compared at the last epoch that all of them reached: the trials that early stopping let finish are selected by their
scores, and vary too little in the dimensions that mattered. A random forest (Breiman 2001) learns validation scores from settings.
Every trial is predicted by a forest that was not fitted on it; then one of its settings is replaced by that of every other trial in
turn. The growth of the squared error is the dimension's importance (permutation importance, with all replacements instead of random
ones). If the forest predicts no better than the mean of the trials, there is no result, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.records.trials import SearchDimension, Trial
from analysis.text.plain import shown

Array = np.ndarray[Any, Any]
FEWEST, FEW = 6, 30
"""Fewer than FEWEST trials give no result; with fewer than FEW the result is a hint, and the report says so."""
FOLDS, TREES, MOST = 5, 50, 400
"""Forests, trees in each, and most trials used (the last ones; the work grows with their square)."""


@dataclass(frozen=True)
class Importance:
    """{path: share of the variance that the forest explains}; if empty, `why` is the reason."""

    shares: dict[str, float]
    trials: int
    epoch: float | None = None
    """Epoch at which trials are compared; None if it is the last of all."""
    explained: float = 0.0
    """Share of the variance between unseen trials that the forest explains, 0 to 1."""
    why: str = ""

    @property
    def few(self) -> bool:
        """Whether there are so few trials that the result is only a hint."""
        return self.trials < FEW


def importance(trials: Sequence[Trial], space: Sequence[SearchDimension]) -> Importance:
    """Return the importance of each dimension, from the completed and early-stopped trials of a search. Deterministic."""
    done = [trial for trial in trials if trial.status in ("complete", "stopped") and trial.curve][-MOST:]
    epoch = min((trial.curve[-1][0] for trial in done), default=0)
    done = [trial for trial in done if epoch in dict(trial.curve)]
    scores = np.array([dict(trial.curve)[epoch] for trial in done], dtype=float)
    if len(done) < FEWEST:
        return Importance({}, len(done), why=f"Too few validated trials: {len(done)}; {FEWEST} are needed.")
    if np.ptp(scores) == 0:
        return Importance({}, len(done), why="All trials have the same score on validation: no dimension made a difference.")
    features, active = encode(done, space)
    varies = [j for j in range(len(space)) if len(np.unique(features[:, j])) > 1]
    if not varies:
        return Importance({}, len(done), why="All trials have the same settings.")
    explained, growth = _permute(features, active, scores)
    if explained <= 0 or growth.max(initial=0.0) <= 0:
        why = f"From {len(done)} trials, a model of the settings predicts an unseen one no better than their mean."
        why += " No dimension stands out."
        return Importance({}, len(done), why=why)
    shares = np.maximum(growth, 0) / np.maximum(growth, 0).sum()
    shared = {dimension.path: float(share) for dimension, share in zip(space, shares, strict=True)}
    return Importance(shared, len(done), epoch if any(trial.curve[-1][0] > epoch for trial in done) else None, explained)


def encode(trials: Sequence[Trial], space: Sequence[SearchDimension]) -> tuple[Array, Array]:
    """Return (settings [n, dimensions] as numbers, whether a trial has the dimension [n, dimensions]).

    A trial without a conditional dimension gets the median of the others, so that the number does not encode the condition.
    """
    features, active = np.zeros((len(trials), len(space))), np.zeros((len(trials), len(space)), dtype=bool)
    for j, dimension in enumerate(space):
        values = [position(dimension, trial.params.get(dimension.path)) for trial in trials]
        active[:, j] = [value is not None for value in values]
        known = [value for value in values if value is not None]
        middle = float(np.median(known)) if known else 0.0
        features[:, j] = [middle if value is None else value for value in values]
    return features, active


def position(dimension: SearchDimension, value: Any) -> float | None:
    """Return the position of a value on its axis: its logarithm on a log axis, the index of a category; None if it has none."""
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
