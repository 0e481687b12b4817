"""What a stage reads: the texts of its task, its corpus, the tasks of a mixture, the files of its encoder."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from trainables.data.corpus import Corpus, load_corpus
from trainables.data.splits import Split, TaskData, load_task, subset
from trainables.data.task_mixture import TaskMixture, load_mixture
from trainables.encoder import checkpoint
from trainables.settings.corpus_names import members
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune, Marks, Multitask, Pretrain
from trainables.stages.selection import Pool, pool


def scored_texts(stage: Marks, data: TaskData) -> np.ndarray[Any, Any]:
    """Places of the training texts whose words are scored, in random order. Raises ConfigError where there are not as many."""
    whole = len(data.train)
    if (count := stage.scored_texts or whole) > whole or whole < 2:
        least = "" if count > whole else ", and one must be held out"
        raise ConfigError([f"{stage.name}.scored_texts: {count} given, but {data.name} has {whole} training texts{least}"])
    return np.random.default_rng((stage.seed, 2)).permutation(whole)[:count]


def held_out(stage: Marks, texts: int) -> int:
    """How many of so many texts, at least two, are held out of the marker's training."""
    return min(texts - 1, max(1, round(stage.held_out_share * texts)))


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


def pool_of(recipe: Recipe, stage: Pretrain) -> Pool:
    """What a stage that selects has to select from. Which texts that will be is found out when it is computed."""
    names, _ = members(stage.corpus, recipe.task, recipe.tasks)
    return pool(corpus_of(recipe, stage), target_of(recipe), recipe.task in names)


def members_of(recipe: Recipe, stage: Multitask) -> TaskMixture:
    """The tasks that a multi-task stage is trained on."""
    return load_mixture(stage.tasks or recipe.tasks, recipe.tasks)


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
