"""Gradient checkpointing (Chen et al. 2016): the backward pass recomputes the activations of every block.

Memory then holds the states between the blocks and the activations of one block. `layers.blocks_of` finds the blocks of any family.
Results do not change: a block is recomputed with its original dropout bits, layout and kind of attention, which are no longer
current during the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainables.encoder import attention
from trainables.encoder.dropout import recomputing, same_bits
from trainables.encoder.layers import blocks_of
from trainables.encoder.load import set_attention_type


def recompute_blocks(encoder: Any) -> None:
    """Keep only the inputs of an encoder's blocks for the backward pass."""
    for block in blocks_of(encoder, encoder.config.num_hidden_layers):
        block.forward = _recomputed(block.forward, encoder)


def _recomputed(forward: Callable[..., Any], encoder: nn.Module) -> Callable[..., Any]:
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, **kwargs, **recomputing(lambda: _contexts(encoder)))

    return recomputed


def _contexts(encoder: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """(context of the first computation, context of the second one, which restores the current state)."""
    kind = SimpleNamespace(attention_type=getattr(encoder, "attention_type", None))
    return nullcontext(), _as_before(encoder, attention.current(), same_bits(), kind)


@contextmanager
def _as_before(
    encoder: nn.Module, layout: attention.PackedLayout | None, bits: AbstractContextManager[None], kind: SimpleNamespace
) -> Iterator[None]:
    set_attention_type(encoder, kind)
    with attention.laid_out(layout), bits:
        yield
