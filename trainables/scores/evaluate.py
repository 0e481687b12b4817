"""Compute predictions of a classifier on a split, and score them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.batches.pack import Batch, Example, collate
from trainables.data.splits import Split
from trainables.encoder.load import Base
from trainables.scores import predictions
from trainables.scores.metrics import label_scores, ranking_scores, scores, thresholds_of
from trainables.training.micro_batches import in_halves
from trainables.training.runtime import Runtime

EVALUATION_TOKENS = 8192
"""Pieces per forward pass: without gradients a pass may be larger than in training."""


def predict(model: nn.Module, base: Base, examples: Sequence[Example], runtime: Runtime) -> np.ndarray:
    """Logits of every example, float32 [len(examples), classes], the same on every rank."""
    return np.stack(outputs(model, base, examples, runtime))


def outputs(
    model: nn.Module, base: Base, examples: Sequence[Example], runtime: Runtime, of_pieces: bool = False
) -> list[np.ndarray]:
    """Outputs of a model for every example, float32, the same on every rank. Long texts are computed first.

    An example has one row of the output, or for a model `of_pieces` one row per piece: [length, ...].
    """
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].ids), i))
    mine = order[runtime.world.rank :: runtime.world.size]  # every rank has texts of all lengths
    own: list[tuple[int, np.ndarray]] = []
    for part in parts_of(mine, examples):
        for texts, rows in computed(model, part, examples, base, runtime):
            ends = np.cumsum([len(examples[i].ids) for i in texts])[:-1]
            own += zip(texts, np.split(rows, ends) if of_pieces else rows, strict=True)
    everyone = [pair for rank in runtime.world.gather(own) for pair in rank]
    return [rows for _, rows in sorted(everyone, key=lambda pair: pair[0])]


def computed(
    function: Callable[[Batch], Tensor], part: Sequence[int], examples: Sequence[Example], base: Base, runtime: Runtime
) -> list[tuple[Sequence[int], np.ndarray]]:
    """[(texts, rows of their batch, float32)] of a part, computed without gradients; in smaller batches where memory runs out."""

    def rows_of(texts: Sequence[int]) -> np.ndarray:
        rows: np.ndarray = function(collate([examples[i] for i in texts], base).to(runtime.device)).float().cpu().numpy()
        return rows

    with torch.inference_mode(), runtime.autocast():
        return in_halves(rows_of, part)


def parts_of(order: Sequence[int], examples: Sequence[Example]) -> list[list[int]]:
    """Split the texts, in this order, into parts for forward passes without gradients."""
    parts: list[list[int]] = []
    size = 0
    for i in order:
        if not parts or size + len(examples[i].ids) > EVALUATION_TOKENS:
            parts.append([])
            size = 0
        parts[-1].append(i)
        size += len(examples[i].ids)
    return parts


def measure(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Mean cross-entropy and scores of logits [n, classes] against labels [n]."""
    log_probabilities = _log_softmax(logits)
    loss = float(-log_probabilities[np.arange(len(labels)), labels].mean())
    ranked = ranking_scores(labels, np.exp(log_probabilities))
    return {"loss": loss, **scores(labels, logits.argmax(axis=1), logits.shape[1]), **ranked}


def measure_labels(logits: np.ndarray, has: np.ndarray, names: Sequence[str], thresholds: Sequence[float]) -> dict[str, Any]:
    """Mean binary cross-entropy and scores of logits [n, labels] against labels 0/1 [n, labels]."""
    probabilities = _sigmoid(logits)
    row = label_scores(has, probabilities >= np.array(thresholds)) | ranking_scores(has, probabilities)
    by_label = dict(zip(names, row.pop("f1").tolist(), strict=True))
    loss = float(np.logaddexp(0, np.where(has > 0, -logits, logits).astype(np.float64)).mean())
    return {"loss": loss, **row, "f1_by_label": by_label, "thresholds": list(thresholds)}


def measured(
    logits: np.ndarray, split: Split, names: Sequence[str], how: str, thresholds: Sequence[float] | None = None
) -> dict[str, Any]:
    """Loss and scores on a split; in a multi-label task with these thresholds, or else with those that are best on this split."""
    if split.labels.ndim == 1:
        return measure(logits, split.labels)
    thresholds = thresholds if thresholds is not None else thresholds_of(how, split.labels, _sigmoid(logits))
    return measure_labels(logits, split.labels, names, thresholds)


def probabilities(logits: np.ndarray, several: bool) -> np.ndarray:
    """Probabilities [n, classes] of logits, float64: of exclusive classes, or with `several` of labels, each for itself."""
    return _sigmoid(logits) if several else np.asarray(np.exp(_log_softmax(logits)))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700))))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def write_predictions(
    path: Path,
    logits: np.ndarray,
    labels: np.ndarray,
    thresholds: Sequence[float] | None = None,
    pieces: np.ndarray | None = None,
) -> Path:
    """Write the predicted classes, or in a multi-label task labels, of every example as parquet, with its length in pieces."""
    each = probabilities(logits, several=labels.ndim > 1)
    predicted = logits.argmax(axis=1) if labels.ndim == 1 else each >= np.array(thresholds)
    return predictions.write(path, labels, predicted, each, pieces)
