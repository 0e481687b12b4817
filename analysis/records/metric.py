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
    recorded: str = ""
    """What that field holds; empty where a metric above it is made of the same."""
    higher: bool = True
    """Whether more is better."""
    least: float = 0.0
    """The smallest score that is possible, percent."""
    meaning: str = ""
    """A sentence on it; empty where its label says all."""
    beside: bool = False
    """Whether tables show it beside the run's own metric."""

    @property
    def share(self) -> bool:
        """Whether it is a share of the texts: binomial."""
        return self.field == ERROR

    def loss(self, row: Mapping[str, Any]) -> float | None:
        """What the search makes small, percent, from a record's scores; None where they lack it."""
        value = row.get(self.field)
        return None if value is None else float(value) if self.share else 100 - 100 * float(value)

    def score(self, row: Mapping[str, Any]) -> float | None:
        """What is shown, percent, from a record's scores; None where they lack it."""
        value = row.get(self.field)
        return None if value is None else float(self.percent(value))

    def percent(self, value: Any) -> Any:
        """What is shown, percent, of the field's value or an array of them."""
        return self.turned(value) if self.share else 100 * value

    def turned(self, percent: float) -> float:
        """A loss as a score, or a score as a loss."""
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
    )
}
"""By the name that a task gives. How much a text moves each field stands in `MOVES` of `predictions.py`."""
SCORES = {metric.field: metric.recorded for metric in METRICS.values() if metric.recorded}
"""The fields of the records that metrics are made of, with what they hold."""
BESIDE = tuple(metric for metric in METRICS.values() if metric.beside)
"""What tables show beside a run's own metric, where that is another thing."""
ERROR_RATE = METRICS["error_rate"]


def of_run(rows: Sequence[Mapping[str, Any]]) -> Metric:
    """What the trials of a run are compared by, as its last plan says; the error rate where records are older than that."""
    named = (str(row["metric"]) for row in reversed(rows) if row.get("event") == "plan" and row.get("metric"))
    return METRICS.get(next(named, ""), ERROR_RATE)


def objective(trial: Mapping[str, Any]) -> float | None:
    """What the search makes small, of a trial's record: in older ones the error rate."""
    value = trial.get("objective_percent" if trial.get("metric") else ERROR)
    return None if value is None else float(value)
