"""Rules between stages, and between stages and their task, with faults for violations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.settings.task import Task
from trainables.settings.pretraining import Pretrain
from trainables.settings.stages import Finetune, Marks, Multitask, Stage

LEAST_OF_PAIRS = 6
"""Least length for a pair, in pieces: tokenizers add at most four special tokens, and both texts keep a piece."""


def pair_faults(stage: Finetune | Multitask) -> list[str]:
    """Faults for settings that do not support pairs of texts; they begin with the field."""
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
    """{name of a pretrain stage that masks by marks: name of the nearest `marks` stage before it, or None}."""
    sources, latest = {}, None
    for stage in stages:
        if isinstance(stage, Marks):
            latest = stage.name
        elif isinstance(stage, Pretrain) and selects(stage):
            sources[stage.name] = latest
    return sources


def marks_faults(stages: Iterable[Stage], selects: Callable[[Pretrain], bool] = by_marks) -> list[str]:
    """Faults for masking by marks without a `marks` stage, and for unused `marks` stages, with the ways out."""
    stages = tuple(stages)
    used = marks_of(stages, selects)
    way = "put {marks: {}} before it, or use masking random"
    faults = [f"{name}: masking by marks needs a stage that marks: {way}" for name, marks in used.items() if marks is None]
    unused = [stage.name for stage in stages if isinstance(stage, Marks) and stage.name not in used.values()]
    way = "give a later pretrain stage masking selective or matched, or leave it out"
    return faults + [f"{name}: nothing uses these marks: {way}" for name in unused]


def scoring_faults(stages: Iterable[Stage], task: Task | None) -> list[str]:
    """Faults for `marks` stages on a task whose words cannot be scored, with the way out."""
    if task is None or not (task.multi_label or task.text_pair):
        return []
    of_one_class = "a word is scored by the probability of its text's one class, but the target task is multi-label"
    why = of_one_class if task.multi_label else "words of single texts are scored, but the target task has pairs of texts"
    return [f"{stage.name}: {why}; use masking random" for stage in stages if isinstance(stage, Marks)]
