"""The tasks of multi-task fine-tuning (Sun et al. 2019, section 3.3), identified by their content. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainables.data.corpus import Load, load_all
from trainables.data.held_out import JOINT, HeldOut, held_out
from trainables.data.splits import Split, TaskData, load_task
from trainables.settings.errors import ConfigError, near
from trainables.settings.task import Task

POWERS = {"proportional": 1.0, "sqrt": 0.5, "even": 0.0}
"""{sampling: exponent}: a task with n training texts is drawn with a probability proportional to n to this power."""


@dataclass(frozen=True, eq=False)
class TaskMixture:
    """Tasks that are trained together, in an order that depends only on their content."""

    tasks: Mapping[str, TaskData]
    """{key of its head: a task without training texts that are held out by any task}."""
    notices: tuple[str, ...]

    def sizes(self) -> np.ndarray[Any, Any]:
        """Number of training texts of each task."""
        return np.array([len(data.train) for data in self.tasks.values()])

    def probabilities(self, sampling: str) -> np.ndarray[Any, Any]:
        """Probability of each task to be drawn for a step."""
        weights = self.sizes() ** POWERS[sampling]
        return np.asarray(weights / weights.sum())

    def steps_per_epoch(self, batch_size: int) -> int:
        """Optimizer steps until as many texts are drawn as all tasks have together."""
        return -(-int(self.sizes().sum()) // batch_size)

    def named(self, by_key: Mapping[str, Any]) -> dict[str, Any]:
        """Rename the keys of heads in `by_key` to names of tasks."""
        return {self.tasks[key].name: value for key, value in by_key.items()}

    def digests(self) -> list[list[str]]:
        """The data that determine a result: keys and digests of training and validation splits."""
        return [[key, data.digest("train"), data.digest("validation")] for key, data in self.tasks.items()]


def head_key(data: TaskData) -> str:
    """Key of a task's head in an artifact, 16 hex digits: a digest of the task's training and validation split."""
    return hashlib.sha256((data.digest("train") + data.digest("validation")).encode()).hexdigest()[:16]


def load_mixture(names: Iterable[str], tasks: Mapping[str, Task], *, load: Load = load_task) -> TaskMixture:
    """The named tasks, their training texts less every near copy of a validation or test text of ANY of `tasks`, as
    corpora have it.

    Near copies are defined as for corpora. The names of the tasks do not affect the result. Raises ConfigError for faults of the
    tasks, unknown names, the same data under two names, and a task without any training text left.
    """
    names, tasks = sorted(set(names)), dict(sorted(tasks.items()))
    loaded, faults = load_all(tasks, load)
    faults += [f"multitask: {name!r} is not among the tasks{near(name, tasks)}" for name in names if name not in tasks]
    if faults:
        raise ConfigError(faults)
    chosen: dict[str, TaskData] = {}
    for data in (loaded[name] for name in names):
        other = chosen.setdefault(head_key(data), data)
        if other is not data:
            faults.append(f"multitask: the tasks {other.name!r} and {data.name!r} hold the same data; name one of them in `tasks`")
    forbidden = held_out(loaded.values(), sides=False)
    kept = {key: replace(data, train=without(data.train, forbidden)) for key, data in sorted(chosen.items())}
    notices = []
    for key, data in kept.items():
        whole = len(chosen[key].train)
        copies = sum(map(forbidden.is_one, chosen[key].train.texts))
        of_task = f"training texts of {data.name}"
        if copies:
            notices.append(f"multitask: {copies} of {whole} {of_task} occur in a validation or test split and were removed")
        if holders := whole - len(data.train) - copies:
            what = "hold a text of a validation or test split as a line or sentence"
            notices.append(f"multitask: {holders} of {whole} {of_task} {what} and were removed")
        if not len(data.train):
            faults.append(f"multitask: no training text of {data.name} is left: all {whole} occur in a validation or test split")
    if faults:
        raise ConfigError(faults)
    own = [notice for data in kept.values() for notice in data.notices]
    return TaskMixture(kept, (*own, *notices))


def without(split: Split, forbidden: HeldOut) -> Split:
    """The split without texts that are held out, or that contain a held-out text of several words as a line or sentence.

    A text with a label is removed as a whole, not cut: the label may depend on the part to be cut.
    """
    lined = split.texts if split.pairs is None else [JOINT.join(filter(None, sides)) for sides in split.pairs]
    cuts = (forbidden.cut(text, words=False) for text in lined)
    return split.only([i for i, cut in enumerate(cuts) if not (cut and cut.places)])
