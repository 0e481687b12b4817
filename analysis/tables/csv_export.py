"""Export the records of a study as tidy CSV for other programs, safe to open in a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from analysis.records.metric import BESIDE, SCORES
from analysis.records.run_folder import Run
from analysis.records.trials import Row
from analysis.stats import labels
from analysis.text.plain_data import csv_parts, csv_text

RESULT_COLUMNS = (
    *("event", "session", "utc", "trial", "phase", "label", "trial_status", "setting", "seed", "recipe", "stage", "stage_name"),
    *("stage_id", "task", "split", "epoch", "step", "examples", "tokens", *SCORES),
    *("train_loss", "learning_rate", "wall_s", "tokens_per_s", "device", "precision", "source", "status", "c"),
)
TRIAL_COLUMNS = ("trial", "phase", "label", "setting", "seed", "status", "reason", "epochs", "metric", "validation_percent",
                 "test_percent", "validation_error_rate_percent", *(f"test_{metric.field}" for metric in BESIDE),
                 "tokens", "seconds", "source")  # fmt: skip
TASK_COLUMNS = ("stage", "task", "examples", *SCORES)


def results_csv(run: Run) -> Iterator[str]:
    """Yield one row per evaluation, the bag of words included, with a column per dimension of the space; it may be large."""
    return csv_parts(result_columns(run), result_rows(run))


def result_columns(run: Run) -> tuple[str, ...]:
    """Return the columns of one row per evaluation."""
    return (*RESULT_COLUMNS, *_params(run, {}))


def result_rows(run: Run) -> Iterator[Row]:
    """Yield one row per evaluation as plain values; absent ones are missing. Rows have further fields of the records."""
    by_trial: dict[str, dict[str, Any]] = {"": _params(run, {})}
    for trial in run.trials:
        named = {"label": trial.label, "trial_status": trial.status, "setting": trial.setting}
        by_trial[trial.name] = named | _params(run, trial.params)
    for row in chain(run.of("baseline"), run.iterate("evaluation")):
        yield row | by_trial.get(row.get("trial") or "", by_trial[""])


def trials_csv(run: Run) -> str:
    """Return one row per trial, also without any evaluation."""
    return csv_text(trial_columns(run), trial_rows(run))


def trial_columns(run: Run) -> tuple[str, ...]:
    """Return the columns of one row per trial."""
    return (*TRIAL_COLUMNS, *_params(run, {}))


def trial_rows(run: Run) -> Iterator[Row]:
    """Yield one row per trial as plain values, also without any evaluation."""
    for trial in run.trials:
        row = {
            name: getattr(trial, name)
            for name in ("phase", "label", "setting", "seed", "status", "reason", "tokens", "seconds", "source")
        }
        test = trial.test or {}
        epochs = trial.curve[-1][0] if trial.curve else 0
        row |= {
            "trial": trial.name,
            "epochs": epochs,
            "metric": run.metric.name,
            "validation_percent": trial.score,
            "test_percent": run.metric.score(test),
            "validation_error_rate_percent": trial.error,
        }
        row |= {f"test_{metric.field}": test.get(metric.field) for metric in BESIDE}
        yield row | _params(run, trial.params)


def tasks_csv(run: Run) -> str:
    """Return one row per multi-task stage and task: the validation scores at the end of the stage."""
    return csv_text(TASK_COLUMNS, [scores | {"stage": stage, "task": task} for stage, task, scores in labels.by_task(run)])


def _params(run: Run, params: dict[str, Any]) -> dict[str, Any]:
    return {f"param.{d.path}": params.get(d.path) for d in run.space}
