"""Joules of NVIDIA GPUs, from the driver's counters.

A counter only adds up, so what was used is the difference of two readings. It is of the whole GPU: it is read by a process that has
the GPU to itself. Where nothing tells, or a counter fails, the answer is None and never a guess; nothing here raises.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

Counter = Callable[[], float | None]
"""Reads joules since some moment; None where nothing tells."""


def silent() -> float | None:
    """The counter of a machine that tells nothing."""
    return None


def used(before: float | None, after: float | None) -> float | None:
    """Joules between two readings; None where one is missing, or where the counter began anew in between."""
    return None if before is None or after is None or after < before else after - before


def added(*parts: float | None) -> float | None:
    """The sum, which is known only where all parts are."""
    return None if any(part is None for part in parts) else sum(part for part in parts if part is not None)


def gpu(uuid: str) -> Counter:
    """The counter of a GPU, by the UUID that CUDA gives for it: whatever CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER hold, CUDA has
    applied it already. Silent for a part of a GPU (MIG), without NVIDIA's driver or its Python binding, and for GPUs before Volta,
    which do not count.
    """
    try:
        import pynvml
    except ModuleNotFoundError:  # a machine with PyTorch alone
        return silent

    parts = False
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        with suppress(pynvml.NVMLError):  # a GPU that cannot be parted, or a driver from before there were parts
            parts = pynvml.nvmlDeviceGetMigMode(handle)[0] != pynvml.NVML_DEVICE_MIG_DISABLE
    except pynvml.NVMLError:
        return silent

    def joules() -> float | None:
        with suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        return None

    return silent if parts else joules
