"""Build the past trials of a study from its records, in the form that the sampler needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.records.metric import objective
from study.definition.models import Study
from study.definition.space import Params

STATES = {"complete": "COMPLETE", "stopped": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}
"""{final state of a trial in the records: Optuna's name of it}"""
ATTRIBUTES = ("label", "stage_ids", "error_rate_percent", "reason")
"""Fields of a trial's records that the journal shows beside its settings."""


@dataclass(frozen=True)
class Past:
    """One past trial of the search."""

    number: int
    params: Params
    state: str | None = None
    """complete, stopped, diverged or failed; None if it has not finished."""
    value: float | None = None
    """Validation loss at the last epoch, percent: the error, or 100 minus another metric."""
    intermediate: Mapping[int, float] = field(default_factory=dict)
    """{epoch: validation loss in percent}."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes for the journal, such as stage ids."""


def trial_name(number: int) -> str:
    """Return `t007` for trial 7 of the search."""
    return f"t{number:03d}"


def trial_number(name: str) -> int:
    """Return 7 for `t007`."""
    return int(name[1:])


def history(study: Study, rows: Iterable[Mapping[str, Any]]) -> list[Past]:
    """Return the search trials in the records, by number."""
    trials: dict[int, dict[str, Any]] = {}
    values: dict[int, dict[int, float]] = {}
    for row in rows:
        name = row.get("trial")
        if not isinstance(name, str) or not re.fullmatch(r"t\d+", name):
            continue
        number = trial_number(name)
        if row.get("event") == "trial":
            trials[number] = trials.get(number, {}) | {key: value for key, value in row.items() if value is not None}
        elif _is_objective(row, study) and (loss := study.metric.loss(row)) is not None:
            values.setdefault(number, {})[round(row["epoch"])] = loss
    return [
        Past(
            number,
            {path: tuple(value) if isinstance(value, list) else value for path, value in trial.get("params", {}).items()},
            trial["status"] if trial.get("status") in STATES else None,
            objective(trial),
            dict(sorted(values.get(number, {}).items())),
            {name: trial[name] for name in ATTRIBUTES if name in trial},
        )
        for number, trial in sorted(trials.items())
    ]


def _is_objective(row: Mapping[str, Any], study: Study) -> bool:
    return (
        row.get("event") == "evaluation"
        and row.get("split") == "validation"
        and row.get("stage_name") == study.recipe[-1].name
        and whole_epoch(row) is not None
    )


def whole_epoch(row: Mapping[str, Any]) -> int | None:
    """Return the epoch that an evaluation ends; None within an epoch, since search and early stopping use whole epochs only."""
    epoch = row.get("epoch")
    return None if epoch is None or epoch != int(epoch) else int(epoch)
