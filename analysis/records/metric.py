"""What a task is measured by: the one table that search, screen, tables and figures read. Standard library only.

All scores are shown in percent, F1 and Matthews' coefficient too, as the papers print them. What the search makes small is a loss
in percent: the error itself, or 100 less a score of which more is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """One line of the table."""

    name: str
    """As `metric` of a task names it."""
    label: str
    """What it is called, as in `validation error` and `test macro-F1`."""
    short: str
    """Head of a narrow column."""
    field: str
    """The field of the records that it is made of."""
    higher: bool = True
    """Whether more is better."""

    @property
    def share(self) -> bool:
        """Whether it is a share of the texts: binomial."""
        return self.field == ERROR

    @property
    def least(self) -> float:
        """The smallest score that is possible, percent."""
        return -100.0 if self.name == "mcc" else 0.0

    def loss(self, row: Mapping[str, Any]) -> float | None:
        """What the search makes small, percent, from a record's scores; None where they lack it."""
        value = row.get(self.field)
        return None if value is None else float(value) if self.share else 100 - 100 * float(value)

    def score(self, row: Mapping[str, Any]) -> float | None:
        """What is shown, percent, from a record's scores; None where they lack it."""
        value = row.get(self.field)
        return None if value is None else self.turned(float(value)) if self.share else 100 * float(value)

    def turned(self, percent: float) -> float:
        """A loss as a score, or a score as a loss."""
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
"""By the name that a task gives."""
ERROR_RATE = METRICS["error_rate"]


def of_run(rows: Sequence[Mapping[str, Any]]) -> Metric:
    """What the trials of a run are compared by, as its last plan says; the error rate where records are older than that."""
    named = (str(row["metric"]) for row in reversed(rows) if row.get("event") == "plan" and row.get("metric"))
    return METRICS.get(next(named, ""), ERROR_RATE)


def objective(trial: Mapping[str, Any]) -> float | None:
    """What the search makes small, of a trial's record: in older ones the error rate."""
    value = trial.get("objective_percent" if trial.get("metric") else ERROR)
    return None if value is None else float(value)
