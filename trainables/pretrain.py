"""Further pre-training with masked language modelling: what the loop needs for it (Sun et al. 2019, section 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainables import optim
from trainables.config import Pretrain
from trainables.encoder import Base, load_encoder_weights, masked_lm
from trainables.loop import Job, Row, Runtime
from trainables.masking import chunks, corrupt
from trainables.pack import Batch, Example
from trainables.tokenise import Pieces

EVALUATIONS = 20
"""How often along the schedule the loss is reported and the state saved, besides the milestones."""


def job(stage: Pretrain, base: Base, parent: Path | None, pieces: Pieces, milestones: frozenset[int], runtime: Runtime) -> Job:
    """Go on pre-training `base`, or the weights of `parent`, on the texts in `pieces`."""
    model = masked_lm(base, stage.dropout, stage.seed)
    if parent is not None:
        load_encoder_weights(model, parent)
    model.to(runtime.device)
    sequences = chunks(pieces, stage.max_length - base.special.count)

    def batch(step: int) -> list[Example]:
        # Endless passes over the corpus, each in its own order; a batch may span two passes.
        start = step * stage.batch_size
        return [example(start + i) for i in range(stage.batch_size)]

    orders: dict[int, np.ndarray] = {}

    def example(position: int) -> Example:
        epoch, index = divmod(position, len(sequences))
        if epoch not in orders:
            orders.clear()
            orders[epoch] = np.random.default_rng((stage.seed, epoch)).permutation(len(sequences))
        rng = np.random.default_rng((stage.seed, 1, position))  # fresh masks at every visit (dynamic masking)
        ids, words = sequences[int(orders[epoch][index])]
        inputs, places, targets = corrupt(ids, base.special, stage.mask_share, rng, words if stage.whole_word else None)
        return Example(base.special.wrap(inputs), masked=(places + len(base.special.prefix), targets))

    def evaluate(step: int, model: nn.Module) -> Row:
        return {"split": "train", "epoch": step * stage.batch_size / len(sequences)}

    groups = optim.parameter_groups(
        model, model.encoder, base.layers, learning_rate=stage.learning_rate, weight_decay=stage.weight_decay
    )
    every = max(1, stage.schedule_steps // EVALUATIONS)
    return Job(
        base=base,
        model=model,
        optimizer=optim.adamw(groups, beta1=stage.beta1, beta2=stage.beta2, epsilon=stage.epsilon),
        steps=stage.schedule_steps,
        rate=lambda step: optim.SCHEDULES[stage.schedule](step, stage.schedule_steps, stage.warmup),
        examples=batch,
        loss=masked_cross_entropy,
        weight=predicted_pieces,
        evaluate_at=milestones | frozenset(range(every, stage.schedule_steps + 1, every)),
        evaluate=evaluate,
        clip_norm=stage.clip_norm,
        seed=stage.seed,
    )


def predicted_pieces(batch: Sequence[Example]) -> int:
    """Number of pieces that a batch predicts."""
    return sum(len(example.masked[1]) for example in batch if example.masked)


def masked_cross_entropy(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of a micro-batch, summed over its predicted pieces."""
    assert batch.masked_targets is not None
    return F.cross_entropy(model(batch).float(), batch.masked_targets, reduction="sum")
