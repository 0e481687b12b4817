"""Memory of training: what a forward and backward pass holds, how much there is for it, and the errors of its end."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainables.batches.pack import Example
from trainables.tables.free_memory import GIB, available

log = logging.getLogger(__name__)
CPU_BYTES = GIB
"""What a pass may hold on a CPU: larger ones are not faster there. A constant, so that a seed has the same bits with any memory."""
LEAST_BYTES = GIB // 16
"""What a pass may hold however little memory there is: a smaller one would not save the process."""
USABLE = 0.8
"""Share of a GPU's free memory that passes may hold: the rest is for workspaces, fragments and what the estimate misses."""
FLOAT = 4
"""Bytes of a float32, in which most is kept; under autocast a part has half of it."""


@dataclass(frozen=True)
class Footprint:
    """Estimated bytes that a forward pass keeps for the backward pass."""

    token: int
    """Per token: states of the encoder's layers."""
    square: int = 0
    """Per squared length of a sequence: probabilities of attention."""
    target: int = 0
    """Per predicted piece: logits over the vocabulary."""
    reader: int = 0
    """Per token: states of a biLSTM on the encoder's output."""

    def of(self, example: Example) -> int:
        """Bytes for a text, or for its fractions if all pass at once; for cached features those of the head alone."""
        tokens = len(example.ids)
        if example.features is not None:
            return example.features.nbytes + tokens * self.reader
        targets = 0 if example.masked is None else len(example.masked[1])
        squares = sum(length**2 for length in example.lengths)
        return tokens * (self.token + self.reader) + squares * self.square + targets * self.target

    def tokens(self, size: float, longest: int) -> int:
        """Number of tokens in sequences of at most this length that `size` bytes hold."""
        return int(min(size, 2**60) // (self.token + self.reader + longest * self.square))


def footprint(model: nn.Module, packable: bool, device: torch.device, recomputes: bool = False) -> Footprint:
    """The footprint of a model with an encoder of transformers.

    Of a layer are kept: 10 H (its input, queries, keys, values, the attended states, and the masks of dropout and inputs of the
    norms after both parts) and 2 I (before and after the activation). One more layer stands for what the backward pass computes.
    Measured for MiniLM's shape in float32, the estimate is 0.83 to 1.08 of what a step adds to the memory of the process
    (benchmarks/step_memory.py); in bfloat16 it is 1.3 to 1.6. A last block that computes only what is read keeps almost a layer
    less (`last_block.py`), which is not subtracted.
    """
    encoder: Any = model.encoder
    config = encoder.config
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    layer = 10 * width + 2 * inner
    heads = getattr(config, "num_attention_heads", 0) * _kept_squares(packable, device)
    token, square = ((layers + 1) * layer, (layers + 1) * heads) if not recomputes else (layers * width + 2 * layer, 2 * heads)
    # Logits, their logarithm and both gradients.
    target = 4 * config.vocab_size if hasattr(model, "head") else 0
    # Gates, cells and states of both directions, their gradients, and the padded copies.
    reader = sum(20 * module.hidden_size for module in model.modules() if isinstance(module, nn.LSTM))
    return Footprint(FLOAT * token, FLOAT * square, FLOAT * target, FLOAT * reader)


def _kept_squares(packable: bool, device: torch.device) -> int:
    """Number of arrays [heads, length, length] that a layer keeps: three in transformers' own attention, none in a GPU's kernel."""
    if not packable:
        return 3
    return 0 if device.type == "cuda" else 1


def room(device: torch.device, parameters: list[nn.Parameter]) -> int:
    """Bytes that a pass may hold on a device, a power of two, so that small changes of the free memory change nothing.

    Gradients and moments of the `parameters`, which training adds, are taken off. On a CPU it is CPU_BYTES, and less, with a
    warning, only where the processes side by side would else run out of memory.
    """
    owed = 3 * FLOAT * sum(parameter.numel() for parameter in parameters)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return _power_of_two(USABLE * (free - owed))
    memory = available()
    if memory is None:
        return CPU_BYTES
    size = _power_of_two((memory[0] / _processes() - owed) / 2)
    if size < CPU_BYTES:
        log.warning(
            "%.1f GiB of memory are free: passes hold at most %d MiB instead of %d, which may change the rounding of results",
            memory[0] / GIB,
            size // 2**20,
            CPU_BYTES // 2**20,
        )
    return min(CPU_BYTES, size)


def _power_of_two(size: float) -> int:
    """The largest that is no more than `size`, at least LEAST_BYTES."""
    return 1 << (max(int(size), LEAST_BYTES).bit_length() - 1)


def _processes() -> int:
    """How many processes with as many threads as this one the CPUs take."""
    return max(1, len(os.sched_getaffinity(0)) // torch.get_num_threads())


SIGNS = re.compile(
    "out of memory|can(no|')t allocate memory|not enough memory|bad_alloc"
    "|alloc_failed|allocation_failed"  # of cuBLAS, cuDNN and their like for other cards
    r"|failed to cuda (host )?[cm]alloc"  # of NCCL
)
"""What errors say whose type does not tell that memory ran out. `CUDNN_STATUS_NOT_SUPPORTED` and `unable to find an engine` are not
among them: more often than of memory they speak of shapes and cards, which no smaller pass changes."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or bool(SIGNS.search(str(error).lower()))


@contextmanager
def explained(when: str) -> Iterator[None]:
    """Raise MemoryError in words if memory runs out within the block, where nothing can be repeated."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise MemoryError(f"memory ran out {when}; a smaller micro_batch leaves more of it: {error}") from error


def release() -> None:
    """Give what a failed attempt left in the cache of GPUs back to them."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
