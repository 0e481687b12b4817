"""Choose the device and the precision of matrix products."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

from trainables.settings.errors import ConfigError
from trainables.settings.execution import Precision
from trainables.training.gpus import has_tf32

TENSOR_CORES = (7, 0)
"""Compute capability of the first GPUs that multiply float16 matrices faster than float32."""


def resolve(precision: Precision, device: str = "auto") -> Precision:
    """Resolve `auto`: bfloat16 on a GPU that supports it or on a CPU that is measurably faster with it, else float32.

    float16 on a GPU that has tensor cores, but none for bfloat16: Volta and Turing, compute capability 7. Raises ConfigError for
    tf32 on a device that lacks it, which would compute something else under its name.
    """
    on_gpu = pick_device(device).type == "cuda"
    if precision == "tf32" and not (on_gpu and has_tf32()):
        where = f"this machine's {torch.cuda.get_device_name()}" if on_gpu else "a CPU"
        raise ConfigError([f"precision: tf32 given, but {where} does not have it, only NVIDIA's GPUs from Ampere on; use float32"])
    if precision != "auto":
        return precision
    if on_gpu:
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16"
        return "float16" if torch.cuda.get_device_capability() >= TENSOR_CORES else "float32"
    return "bfloat16" if cpu_speedup() > 1.5 else "float32"


def pick_device(device: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda` on this machine."""
    return torch.device("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")


@lru_cache(maxsize=1)  # all trials of a process must have the same precision
def cpu_speedup(size: int = 512, tries: int = 15) -> float:
    """Speedup of this CPU for products of `size` x `size` matrices in bfloat16 over float32, measured once.

    The best of `tries` counts, in alternation, so that other load on the machine does not favour one of them.
    """
    pairs = {dtype: torch.ones(size, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    for _ in range(tries):
        for dtype, matrix in pairs.items():
            start = time.perf_counter()
            matrix @ matrix
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]
