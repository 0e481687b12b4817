"""A stage in the stage tree of a recipe, and the ids of artifacts: hashes of all that determines a result. Imports no torch.

Excluded, since the result does not depend on it: a stage's `name`, how far it goes along a trajectory (`steps`: milestones have
ids of their own; `epochs` are converted to steps), everything in `Execution`, and names and paths of data. For data a digest of
their content is hashed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainables.data.corpus import Corpus
from trainables.data.splits import TaskData
from trainables.settings.stages import Marks, Stage
from trainables.store.store import stage_id

LATER = {
    "schedule": "linear",
    "evaluations_per_epoch": 1,
    "layer_rates": "decay",
    "head_learning_rate": None,
    "freeze": "none",
    "unfreeze_layers": 0,
    "reinit_layers": 0,
    "lora_rank": 0,
    "layers": [-1],
    "head": "linear",
    "head_dropout": None,
    "thresholds": "one",
    "masking": "random",
    "label_smoothing": 0.0,
    "class_weights": "none",
    "train_share": 1.0,
    "train_examples": None,
}
"""Settings that were added later, with their defaults: a default is excluded from the hash, so that old ids stay valid."""


@dataclass(frozen=True)
class Node:
    """One stage of a recipe, or a part of it, with its place in the stage tree."""

    stage: Stage
    stage_id: str
    parent_id: str | None
    """Artifact whose weights this stage starts from; None: the encoder itself."""
    trajectory_id: str
    """Id of the run that leaves this artifact among its milestones; the stage id itself for kinds without milestones."""
    steps: int
    """Optimizer steps from the start of the stage to this artifact."""
    tokens_estimate: int
    """Pieces that computing it alone would send through the encoder, an estimate (`Inputs.lengths`)."""
    seed: int
    """Seed of head, order and dropout."""
    reads: str | None = None
    """Artifact that it reads besides its parent: the marker reads the scorer, pre-training with marks reads the marker."""
    part_of: Stage | None = None
    """The stage of the recipe of which this is a part; None: this is the whole stage."""

    @property
    def whole(self) -> Stage:
        """The stage as the recipe has it."""
        return self.part_of or self.stage


def settings_of(stage: Stage) -> dict[str, Any]:
    """The settings that determine the result, without those that another setting switches off."""
    excluded = {*stage.not_identity, *stage.switched_off}
    settings = {name: value for name, value in stage.canonical().items() if name not in excluded}
    return {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}


def milestone_id(trajectory_id: str, step: int) -> str:
    """Id of the artifact that a trajectory leaves at a step."""
    return stage_id("milestone", {"trajectory": trajectory_id, "step": step})


def scores_id(stage: Marks, scorer: str) -> str:
    """Id of the scores that a scorer gives to the words of the task's texts."""
    determines = {name: getattr(stage, name) for name in ("threshold", "scored_texts", "max_length", "seed")}
    return stage_id("scores", determines | {"scorer": scorer})


def logits_id(marker: str, corpus: Corpus) -> str:
    """Id of the logits that a marker gives to the pieces of a corpus."""
    return stage_id("logits", {"marker": marker, "data": corpus.digest})


def test_id(target: TaskData, finetuned: str) -> str:
    """Id of a fine-tuned artifact's predictions on the target task's test split."""
    return stage_id("test", {"parent": finetuned, "data": target.digest("test")})
