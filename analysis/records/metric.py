"""The metrics that a task can be evaluated by: the one table for search, screen, tables and figures. Standard library only.

All scores are shown in percent, F1 and Matthews' coefficient too, as the papers print them; log loss is times 100 as well. The
search minimises a loss in percent: the error or the log loss itself, or 100 minus a score where higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """One metric."""

    name: str
    """Its name in a task's setting `metric`."""
    label: str
    """Its name in reports, as in `validation error` and `test macro-F1`."""
    short: str
    """Its name as the head of a narrow column."""
    field: str
    """The field of the records that it is computed from."""
    recorded: str = ""
    """What that field holds; empty if an earlier metric is computed from the same field."""
    higher: bool = True
    """Whether higher is better."""
    least: float = 0.0
    """The smallest possible score, percent."""
    most: float = 100.0
    """The largest possible score, percent."""
    meaning: str = ""
    """Its definition in a sentence; empty if its label needs none."""
    beside: bool = False
    """Whether tables show it beside the run's own metric."""
    of_probabilities: bool = False
    """Whether it is computed from the probabilities instead of the predicted classes."""

    @property
    def share(self) -> bool:
        """Whether it is a share of the texts, hence binomial."""
        return self.field == ERROR

    def loss(self, row: Mapping[str, Any]) -> float | None:
        """The loss that the search minimises, percent, from a record's scores; None if the record lacks the field."""
        value = row.get(self.field)
        return None if value is None else float(value) if self.share else self.turned(100 * float(value))

    def score(self, row: Mapping[str, Any]) -> float | None:
        """The score that is shown, percent, from a record's scores; None if the record lacks the field."""
        value = row.get(self.field)
        return None if value is None else float(self.percent(value))

    def percent(self, value: Any) -> Any:
        """What is shown, percent, of the field's value or an array of them."""
        return self.turned(value) if self.share else 100 * value

    def turned(self, percent: float) -> float:
        """Convert a loss to a score, or a score to a loss; both in percent."""
        return 100 - percent if self.higher else percent


ERROR = "error_rate_percent"
METRICS = {
    metric.name: metric
    for metric in (
        Metric("error_rate", "error", "error %", ERROR, "share of wrong labels, percent", higher=False, beside=True),
        Metric("accuracy", "accuracy", "acc. %", ERROR),
        Metric("subset_accuracy", "subset accuracy", "subset %", ERROR),
        Metric(
            *("macro_f1", "macro-F1", "macro-F1", "macro_f1", "F1 averaged over classes, 0 to 1"),
            meaning="macro-F1 is the mean of the F1 of each class, large or small",
            beside=True,
        ),
        Metric(
            *("micro_f1", "micro-F1", "micro-F1", "micro_f1", "F1 over all decisions, 0 to 1"),
            meaning="micro-F1 is over all decisions together",
            beside=True,
        ),
        Metric(
            *("mcc", "MCC", "MCC %", "mcc", "Matthews correlation coefficient, -1 to 1"),
            least=-100.0,
            meaning="MCC is Matthews' correlation coefficient times 100",
        ),
        Metric(
            *("roc_auc", "ROC AUC", "AUC %", "roc_auc", "area under the ROC curve, 0 to 1"),
            meaning="ROC AUC is the share of pairs of texts, one with and one without a class, that the probability of the class"
            " ranks correctly: of two classes that of the second, else the mean over classes",
            of_probabilities=True,
        ),
        Metric(
            *("average_precision", "average precision", "AP %", "average_precision", "average precision, 0 to 1"),
            meaning="average precision is the precision at each text of a class, averaged over these texts in the order of the"
            " class's probability: of two classes that of the second, else the mean over classes",
            of_probabilities=True,
        ),
        Metric(
            *("log_loss", "log loss", "log l. %", "loss", "mean cross-entropy on the split, nats"),
            higher=False,
            most=math.inf,
            meaning="log loss is the mean cross-entropy in nats times 100",
            of_probabilities=True,
        ),
    )
}
"""{name in a task's setting `metric`: metric}; `MOVES` in `predictions.py` has the influence of every text on each field."""
SCORES = {metric.field: metric.recorded for metric in METRICS.values() if metric.recorded}
"""{field of the records that metrics are computed from: what it holds}"""
BESIDE = tuple(metric for metric in METRICS.values() if metric.beside)
"""Metrics that tables show beside a run's own, if they use another field."""
ERROR_RATE = METRICS["error_rate"]


def of_run(rows: Sequence[Mapping[str, Any]]) -> Metric:
    """The metric that a run's trials are compared by, from its last plan record; the error rate if old records have none."""
    named = (str(row["metric"]) for row in reversed(rows) if row.get("event") == "plan" and row.get("metric"))
    return METRICS.get(next(named, ""), ERROR_RATE)


def objective(trial: Mapping[str, Any]) -> float | None:
    """The loss that the search minimises, percent, from a trial's record; the error rate in old records; None without one."""
    value = trial.get("objective_percent" if trial.get("metric") else ERROR)
    return None if value is None else float(value)
