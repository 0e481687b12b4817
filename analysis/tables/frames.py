"""The trials and evaluations of a study as data frames, with the columns of `trials.csv` and `results.csv`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from analysis.records import record_fields
from analysis.records.metric import BESIDE
from analysis.records.run_folder import Run
from analysis.records.trials import Row
from analysis.tables import csv_export

if TYPE_CHECKING:
    import pandas as pd

TRIAL_NUMBERS = ("seed", "epochs", "validation_percent", "test_percent", "validation_error_rate_percent",
                 *(f"test_{metric.field}" for metric in BESIDE), "tokens", "seconds")  # fmt: skip
_RESULT_FIELDS = record_fields.fields("baseline") | record_fields.fields("evaluation")
RESULT_NUMBERS = tuple(name for name, field in _RESULT_FIELDS.items() if field.type in (int, float))


def trials(run: Run) -> pd.DataFrame:
    """Return one row per trial, also without any evaluation: those of the search first, then the finals."""
    return _frame(csv_export.trial_columns(run), csv_export.trial_rows(run), TRIAL_NUMBERS)


def evaluations(run: Run) -> pd.DataFrame:
    """Return one row per evaluation; first those of the bag of words."""
    return _frame(csv_export.result_columns(run), csv_export.result_rows(run), RESULT_NUMBERS)


def _frame(columns: Sequence[str], rows: Iterable[Row], numbers: Sequence[str]) -> pd.DataFrame:
    """A frame with these columns; those that hold numbers have a numeric type also where all are missing."""
    import pandas as pd

    cells = [[row.get(name) for name in columns] for row in rows]
    frame = pd.DataFrame(cells, columns=list(columns))
    return frame.astype({name: float for name in columns if name in numbers and frame[name].dtype == object})
