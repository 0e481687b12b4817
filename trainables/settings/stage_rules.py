"""What stages ask of each other and of their task, with the faults where it is not so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.settings.task import Task
from trainables.settings.stages import Finetune, Marks, Multitask, Pretrain, Stage

LEAST_OF_PAIRS = 6
"""Pieces of the shortest pair: no tokenizer puts more than four special tokens to it, and of each text one piece is left."""


def pair_faults(stage: Finetune | Multitask) -> list[str]:
    """What of these settings a task on pairs of texts cannot have, each fault beginning with the field."""
    faults = []
    if isinstance(stage, Finetune) and stage.fractions is not None:
        ways = "use head, tail or head+tail, or a task without `text_pair`"
        faults.append(f"truncation: {stage.truncation} given, but pairs of texts are not read in fractions; {ways}")
    if stage.max_length < LEAST_OF_PAIRS:
        faults.append(f"max_length: {stage.max_length} given, but a pair of texts needs at least {LEAST_OF_PAIRS}")
    return faults


def by_marks(stage: Pretrain) -> bool:
    """Whether a stage masks by marks."""
    return stage.masking != "random"


def marks_of(stages: Iterable[Stage], selects: Callable[[Pretrain], bool] = by_marks) -> dict[str, str | None]:
    """{name of each further pre-training that masks by marks: name of the nearest `marks` stage before it, or None}."""
    found, latest = {}, None
    for stage in stages:
        if isinstance(stage, Marks):
            latest = stage.name
        elif isinstance(stage, Pretrain) and selects(stage):
            found[stage.name] = latest
    return found


def marks_faults(stages: Iterable[Stage], selects: Callable[[Pretrain], bool] = by_marks) -> list[str]:
    """Masking by marks that nothing makes, and marks that nothing uses, with the ways out."""
    stages = tuple(stages)
    used = marks_of(stages, selects)
    way = "put {marks: {}} before it, or use masking random"
    faults = [f"{name}: masking by marks needs a stage that marks: {way}" for name, marks in used.items() if marks is None]
    unused = [stage.name for stage in stages if isinstance(stage, Marks) and stage.name not in used.values()]
    way = "give a pretrain stage behind it masking selective or matched, or leave it out"
    return faults + [f"{name}: nothing uses these marks: {way}" for name in unused]


def scoring_faults(stages: Iterable[Stage], task: Task | None) -> list[str]:
    """Why the words of a task cannot be scored where they should be, with the way out."""
    if task is None or not (task.multi_label or task.text_pair):
        return []
    of_one_class = "a word is scored by the probability of its text's one class, but the target task is multi-label"
    why = of_one_class if task.multi_label else "words of single texts are scored, but the target task has pairs of texts"
    return [f"{stage.name}: {why}; use masking random" for stage in stages if isinstance(stage, Marks)]
