"""Memory of training: the footprint of a model, how much room there is for a pass, and the errors of memory that ran out."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainables.tables.free_memory import GIB, available
from trainables.training.footprint import CPU_BYTES, OWED, Footprint, footprint_of, granted, kept_squares, room_on_cpu, room_on_gpu

log = logging.getLogger(__name__)


def footprint(model: nn.Module, packable: bool, device: torch.device, recomputes: bool = False) -> Footprint:
    """The footprint of a model with an encoder of transformers (`footprint_of`)."""
    encoder: Any = model.encoder
    return footprint_of(
        encoder.config,
        squares=kept_squares(packable, device.type == "cuda"),
        recomputes=recomputes,
        predicts=hasattr(model, "head"),
        units=sum(module.hidden_size for module in model.modules() if isinstance(module, nn.LSTM)),
    )


def bound(device: torch.device, share: float) -> None:
    """Bound the tensors of this process to a share of its GPU's memory: what does not fit raises torch.OutOfMemoryError."""
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction(max(0.0, granted(total, share) / total) if share < 1 else 1.0)


def room(device: torch.device, parameters: list[nn.Parameter], share: float = 1.0) -> int:
    """Bytes that a pass may hold on a device, a power of two, so that small changes of the free memory change nothing.

    Gradients and moments of the `parameters`, which training adds, are taken off. Of a GPU the process has a `share`, also
    if others do not use theirs yet. On a CPU it is CPU_BYTES, and less, with a warning, only where the processes side by side would
    else run out of memory.
    """
    owed = OWED * sum(parameter.numel() for parameter in parameters)
    if device.type == "cuda":
        (unused, total), taken = torch.cuda.mem_get_info(device), torch.cuda.memory_allocated(device)
        free = unused + torch.cuda.memory_reserved(device) - taken
        return room_on_gpu(min(free, granted(total, share) - taken) if share < 1 else free, owed)
    memory = available()
    if memory is None:
        return CPU_BYTES
    size = room_on_cpu(memory[0] / _processes(), owed)
    if size < CPU_BYTES:
        log.warning(
            "%.1f GiB of memory are free: passes hold at most %d MiB instead of %d, which may change the rounding of results",
            memory[0] / GIB,
            size // 2**20,
            CPU_BYTES // 2**20,
        )
    return size


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
