"""What determines the result of a stage, hashed to its id. Imports no torch.

Left out by name, because the result does not depend on it: a stage's `name`, how far one goes along a trajectory (`steps`:
its milestones have ids of their own), everything in `Execution`, and names and paths of data, for which a digest of their
content stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from trainables import checkpoint
from trainables.config import Encoder, Finetune, Multitask, Pretrain, Recipe, Stage
from trainables.corpus import Corpus, load_corpus
from trainables.corpus_names import members
from trainables.data import Split, TaskData, load_task, subset
from trainables.faults import ConfigError
from trainables.members import Members, load_members
from trainables.store import stage_id

NOT_IDENTITY = {"pretrain": ("name", "steps", "corpus"), "multitask": ("name", "tasks"), "finetune": ("name",)}
LATER = {
    "schedule": "linear",
    "evaluations_per_epoch": 1,
    "layer_rates": "decay",
    "head_learning_rate": None,
    "freeze": "none",
    "unfreeze_layers": 0,
    "reinit_layers": 0,
    "layers": [-1],
    "head": "linear",
    "head_dropout": None,
    "thresholds": "one",
    "label_smoothing": 0.0,
    "class_weights": "none",
    "train_share": 1.0,
    "train_examples": None,
}
"""Settings that came later, at the values that leave a stage what it was: left out there, so that its name stays."""
PIECES_PER_WORD = 1.35
"""Word pieces per word of English reviews, for estimates only."""


@dataclass(frozen=True)
class Node:
    """One stage of a recipe with its place in the stage tree."""

    stage: Stage
    stage_id: str
    parent_id: str | None
    """Stage that this one starts from; None starts from the encoder itself."""
    trajectory_id: str
    """Name of the run that leaves this artifact among its milestones; the stage id itself for other kinds."""
    steps: int
    """Optimizer steps from the start of the stage to this artifact."""
    tokens_estimate: int
    """Pieces that computing it alone would train on, estimated from words."""


def settings_of(stage: Stage) -> dict[str, Any]:
    """The settings that determine the result. Those that another setting switches off are left out too."""
    settings = stage.canonical()
    for name in NOT_IDENTITY[stage.kind]:
        del settings[name]
    if not isinstance(stage, Pretrain) and stage.truncation != "head+tail":
        del settings["head_tokens"]
    if isinstance(stage, Multitask) and stage.xi == 1:
        del settings["xi_variant"]
    if isinstance(stage, Finetune):
        if stage.fractions is None:
            del settings["max_fractions"]
        if stage.layer_rates == "thirds":
            del settings["xi"]
        elif stage.xi == 1:
            del settings["xi_variant"]
        if stage.layer_rates == "decay":
            del settings["thirds_factor"]
        if stage.head == "linear":
            del settings["head_width"]
        if len(stage.layers) == 1:
            del settings["combine"]
    elif isinstance(stage, Pretrain) and stage.objective == "mlm":
        del settings["objective"], settings["language"]
    return {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}


def nodes(recipe: Recipe) -> list[Node]:
    """The stages of a recipe in order; further pre-training of zero steps is none. `precision` must be resolved before."""
    if recipe.precision == "auto":
        raise ValueError("precision 'auto' must be resolved before stages have an identity")
    return list(_walk(recipe))


def _walk(recipe: Recipe) -> Iterator[Node]:
    parent: str | None = None
    root = encoder_id(recipe)
    for stage in recipe.stages:
        common = {"settings": settings_of(stage), "parent": parent or root, "precision": recipe.precision}
        if isinstance(stage, Pretrain):
            if stage.steps == 0:
                continue
            corpus = corpus_of(recipe, stage)
            run = stage_id("pretrain", common | {"data": corpus.digest})
            node = Node(stage, milestone_id(run, stage.steps), parent, run, stage.steps, _pretrain_tokens(stage, corpus))
        elif isinstance(stage, Multitask):
            tasks = members_of(recipe, stage)
            run = stage_id("multitask", common | {"data": tasks.digests()})
            steps = tasks.steps_per_epoch(stage.batch_size) * stage.epochs
            node = Node(stage, run, parent, run, steps, _multitask_tokens(stage, tasks, steps))
        else:
            data = target_of(recipe)
            digests = [data.digest("train"), data.digest("validation")]
            run = stage_id("finetune", common | {"data": digests, "seed": recipe.seed})
            train = train_split(data, stage, recipe.seed)
            steps = -(-len(train) // stage.batch_size) * stage.epochs
            node = Node(stage, run, parent, run, steps, _finetune_tokens(stage, train))
        parent = node.stage_id
        yield node


def milestone_id(trajectory_id: str, step: int) -> str:
    """Name of the artifact that a trajectory leaves at a step."""
    return stage_id("milestone", {"trajectory": trajectory_id, "step": step})


def test_id(recipe: Recipe, finetuned: str) -> str:
    """Name of a fine-tuned artifact's predictions on the test split."""
    return stage_id("test", {"parent": finetuned, "data": target_of(recipe).digest("test")})


def target_of(recipe: Recipe) -> TaskData:
    """The target task's data."""
    return load_task(recipe.task, recipe.tasks[recipe.task])


def train_split(data: TaskData, stage: Finetune, seed: int) -> Split:
    """The training texts that a fine-tuning stage uses. Raises ConfigError where there are not as many."""
    whole = len(data.train)
    count = max(1, round(whole * stage.train_share)) if stage.train_examples is None else stage.train_examples
    if count == whole:
        return data.train
    try:
        return subset(data.train, count, seed)
    except ValueError:
        place = "train_share" if stage.train_examples is None else "train_examples"
        given, classes = getattr(stage, place), len(set(data.train.strata.tolist()))
        allowed = f"{data.name} has {whole} training texts in {classes} classes, each of which needs one"
        raise ConfigError([f"{stage.name}.{place}: {given} given, {count} texts, but {allowed}"]) from None


def corpus_of(recipe: Recipe, stage: Pretrain) -> Corpus:
    """The texts that a further pre-training stage reads."""
    names, files = members(stage.corpus, recipe.task, recipe.tasks)
    return load_corpus(names, recipe.tasks, files)


def members_of(recipe: Recipe, stage: Multitask) -> Members:
    """The tasks that a multi-task stage is trained on."""
    return load_members(stage.tasks or recipe.tasks, recipe.tasks)


def encoder_id(recipe: Recipe) -> str:
    """Digest of the encoder that the first stage starts from."""
    digest = checkpoint.digest(recipe.encoder)
    if trains_vocabulary(recipe.encoder):
        digest += "".join(load_task(name, task, needs_test=False).digest("train") for name, task in sorted(recipe.tasks.items()))
    return "encoder:" + hashlib.sha256(digest.encode()).hexdigest()[:32]


def trains_vocabulary(encoder: Encoder) -> bool:
    """Whether the tokenizer is made from the training texts."""
    return encoder.config is not None and encoder.tokenizer is None


def vocabulary_texts(recipe: Recipe) -> tuple[str, ...]:
    """The texts whose vocabulary an encoder from scratch gets: the training texts of all tasks; none for other encoders."""
    if not trains_vocabulary(recipe.encoder):
        return ()
    return tuple(
        text for name, task in sorted(recipe.tasks.items()) for text in load_task(name, task, needs_test=False).train.texts
    )


def recipe_name(recipe: Recipe) -> str:
    """The name of Sun et al. 2019, sections 5.4 and 5.5: BERT-FiT, -ITPT- (within task), -IDPT- (in domain), -CDPT-, -MFiT-.

    It follows from the tasks whose texts are read, however the corpus names them. Text files have no domain: with them it is CDPT.
    """
    names = []
    for stage in recipe.stages:
        if isinstance(stage, Finetune):
            names.append("FiT")
        elif isinstance(stage, Multitask):
            names.append("MFiT")
        elif stage.steps:
            read, files = members(stage.corpus, recipe.task, recipe.tasks)
            domains = {recipe.tasks[name].domain for name in (*read, recipe.task)} | {None for _ in files}
            within_domain = len(domains) == 1 and None not in domains
            names.append("ITPT" if (read, files) == ((recipe.task,), ()) else "IDPT" if within_domain else "CDPT")
    return "-".join(["BERT", *names])


@lru_cache(maxsize=64)
def _lengths(texts: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(max(1, round(len(text.split()) * PIECES_PER_WORD)) for text in texts)


def _finetune_tokens(stage: Finetune, train: Split) -> int:
    lengths, budget = np.array(_lengths(train.texts)), stage.max_length - 2
    fractions = np.minimum(-(-lengths // budget), 1 if stage.fractions is None else stage.max_fractions)
    return stage.epochs * int((np.minimum(lengths, fractions * budget) + 2 * fractions).sum())


def _multitask_tokens(stage: Multitask, members: Members, steps: int) -> int:
    texts = [np.minimum(_lengths(data.train.texts), stage.max_length - 2).mean() + 2 for data in members.tasks.values()]
    return round(steps * stage.batch_size * float(members.probabilities(stage.sampling) @ texts))


def _pretrain_tokens(stage: Pretrain, corpus: Corpus) -> int:
    budget, lengths = stage.max_length - 2, _lengths(corpus.texts)
    sequences = sum(-(-length // budget) for length in lengths)
    mean = sum(lengths) / max(1, sequences) + 2
    return round(stage.steps * stage.batch_size * mean)
