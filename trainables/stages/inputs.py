"""What the stages of a recipe read: the texts of its task, corpora, the tasks of a mixture, the files of its encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from trainables.data.corpus import Corpus, load_corpus
from trainables.data.splits import Labels, Split, TaskData, load_task, taken, turns
from trainables.data.task_mixture import TaskMixture, load_mixture
from trainables.encoder import checkpoint
from trainables.settings.corpus_names import members
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune, Marks, Multitask, Pretrain
from trainables.settings.task import Task
from trainables.stages.selection import Pool, pool

Made = TypeVar("Made")


class Reader:
    """Reads what recipes ask for, each part once.

    Who works on several recipes of a study hands one of these on. It keeps no more than all of them read, and goes with its owner.
    Every method raises ConfigError for faults of the data.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        if key not in self._kept:
            self._kept[key] = make()
        found: Made = self._kept[key]
        return found

    def task(self, name: str, task: Task, *, needs_test: bool = True) -> TaskData:
        """The splits of a task."""
        found = self._once(("task", name, task), partial(load_task, name, task, needs_test=needs_test))
        return load_task(name, task) if needs_test and not len(found.test) else found  # which raises, and says why

    def corpus(self, names: Sequence[str], tasks: Mapping[str, Task], files: Sequence[str] = ()) -> Corpus:
        """Texts for further pre-training (`load_corpus`)."""
        key = ("corpus", frozenset(names), frozenset(tasks.items()), frozenset(files))
        return self._once(key, partial(load_corpus, names, tasks, files, load=self.task))

    def members(self, names: Sequence[str], tasks: Mapping[str, Task]) -> TaskMixture:
        """Tasks that are trained together (`load_mixture`)."""
        key = ("members", frozenset(names), frozenset(tasks.items()))
        return self._once(key, partial(load_mixture, names, tasks, load=self.task))

    def pool(self, corpus: Corpus, target: TaskData, keeps_own: bool) -> Pool:
        """What there is to select from, for a target task."""
        return self._once(("pool", corpus, target, keeps_own), partial(pool, corpus, target, keeps_own))

    def train_places(self, data: TaskData, stage: Finetune, seed: int) -> Labels | None:
        """Places of the training texts that a fine-tuning stage uses; None for all. Raises ConfigError for too few."""
        whole = len(data.train)
        count = max(1, round(whole * stage.train_share)) if stage.train_examples is None else stage.train_examples
        if count == whole:
            return None
        try:
            return taken(data.train, count, self._once(("turns", data.train, seed), partial(turns, data.train, seed)))
        except ValueError:
            place = "train_share" if stage.train_examples is None else "train_examples"
            given, classes = getattr(stage, place), len(set(data.train.strata.tolist()))
            allowed = f"{data.name} has {whole} training texts in {classes} classes, each of which needs one"
            raise ConfigError([f"{stage.name}.{place}: {given} given, {count} texts, but {allowed}"]) from None

    def train_split(self, data: TaskData, stage: Finetune, seed: int) -> Split:
        """The training texts that a fine-tuning stage uses."""
        places = self.train_places(data, stage, seed)
        return data.train if places is None else data.train.only(places)


@dataclass(frozen=True, eq=False)
class Inputs:
    """A recipe with all that its stages read; what none of them asks for is not read."""

    recipe: Recipe
    reader: Reader = field(default_factory=Reader)
    """Shared with other recipes of the same study, which read the same."""

    @cached_property
    def target(self) -> TaskData:
        """The target task's data."""
        return self.reader.task(self.recipe.task, self.recipe.tasks[self.recipe.task])

    @cached_property
    def encoder_id(self) -> str:
        """Digest of the encoder that the first stage starts from."""
        digest = checkpoint.digest(self.recipe.encoder)
        if trains_vocabulary(self.recipe.encoder):
            digest += "".join(data.digest("train") for data in self._tasks())
        return "encoder:" + hashlib.sha256(digest.encode()).hexdigest()[:32]

    @property
    def vocabulary_texts(self) -> tuple[str, ...]:
        """The texts whose vocabulary an encoder from scratch gets: the training texts of all tasks; none for other encoders."""
        if not trains_vocabulary(self.recipe.encoder):
            return ()
        return tuple(text for data in self._tasks() for text in data.train.texts)

    def _tasks(self) -> list[TaskData]:
        return [self.reader.task(name, task, needs_test=False) for name, task in sorted(self.recipe.tasks.items())]

    def corpus(self, stage: Pretrain) -> Corpus:
        """The texts that a further pre-training stage reads."""
        names, files = members(stage.corpus, self.recipe.task, self.recipe.tasks)
        return self.reader.corpus(names, self.recipe.tasks, files)

    def pool(self, stage: Pretrain) -> Pool:
        """What a stage that selects has to select from. Which texts that will be is found out when it is computed."""
        names, _ = members(stage.corpus, self.recipe.task, self.recipe.tasks)
        return self.reader.pool(self.corpus(stage), self.target, self.recipe.task in names)

    def members(self, stage: Multitask) -> TaskMixture:
        """The tasks that a multi-task stage is trained on."""
        return self.reader.members(tuple(stage.tasks or self.recipe.tasks), self.recipe.tasks)

    def train_places(self, stage: Finetune, seed: int) -> Labels | None:
        """Places of the target's training texts that a fine-tuning stage uses; None for all of them."""
        return self.reader.train_places(self.target, stage, seed)

    def train_split(self, stage: Finetune, seed: int) -> Split:
        """The target's training texts that a fine-tuning stage uses."""
        return self.reader.train_split(self.target, stage, seed)


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


def trains_vocabulary(encoder: Encoder) -> bool:
    """Whether the tokenizer is made from the training texts."""
    return encoder.config is not None and encoder.tokenizer is None
