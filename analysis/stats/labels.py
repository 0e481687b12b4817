"""Scores by class or label, misclassifications between classes, and scores by task of a multi-task stage."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.records.predictions import Predictions
from analysis.records.run_folder import Run
from analysis.text.plain import plain

MOST = 20
"""Classes, labels and confusions on the page; the csv files hold all."""


@dataclass(frozen=True)
class Label:
    """Scores of one class or label under a setting, mean over its seeds, percent; None if the denominator is zero."""

    name: str
    texts: int
    """Number of test texts that have it."""
    predicted: float
    """Number of test texts for which it is predicted."""
    precision: float | None
    recall: float | None
    f1: tuple[float, ...]
    """F1 of every seed."""
    threshold: float | None
    """Probability from which on it is predicted, in a task with several labels per text."""
    baseline: float | None
    """F1 of the bag of words."""
    place: int
    """Index among all classes or labels."""


@dataclass(frozen=True)
class Confusion:
    """Texts of one class that are classified as another."""

    name: str
    instead: str
    texts: float
    """Number of texts, mean over seeds."""
    share: float
    """Share of the texts of the class, percent."""


def of_predictions(
    seeds: Sequence[Predictions],
    names: Sequence[str],
    baseline: Predictions | None = None,
    thresholds: Sequence[Sequence[Any]] = (),
) -> list[Label]:
    """Return the classes or labels that occur or are predicted, in order; empty without seeds.

    `thresholds` are those of every seed, `baseline` the predictions of the bag of words.
    """
    if not seeds:
        return []
    classes = max(predictions.classes for predictions in seeds)
    counts = [[part.tolist() for part in predictions.counts()] for predictions in seeds]
    bag = [] if baseline is None else [_f1(*row) for row in zip(*(part.tolist() for part in baseline.counts()), strict=True)]
    labels = []
    for place in range(classes):
        mine = [tuple(part[place] for part in parts) if place < len(parts[0]) else (0, 0, 0) for parts in counts]
        right, has, predicted = (statistics.fmean(part) for part in zip(*mine, strict=True))
        if not has + predicted:
            continue
        tuned = [row[place] for row in thresholds if place < len(row) and isinstance(row[place], (int, float))]
        labels.append(
            Label(
                _name(names, place),
                round(has),
                predicted,
                100 * right / predicted if predicted else None,
                100 * right / has if has else None,
                tuple(_f1(*row) for row in mine),
                statistics.fmean(tuned) if tuned else None,
                bag[place] if place < len(bag) else None,
                place,
            )
        )
    return labels


def confusions(seeds: Sequence[Predictions], names: Sequence[str]) -> list[Confusion]:
    """Return misclassified texts by true and predicted class, most frequent first; empty for several labels or without seeds."""
    if not seeds or seeds[0].several:
        return []
    total: Counter[tuple[int, int]] = Counter()
    for predictions in seeds:
        total.update(predictions.confusions())
    has = seeds[0].counts()[1]
    return [
        Confusion(_name(names, one), _name(names, other), count / len(seeds), 100 * count / len(seeds) / int(has[one]))
        for (one, other), count in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def shown(labels: Sequence[Label]) -> list[Label]:
    """Return the MOST most frequent classes or labels, in their order."""
    kept = sorted(range(len(labels)), key=lambda i: (-labels[i].texts, i))[:MOST]
    return [labels[i] for i in sorted(kept)]


def by_task(run: Run) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (stage, task, its validation scores at the end of the stage) of every multi-task stage."""
    rows = []
    for row in run.stages.values():
        scores = row.get("by_task")
        for name, metrics in scores.items() if isinstance(scores, dict) else ():
            if isinstance(metrics, dict):
                numbers = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
                rows.append((plain(row.get("label") or row.get("name") or "stage", 80), plain(name, 60), numbers))
    return rows


def _f1(right: float, has: float, predicted: float) -> float:
    return 200 * right / (has + predicted) if has + predicted else 0.0


def _name(names: Sequence[str], place: int) -> str:
    return names[place] if place < len(names) else str(place)
