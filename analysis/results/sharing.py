"""The stage tree of a run, and the training saved because trials share stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.records.run_folder import Run
from analysis.records.trials import Trial
from analysis.text.numbers import NARROW, count_text, duration
from analysis.text.plain import plain

STATES = {
    "loaded": "from the store",
    "cached": "from the store",
    "planned": "not run yet",
    "computed": "computed",
    "failed": "failed",
}


@dataclass
class TreeNode:
    """One line of the stage tree."""

    title: str
    facts: list[str] = field(default_factory=list)
    children: list[TreeNode] = field(default_factory=list)
    failed: bool = False


@dataclass(frozen=True)
class Saved:
    """Pieces trained on by all trials of search and finals, with and without sharing."""

    shared: int
    """A shared stage counts once."""
    unshared: int
    """As if every trial ran its own stages."""
    pretrain_shared: int
    pretrain_unshared: int

    @property
    def share(self) -> float:
        """Share of the training that sharing saved, 0 to 1."""
        return 1 - self.shared / self.unshared if self.unshared else 0.0


def saved(run: Run) -> Saved | None:
    """Return the training saved by sharing in a study; None before any trial has trained."""
    return saved_by(run.trials, run.stages)


def saved_by(trials: Iterable[Trial], stages: Mapping[str, dict[str, Any]]) -> Saved | None:
    """Return the training saved by sharing among these trials; None if none has trained.

    `stages` holds the stages before the last. Stages loaded from the store count as run once.
    """
    trials = [trial for trial in trials if trial.tokens]
    if not trials:
        return None
    finetuned: dict[str, int] = {}
    trajectories: dict[str, int] = {}
    apart = 0
    for trial in trials:
        own = trial.stage_ids[-1] if trial.stage_ids else trial.name
        finetuned[own] = max(finetuned.get(own, 0), trial.tokens)
        for stage_id in trial.stage_ids:
            row = stages.get(stage_id, {})
            tokens = row.get("tokens") or 0
            apart += tokens
            name = str(row.get("trajectory_id") or stage_id)
            trajectories[name] = max(trajectories.get(name, 0), tokens)
    for stage_id, row in stages.items():  # a milestone that no trial uses was run all the same
        name = str(row.get("trajectory_id") or stage_id)
        trajectories[name] = max(trajectories.get(name, 0), row.get("tokens") or 0)
    together, alone = sum(finetuned.values()), sum(trial.tokens for trial in trials)
    return Saved(together + sum(trajectories.values()), alone + apart, sum(trajectories.values()), apart)


def training_seconds(row: Mapping[str, Any]) -> float:
    """Seconds of training in a stage's record, counted like its tokens from the start of its trajectory.

    Old records hold the seconds of the session only, the same for every milestone of one run.
    """
    return row.get("wall_s") or row.get("seconds") or 0.0


def tree(run: Run) -> TreeNode:
    """Return the tree: the encoder, the runs of shared stages with their milestones, and how many trials start from them."""
    users = Counter(_start(trial, run) for trial in run.trials)
    root = TreeNode(f"encoder {_encoder(run.config.get('encoder'))}".strip(), _used(users[None]))
    nodes: dict[str, TreeNode] = {}
    trajectories: dict[str, TreeNode] = {}
    for stage_id, row in sorted(run.stages.items(), key=lambda pair: (pair[1].get("steps") or 0, pair[0])):
        nodes[stage_id] = _milestone(row, users[stage_id])
    for stage_id, row in sorted(run.stages.items(), key=lambda pair: (pair[1].get("steps") or 0, pair[0])):
        parent = nodes.get(str(row.get("parent_id")), root)
        name = str(row.get("trajectory_id") or f"{row.get('name')} of {row.get('parent_id')}")
        if name not in trajectories:
            what = "one run" if name == stage_id else "one run with these milestones"
            trajectories[name] = TreeNode(f"{plain(row.get('name') or row.get('kind') or 'stage', 60)}: {what}")
            parent.children.append(trajectories[name])
        trajectories[name].children.append(nodes[stage_id])
    return root


def _milestone(row: dict[str, Any], users: int) -> TreeNode:
    steps = row.get("steps")
    title = f"{steps:,} steps" if isinstance(steps, int) else plain(row.get("label") or row.get("name") or "stage", 60)
    state = STATES.get(str(row.get("status")), "")
    facts = [f"{count_text(row['tokens'], NARROW)} tokens"] if row.get("tokens") else []
    facts += [state] if state else []
    facts += [duration(seconds)] if (seconds := training_seconds(row)) and row.get("status") == "computed" else []
    facts += [plain(row["reason"], 200)] if row.get("reason") else []
    return TreeNode(title, facts + _used(users), failed=row.get("status") == "failed")


def _used(users: int) -> list[str]:
    return (
        [f"{users} trial{'s' * (users != 1)} fine-tune from here" if users != 1 else "1 trial fine-tunes from here"]
        if users
        else []
    )


def _start(trial: Trial, run: Run) -> str | None:
    """The shared stage that a trial starts from; None for the encoder."""
    return next((stage_id for stage_id in reversed(trial.stage_ids) if stage_id in run.stages), None)


def _encoder(config: Any) -> str:
    if not isinstance(config, dict):
        return ""
    from_scratch = config.get("config")
    if isinstance(from_scratch, dict):
        return plain(f"{from_scratch.get('model_type', '')} from scratch", 80)
    names: Iterable[Any] = (config.get(key) for key in ("hub", "package", "folder"))
    return plain(next((name for name in names if name), ""), 80).rsplit("/", 1)[-1]
