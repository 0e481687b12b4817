"""Compute of the last block only the tokens that are read: the first of each text for most classifiers, or the predicted pieces.

A block mixes tokens in its attention alone. So its keys and values are needed of all tokens, but queries, output projection, feed
forward and norms only of those whose output is read: the same numbers, with up to a sixth less work in an encoder of six layers.

No family is treated by name. The block first runs on all tokens up to its attention, which hands over its keys and values. Then it
runs on the chosen tokens alone, and their queries meet these keys and values. `packing_probe.py` tests the result of an encoder
before this is used. Dropout takes the bits that the chosen tokens would have had among all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from trainables.encoder import attention, dropout
from trainables.encoder.layers import blocks_of


def narrow_last_block(encoder: Any) -> nn.Module | None:
    """Let the last block compute only the `rows` of a layout that has some. Returns the block; None if other layers share it."""
    blocks = blocks_of(encoder, encoder.config.num_hidden_layers)
    if len(blocks) != encoder.config.num_hidden_layers:
        return None
    blocks[-1].forward = _narrowed(blocks[-1].forward)
    return blocks[-1]


def widen(block: nn.Module) -> None:
    """Undo `narrow_last_block`."""
    del block.forward


def _narrowed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def narrowed(*args: Any, **kwargs: Any) -> Any:
        layout, stream = attention.current(), dropout.current()
        if layout is None or layout.rows is None:
            return forward(*args, **kwargs)
        site = -1 if stream is None else stream.site
        known = attention.keys_and_values(layout, lambda: forward(*args, **kwargs))
        if stream is not None:
            stream.site = site
        some_args, some_kwargs = _chosen((args, kwargs), sum(layout.lengths), layout.rows)
        with attention.asked_by_rows(layout, known):
            return forward(*some_args, **some_kwargs)

    return narrowed


def _chosen(given: Any, tokens: int, rows: Tensor) -> Any:
    """Arguments of a block [.., tokens, ..] on `rows` alone: hidden states, and what belongs to them, such as rotations."""
    if isinstance(given, Tensor):
        return given.index_select(1, rows) if given.ndim > 1 and given.shape[1] == tokens else given
    if isinstance(given, dict):
        return {name: _chosen(value, tokens, rows) for name, value in given.items()}
    if type(given) in (tuple, list):
        return type(given)(_chosen(value, tokens, rows) for value in given)
    return given
