"""The only writer of a run's records, which also keeps them in memory and updates the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.records import record, record_fields
from analysis.records.metric import ERROR_RATE, Metric, objective
from study.cluster.machine_faults import stops
from study.definition import space
from study.definition.models import Study
from study.run.screen import Screen
from trainables.stages import identity
from trainables.stages.inputs import Inputs, Reader

Row = dict[str, Any]
OVER = ("complete", "stopped", "diverged", "failed")
"""Final statuses of a trial."""


@dataclass(frozen=True)
class TrialSpec:
    """A trial that the search or the finals run."""

    name: str
    phase: str
    """search or final."""
    params: Mapping[str, Any]
    setting: str
    seed: int
    label: str
    stage_ids: tuple[str, ...]
    epochs: int


@dataclass
class Progress:
    """The progress of a running trial."""

    trial: TrialSpec
    began: float
    rows: int = 0
    epoch: float | None = None
    error: float | None = None
    objective: float | None = None
    tokens: int = 0
    wall_s: float | None = None
    energy_j: float | None = None
    computed: bool = False
    attempt: int = 0


@dataclass
class Scribe:
    """Writes records and keeps them: `rows` holds those of earlier sessions and of this one."""

    records: record.Records
    screen: Screen
    rows: list[Row]
    metric: Metric = ERROR_RATE
    written: Callable[[Row], Row] = dict
    """Converts a record of `rows` to its form in the file."""
    running: dict[str, Progress] = field(default_factory=dict)
    pruned: set[tuple[str, str]] = field(default_factory=set)
    """(stage, status) of trials whose weights or states have been deleted."""

    noted: set[str] = field(init=False)
    """Texts of all notices so far."""

    def __post_init__(self) -> None:
        self.noted = {str(row.get("text")) for row in self.rows if row["event"] == "notice"}

    def write(self, event: str, **fields: Any) -> None:
        """Append one record, unless it is an evaluation that exists already. Raises StudyStopped if the disk is full."""
        with stops():
            if self.records.append(event, **self.written(fields)):
                self.rows.append({"event": event, **fields})
        if event == "inputs":
            self.rows = record.counting(self.rows)

    def note(self, text: str) -> None:
        """Record and show a notice to the user."""
        self.noted.add(text)
        self.write("notice", text=text, source="launch")
        self.screen.say(f"note: {text}")

    def notices(self, row: Row) -> None:
        """Record and show the notices of a stage on its encoder and data, once in the whole run."""
        for text in row.get("notices") or ():
            if text not in self.noted:
                self.note(text)

    def starts(self, trial: TrialSpec) -> None:
        """Record that a trial starts, or restarts in a later session or after its process died."""
        if trial.name in self.running:
            return
        self.running[trial.name] = Progress(trial, time.monotonic())
        self.screen.trial(trial.name, trial.params, trial.epochs)
        self._trial(trial, status="started")

    def again(self, name: str) -> None:
        """Record that the trial's process died and the trial restarts in another one."""
        if name in self.running:  # else it had not begun
            self.running[name].attempt += 1
        self.screen.say(f"{name}: its process died; it continues in another one")

    def shared(self, row: Row) -> None:
        """Record an evaluation of a shared stage."""
        self.notices(row)
        self.write("evaluation", **scored(row))
        self.screen.evaluation("stage", row)

    def evaluated(self, name: str, row: Row) -> None:
        """Record an evaluation of a trial, unless the records hold it already."""
        progress = self.running[name]
        trial = progress.trial
        if row.get("source") == "loaded" and row.get("stage") != "finetune":
            return  # of a shared stage, recorded when it was computed
        self.notices(row)
        self.write("evaluation", **scored(row), trial=name, phase=trial.phase, setting=trial.setting)
        progress.attempt = max(progress.attempt, row.get("attempt") or 0)
        if row.get("source") == "computed":
            progress.computed = True
        if row.get("stage") == "finetune" and row.get("split") == "validation":
            progress.epoch, progress.tokens = row.get("epoch"), row.get("tokens") or 0
            progress.error, progress.objective = row.get("error_rate_percent"), self.metric.loss(row)
            progress.wall_s, progress.energy_j = row.get("wall_s"), row.get("energy_j")
        self.screen.evaluation(name, row)

    def ends(self, name: str, status: str, reason: str | None = None, details: str | None = None, where: str | None = None) -> None:
        """Record the end of a trial: complete, stopped early, diverged or failed."""
        progress = self.running.pop(name)
        trial = progress.trial
        if details:
            print(f"trial {name} {status}\n{details}", flush=True)  # stdout is the log
        self._trial(
            trial,
            status=status,
            reason=reason,
            where=where or None,
            epochs=progress.epoch,
            error_rate_percent=progress.error,
            metric=self.metric.name,
            objective_percent=progress.objective,
            tokens=progress.tokens,
            seconds=time.monotonic() - progress.began,
            wall_s=progress.wall_s,
            energy_j=progress.energy_j,
            attempt=progress.attempt,
            source="computed" if progress.computed or status in ("diverged", "failed") else "loaded",
        )
        self.screen.ended(name, status, "search" if trial.phase == "search" else "finals", reason)
        if status == "complete" and progress.objective is not None:
            self.screen.found(progress.objective, name, trial.params)

    def reopens(self, row: Row, reason: str | None, details: str | None = None) -> None:
        """Record a trial, given by its last record, as unfinished: a resume runs it first."""
        self.running.pop(row["trial"], None)
        if details:
            print(f"trial {row['trial']} unfinished\n{details}", flush=True)
        same = ("trial", "phase", "params", "setting", "label", "seed", "stage_ids")
        self.write("trial", **{key: row.get(key) for key in same}, status="unfinished", reason=reason)

    def known(self, trial: TrialSpec, row: Row) -> None:
        """Record a trial without running it: `row` is the record of an identical trial."""
        same = ("status", "reason", "epochs", "error_rate_percent", "objective_percent", "tokens", "wall_s", "energy_j")
        self._trial(trial, **{key: row.get(key) for key in same}, seconds=0.0, source="loaded")

    def stage(
        self, node: Any, status: str, row: Row, seconds: float, reason: str | None = None, by_task: Row | None = None
    ) -> None:
        """Record the end of a shared stage: a milestone of a trajectory, or a multi-task stage with scores by task."""
        self.write(
            "stage",
            stage_id=node.stage_id,
            parent_id=node.parent_id,
            trajectory_id=node.trajectory_id,
            kind=node.whole.kind,
            name=node.stage.name,
            steps=node.steps,
            status=status,
            tokens=row.get("tokens"),
            seconds=seconds,
            wall_s=row.get("seconds", row.get("wall_s")),
            energy_j=row.get("energy_j"),
            by_task=by_task,
            reason=reason,
        )

    def tested(self, trial: TrialSpec, row: Row) -> None:
        """Record the test scores of a final."""
        self.write("evaluation", **scored(row), trial=trial.name, phase=trial.phase, setting=trial.setting, status="complete")
        self.screen.evaluation(trial.name, row)
        self.screen.ended(trial.name, "tested", "test")

    def _trial(self, trial: TrialSpec, **fields: Any) -> None:
        self.write(
            "trial",
            trial=trial.name,
            phase=trial.phase,
            params=dict(trial.params),
            setting=trial.setting,
            label=trial.label,
            seed=trial.seed,
            stage_ids=list(trial.stage_ids),
            **fields,
        )


def trial_of(study: Study, name: str, phase: str, params: Mapping[str, Any], seed: int, label: str, reader: Reader) -> TrialSpec:
    """Return the trial of a setting and a seed, with the ids of its stages."""
    recipe = study.recipe_for(dict(params), seed)
    stages = tuple(node.stage_id for node in identity.nodes(Inputs(recipe, reader)))
    epochs = getattr(recipe.stages[-1], "epochs", 0)
    return TrialSpec(name, phase, params, space.setting_id(dict(params)), seed, label, stages, epochs)


def scored(row: Row, event: str = "evaluation") -> Row:
    """Return the fields of a row of the training loop that the records keep."""
    mine = ("trial", "phase", "setting", "status")  # the caller's
    return {key: value for key, value in row.items() if key in record_fields.FIELDS[event] and key not in mine}


def trials(rows: Sequence[Row], phase: str) -> dict[str, Row]:
    """Return the last record of every trial of a phase, by name."""
    return {row["trial"]: row for row in rows if row.get("event") == "trial" and row.get("phase") == phase}


def failed(rows: Sequence[Row]) -> list[Row]:
    """Return the last records of the failed trials, of search and finals."""
    return [row for phase in ("search", "final") for row in trials(rows, phase).values() if row["status"] == "failed"]


def ranking(rows: Sequence[Row]) -> list[Row]:
    """Return the complete trials of the search, best first: one per setting, the earlier of two equal ones."""
    complete = [row for row in trials(rows, "search").values() if row["status"] == "complete" and objective(row) is not None]
    best: dict[str, Row] = {}
    for row in sorted(complete, key=lambda row: (objective(row), row["trial"])):
        best.setdefault(row["setting"], row)
    return list(best.values())


def hours_spent(rows: Sequence[Row]) -> float:
    """Return the hours of all earlier sessions; a killed session ends with its last record."""
    from datetime import datetime

    spans: dict[int, tuple[datetime, datetime]] = {}
    for row in rows:
        if row.get("utc") and row.get("session") is not None:
            at = datetime.fromisoformat(row["utc"])
            first, last = spans.get(row["session"], (at, at))
            spans[row["session"]] = (min(first, at), max(last, at))
    return sum((last - first).total_seconds() for first, last in spans.values()) / 3600
