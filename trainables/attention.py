"""Attention within each text of a packed row, registered with transformers as an attention of its own.

transformers' models run unmodified: they hand queries, keys and values [1, heads, T, d] of the packed row to `packed_attention`, which
knows from the current layout where the texts begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from trainables import dropout as bits

NAME = "packed_texts"


class Layout:
    """Where the texts of a packed row lie, while the encoder runs over it."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)
        self.calls = 0


_layout: Layout | None = None


@contextmanager
def packed(lengths: Sequence[int]) -> Iterator[Layout]:
    """Attention inside stays within texts of these lengths."""
    global _layout
    before, _layout = _layout, Layout(lengths)
    try:
        yield _layout
    finally:
        _layout = before


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of [1, heads, T, d] within the texts of the current layout; answers [1, T, heads, d] as transformers wants it."""
    assert _layout is not None, "packed attention outside `packed`"
    _layout.calls += 1
    if attention_mask is not None:
        raise ValueError("packed attention takes no mask")
    if key.shape[1] != query.shape[1]:  # grouped queries
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    stream = bits.current() if dropout else None
    if stream is not None:
        stream.site += 1
        draws = stream.batch.offsets.squares * query.shape[1]
    outputs, start = [], 0
    for length in _layout.lengths:
        q, k, v = (x[0, :, start : start + length] for x in (query, key, value))
        scores = q @ k.transpose(1, 2) * scaling
        if sliding_window is not None and length > sliding_window:
            place = torch.arange(length, device=q.device)
            scores = scores.masked_fill((place[:, None] - place[None]).abs() >= sliding_window, float("-inf"))
        probabilities = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
        if stream is not None:
            probabilities = probabilities * stream.keep(probabilities.shape, dropout, bits.ATTENTION + draws) * bits.scale(dropout)
            draws += bits.square_draws(length) * query.shape[1]
        outputs.append((probabilities @ v).transpose(0, 1))
        start += length
    return torch.cat(outputs)[None], None


def no_mask(**kwargs: Any) -> None:
    """The layout says all that a mask would."""


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, no_mask)
