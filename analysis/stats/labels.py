"""What predictions do with each class, or each label, and what they take for what; each task of a joint stage."""

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
    """One class, or one label, under a setting, the mean over its seeds. Percent; None where there is nothing to divide by."""

    name: str
    texts: int
    """Test texts that have it."""
    given: float
    """Test texts that are given it."""
    precision: float | None
    recall: float | None
    f1: tuple[float, ...]
    """Of each seed."""
    threshold: float | None
    """Probability from which on it is given, of a task with several labels per text."""
    baseline: float | None
    """F1 of the bag of words."""
    place: int
    """Among all classes or labels."""


@dataclass(frozen=True)
class Confusion:
    """Texts of one class that are given another."""

    name: str
    instead: str
    texts: float
    """Number, the mean over seeds."""
    share: float
    """Of the texts of the class, percent."""


def of_predictions(
    seeds: Sequence[Predictions],
    names: Sequence[str],
    baseline: Predictions | None = None,
    thresholds: Sequence[Sequence[Any]] = (),
) -> list[Label]:
    """Every class or label in order, those that neither occur nor are given left out; empty for no seeds.

    `thresholds` are those of each seed, `baseline` the predictions of the bag of words.
    """
    if not seeds:
        return []
    classes = max(each.classes for each in seeds)
    counts = [[part.tolist() for part in each.counts()] for each in seeds]
    bag = [] if baseline is None else [_f1(*each) for each in zip(*(part.tolist() for part in baseline.counts()), strict=True)]
    found = []
    for place in range(classes):
        mine = [tuple(part[place] for part in each) if place < len(each[0]) else (0, 0, 0) for each in counts]
        right, has, given = (statistics.fmean(part) for part in zip(*mine, strict=True))
        if not has + given:
            continue
        tuned = [each[place] for each in thresholds if place < len(each) and isinstance(each[place], (int, float))]
        found.append(
            Label(
                _name(names, place),
                round(has),
                given,
                100 * right / given if given else None,
                100 * right / has if has else None,
                tuple(_f1(*each) for each in mine),
                statistics.fmean(tuned) if tuned else None,
                bag[place] if place < len(bag) else None,
                place,
            )
        )
    return found


def confusions(seeds: Sequence[Predictions], names: Sequence[str]) -> list[Confusion]:
    """What is taken for what, most often first; empty where a text may have several labels, or for no seeds."""
    if not seeds or seeds[0].several:
        return []
    total: Counter[tuple[int, int]] = Counter()
    for each in seeds:
        total.update(each.confusions())
    has = seeds[0].counts()[1]
    return [
        Confusion(_name(names, one), _name(names, other), count / len(seeds), 100 * count / len(seeds) / int(has[one]))
        for (one, other), count in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def shown(labels: Sequence[Label]) -> list[Label]:
    """Those that a page has room for: the most frequent, in their order."""
    kept = sorted(range(len(labels)), key=lambda i: (-labels[i].texts, i))[:MOST]
    return [labels[i] for i in sorted(kept)]


def by_task(run: Run) -> list[tuple[str, str, dict[str, Any]]]:
    """(stage, task, its validation scores at the end of the stage) of every stage that trained on several tasks."""
    found = []
    for row in run.stages.values():
        scores = row.get("by_task")
        for name, each in scores.items() if isinstance(scores, dict) else ():
            if isinstance(each, dict):
                numbers = {key: value for key, value in each.items() if isinstance(value, (int, float))}
                found.append((plain(row.get("label") or row.get("name") or "stage", 80), plain(name, 60), numbers))
    return found


def _f1(right: float, has: float, given: float) -> float:
    return 200 * right / (has + given) if has + given else 0.0


def _name(names: Sequence[str], place: int) -> str:
    return names[place] if place < len(names) else str(place)
