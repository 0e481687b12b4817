"""Which arithmetic the matrix products use."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

from trainables.settings.execution import Precision


def resolve(precision: Precision, device: str = "auto") -> Precision:
    """`auto` as bfloat16 on a GPU that has it or a CPU measured to multiply it clearly faster, else as float32."""
    if precision != "auto":
        return precision
    if pick_device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if cpu_speedup() > 1.5 else "float32"


def pick_device(device: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here."""
    return torch.device("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")


@lru_cache(maxsize=1)  # all trials of a process must have the same precision
def cpu_speedup(size: int = 512, tries: int = 15) -> float:
    """How many times faster this CPU multiplies two `size` x `size` matrices in bfloat16 than in float32, measured once.

    Best of `tries` each, taken in turn: what else the machine does then slows neither down for good.
    """
    pairs = {dtype: torch.ones(size, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    for _ in range(tries):
        for dtype, matrix in pairs.items():
            start = time.perf_counter()
            matrix @ matrix
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]
