"""Attention text by text, as the textbook has it: what a kernel is compared with.

Shapes: T tokens of all texts, h heads of d channels, l tokens of one text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def visible(length: int, window: int | None) -> Tensor:
    """bool [l, l]: which position (column) is seen by which (row): all, or those less than `window` away."""
    place = torch.arange(length)
    return (place[:, None] - place).abs() < (length if window is None else window)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    scaling: float,
    window: int | None = None,
    kept: Sequence[Tensor] | None = None,
    factor: float = 1.0,
) -> Tensor:
    """[T, h, d] from three of [T, h, d]. `kept` [h, l, l] of each text: probabilities that are not dropped, times `factor`."""
    out = []
    for text, (a, b, c) in enumerate(zip(*(x.split(list(lengths)) for x in (q, k, v)), strict=True)):
        scores = torch.einsum("ihd,jhd->hij", a, b) * scaling
        probabilities = scores.masked_fill(~visible(len(a), window), float("-inf")).softmax(-1)
        if kept is not None:
            probabilities = probabilities * kept[text] * factor
        out.append(torch.einsum("hij,jhd->ihd", probabilities, c))
    return torch.cat(out)
