"""Test predictions as losses of texts, such that the mean over texts is the score's distance from perfect.

For the error rate that is 0 or 1 a text. An F1 is no mean over texts; its first-order expansion is: F1 is a ratio of sums over
texts, and with all texts weighing 1 its derivatives by the weights add up to zero, so that F1 + texts * derivative has the mean F1
and the variance of the delta method (Hampel's influence function). So what is said of error rates holds for F1 too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Predictions:
    """What one run says of the test texts, in their order: classes [texts], or of a multi-label task 0/1 [texts, labels]."""

    truth: Array
    given: Array

    @property
    def digest(self) -> str:
        """Of number and labels of the texts: equal where two runs were tested on the same."""
        labels = self.truth if self.truth.ndim == 1 else np.argwhere(self.truth)
        return hashlib.sha256(f"{len(self.truth)} ".encode() + labels.astype(np.int64).tobytes()).hexdigest()[:16]


def read(path: Path) -> Predictions:
    """Predictions of a parquet file. Raises OSError or ValueError where it is missing or not such a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["index", "label", "prediction"])
        index = table["index"].to_numpy()
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    order = np.argsort(index, kind="stable")
    if not len(index) or not np.array_equal(index[order], np.arange(len(index))):
        raise ValueError(f"{path.name}: the texts are not numbered from 0")
    if pa.types.is_list(table["label"].type):
        places = [table[name].to_pylist() for name in ("label", "prediction")]
        size = len(next(pq.ParquetFile(path).iter_batches(1, columns=["probabilities"]))["probabilities"][0])
        return Predictions(*(_indicators([column[i] for i in order], size) for column in places))
    return Predictions(*(np.asarray(table[name].to_numpy())[order] for name in ("label", "prediction")))


def _indicators(places: list[list[int]], size: int) -> Array:
    found = np.zeros((len(places), size), dtype=np.int8)
    for row, each in enumerate(places):
        found[row, each] = 1
    return found


def losses(found: Predictions, metric: str) -> Array:
    """Loss of every text [texts], with the mean 1 - score: 0 or 1 for error rate and accuracy, real numbers for F1."""
    if metric in ("macro_f1", "micro_f1"):
        return (1 - _linear_f1(found, micro=metric == "micro_f1")).astype(np.float32)
    wrong = found.truth != found.given
    return np.asarray(wrong.any(axis=1) if wrong.ndim > 1 else wrong, dtype=np.uint8)


def _linear_f1(found: Predictions, micro: bool) -> Array:
    truth, given = found.truth, found.given
    if truth.ndim == 1:
        classes = np.unique(np.concatenate([truth, given]))
        truth, given = truth[:, None] == classes, given[:, None] == classes
    hits, total = 2.0 * (truth & given), truth.astype(float) + given  # [texts, classes]; F1 = sum(hits) / sum(total)
    if micro:
        hits, total = hits.sum(axis=1, keepdims=True), total.sum(axis=1, keepdims=True)
    above, below = hits.sum(axis=0), total.sum(axis=0)  # [classes]
    below = np.where(below > 0, below, 1)
    derivative = (hits - total * (above / below)) / below
    return np.asarray((above / below + len(truth) * derivative).mean(axis=1))
