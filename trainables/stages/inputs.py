"""The inputs of a recipe's stages: the splits of its task, corpora, task mixtures, the files of its encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from trainables.batches import tokenizer_library
from trainables.data.corpus import Corpus, load_corpus
from trainables.data.scripts import words_each
from trainables.data.splits import Labels, Split, TaskData, load_task, taken, turns
from trainables.data.task_mixture import TaskMixture, load_mixture
from trainables.encoder import checkpoint
from trainables.settings.corpus_names import members
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune, Marks, Multitask
from trainables.settings.task import Task
from trainables.stages.selection import Pool, pool

Value = TypeVar("Value")
PIECES_PER_WORD = 1.35
"""Word pieces per word of English reviews: for estimates without the encoder's tokenizer."""
SAMPLE_TEXTS, SAMPLE_CHARACTERS = 400, 1_000
"""Texts of a sample, and characters read of each, to count pieces per word: they bound its time for large files."""


class Reader:
    """A cache of data: every task, corpus and mixture is read once for all recipes of a study.

    Every method raises ConfigError for faults of the data.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def _once(self, key: Hashable, load: Callable[[], Value]) -> Value:
        if key not in self._kept:
            self._kept[key] = load()
        value: Value = self._kept[key]
        return value

    def task(self, name: str, task: Task, *, needs_test: bool = True) -> TaskData:
        """The splits of a task."""
        data = self._once(("task", name, task), partial(load_task, name, task, needs_test=needs_test))
        return load_task(name, task) if needs_test and not len(data.test) else data  # raises the fault of the test split

    def corpus(self, names: Sequence[str], tasks: Mapping[str, Task], files: Sequence[str] = ()) -> Corpus:
        """Texts for further pre-training (`load_corpus`)."""
        key = ("corpus", frozenset(names), frozenset(tasks.items()), frozenset(files))
        return self._once(key, partial(load_corpus, names, tasks, files, load=self.task))

    def members(self, names: Sequence[str], tasks: Mapping[str, Task]) -> TaskMixture:
        """Tasks that are trained together (`load_mixture`)."""
        key = ("members", frozenset(names), frozenset(tasks.items()))
        return self._once(key, partial(load_mixture, names, tasks, load=self.task))

    def pool(self, corpus: Corpus, target: TaskData, keeps_own: bool) -> Pool:
        """The candidates for a selection from a corpus, for a target task (`selection.pool`)."""
        return self._once(("pool", corpus, target, keeps_own), partial(pool, corpus, target, keeps_own))

    def pieces_per_word(self, encoder: Encoder, read: Split | Corpus) -> float | None:
        """Pieces per word of texts, counted by the encoder's tokenizer on a sample; None without tokenizer or words.

        Words are those of `scripts.length`: in scripts without spaces, every character is one.
        """
        name = json.dumps(encoder.canonical(), sort_keys=True)
        tokenizer = self._once(("tokenizer", name), partial(_tokenizer, encoder))
        return (
            self._once(("pieces", name, read), partial(_pieces_per_word, tokenizer, read.texts)) if tokenizer is not None else None
        )

    def train_places(self, data: TaskData, stage: Finetune, seed: int) -> Labels | None:
        """Indices of the training texts that a fine-tuning stage uses; None: all. Raises ConfigError if they are too few."""
        whole = len(data.train)
        count = max(1, round(whole * stage.train_share)) if stage.train_examples is None else stage.train_examples
        if count == whole:
            return None
        try:
            return taken(data.train, count, self._once(("turns", data.train, seed), partial(turns, data.train, seed)))
        except ValueError:
            place = "train_share" if stage.train_examples is None else "train_examples"
            value, classes = getattr(stage, place), len(set(data.train.strata.tolist()))
            allowed = f"{data.name} has {whole} training texts in {classes} classes, each of which needs one"
            raise ConfigError([f"{stage.name}.{place}: {value} given, {count} texts, but {allowed}"]) from None

    def train_split(self, data: TaskData, stage: Finetune, seed: int) -> Split:
        """The training texts that a fine-tuning stage uses."""
        places = self.train_places(data, stage, seed)
        return data.train if places is None else data.train.only(places)


@dataclass(frozen=True, eq=False)
class Inputs:
    """A recipe with the data that its stages read, loaded on first use."""

    recipe: Recipe
    reader: Reader = field(default_factory=Reader)
    """Shared by the recipes of a study, which read the same data."""
    counts: bool = False
    """Whether estimates of pieces count those of a sample, for plans; else every word has as many as in English reviews."""

    @cached_property
    def target(self) -> TaskData:
        """The target task's data."""
        return self.reader.task(self.recipe.task, self.recipe.tasks[self.recipe.task])

    @cached_property
    def encoder_id(self) -> str:
        """Digest of the encoder that the first stage starts from, and of what this version of tokenizers computes differently."""
        digest = checkpoint.digest(self.recipe.encoder)
        if trains_vocabulary(self.recipe.encoder):
            digest += "".join(data.digest("train") for data in self._tasks())
        parts = tokenizer_library.parts_of_folder(checkpoint.tokenizer_folder(self.recipe.encoder))
        if others := tokenizer_library.differing(parts):
            digest += json.dumps(others)
        return "encoder:" + hashlib.sha256(digest.encode()).hexdigest()[:32]

    @property
    def vocabulary_texts(self) -> tuple[str, ...]:
        """The texts from which the tokenizer of an encoder from scratch is trained: the training texts of all tasks; else none."""
        if not trains_vocabulary(self.recipe.encoder):
            return ()
        return tuple(text for data in self._tasks() for text in data.train.texts)

    def lengths(self, read: Split | Corpus) -> Labels:
        """[n]: estimated pieces of every text."""
        counted = self.reader.pieces_per_word(self.recipe.encoder, read) if self.counts else None
        return pieces_of(read.words, counted or PIECES_PER_WORD)

    def _tasks(self) -> list[TaskData]:
        return [self.reader.task(name, task, needs_test=False) for name, task in sorted(self.recipe.tasks.items())]

    def corpus(self, stage: Pretrain) -> Corpus:
        """The texts that a further pre-training stage reads."""
        names, files = members(stage.corpus, self.recipe.task, self.recipe.tasks)
        return self.reader.corpus(names, self.recipe.tasks, files)

    def pool(self, stage: Pretrain) -> Pool:
        """The candidates of a stage that selects from its corpus. The selection itself is made when the stage is computed."""
        names, _ = members(stage.corpus, self.recipe.task, self.recipe.tasks)
        return self.reader.pool(self.corpus(stage), self.target, self.recipe.task in names)

    def members(self, stage: Multitask) -> TaskMixture:
        """The tasks that a multi-task stage is trained on."""
        return self.reader.members(tuple(stage.tasks or self.recipe.tasks), self.recipe.tasks)

    def train_places(self, stage: Finetune, seed: int) -> Labels | None:
        """Indices of the target's training texts that a fine-tuning stage uses; None: all."""
        return self.reader.train_places(self.target, stage, seed)

    def train_split(self, stage: Finetune, seed: int) -> Split:
        """The target's training texts that a fine-tuning stage uses."""
        return self.reader.train_split(self.target, stage, seed)


def pieces_of(words: Labels, per_word: float = PIECES_PER_WORD) -> Labels:
    """[n]: estimated pieces of texts of so many words."""
    pieces: Labels = np.maximum(1, np.rint(words * per_word)).astype(np.int64)
    return pieces


def _tokenizer(encoder: Encoder) -> Any:
    """The encoder's tokenizer; None if it is made in training, or is missing or faulty, which the encoder's own checks report."""
    try:
        if (folder := checkpoint.tokenizer_folder(encoder)) is None:
            return None
        from trainables.encoder.check import read_tokenizer  # imports transformers

        return read_tokenizer(folder)
    except ConfigError:
        return None


def _pieces_per_word(tokenizer: Any, texts: Sequence[str]) -> float | None:
    sample = [text[:SAMPLE_CHARACTERS] for text in texts[:: max(1, len(texts) // SAMPLE_TEXTS)]]
    encoded = tokenizer(sample, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    words = int(words_each(sample).sum())
    return sum(map(len, encoded)) / words if words else None


def scored_texts(stage: Marks, data: TaskData) -> np.ndarray[Any, Any]:
    """Indices of the training texts whose words are scored, in random order. Raises ConfigError if there are fewer texts."""
    whole = len(data.train)
    if (count := stage.scored_texts or whole) > whole or whole < 2:
        least = "" if count > whole else ", and one must be held out"
        raise ConfigError([f"{stage.name}.scored_texts: {count} given, but {data.name} has {whole} training texts{least}"])
    return np.random.default_rng((stage.seed, 2)).permutation(whole)[:count]


def held_out(stage: Marks, texts: int) -> int:
    """Number of texts that are held out of the marker's training, out of `texts`, which are at least two."""
    return min(texts - 1, max(1, round(stage.held_out_share * texts)))


def trains_vocabulary(encoder: Encoder) -> bool:
    """Whether the tokenizer is trained on the training texts."""
    return encoder.config is not None and encoder.tokenizer is None
