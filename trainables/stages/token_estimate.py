"""How many tokens a stage trains on, estimated from the words of its texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainables.data.task_mixture import TaskMixture
from trainables.settings.stages import Finetune, Multitask, Pretrain

PIECES_PER_WORD = 1.35
"""Word pieces per word of English reviews, for estimates only."""
Counts = np.ndarray[Any, np.dtype[np.int64]]


def pieces_of(words: Counts) -> Counts:
    """[n]: pieces of texts of so many words."""
    pieces: Counts = np.maximum(1, np.rint(words * PIECES_PER_WORD)).astype(np.int64)
    return pieces


def finetune_tokens(stage: Finetune, words: Counts) -> int:
    """Of the passes over training texts of so many words."""
    lengths, budget = pieces_of(words), stage.max_length - 2
    fractions = np.minimum(-(-lengths // budget), 1 if stage.fractions is None else stage.max_fractions)
    passes = 1 if stage.fixed_encoder else stage.epochs
    return passes * int((np.minimum(lengths, fractions * budget) + 2 * fractions).sum())


def multitask_tokens(stage: Multitask, members: TaskMixture, steps: int) -> int:
    """Of so many steps, each on a task drawn by the stage's sampling."""
    each = [np.minimum(pieces_of(data.train.words), stage.max_length - 2).mean() + 2 for data in members.tasks.values()]
    return round(steps * stage.batch_size * float(members.probabilities(stage.sampling) @ each))


def pretrain_tokens(stage: Pretrain, words: Counts) -> int:
    """Of the stage's steps on sequences that a corpus of texts of so many words is cut into."""
    lengths = pieces_of(words)
    sequences = int((-(-lengths // (stage.max_length - 2))).sum())
    return round(stage.steps * stage.batch_size * (int(lengths.sum()) / max(1, sequences) + 2))
