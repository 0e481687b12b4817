"""Build the trials of a run and the dimensions of its search space from the records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.records.bulk import Columns, TrialEvaluations
from analysis.records.metric import Metric, objective
from analysis.text.plain import plain, shown

Row = dict[str, Any]
STATUSES = ("complete", "stopped", "diverged", "failed", "running")


@dataclass(frozen=True)
class SearchDimension:
    """One dimension of the search space."""

    path: str
    name: str
    kind: str
    """log, linear or category."""
    values: tuple[str, ...] = ()
    """Categories in their order."""
    conditional: bool = False
    """Whether only some trials have it."""

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers, or categories that are numbers."""
        return self.kind != "category" or all(re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", value) for value in self.values)


@dataclass
class Trial:
    """One trial in its last recorded state."""

    name: str
    phase: str
    params: dict[str, Any] = field(default_factory=dict)
    setting: str = ""
    label: str = ""
    seed: int | None = None
    status: str = "running"
    reason: str = ""
    stage_ids: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    """Seconds of its fine-tuning over all sessions; of this run only if old records lack them."""
    energy_j: float | None = None
    """Energy of the GPUs in these seconds; None if unknown."""
    source: str = ""
    error: float | None = None
    """Last validation error, percent."""
    score: float | None = None
    """Last validation score by the run's metric, percent."""
    curve: list[tuple[float, float]] = field(default_factory=list)
    """(epoch, score on validation in percent)."""
    test: Row | None = None
    """The evaluation of its test split."""


def trials_of(rows: Sequence[Row], metric: Metric, columns: Columns | None) -> list[Trial]:
    """Return all trials from rows and columns: those of the search first, each phase in order."""
    trials: dict[str, Trial] = {}
    waiting = columns.by_trial(metric) if columns else {}
    for at, row in enumerate(rows):
        name = row.get("trial") if row["event"] in ("trial", "evaluation") else None
        if not name:
            continue
        evaluations = waiting.get(name)
        first = evaluations.phase if evaluations and columns and evaluations.lines[0] < columns.row_lines[at] else row.get("phase")
        trial = trials.setdefault(name, Trial(name, first or "search"))
        if evaluations and columns:
            _evaluations(trial, evaluations, columns.row_lines[at])
        _last_word(trial, row, metric) if row["event"] == "trial" else _evaluation(trial, row, metric)
    for name, evaluations in waiting.items():
        _evaluations(trials.setdefault(name, Trial(name, evaluations.phase or "search")), evaluations)
    for trial in trials.values():
        trial.curve.sort()
        if trial.score is None and trial.curve:
            trial.score = trial.curve[-1][1]
    order = {"search": 0, "final": 1}
    return sorted(trials.values(), key=lambda trial: (order.get(trial.phase, 2), _natural(trial.name)))


def _natural(name: str) -> tuple[str, int, str]:
    """Key that sorts t999 before t1000."""
    match = re.fullmatch(r"(\D*)(\d{1,18})(.*)", name, flags=re.DOTALL)
    return (match[1], int(match[2]), match[3]) if match else (name, -1, "")


def _last_word(trial: Trial, row: Row, metric: Metric) -> None:
    """Update a trial from a record of it; the newest comes last."""
    trial.status = row["status"] if row["status"] in STATUSES else "running"
    trial.params = row.get("params") or trial.params
    trial.setting = row.get("setting") or trial.setting
    trial.label = plain(row.get("label") or trial.label)
    trial.seed = row["seed"] if row.get("seed") is not None else trial.seed
    trial.stage_ids = tuple(map(str, row.get("stage_ids") or trial.stage_ids))
    trial.reason = plain(row.get("reason") or "", 300)
    trial.source = row.get("source") or trial.source
    trial.error = row.get("error_rate_percent") if row.get("error_rate_percent") is not None else trial.error
    trial.score = metric.turned(loss) if (loss := objective(row)) is not None else trial.score
    trial.tokens = max(trial.tokens, row.get("tokens") or 0)
    trial.seconds = row.get("wall_s") or trial.seconds or row.get("seconds") or 0.0
    trial.energy_j = row["energy_j"] if row.get("energy_j") is not None else trial.energy_j


def _evaluation(trial: Trial, row: Row, metric: Metric) -> None:
    trial.setting = trial.setting or row.get("setting") or ""
    trial.seed = row.get("seed") if trial.seed is None else trial.seed
    score = metric.score(row)
    if row["split"] == "test":
        trial.test = row if score is not None else trial.test
    elif row["split"] == "validation" and score is not None and row.get("stage") in (None, "finetune"):
        trial.curve.append((row.get("epoch") or len(trial.curve) + 1, score))
        trial.error = row.get("error_rate_percent")
        trial.tokens = max(trial.tokens, row.get("tokens") or 0)
        trial.seconds = row.get("wall_s") or trial.seconds
        trial.energy_j = row.get("energy_j", trial.energy_j)


def _evaluations(trial: Trial, evaluations: TrialEvaluations, until: int | None = None) -> None:
    """Update a trial from its evaluations before a line of the records, except those processed already."""
    end = len(evaluations.lines) if until is None else int(np.searchsorted(evaluations.lines, until))
    new, evaluations.taken = slice(evaluations.taken, end), end
    trial.setting = trial.setting or next(filter(None, evaluations.setting[new]), "")
    trial.seed = next((int(seed) for seed in evaluations.seed[new] if seed == seed), None) if trial.seed is None else trial.seed
    counts = evaluations.counts[new]
    if not counts.any():
        return
    epoch, score, error, tokens, wall_s = (
        column[new][counts]
        for column in (evaluations.epoch, evaluations.score, evaluations.error, evaluations.tokens, evaluations.wall_s)
    )
    for at, value in zip(epoch.tolist(), score.tolist(), strict=True):
        trial.curve.append((at if at and at == at else len(trial.curve) + 1, value))
    trial.error = float(error[-1]) if error[-1] == error[-1] else None
    trial.tokens = max(trial.tokens, int(np.nanmax(tokens, initial=0)))
    timed = wall_s[np.nan_to_num(wall_s) != 0]
    trial.seconds = float(timed[-1]) if len(timed) else trial.seconds


def dimensions_of(config: Any, trials: Sequence[Trial]) -> list[SearchDimension]:
    """Return the dimensions of a search space `config` (anything else counts as empty) and of the trials' parameters."""
    config = config if isinstance(config, dict) else {}
    seen: dict[str, list[Any]] = {}
    for trial in trials:
        for path, value in trial.params.items():
            seen.setdefault(path, []).append(value)
    paths = [path for path in config if isinstance(path, str)] + [path for path in seen if path not in config]
    dimensions = []
    for path in paths:
        spec = config[path] if isinstance(config.get(path), dict) else None
        kind, values = _kind(spec, seen.get(path, []))
        conditional = bool(spec.get("when")) if spec else len(seen.get(path, [])) < len(trials)
        dimensions.append(SearchDimension(path, _short(path), kind, values, conditional))
    return dimensions


def _short(path: str) -> str:
    """`finetune.learning_rate` as `learning rate`; fields of other stages keep the stage's name."""
    return plain(path.removeprefix("finetune.").replace(".", " ").replace("_", " "), 40)


def _kind(spec: Mapping[str, Any] | None, seen: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
    """(log, linear or category; categories in their order)."""
    numeric = bool(seen) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in seen)
    if spec and isinstance(spec.get("choice"), list):
        return "category", tuple(dict.fromkeys(map(shown, [*spec["choice"], *seen])))
    if spec and (numeric or not seen):
        return "log" if "log_uniform" in spec or spec.get("log") else "linear", ()
    if not numeric:
        return "category", tuple(dict.fromkeys(map(shown, seen)))
    if len(set(seen)) <= 5 and len(seen) > 5:
        return "category", tuple(map(shown, sorted(set(seen))))
    return "log" if min(seen) > 0 and max(seen) / min(seen) >= 8 else "linear", ()
