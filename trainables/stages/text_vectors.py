"""Vectors of texts from an encoder without training: the mean over a text's pieces of the last layer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, nn

from trainables.batches.pack import Batch, Example
from trainables.batches.tokenise import pieces
from trainables.batches.truncate import truncate
from trainables.data.similarity import Rows
from trainables.encoder.load import Base, fresh_encoder, hidden_states
from trainables.heads.classifier import mean_over_texts
from trainables.scores.evaluate import predict
from trainables.store.store import Store
from trainables.training.runtime import Runtime
from trainables.training.world import World

LONGEST = 512
"""Longest sequence, in pieces, special tokens included, unless the encoder has fewer positions; longer texts lose their end."""
BLOCK = 4096
"""Number of texts in memory at a time."""
FORMAT = 1


class MeanVector(nn.Module):
    """Unit vectors of texts, [b, H]: the normalised mean over the last hidden states, special tokens included."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch) -> Tensor:
        return nn.functional.normalize(mean_over_texts(hidden_states(self.encoder, batch), batch.lengths))


def embedded(texts: Sequence[str], digest: str, base: Base, encoder: str, store: Store, device: torch.device) -> Rows:
    """Vectors of texts, float32 [texts, H], in a memory-mapped file, computed once per (texts, encoder) on this machine.

    `digest` is the digest of the texts, `encoder` that of the encoder. They are computed in float32 by this process alone.
    """
    key = hashlib.sha256(json.dumps([FORMAT, digest, encoder]).encode()).hexdigest()[:32]
    path = store.local_cache("embeddings") / f"{key}.npy"
    if (cached := _mapped(path, len(texts))) is not None:
        return cached
    part = store.local_cache("writing") / f"{uuid4().hex}.npy"
    try:
        _write(part, texts, digest, base, store, device)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _mapped(path: Path, count: int) -> Rows | None:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # missing, or incomplete after a crash of the machine
    return rows if len(rows) == count else None


def _write(path: Path, texts: Sequence[str], digest: str, base: Base, store: Store, device: torch.device) -> None:
    ids = pieces(texts, base.tokenizer, store.local_cache("tokens"), digest)
    budget = min(LONGEST, base.longest or LONGEST) - base.special.count
    model = MeanVector(fresh_encoder(base, 0.0)).to(device).eval()
    runtime = Runtime(device, World())
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(texts), base.hidden_size))
    for start in range(0, len(texts), BLOCK):
        block = range(start, min(start + BLOCK, len(texts)))
        examples = [Example(base.special.wrap(truncate(ids[i], budget, "head"))) for i in block]
        rows[start : block.stop] = predict(model, base, examples, runtime)
    rows.flush()
