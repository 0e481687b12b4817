"""Test predictions of a final: what they say of each class, and how uncertain the few texts of a test split make a score.

A score is a smooth function of means over texts; its influence function (the delta method) says how much each text moves it. The
variance of that, divided by the number of texts, is the score's own; of a difference of two on the same texts it is the
difference's. For a share of texts it is the usual binomial variance.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from study.metric import Metric

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Classes [n] of one label per text, or 0/1 [n, labels] of several."""

    index: Array
    """[n]: number of each text in the test split."""
    has: Array
    given: Array
    classes: int

    @property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return self.has.ndim > 1

    def counts(self) -> tuple[Array, Array, Array]:
        """[classes] each: texts that have a label and are given it, that have it, that are given it."""
        if self.several:
            return (self.has & self.given).sum(axis=0), self.has.sum(axis=0), self.given.sum(axis=0)
        right = self.has[self.has == self.given]
        return (
            np.bincount(right, minlength=self.classes),
            np.bincount(self.has, minlength=self.classes),
            np.bincount(self.given, minlength=self.classes),
        )

    def confusions(self) -> Counter[tuple[int, int]]:
        """{(class of a text, class it was given instead): number of texts}, of one label per text."""
        wrong = self.has != self.given
        return Counter(zip(self.has[wrong].tolist(), self.given[wrong].tolist(), strict=True))

    def influence(self, metric: Metric) -> Array:
        """[n]: how much each text moves the score, in percent, up to a constant."""
        if metric.share or (metric.name == "micro_f1" and not self.several):
            right = (self.has == self.given).all(axis=1) if self.several else self.has == self.given
            return np.asarray(100.0 * right)
        moved = {"micro_f1": self._micro, "macro_f1": self._macro, "mcc": self._mcc}[metric.name]()
        return np.asarray(100 * moved)

    def _micro(self) -> Array:
        right, both = (self.has & self.given).sum(axis=1), self.has.sum(axis=1) + self.given.sum(axis=1)
        if not both.sum():
            return np.zeros(len(both))
        return np.asarray((2 * right - 2 * right.sum() / both.sum() * both) / both.mean())

    def _macro(self) -> Array:
        right, has, given = self.counts()
        there = has + given > 0
        weight = np.where(there, len(self.has) / np.maximum(has + given, 1), 0.0)  # 1 over a class's mean of has + given
        f1 = 2 * right / np.maximum(has + given, 1)
        if self.several:
            moved = 2.0 * (self.has & self.given) - f1 * (self.has.astype(int) + self.given)
            return np.asarray(moved @ weight / self.classes)
        moved = 2 * weight[self.has] * (self.has == self.given) - (f1 * weight)[self.has] - (f1 * weight)[self.given]
        return np.asarray(moved / there.sum())

    def _mcc(self) -> Array:
        _, has, given = self.counts()
        p, q = has / len(self.has), given / len(self.has)
        right = self.has == self.given
        above, u, v = right.mean() - p @ q, 1 - p @ p, 1 - q @ q
        if not u * v:
            return np.zeros(len(right))
        moved = right - q[self.has] - p[self.given]  # up to a constant, as all that follows
        moved = moved + above * (p[self.has] / u + q[self.given] / v)
        return np.asarray(moved / np.sqrt(u * v))


def read(path: Path, classes: int = 0) -> Predictions | None:
    """The predictions in a file, for at least so many classes; None where there are none that can be used."""
    if not path.is_file():
        return None
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(path, columns=["index", "label", "prediction"]).to_pydict()
        index = np.array(columns["index"], dtype=np.int64)
        order = np.argsort(index, kind="stable")
        if not len(order):
            return None
        if isinstance(columns["label"][0], list):
            places = [column for name in ("label", "prediction") for column in columns[name]]
            classes = max(classes, 1 + max((max(each) for each in places if each), default=0))
            has, given = (_matrix(columns[name], classes) for name in ("label", "prediction"))
        else:
            has, given = (np.array(columns[name], dtype=np.int64) for name in ("label", "prediction"))
            if min(has.min(), given.min()) < 0:
                return None
            classes = max(classes, 1 + int(max(has.max(), given.max())))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return Predictions(index[order], has[order], given[order], classes)


def _matrix(places: list[list[int]], classes: int) -> Array:
    found = np.zeros((len(places), classes), dtype=bool)
    for row, labels in enumerate(places):
        found[row, labels] = True
    return found
