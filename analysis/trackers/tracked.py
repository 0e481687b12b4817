"""The form of a run that all trackers get: the study, its trials and shared stages, with parameters and metrics by step.

It is built from the run folder alone. Points are only ever added, in the order of the records, so that a tracker needs to know only
how many of them it has.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.records.metric import ERROR_RATE, SCORES, Metric
from analysis.records.record import starts_again
from analysis.records.run_folder import Run, load
from analysis.records.trials import Trial
from analysis.results import final_settings
from analysis.text.places import shareable
from analysis.text.plain import plain, shown

Row = Mapping[str, Any]
Value = str | int | float | bool

STATUSES = {"complete": "finished", "stopped": "killed", "diverged": "failed", "failed": "failed"}
"""{status of a trial in the records: its status in a tracker}; all others are running."""
STUDY_STATUSES = {"finished": "finished", "interrupted": "killed", "stopped": "killed"}
BY_SPLIT = (*SCORES, "mark_f1", "marked_percent")
"""Fields of an evaluation that belong to its split: `validation/loss`."""
BY_STEP = ("epoch", "tokens", "train_loss", "train_error_rate_percent", "learning_rate", "tokens_per_s", "wall_s", "energy_j")
"""Fields of an evaluation that keep their names."""
FILES = ("study.yaml", *(f"report/{name}" for name in ("report.html", "report.json", "table.txt", "table.md", "trials.csv")))
"""Files of a run folder that trackers keep, as far as they exist."""


@dataclass(frozen=True)
class Point:
    """The metrics of one evaluation."""

    step: int
    """Optimizer steps of its stage."""
    time_s: float
    """Seconds since 1970, UTC."""
    values: Mapping[str, float]


@dataclass
class TrackedRun:
    """One run of a tracker: the study itself, a trial of search or finals, the baseline, or a shared stage."""

    key: str
    """Its identity, by which a tracker finds it again."""
    name: str
    kind: str
    """study, search, final, baseline or stage."""
    status: str = "running"
    """running, finished, killed (stopped early, or interrupted) or failed."""
    began_s: float = 0.0
    ended_s: float = 0.0
    """Time of its last record."""
    params: dict[str, Value] = field(default_factory=dict)
    """Settings, which never change."""
    tags: dict[str, str] = field(default_factory=dict)
    """What is known about it now."""
    points: list[Point] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)
    """Of the study: scores of the chosen setting, means over seeds."""

    def state(self) -> str:
        """Hash of all that a tracker shows of it."""
        shown = [self.name, self.status, self.params, self.tags, len(self.points), self.results]
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TrackedStudy:
    """A run folder in the form that trackers get."""

    study: TrackedRun
    runs: Sequence[TrackedRun]
    metric: str
    """Name of the metric that trials are compared by, within the values of a point without the split."""
    dimensions: Sequence[str]
    """Names of the searched parameters."""
    folder: Path
    files: Sequence[str]
    """Names of the files in `folder` that belong to the study."""

    def files_digest(self) -> str:
        """Hash of the content of the files."""
        contents = [(name, hashlib.sha256((self.folder / name).read_bytes()).hexdigest()) for name in self.files]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def read(folder: str | Path) -> TrackedStudy:
    """Read a run folder. Raises FileNotFoundError if there is no run, ValueError if it has no records yet."""
    run = load(folder)
    if not run.rows:
        raise ValueError(f"{folder}: there are no records yet")
    identity = _identity(run)
    runs = {trial.name: _trial(identity, trial) for trial in run.trials}
    for row in run.iterate("trial"):
        _span(runs[row["trial"]], row)
    for row in run.iterate("evaluation"):
        owner = runs.get(row["trial"]) if row.get("trial") else _stage(identity, runs, run.stages, row)
        if owner is not None:
            _span(owner, row)
            _add(owner, row, run.metric)
    for row in run.of("baseline"):
        baseline = runs.setdefault("bag of words", _baseline(identity, row))
        _span(baseline, row)
        _add(baseline, row, run.metric)
    files = [name for name in FILES if (run.folder / name).is_file()]
    return TrackedStudy(
        _study(identity, run), list(runs.values()), score_name(run.metric), [d.path for d in run.space], run.folder, files
    )


def score_name(metric: Metric) -> str:
    """Name of the metric that trials are compared by: the error, or a score in percent."""
    return metric.field if metric is ERROR_RATE else f"{metric.name}_percent"


def _identity(run: Run) -> str:
    """Identity of a run: its first record, which no resume, rename or move changes; another one after inputs have changed."""
    begun = [run.rows[0], *filter(starts_again, run.rows)]
    return hashlib.sha256(json.dumps([[row["event"], row.get("utc")] for row in begun]).encode()).hexdigest()[:16]


def _study(identity: str, run: Run) -> TrackedRun:
    config = run.config
    last = next((row for row in reversed(run.rows) if row["event"] == "study"), {})
    study = TrackedRun(identity, run.name, "study", STUDY_STATUSES.get(run.state, "running"))
    for row in run.rows:
        _span(study, row)
    study.params = {name: flat(value) for name, value in _fixed(config, {dimension.path for dimension in run.space})}
    about = {"metric": run.metric.name, "device": last.get("device"), "commit": last.get("commit"), "reason": last.get("reason")}
    about |= {name: shown(config[name]) for name in ("precision",) if name in config}
    about |= {f"{part}.{name}": shown(value) for part in ("budget", "final") for name, value in _mapping(config.get(part)).items()}
    about |= {f"version.{name}": version for name, version in _mapping(last.get("versions")).items()}
    study.tags = _tags("study", study.status if run.state == "unfinished" else run.state, about)
    ranked = [setting for setting in final_settings.settings(run) if setting.validation]
    if ranked:
        study.tags["chosen"] = plain(ranked[0].label)
        study.results[f"chosen/validation/{score_name(run.metric)}"] = fmean(ranked[0].validation)
        if ranked[0].test:
            study.results[f"chosen/test/{score_name(run.metric)}"] = fmean(ranked[0].test)
    return study


def _fixed(config: Mapping[str, Any], searched: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of the study's fixed settings."""
    yield from ((name, config[name]) for name in ("task", "seed") if name in config)
    yield from ((f"encoder.{name}", value) for name, value in _mapping(config.get("encoder")).items() if isinstance(value, str))
    yield from ((f"search.{name}", value) for name, value in _mapping(config.get("search")).items() if name in ("sampler", "seed"))
    recipe = config.get("recipe")
    for entry in recipe if isinstance(recipe, list) else ():
        for kind, settings in _mapping(entry).items():
            name = _mapping(settings).get("name", kind)
            yield from ((f"{name}.{key}", value) for key, value in _mapping(settings).items() if f"{name}.{key}" not in searched)


def _trial(identity: str, trial: Trial) -> TrackedRun:
    params = {path: flat(value) for path, value in trial.params.items()}
    about = {"setting": trial.setting, "label": trial.label, "seed": trial.seed, "reason": trial.reason, "source": trial.source}
    about["stage_ids"] = " ".join(trial.stage_ids)
    run = TrackedRun(f"{identity}-{trial.name}", trial.name, trial.phase, STATUSES.get(trial.status, "running"), params=params)
    run.tags = _tags(trial.phase, trial.status, about)
    return run


def _stage(identity: str, runs: dict[str, TrackedRun], stages: Mapping[str, Row], row: Row) -> TrackedRun:
    """The run of the shared stage that an evaluation belongs to. All evaluations of a trajectory name its last milestone."""
    known = stages.get(str(row.get("stage_id")), {})
    name = f"{_stage_name(row)}-{str(row.get('stage_id'))[:8]}"
    status = {"computed": "finished", "loaded": "finished", "failed": "failed"}.get(str(known.get("status")), "running")
    run = runs.setdefault(name, TrackedRun(f"{identity}-{re.sub(r'[^A-Za-z0-9_-]', '_', name)}", name, "stage", status))
    run.tags = _tags("stage", status, {"task": row.get("task"), "stage_ids": row.get("stage_id"), "seed": row.get("seed")})
    return run


def _stage_name(row: Row) -> str:
    return plain(row.get("stage_name") or row.get("stage") or "stage")


def _baseline(identity: str, row: Row) -> TrackedRun:
    run = TrackedRun(f"{identity}-bow", "bag of words", "baseline", "finished")
    run.tags = _tags("baseline", "complete", {name: row.get(name) for name in ("c", "train_examples", "words", "task")})
    return run


def _tags(phase: str, status: str, about: Mapping[str, Any]) -> dict[str, str]:
    known = {name: shareable(plain(value, 500)) for name, value in about.items() if value not in (None, "")}
    return {"phase": phase, "state": status} | known


def _add(run: TrackedRun, row: Row, metric: Metric) -> None:
    """Add the metrics of an evaluation to its run, unless it has none."""
    prefix = f"{_stage_name(row)}/" if run.kind != "stage" and row.get("stage") not in (None, "finetune", "test") else ""
    split = row["split"]
    values = {f"{prefix}{split}/{name}": row[name] for name in BY_SPLIT if row.get(name) is not None}
    values |= {f"{prefix}{name}": row[name] for name in BY_STEP if row.get(name) is not None and split != "test"}
    score = metric.score(row)
    if score is not None:
        values[f"{prefix}{split}/{score_name(metric)}"] = score
    if values:
        run.points.append(Point(row.get("step") or 0, _seconds(row), {name: float(value) for name, value in values.items()}))


def _span(run: TrackedRun, row: Row) -> None:
    at = _seconds(row)
    run.began_s, run.ended_s = (min(run.began_s or at, at), max(run.ended_s, at))


def _seconds(row: Row) -> float:
    try:
        return datetime.fromisoformat(row["utc"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def flat(value: Any) -> Value:
    """A parameter as a number, a truth value or a text."""
    return value if isinstance(value, (bool, int, float)) else shareable(shown(value))
