"""How many tokens a stage trains on, estimated from the words of its texts."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from trainables.data.corpus import Corpus
from trainables.data.scripts import length
from trainables.data.splits import Split
from trainables.data.task_mixture import TaskMixture
from trainables.settings.stages import Finetune, Multitask, Pretrain

PIECES_PER_WORD = 1.35
"""Word pieces per word of English reviews, for estimates only."""


@lru_cache(maxsize=64)
def _lengths(texts: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(max(1, round(length(text) * PIECES_PER_WORD)) for text in texts)


def finetune_tokens(stage: Finetune, train: Split) -> int:
    lengths, budget = np.array(_lengths(train.texts)), stage.max_length - 2
    fractions = np.minimum(-(-lengths // budget), 1 if stage.fractions is None else stage.max_fractions)
    passes = 1 if stage.fixed_encoder else stage.epochs
    return passes * int((np.minimum(lengths, fractions * budget) + 2 * fractions).sum())


def multitask_tokens(stage: Multitask, members: TaskMixture, steps: int) -> int:
    texts = [np.minimum(_lengths(data.train.texts), stage.max_length - 2).mean() + 2 for data in members.tasks.values()]
    return round(steps * stage.batch_size * float(members.probabilities(stage.sampling) @ texts))


def pretrain_tokens(stage: Pretrain, corpus: Corpus) -> int:
    budget, lengths = stage.max_length - 2, _lengths(corpus.texts)
    sequences = sum(-(-length // budget) for length in lengths)
    mean = sum(lengths) / max(1, sequences) + 2
    return round(stage.steps * stage.batch_size * mean)
