"""Compute the cost of a run from its records: tokens, time, energy if the machine measures it, and the tokens saved by sharing.

A training is a fine-tuning, or a run of further pre-training with all its milestones. A training that several trials or studies
share counts once, from its beginning; one loaded from the store is counted separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.records.run_folder import Run
from analysis.records.trials import Trial
from analysis.results.sharing import Saved, saved_by, training_seconds
from analysis.text.numbers import DASH, NARROW, count_text, duration
from analysis.text.plain import plain

HEAD = ("trained", "from the store", "tokens", "time", "tokens/s", "GPU energy")
"""Columns of the table, after the name of the part."""


@dataclass(frozen=True)
class Training:
    """One training."""

    part: str
    """The line of the table that it belongs to."""
    here: bool
    """Whether this run computed it."""
    tokens: int
    seconds: float
    energy_j: float | None
    """Energy of the GPUs; None if unknown."""


@dataclass
class Account:
    """The cost of one study."""

    trainings: dict[str, Training]
    """{identity of the fine-tuning or trajectory: training}"""
    stages: Mapping[str, dict[str, Any]]
    sessions: int
    seconds: float
    """Sum over sessions of the time from the first record to the last."""
    cpu_j: list[float] = field(default_factory=list)
    """Energy of the machine's CPU packages, one value for each session that measured it (in records of earlier versions)."""


@dataclass
class CostLine:
    """A line of the table: the sum over the trainings that this run computed."""

    name: str
    trained: int = 0
    loaded: int = 0
    tokens: int = 0
    seconds: float = 0.0
    energy_j: float = 0.0
    measured: int = 0
    """Number of trained ones whose energy is known."""

    def add(self, training: Training) -> None:
        """Add a training to the line."""
        self.loaded += not training.here
        if training.here:
            self.trained, self.tokens, self.seconds = (
                self.trained + 1,
                self.tokens + training.tokens,
                self.seconds + training.seconds,
            )
            self.measured += training.energy_j is not None
            self.energy_j += training.energy_j or 0.0

    @property
    def cells(self) -> list[str]:
        """Cells of the line, in the order of HEAD."""
        rate = f"{self.tokens / self.seconds:,.0f}" if self.seconds and self.tokens else DASH
        spent = [count_text(self.tokens, NARROW), duration(self.seconds), rate] if self.trained else [DASH] * 3
        partly = f" ({self.measured} of {self.trained})" if self.measured < self.trained else ""
        return [f"{self.trained:,}", f"{self.loaded:,}", *spent, energy_text(self.energy_j) + partly if self.measured else DASH]


@dataclass(frozen=True)
class Cost:
    """The cost of a run."""

    parts: Sequence[CostLine]
    total: CostLine
    time: Sequence[str]
    """Sentences that explain the table."""
    sharing: Sequence[str]
    """Sentences on the tokens saved by sharing."""
    energy: Sequence[str]
    """Sentences on the energy used."""

    @property
    def facts(self) -> list[str]:
        """All sentences."""
        return [*self.time, *self.sharing, *self.energy]


def account(run: Run, tuned: Callable[[Trial], str]) -> Account:
    """Return the cost of a study. `tuned` maps a trial to the line that its fine-tuning belongs to."""
    trainings: dict[str, Training] = {}

    def add(name: str, one: Training) -> None:
        trainings[name] = one if name not in trainings else _joined(trainings[name], one)

    for stage_id, row in run.stages.items():
        if row.get("tokens") and row.get("status") in ("computed", "loaded", "failed"):
            here = row["status"] != "loaded"
            spent = (training_seconds(row), row.get("energy_j"))
            part = plain(row.get("name") or row.get("kind") or "stage", 60)
            add(str(row.get("trajectory_id") or stage_id), Training(part, here, row["tokens"], *spent))
    others = {stage for (stage,) in run.distinct("stage")} - {None, "finetune", "test"}
    for row in run.iterate("evaluation") if others else ():  # stages that are not shared, one for each trial
        if row.get("trial") and row.get("stage") in others and row.get("stage_id") not in run.stages:
            part = plain(row.get("stage_name") or row["stage"], 60)
            spent = (row.get("wall_s") or 0.0, row.get("energy_j"))
            add(str(row.get("stage_id")), Training(part, row.get("source") != "loaded", row.get("tokens") or 0, *spent))
    for trial in run.trials:
        if trial.tokens:
            name = trial.stage_ids[-1] if trial.stage_ids else f"{run.name}/{trial.name}"
            add(name, Training(tuned(trial), trial.source != "loaded", trial.tokens, trial.seconds, trial.energy_j))
    sessions = {row.get("session") or 0 for row in run.rows}
    cpus = [row["cpu_energy_j"] for row in run.of("study") if row.get("cpu_energy_j") is not None]
    return Account(trainings, run.stages, len(sessions), run.seconds, cpus)


def _joined(one: Training, other: Training) -> Training:
    """Merge two records of one training: computed here if one of them was, with the numbers of the longer."""
    longer, shorter = (one, other) if (one.tokens, one.seconds) >= (other.tokens, other.seconds) else (other, one)
    energy_j = shorter.energy_j if longer.energy_j is None and longer.tokens == shorter.tokens else longer.energy_j
    part = next((training.part for training in (one, other) if training.here), one.part)
    return Training(part, one.here or other.here, longer.tokens, longer.seconds, energy_j)


def of_study(run: Run) -> Cost | None:
    """Return the cost of a study; None before anything has trained."""
    names = {"search": "fine-tuning, search", "final": "fine-tuning, finals"}
    mine = account(run, lambda trial: names.get(trial.phase, "fine-tuning"))
    return together([mine], run.trials, "every trial")


def together(accounts: Sequence[Account], trials: Iterable[Trial], unit: str) -> Cost | None:
    """Return the cost of several studies; None before anything has trained. `unit` names what would run its own stages unshared."""
    every: dict[str, Training] = {}
    for name, one in (pair for mine in accounts for pair in mine.trainings.items()):
        every[name] = one if name not in every else _joined(every[name], one)
    if not every:
        return None
    parts: dict[str, CostLine] = {}
    total = CostLine("in all")
    for one in every.values():
        parts.setdefault(one.part, CostLine(one.part)).add(one)
        total.add(one)
    saved = saved_by(trials, {stage_id: row for mine in accounts for stage_id, row in mine.stages.items()})
    return Cost(list(parts.values()), total, _time(accounts), _sharing(saved, unit), _energy(accounts, total))


def _time(accounts: Sequence[Account]) -> list[str]:
    sessions, seconds = sum(mine.sessions for mine in accounts), sum(mine.seconds for mine in accounts)
    took = f"{sessions} session{'s' * (sessions != 1)} took {duration(seconds)} from first to last record; the table's time is the"
    took += " sum over all trainings, validation included, parallel ones too."
    counted = "A shared training counts once, from its beginning; one from the store took no time here, and one that"
    return [took, f"{counted} ended before its first validation is left out."]


def _sharing(saved: Saved | None, unit: str) -> list[str]:
    if saved is None:
        return []
    less = saved.unshared - saved.shared
    text = f"With {unit} running its own stages it would have been {count_text(saved.unshared, NARROW)} tokens; each stage once is"
    text += f" {count_text(saved.shared, NARROW)}: sharing saved {count_text(less, NARROW)}, {100 * saved.share:.0f}{NARROW}%."
    return [
        text if less > 0 else f"Sharing saved nothing: {unit} needs stages of its own, {count_text(saved.unshared, NARROW)} tokens."
    ]


def _energy(accounts: Sequence[Account], total: CostLine) -> list[str]:
    """Sentences on the energy, as far as the records have it."""
    facts = []
    if total.measured:
        of = (
            f" in {total.measured:,} of {total.trained:,} trainings; the others' is unknown"
            if total.measured < total.trained
            else ""
        )
        facts.append(
            f"GPU energy: {energy_text(total.energy_j)}{of}, by the driver's counters while trials trained and validated, each on"
            " GPUs of its own. Start-up, the test split and idle time are excluded."
        )
    known, sessions = [joules for mine in accounts for joules in mine.cpu_j], sum(mine.sessions for mine in accounts)
    if known:
        of = f" in {len(known)} of {sessions} sessions" if len(known) < sessions else ""
        facts.append(f"CPU energy: {energy_text(sum(known))}{of}, of all CPU packages of the machine, other programs included.")
    return facts or ["Energy: not measured (no trial had an NVIDIA GPU to itself)."]


def energy_text(joules: float) -> str:
    """Format joules as `1.23 kWh`, small values in watt-hours."""
    hours = joules / 3600
    if hours < 10:
        return f"{hours:.3g}{NARROW}Wh"
    return f"{hours / 1000:,.0f}{NARROW}kWh" if hours >= 1e6 else f"{hours / 1000:.3g}{NARROW}kWh"
