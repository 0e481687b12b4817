"""Energy used by NVIDIA GPUs, in joules, from the driver's counters.

A counter only increases, so the energy used is the difference of two readings. It covers the whole GPU, and is therefore read only
by a process that has the GPU to itself. Without a counter, or if it fails, the energy is None, never a guess; nothing here raises.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

Counter = Callable[[], float | None]
"""Function that returns the joules since some fixed moment; None without a counter."""


def silent() -> float | None:
    """Return None: the counter of a machine without energy counters."""
    return None


def used(before: float | None, after: float | None) -> float | None:
    """Return the joules between two readings; None if one is missing, or if the counter was reset in between."""
    return None if before is None or after is None or after < before else after - before


def added(*parts: float | None) -> float | None:
    """Return the sum in joules; None if any part is None."""
    return None if any(part is None for part in parts) else sum(part for part in parts if part is not None)


def gpu(uuid: str) -> Counter:
    """Return the counter of the GPU with this UUID, as CUDA reports it.

    A UUID does not depend on CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER. The counter is `silent` for a part of a GPU (MIG) and
    without NVIDIA's driver or its Python binding; GPUs before Volta have no counter, and every reading is None.
    """
    try:
        import pynvml
    except ModuleNotFoundError:  # a machine with PyTorch alone
        return silent

    has_parts = False
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        with suppress(pynvml.NVMLError):  # a GPU or a driver without MIG
            has_parts = pynvml.nvmlDeviceGetMigMode(handle)[0] != pynvml.NVML_DEVICE_MIG_DISABLE
    except pynvml.NVMLError:
        return silent

    def joules() -> float | None:
        with suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        return None

    return silent if has_parts else joules
