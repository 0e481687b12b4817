"""Fine-tuning on a task: what the loop needs for it (Sun et al. 2019, sections 5.1-5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainables.batches.pack import Batch, Example
from trainables.batches.special_tokens import Ids
from trainables.batches.tokenise import Pieces
from trainables.batches.truncate import truncate, truncate_pair
from trainables.data.splits import Split, TaskData
from trainables.encoder import layers, lora
from trainables.encoder.load import Base, depth_of, load_encoder_weights
from trainables.encoder.occurring_embedding import train_occurring
from trainables.heads.classifier import Classifier, classifier, reinitialise
from trainables.scores.evaluate import measured, predict, write_predictions
from trainables.settings.errors import ConfigError
from trainables.settings.stages import Finetune, Multitask
from trainables.stages.features import Features
from trainables.store.artifact_files import VALIDATED
from trainables.training import optimizer
from trainables.training.loop import Job, Row
from trainables.training.runtime import Runtime


def examples(split: Split, pieces: Pieces | Sequence[Ids], base: Base, stage: Finetune | Multitask) -> list[Example]:
    """The texts or pairs of a split as the encoder sees them: cut to the budget or into fractions of it, with special tokens."""
    if split.pairs is not None:
        return [_pair(pieces[2 * i], pieces[2 * i + 1], label, base, stage) for i, label in enumerate(split.labels)]
    if isinstance(stage, Finetune) and stage.fractions is not None:
        budget = stage.max_length - base.special.count
        return [_in_fractions(pieces[i], label, budget, base, stage.max_fractions) for i, label in enumerate(split.labels)]
    return [_single(pieces[i], label, base, stage) for i, label in enumerate(split.labels)]


def lengths(split: Split, pieces: Pieces, base: Base) -> np.ndarray:
    """Pieces [n] of every text or pair before any cut, with its special tokens as a single sequence."""
    if split.pairs is None:
        return pieces.lengths + base.special.count
    first, second = pieces.lengths.reshape(-1, 2).T
    return first + second + np.where(second > 0, base.special.pair.count, base.special.count)


def _single(ids: np.ndarray, label: Any, base: Base, stage: Finetune | Multitask) -> Example:
    """A text as one sequence."""
    kept = truncate(ids, stage.max_length - base.special.count, stage.truncation, stage.head_tokens or 0)
    return Example(base.special.wrap(kept), label=label)


def _pair(a: np.ndarray, b: np.ndarray, label: Any, base: Base, stage: Finetune | Multitask) -> Example:
    """Two texts as one sequence, the longer cut first; without the second a single text, as in BERT's own code."""
    if not len(b):
        return _single(a, label, base, stage)
    special = base.special.pair
    a, b = truncate_pair(a, b, stage.max_length - special.count, stage.truncation, stage.head_tokens or 0)
    return Example(special.wrap(a, b), label=label, types=special.types_of(len(a), len(b)) if base.takes_types else None)


def _in_fractions(ids: np.ndarray, label: Any, budget: int, base: Base, most: int) -> Example:
    """A text as at most `most` sequences of at most `budget` pieces, each with its own special tokens."""
    starts = range(0, max(1, min(len(ids), budget * most)), budget)
    wrapped = [base.special.wrap(ids[start : start + budget]) for start in starts]
    return Example(np.concatenate(wrapped), label=label, fractions=tuple(map(len, wrapped)))


def _cut_notices(stage: Finetune, pieces: dict[str, Pieces], base: Base) -> tuple[str, ...]:
    """How many texts have more fractions than are read."""
    if stage.fractions is None:
        return ()
    limit = stage.max_fractions * (stage.max_length - base.special.count)
    cut = {name: int((split.lengths > limit).sum()) for name, split in pieces.items()}
    if not sum(cut.values()):
        return ()
    told = " and ".join(f"{count} of {len(pieces[name])} {name} texts" for name, count in cut.items() if count)
    return (f"{stage.name}.max_fractions: {told} have more than {stage.max_fractions} fractions and are cut",)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimizer steps of one pass; the last batch of a pass may be short."""
    return -(-count // batch_size)


def evaluation_steps(per_epoch: int, epochs: int, times: int) -> frozenset[int]:
    """Steps after which to evaluate: the end of every epoch and, at even distances, `times - 1` moments before it."""
    return frozenset(
        epoch * per_epoch + max(1, round(per_epoch * part / times)) for epoch in range(epochs) for part in range(1, times + 1)
    )


def model_of(stage: Finetune, base: Base, classes: int, seed: int) -> Classifier:
    """The model of a stage before training, with the encoder's own weights. Raises ConfigError for layers that it lacks."""
    if faults := stage.layer_faults(base.layers):
        raise ConfigError(f"{stage.name}.{fault}" for fault in faults)
    return classifier(
        base,
        classes,
        stage.pooling,
        stage.dropout,
        seed,
        layers=stage.layers,
        combine=stage.combine,
        fractions=stage.fractions,
        frozen=stage.freeze == "encoder",
        hidden=stage.head_width if stage.head == "mlp" else None,
        head_dropout=stage.head_dropout,
        lstm={
            "width": stage.lstm_width,
            "attention_width": stage.attention_width,
            "hops": stage.attention_hops,
            "penalty": stage.attention_penalty,
        },
    )


def job(
    stage: Finetune,
    base: Base,
    parent: Path | None,
    data: TaskData,
    pieces: dict[str, Pieces],
    seed: int,
    runtime: Runtime,
    head: str | None = None,
    kept: Features | None = None,
) -> Job:
    """Fine-tune `base`, or the weights of an earlier stage's `parent`, on the task.

    `data` holds the training texts that the stage uses, `pieces` those of its training and validation split. Of a `parent` that
    was trained on several tasks the head with the key `head` goes on; without it the head is new. `kept` knows what a
    frozen encoder says; without it the encoder is run at each step.
    """
    model, blocks = model_of(stage, base, len(data.labels), seed), depth_of(stage.layers, base.layers)
    if parent is not None:
        load_encoder_weights(model, parent, head)
    reinitialise(model, base, blocks, stage.reinit_layers, seed)
    train = examples(data.train, pieces["train"], base, stage)
    if stage.lora_rank:
        model.notices += lora.adapt(model.encoder, blocks, stage, seed)
    else:
        train_occurring(model.encoder, np.concatenate([example.ids for example in train]))
        layers.freeze(model.encoder, blocks, stage.freeze)
    model.to(runtime.device)
    model.notices += _cut_notices(stage, pieces, base)
    validation = examples(data.validation, pieces["validation"], base, stage)
    if kept is not None:
        train, validation = (
            kept.of(split, texts, model, base, runtime) for split, texts in ((data.train, train), (data.validation, validation))
        )
    per_epoch = steps_per_epoch(len(train), stage.batch_size)
    steps = per_epoch * stage.epochs

    def batch(step: int) -> list[Example]:
        epoch, index = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(train))
        return [train[i] for i in order[index * stage.batch_size : (index + 1) * stage.batch_size]]

    latest: list[np.ndarray] = []
    scores: Row = {}

    due = evaluation_steps(per_epoch, stage.epochs, stage.evaluations_per_epoch)
    seen = np.sort(np.random.default_rng((seed, 0)).permutation(len(train))[: len(validation)])

    def evaluate(step: int, model: nn.Module) -> Row:
        latest[:] = [predict(model, base, validation, runtime)]
        scores.update(measured(latest[0], data.validation, data.labels, stage.thresholds))
        if stage.evaluations_per_epoch > 1:
            logits = predict(model, base, [train[i] for i in seen], runtime)
            known = Split(tuple(data.train.texts[i] for i in seen), data.train.labels[seen])
            scores["train_error_rate_percent"] = measured(logits, known, data.labels, "half")["error_rate_percent"]
        epoch = step // per_epoch if step % per_epoch == 0 else step / per_epoch
        return {"epoch": epoch, "split": "validation", **scores}

    def artifact_files(folder: Path) -> dict[str, Path]:
        path = folder / VALIDATED
        return {path.name: write_predictions(path, latest[0], data.validation.labels, scores.get("thresholds"))}

    groups = optimizer.parameter_groups(
        model,
        model.encoder,
        blocks,
        learning_rate=stage.learning_rate,
        xi=stage.xi,
        thirds=stage.thirds_factor if stage.layer_rates == "thirds" else None,
        variant=stage.xi_variant,
        head_rate=stage.head_learning_rate,
        weight_decay=stage.weight_decay,
    )
    thaw = layers.thaw(model.encoder, blocks, stage.unfreeze_layers) if stage.unfreeze_layers else lambda epoch: None
    weights = class_weights(data.train.labels, len(data.labels)) if stage.class_weights == "balanced" else None
    several = data.train.labels.ndim > 1
    on_device = None if weights is None else weights.to(runtime.device)
    return Job(
        base=base,
        model=model,
        **optimizer.for_job(stage, groups, steps),
        examples=batch,
        loss=partial(task_loss, weights=on_device, smoothing=stage.label_smoothing),
        weight=len if weights is None or several else lambda batch: sum(float(weights[example.label]) for example in batch),
        evaluate_at=due,
        evaluate=evaluate,
        seed=seed,
        thaw=lambda step: thaw(step // per_epoch),
        artifact_files=artifact_files,
    )


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """[classes], inverse to the number of texts of a class and 1 in the mean over texts, as scikit-learn's `balanced`.

    Of labels [n, labels] the number of texts without each label for one with it: the weight of having it.
    """
    if labels.ndim > 1:
        with_it = labels.sum(axis=0)
        return torch.from_numpy((len(labels) - with_it) / np.maximum(with_it, 1)).float()
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (np.maximum(counts, 1) * (counts > 0).sum())).float()


def task_loss(model: nn.Module, batch: Batch, weights: torch.Tensor | None = None, smoothing: float = 0.0) -> torch.Tensor:
    """Loss of a micro-batch, summed over its texts; binary where their task is multi-label. With the model's own penalty."""
    assert batch.labels is not None
    of_task = binary_cross_entropy if batch.labels.ndim > 1 else cross_entropy
    return of_task(model, batch, weights=weights, smoothing=smoothing) + model.penalty  # type: ignore[operator]


def cross_entropy(model: nn.Module, batch: Batch, weights: torch.Tensor | None = None, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of a micro-batch, summed over its texts, each times the weight of its class."""
    assert batch.labels is not None
    logits = model(batch).float()
    return F.cross_entropy(logits, batch.labels, weights, reduction="sum", label_smoothing=smoothing)


def binary_cross_entropy(
    model: nn.Module, batch: Batch, weights: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Binary cross-entropy of a micro-batch, a mean over labels summed over its texts; `weights` are those of having a label."""
    assert batch.labels is not None
    logits: torch.Tensor = model(batch).float()  # [b, labels]
    targets = batch.labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum") / logits.shape[1]
