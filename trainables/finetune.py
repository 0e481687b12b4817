"""Fine-tuning on a task: what the loop needs for it (Sun et al. 2019, sections 5.1-5.3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainables import optim
from trainables.config import Finetune
from trainables.data import Split, TaskData
from trainables.encoder import Base, classifier, load_encoder_weights
from trainables.evaluate import measure, predict, write_predictions
from trainables.loop import Job, Row, Runtime
from trainables.pack import Batch, Example
from trainables.tokenise import Pieces, truncate
from trainables.vocabulary import train_occurring


def examples(split: Split, pieces: Pieces, base: Base, stage: Finetune) -> list[Example]:
    """The texts of a split as the encoder sees them: cut to the budget, with special tokens."""
    budget = stage.max_length - base.special.count
    kept = (truncate(pieces[i], budget, stage.truncation, stage.head_tokens) for i in range(len(split.labels)))
    return [Example(base.special.wrap(ids), label=int(label)) for ids, label in zip(kept, split.labels, strict=True)]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimizer steps of one pass; the last batch of a pass may be short."""
    return -(-count // batch_size)


def job(
    stage: Finetune, base: Base, parent: Path | None, data: TaskData, pieces: dict[str, Pieces], seed: int, runtime: Runtime
) -> Job:
    """Fine-tune `base`, or the weights of a further pre-trained `parent`, on the task."""
    model = classifier(base, len(data.labels), stage.pooling, stage.dropout, seed)
    if parent is not None:
        load_encoder_weights(model, parent)
    train = examples(data.train, pieces["train"], base, stage)
    train_occurring(model.encoder, np.concatenate([example.ids for example in train]))
    model.to(runtime.device)
    validation = examples(data.validation, pieces["validation"], base, stage)
    per_epoch = steps_per_epoch(len(train), stage.batch_size)
    steps = per_epoch * stage.epochs

    def batch(step: int) -> list[Example]:
        epoch, index = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(train))
        return [train[i] for i in order[index * stage.batch_size : (index + 1) * stage.batch_size]]

    latest: list[np.ndarray] = []

    def evaluate(step: int, model: nn.Module) -> Row:
        latest[:] = [predict(model, base, validation, runtime)]
        return {"epoch": step // per_epoch, "split": "validation", **measure(latest[0], data.validation.labels)}

    def artifact_files(folder: Path) -> dict[str, Path]:
        path = folder / "predictions-validation.parquet"
        return {path.name: write_predictions(path, latest[0], data.validation.labels)}

    groups = optim.parameter_groups(
        model,
        model.encoder,
        base.layers,
        learning_rate=stage.learning_rate,
        xi=stage.xi,
        variant=stage.xi_variant,
        weight_decay=stage.weight_decay,
    )
    return Job(
        base=base,
        model=model,
        optimizer=optim.adamw(groups, beta1=stage.beta1, beta2=stage.beta2, epsilon=stage.epsilon),
        steps=steps,
        rate=lambda step: optim.linear(step, steps, stage.warmup),
        examples=batch,
        loss=cross_entropy,
        weight=len,
        evaluate_at=frozenset(range(per_epoch, steps + 1, per_epoch)),
        evaluate=evaluate,
        clip_norm=stage.clip_norm,
        seed=seed,
        artifact_files=artifact_files,
    )


def cross_entropy(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of a micro-batch, summed over its texts."""
    assert batch.labels is not None
    return F.cross_entropy(model(batch).float(), batch.labels, reduction="sum")
