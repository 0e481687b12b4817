"""The metrics that a task can be evaluated by: the one table for search, screen, tables and figures. Standard library only.

All scores are shown in percent, F1 and Matthews' coefficient too, as the papers print them. The search minimises a loss in percent:
the error itself, or 100 minus a score where higher is better.
"""

from __future__ import annotations

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
    higher: bool = True
    """Whether higher is better."""

    @property
    def share(self) -> bool:
        """Whether it is a share of the texts, hence binomial."""
        return self.field == ERROR

    @property
    def least(self) -> float:
        """The smallest possible score, percent."""
        return -100.0 if self.name == "mcc" else 0.0

    def loss(self, row: Mapping[str, Any]) -> float | None:
        """The loss that the search minimises, percent, from a record's scores; None if the record lacks the field."""
        value = row.get(self.field)
        return None if value is None else float(value) if self.share else 100 - 100 * float(value)

    def score(self, row: Mapping[str, Any]) -> float | None:
        """The score that is shown, percent, from a record's scores; None if the record lacks the field."""
        value = row.get(self.field)
        return None if value is None else self.turned(float(value)) if self.share else 100 * float(value)

    def turned(self, percent: float) -> float:
        """Convert a loss to a score, or a score to a loss; both in percent."""
        return 100 - percent if self.higher else percent


ERROR = "error_rate_percent"
METRICS = {
    metric.name: metric
    for metric in (
        Metric("error_rate", "error", "error %", ERROR, higher=False),
        Metric("accuracy", "accuracy", "acc. %", ERROR),
        Metric("subset_accuracy", "subset accuracy", "subset %", ERROR),
        Metric("macro_f1", "macro-F1", "macro-F1", "macro_f1"),
        Metric("micro_f1", "micro-F1", "micro-F1", "micro_f1"),
        Metric("mcc", "MCC", "MCC %", "mcc"),
    )
}
"""{name in a task's setting `metric`: metric}"""
ERROR_RATE = METRICS["error_rate"]


def of_run(rows: Sequence[Mapping[str, Any]]) -> Metric:
    """The metric that a run's trials are compared by, from its last plan record; the error rate if old records have none."""
    named = (str(row["metric"]) for row in reversed(rows) if row.get("event") == "plan" and row.get("metric"))
    return METRICS.get(next(named, ""), ERROR_RATE)


def objective(trial: Mapping[str, Any]) -> float | None:
    """The loss that the search minimises, percent, from a trial's record; the error rate in old records; None without one."""
    value = trial.get("objective_percent" if trial.get("metric") else ERROR)
    return None if value is None else float(value)
