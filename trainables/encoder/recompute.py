"""Gradient checkpointing (Chen et al. 2016): what a block keeps for the backward pass is computed once more there.

Memory then holds the states between the blocks and the inside of one block. The blocks are those that `optim.blocks_of` finds, of
any family. Nothing in a result changes: a block is computed again with the bits of dropout, the layout and the kind of attention
that it had, all of which are gone by the time of the backward pass.
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
from trainables.encoder.dropout import same_bits
from trainables.encoder.layers import blocks_of
from trainables.encoder.load import set_attention_type


def recompute_blocks(encoder: Any) -> None:
    """Keep of each block of an encoder its input alone."""
    for block in blocks_of(encoder, encoder.config.num_hidden_layers):
        block.forward = _recomputed(block.forward, encoder)


def _recomputed(forward: Callable[..., Any], encoder: nn.Module) -> Callable[..., Any]:
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": lambda: _contexts(encoder)}
        return checkpoint(forward, *args, **kwargs, **options)

    return recomputed


def _contexts(encoder: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """(of the first computation, of the second one, which finds everything as it is now)."""
    kind = SimpleNamespace(attention_type=getattr(encoder, "attention_type", None))
    return nullcontext(), _as_before(encoder, attention.current(), same_bits(), kind)


@contextmanager
def _as_before(
    encoder: nn.Module, layout: attention.PackedLayout | None, bits: AbstractContextManager[None], kind: SimpleNamespace
) -> Iterator[None]:
    set_attention_type(encoder, kind)
    with attention.laid_out(layout), bits:
        yield
