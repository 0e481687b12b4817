"""What determines the result of a stage, hashed to its id. Imports no torch.

Left out by name, because the result does not depend on it: a stage's `name`, how far one goes along a trajectory (`steps`:
its milestones have ids of their own; `epochs` amount to steps), everything in `Execution`, and names and paths of data, for which a
digest of their content stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from trainables.data.corpus import Corpus
from trainables.data.splits import TaskData
from trainables.settings.corpus_names import members
from trainables.settings.recipe import Recipe
from trainables.settings.stage_rules import by_marks, marks_of
from trainables.settings.stages import Finetune, Marks, Multitask, Pretrain, Stage
from trainables.stages.inputs import Inputs, held_out, scored_texts
from trainables.stages.selection import Pool
from trainables.stages.token_estimate import finetune_tokens, multitask_tokens, pretrain_tokens
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
"""Settings that came later, at the values that leave a stage what it was: left out there, so that its name stays."""


@dataclass(frozen=True)
class Node:
    """One stage of a recipe, or one part of it, with its place in the stage tree."""

    stage: Stage
    stage_id: str
    parent_id: str | None
    """Stage that this one starts from; None starts from the encoder itself."""
    trajectory_id: str
    """Name of the run that leaves this artifact among its milestones; the stage id itself for other kinds."""
    steps: int
    """Optimizer steps from the start of the stage to this artifact."""
    tokens_estimate: int
    """Pieces that computing it alone would send through the encoder, estimated from words."""
    seed: int
    """Seed of head, order and dropout."""
    reads: str | None = None
    """Artifact that it reads beside its parent: the marker the scorer's, masking by marks the marker's."""
    part_of: Stage | None = None
    """The stage of the recipe that it is a part of, where it is not all of it."""

    @property
    def whole(self) -> Stage:
        """The stage as the recipe has it."""
        return self.part_of or self.stage


def settings_of(stage: Stage) -> dict[str, Any]:
    """The settings that determine the result. Those that another setting switches off are left out too."""
    left_out = {*stage.not_identity, *stage.switched_off}
    settings = {name: value for name, value in stage.canonical().items() if name not in left_out}
    return {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}


def nodes(inputs: Inputs) -> list[Node]:
    """The stages of a recipe in order; further pre-training of zero steps is none. `precision` must be resolved before."""
    if inputs.recipe.precision == "auto":
        raise ValueError("precision 'auto' must be resolved before stages have an identity")
    return list(_walk(inputs))


def _walk(inputs: Inputs) -> Iterator[Node]:
    parent: str | None = None
    recipe, root = inputs.recipe, inputs.encoder_id
    stages = [stage for stage in recipe.stages if not (isinstance(stage, Pretrain) and not stage.trains)]
    used = marks_of(stages)
    markers: dict[str, str] = {}
    for stage in stages:
        if isinstance(stage, Pretrain):
            stage = stage.counted(len(inputs.corpus(stage).texts))
        common = {"settings": settings_of(stage), "parent": parent or root, "precision": recipe.precision}
        if isinstance(stage, Pretrain):
            corpus = inputs.corpus(stage)
            marker = markers[used[stage.name] or ""] if by_marks(stage) else None
            read = corpus.digest if stage.select == "all" else _selected_from(stage, inputs.pool(stage))
            run = stage_id("pretrain", common | {"data": read} | ({} if marker is None else {"marker": marker}))
            tokens = pretrain_tokens(stage, corpus.words)
            node = Node(stage, milestone_id(run, stage.steps), parent, run, stage.steps, tokens, stage.seed, marker)
        elif isinstance(stage, Multitask):
            tasks = inputs.members(stage)
            run = stage_id("multitask", common | {"data": tasks.digests()})
            steps = tasks.steps_per_epoch(stage.batch_size) * stage.epochs
            node = Node(stage, run, parent, run, steps, multitask_tokens(stage, tasks, steps), stage.seed)
        elif isinstance(stage, Marks):
            if stage.name in used.values():
                scorer = _finetune_node(inputs, stage.scorer, parent, root, stage.seed)
                yield replace(scorer, part_of=stage)
                marker = stage_id("marks", common | {"data": inputs.target.digest("train"), "scorer": scorer.stage_id})
                whole, texts = len(inputs.target.train), len(scored_texts(stage, inputs.target))
                steps = -(-(texts - held_out(stage, texts)) // stage.batch_size) * stage.epochs
                tokens = scorer.tokens_estimate * stage.epochs * texts // (stage.scorer_epochs * whole)
                yield Node(stage, marker, parent, marker, steps, tokens, stage.seed, scorer.stage_id)
                markers[stage.name] = marker
            continue  # what follows starts from where it started
        else:
            node = _finetune_node(inputs, stage, parent, root, recipe.seed)
        parent = node.stage_id
        yield node


def _selected_from(stage: Pretrain, pool: Pool) -> tuple[str, ...]:
    return (*pool.digests, *pool.rule(stage.neighbours, stage.embeddings))


def _finetune_node(inputs: Inputs, stage: Finetune, parent: str | None, root: str, seed: int) -> Node:
    data, precision = inputs.target, inputs.recipe.precision
    common = {"settings": settings_of(stage), "parent": parent or root, "precision": precision, "seed": seed}
    run = stage_id("finetune", common | {"data": [data.digest("train"), data.digest("validation")]})
    places = inputs.train_places(stage, seed)
    words = data.train.words if places is None else data.train.words[places]
    steps = -(-len(words) // stage.batch_size) * stage.epochs
    return Node(stage, run, parent, run, steps, finetune_tokens(stage, words), seed)


def scores_id(stage: Marks, scorer: str) -> str:
    """Name of the scores that a scorer gives to the words of the task's texts."""
    determines = {name: getattr(stage, name) for name in ("threshold", "scored_texts", "max_length", "seed")}
    return stage_id("scores", determines | {"scorer": scorer})


def logits_id(marker: str, corpus: Corpus) -> str:
    """Name of the logits that a marker gives to the pieces of a corpus."""
    return stage_id("logits", {"marker": marker, "data": corpus.digest})


def milestone_id(trajectory_id: str, step: int) -> str:
    """Name of the artifact that a trajectory leaves at a step."""
    return stage_id("milestone", {"trajectory": trajectory_id, "step": step})


def test_id(target: TaskData, finetuned: str) -> str:
    """Name of a fine-tuned artifact's predictions on the target task's test split."""
    return stage_id("test", {"parent": finetuned, "data": target.digest("test")})


def recipe_name(recipe: Recipe) -> str:
    """The name of Sun et al. 2019, sections 5.4 and 5.5: BERT-Feat, -FiT, -ITPT- (within task), -IDPT- (in domain), -CDPT-, -MFiT-.

    It follows from the tasks whose texts are read, however the corpus names them. Text files have no domain: with them it is CDPT.
    Selected texts have the names of Gururangan et al. 2020: -kNN-TAPT- and -RAND-TAPT-. Masking by marks stands behind it:
    ITPT(selective).
    """
    names = []
    for stage in recipe.stages:
        if isinstance(stage, Finetune):
            names.append("Feat" if stage.freeze == "encoder" and stage.pooling == "bilstm" else "FiT")
        elif isinstance(stage, Multitask):
            names.append("MFiT")
        elif isinstance(stage, Pretrain) and stage.trains:
            read, files = members(stage.corpus, recipe.task, recipe.tasks)
            domains = {recipe.tasks[name].domain for name in (*read, recipe.task)} | {None for _ in files}
            within_domain = len(domains) == 1 and None not in domains
            name = "ITPT" if (read, files) == ((recipe.task,), ()) else "IDPT" if within_domain else "CDPT"
            name = {"nearest": "kNN-TAPT", "random": "RAND-TAPT"}.get(stage.select, name)
            names.append(name + (f"({stage.masking})" if by_marks(stage) else ""))
    return "-".join(["BERT", *names])
