"""Test predictions of a final: counts by class, scores, and the loss of every text, from which the variance of a score follows.

A score is a smooth function of means over texts; its influence function (Hampel's, the delta method) is how much one text moves
it. The variance of the influences divided by the number of texts is the variance of the score; the same holds for the difference of
two scores on the same texts. For a share of texts it is the usual binomial variance. So every score can be written as a mean of
losses of texts, and the statistics of error rates apply to F1 and Matthews' coefficient too.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analysis.records.metric import ERROR, Metric

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Predictions:
    """True (`has`) and `predicted` classes in the order of the texts: [n] for one label, 0/1 [n, labels] for several."""

    has: Array
    predicted: Array
    classes: int
    pieces: Array | None = None
    """[n]: length of each text before truncation, in pieces; None if not stored."""
    probabilities: Array | None = None
    """[n, classes]: probability of each class or label; None if not stored, or if no metric needs them."""

    @property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return self.has.ndim > 1

    @cached_property
    def digest(self) -> str:
        """Hash of the number of texts and their labels: equal if two runs were tested on the same texts."""
        labels = np.argwhere(self.has) if self.several else self.has
        return hashlib.sha256(f"{len(self.has)} ".encode() + labels.astype(np.int64).tobytes()).hexdigest()[:16]

    @property
    def right(self) -> Array:
        """[n]: which texts are classified correctly; with several labels, all of them."""
        same = self.has == self.predicted
        return np.asarray(same.all(axis=1) if self.several else same)

    def counts(self) -> tuple[Array, Array, Array]:
        """Return (true positives, true texts, predicted texts) of every class, [classes] each."""
        if self.several:
            return (self.has & self.predicted).sum(axis=0), self.has.sum(axis=0), self.predicted.sum(axis=0)
        right = self.has[self.has == self.predicted]
        return (
            np.bincount(right, minlength=self.classes),
            np.bincount(self.has, minlength=self.classes),
            np.bincount(self.predicted, minlength=self.classes),
        )

    def confusions(self) -> Counter[tuple[int, int]]:
        """Return {(true class, predicted class): number of misclassified texts}; for one label per text."""
        wrong = self.has != self.predicted
        return Counter(zip(self.has[wrong].tolist(), self.predicted[wrong].tolist(), strict=True))

    def score(self, metric: Metric) -> float:
        """The score over all texts, percent."""
        percent = 100 * MOVES[metric.field](self)[0]
        return percent if metric.higher else 100 - percent

    def losses(self, metric: Metric) -> Array:
        """The loss of every text [n] in percent, whose mean is 100 - score: 0 or 100 for a share of texts, else real numbers."""
        value, moved = MOVES[metric.field](self)
        return np.asarray(100.0 * ~moved if moved.dtype == bool else 100 * (1 - value - moved + moved.mean()))


def _right(of: Predictions) -> tuple[float, Array]:
    return float(of.right.mean()), of.right


def _micro(of: Predictions) -> tuple[float, Array]:
    if not of.several:
        return _right(of)
    right, both = (of.has & of.predicted).sum(axis=1), of.has.sum(axis=1) + of.predicted.sum(axis=1)
    if not both.sum():
        return 0.0, np.zeros(len(both))
    f1 = 2 * right.sum() / both.sum()
    return float(f1), (2 * right - f1 * both) / both.mean()


def _macro(of: Predictions) -> tuple[float, Array]:
    right, has, predicted = of.counts()
    occurs = has + predicted > 0
    weight = np.where(occurs, len(of.has) / np.maximum(has + predicted, 1), 0.0)  # 1 over a class's mean of has + predicted
    f1 = 2 * right / np.maximum(has + predicted, 1)
    if of.several:
        moved = 2.0 * (of.has & of.predicted) - f1 * (of.has.astype(int) + of.predicted)
        return float(f1.mean()), (moved * weight).sum(axis=1) / of.classes
    moved = 2 * weight[of.has] * (of.has == of.predicted) - (f1 * weight)[of.has] - (f1 * weight)[of.predicted]
    return float(f1.sum() / occurs.sum()), moved / occurs.sum()


def _mcc(of: Predictions) -> tuple[float, Array]:
    _, has, predicted = of.counts()
    p, q = has / len(of.has), predicted / len(of.has)
    above, u, v = (
        of.right.mean() - (p * q).sum(),
        1 - (p * p).sum(),
        1 - (q * q).sum(),
    )  # no @: its last bits depend on the processor
    if not u * v:
        return 0.0, np.zeros(len(of.has))
    moved = of.right - q[of.has] - p[of.predicted]  # up to a constant, like all terms below
    moved = moved + above * (p[of.has] / u + q[of.predicted] / v)
    return float(above / np.sqrt(u * v)), moved / np.sqrt(u * v)


def _of_classes(
    influence: Callable[[Array, Array], tuple[float, Array]], least: float
) -> Callable[[Predictions], tuple[float, Array]]:
    """The mean score and influence over the classes that some texts have and others lack, each against the rest.

    Of two classes with one label per text only the second counts. Without such a class the score is `least`.
    """

    def mean(of: Predictions) -> tuple[float, Array]:
        columns = range(of.classes) if of.several or of.classes != 2 else (1,)
        has = [of.has[:, c] if of.several else of.has == c for c in columns]
        both = [
            influence(mine.astype(bool), _probabilities(of)[:, c])
            for c, mine in zip(columns, has, strict=True)
            if 0 < mine.sum() < len(mine)
        ]
        if not both:
            return least, np.zeros(len(of.has))
        return sum(score for score, _ in both) / len(both), np.sum([moved for _, moved in both], axis=0) / len(both)

    return mean


def _roc_auc(has: Array, probability: Array) -> tuple[float, Array]:
    """Area under the ROC curve of one class, and how much each text moves it: DeLong's components."""
    _, place = np.unique(probability, return_inverse=True)  # equal probabilities share a place, the smallest is first
    right, wrong = np.bincount(place, weights=has), np.bincount(place, weights=~has)
    positives, negatives = right.sum(), wrong.sum()
    below = (np.cumsum(wrong) - wrong / 2)[place] / negatives  # share of the texts without the class that are ranked below
    above = 1 - (np.cumsum(right) - right / 2)[place] / positives
    area = float(below[has].mean())
    share = positives / len(has)
    return area, np.where(has, (below - area) / share, (above - area) / (1 - share))


def _average_precision(has: Array, probability: Array) -> tuple[float, Array]:
    """Average precision of one class, and how much each text moves it.

    A text moves it by its own precision, if it has the class, and by changing the precision at all texts ranked below it.
    """
    _, place = np.unique(-probability, return_inverse=True)  # equal probabilities share a place, the highest is first
    right, texts = np.bincount(place, weights=has), np.cumsum(np.bincount(place))
    precision = np.cumsum(right) / texts
    average = float((right * precision).sum() / right.sum())

    def below(values: Array) -> Array:
        """Sums over the texts with the class that are ranked at the text's place or below."""
        return np.asarray(np.cumsum((right * values / texts)[::-1])[::-1][place])

    moved = has * (precision[place] - average + below(np.ones(len(texts)))) - below(precision)
    return average, moved * len(has) / right.sum()


def _log_loss(of: Predictions) -> tuple[float, Array]:
    """1 less the mean cross-entropy; of several labels the mean over all decisions."""
    probabilities = _probabilities(of).astype(np.float64)
    if of.several:
        given = np.where(of.has, probabilities, 1 - probabilities)
    else:
        given = np.take_along_axis(probabilities, of.has[:, None], axis=1)
    moved = np.log(np.maximum(given, SMALLEST)).mean(axis=1)
    return 1 + float(moved.mean()), moved


def _probabilities(of: Predictions) -> Array:
    if of.probabilities is None:
        raise ValueError("no probabilities are stored")
    return of.probabilities


SMALLEST = 1e-12
"""Probabilities below it count as this one in the log loss, which would be infinite at 0."""
MOVES: dict[str, Callable[[Predictions], tuple[float, Array]]] = {
    ERROR: _right,
    "macro_f1": _macro,
    "micro_f1": _micro,
    "mcc": _mcc,
    "roc_auc": _of_classes(_roc_auc, 0.5),
    "average_precision": _of_classes(_average_precision, 0.0),
    "loss": _log_loss,
}
"""{field of the records: function of predictions that returns (score, influence)}: the score where higher is better, at most 1; the
influence of every text on it [n], up to a constant."""


def as_scores(bounds: tuple[float, float] | None, metric: Metric) -> tuple[float, float] | None:
    """Convert an interval of losses to one of scores, clipped to possible scores.

    None for None, and for an interval of zero width, which would claim a certainty that the data do not support.
    """
    if bounds is None or bounds[0] == bounds[1]:
        return None
    low, high = sorted(map(metric.turned, bounds))
    return max(metric.least, low), min(metric.most, high)


def stacked(seeds: Sequence[Predictions], metric: Metric) -> tuple[Array | None, str]:
    """(losses [seeds, texts] in percent, digest of the texts); None instead of losses if seeds were tested on different texts."""
    if len({predictions.digest for predictions in seeds}) != 1:
        return None, ""
    return np.stack([predictions.losses(metric).astype(np.float32) for predictions in seeds]), seeds[0].digest


def of_trial(run: Path, name: str, classes: int = 0, metric: Metric | None = None) -> Predictions:
    """Read the copy of a trial's test predictions in its run folder; `classes` is a lower bound. Raises as `read` does.

    Probabilities are read only if the metric is computed from them; it is a ValueError then if they are not stored.
    """
    predictions = read(file_of(run, name), classes)
    if metric is None or not metric.of_probabilities:
        return predictions
    values = probabilities(run, name, predictions)
    if values is None:
        raise ValueError(f"{file_of(run, name).name}: no probabilities are stored, and {metric.label} is computed from them")
    return replace(predictions, probabilities=values.astype(np.float32), classes=values.shape[1])


def file_of(run: Path, name: str) -> Path:
    """Path of the copy of a trial's test predictions in its run folder. Raises ValueError if `name` is not a trial's name."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError(f"{name!r:.80}: not the name of a trial")
    return run / "predictions" / f"{name}-test.parquet"


def read(path: Path, classes: int = 0) -> Predictions:
    """Read a file of predictions; `classes` is a lower bound. Raises OSError or ValueError if it is missing or unusable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            lengths = ["pieces"] if "pieces" in file.schema_arrow.names else []
            columns = file.read(columns=["index", "label", "prediction", *lengths]).to_pydict()
            index = np.array(columns["index"], dtype=np.int64)
            order = np.argsort(index, kind="stable")
            if not len(index) or not np.array_equal(index[order], np.arange(len(index))):
                raise ValueError("the texts are not numbered from 0")
            several = isinstance(columns["label"][0], list)
            if several and "probabilities" in file.schema_arrow.names:
                classes = max(classes, len(next(file.iter_batches(1, columns=["probabilities"]))["probabilities"][0]))
        if several:
            places = [column for name in ("label", "prediction") for column in columns[name]]
            ends = [end for labels in places if len(labels) for end in (min(labels), max(labels))]
            if min(ends, default=0) < 0:
                raise ValueError("a label is below 0")
            classes = max(classes, 1 + max(ends, default=0))
            has, predicted = (_matrix(columns[name], classes) for name in ("label", "prediction"))
        else:
            has, predicted = (np.array(columns[name], dtype=np.int64) for name in ("label", "prediction"))
            if min(has.min(), predicted.min()) < 0:
                raise ValueError("a class is below 0")
            classes = max(classes, 1 + int(max(has.max(), predicted.max())))
        known = lengths and None not in columns["pieces"]
        pieces = np.array(columns["pieces"], dtype=np.int64)[order] if known else None
        if pieces is not None and pieces.min() < 0:
            raise ValueError("a length is below 0")
    except (pa.ArrowException, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    return Predictions(has[order], predicted[order], classes, pieces)


def probabilities(run: Path, name: str, of: Predictions) -> Array | None:
    """Read the probabilities [n, classes] of a trial's test texts, in the order of the texts; None if they are not stored.

    `of` are the trial's predictions. Raises OSError or ValueError for values that cannot be probabilities.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = file_of(run, name)
    try:
        with pq.ParquetFile(path) as file:
            if "probabilities" not in file.schema_arrow.names:
                return None
            table = file.read(columns=["index", "probabilities"]).combine_chunks()
        order = np.argsort(table["index"].to_numpy(), kind="stable")
        flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        values = flat.reshape(len(of.has), -1)[order]
        if values.shape[1] < (of.has.shape[1] if of.several else 1 + max(of.has.max(), of.predicted.max())):
            raise ValueError(f"it has probabilities of {values.shape[1]} classes only")
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("some probabilities are no numbers from 0 to 1")
        if not of.several and abs(values.sum(axis=1) - 1).max() > 1e-3:
            raise ValueError("some probabilities do not add up to 1")
    except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    return np.asarray(values)


def _matrix(places: list[list[int]], classes: int) -> Array:
    matrix = np.zeros((len(places), classes), dtype=bool)
    for row, labels in enumerate(places):
        matrix[row, labels] = True
    return matrix
