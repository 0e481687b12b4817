"""Predictions of a classifier on a split, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from trainables.encoder import Base
from trainables.loop import Runtime
from trainables.metrics import scores
from trainables.pack import Example, collate

EVALUATION_TOKENS = 8192
"""Pieces per forward pass: without gradients a pass may be larger than in training."""


def predict(model: nn.Module, base: Base, examples: Sequence[Example], runtime: Runtime) -> np.ndarray:
    """Logits of every example, float32 [len(examples), classes], the same on every rank. Long texts go first."""
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].ids), i))
    _, mine = runtime.world.share(order)
    found: list[tuple[int, np.ndarray]] = []
    with torch.inference_mode(), torch.autocast(runtime.device.type, dtype=torch.bfloat16, enabled=runtime.autocast):
        for part in _parts(mine, examples):
            logits = model(collate([examples[i] for i in part], base).to(runtime.device)).float().cpu().numpy()
            found += zip(part, logits, strict=True)
    everyone = [pair for rank in runtime.world.gather(found) for pair in rank]
    return np.stack([logits for _, logits in sorted(everyone, key=lambda pair: pair[0])])


def _parts(order: Sequence[int], examples: Sequence[Example]) -> list[list[int]]:
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
    return {"loss": loss, **scores(labels, logits.argmax(axis=1), logits.shape[1])}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def write_predictions(path: Path, logits: np.ndarray, labels: np.ndarray) -> Path:
    """One row per example as parquet: index, label, prediction, probabilities [classes]."""
    table = pa.table(
        {
            "index": np.arange(len(labels)),
            "label": labels,
            "prediction": logits.argmax(axis=1),
            "probabilities": list(np.exp(_log_softmax(logits)).astype(np.float32)),
        }
    )
    pq.write_table(table, path)
    return path
