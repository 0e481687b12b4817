"""Joules, from what the machine tells: the driver's counter of an NVIDIA GPU, Linux's counters of the CPU packages.

A counter only adds up, so what was used is the difference of two readings. A GPU's counter is of the whole GPU: it is read by a
process that has the GPU to itself. The CPU's counters are of the whole machine, whatever runs on it, and often root's alone to
read.
Where nothing tells, or a counter fails, the answer is None and never a guess; nothing here raises. Standard library only.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

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


# GPUs -----------------------------------------------------------------------------------------------------------------------------


def gpu(uuid: str, library: Any = None) -> Counter:
    """The counter of a GPU, by the UUID that CUDA gives for it: whatever CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER hold, CUDA has
    applied it already. Silent for a part of a GPU (MIG), without NVIDIA's driver, and for GPUs before Volta, which do not count.

    `library` is NVML; by default the driver's.
    """
    nvml = library if library is not None else _nvml()
    handle = ctypes.c_void_p()
    name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
    if nvml is None or not _answers(nvml, "nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(handle)):
        return silent
    now, pending = ctypes.c_uint(), ctypes.c_uint()
    if _answers(nvml, "nvmlDeviceGetMigMode", handle, ctypes.byref(now), ctypes.byref(pending)) and now.value:
        return silent

    def joules() -> float | None:
        millijoules = ctypes.c_ulonglong()
        told = _answers(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(millijoules))
        return millijoules.value / 1000 if told else None

    return joules


@lru_cache(maxsize=1)  # made ready once a process
def _nvml() -> Any:
    """NVML of the driver, ready; None without one."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if _answers(library, "nvmlInit_v2") else None


def _answers(nvml: Any, function: str, *arguments: Any) -> bool:
    """Call NVML; whether it succeeded. A driver may be too old for a function."""
    call = getattr(nvml, function, None)
    return call is not None and call(*arguments) == 0


# CPUs -----------------------------------------------------------------------------------------------------------------------------

POWERCAP = Path("/sys/class/powercap")
MOST_WATTS = 1000
"""More than any CPU package takes: within the time in which that much would fill a counter, it has begun anew at most once."""
EVERY_S = 20.0
"""Between two readings: the smallest counters, of 65 kJ, last 65 s at that power."""


class Packages:
    """Joules of all CPU packages of this machine since this object was made."""

    def __init__(self, folder: Path = POWERCAP, clock: Callable[[], float] = time.monotonic) -> None:
        """`folder` is Linux's tree of counters: microjoules in `intel-rapl:N/energy_uj`, of AMD's CPUs too, which begin anew after
        `max_energy_range_uj`."""
        self._clock, self._lock, self._joules = clock, threading.Lock(), 0.0
        self._ranges = {zone: _number(zone / "max_energy_range_uj") for zone in _packages(folder)}
        self._at, self._last = clock(), self._readings()

    def joules(self) -> float | None:
        """So far; None from the first reading on that failed, or that came too late to know how often a counter began anew."""
        with self._lock:
            now, readings = self._clock(), self._readings()
            if self._last is None or readings is None:
                self._last = None
                return None
            for zone, reading in readings.items():
                whole, step = self._ranges[zone], reading - self._last[zone]
                if whole is None or (now - self._at) * MOST_WATTS * 1e6 > whole:
                    self._last = None
                    return None
                self._joules += (step if step >= 0 else step + whole) / 1e6
            self._at, self._last = now, readings
            return self._joules

    def _readings(self) -> dict[Path, int] | None:
        found = {zone: _number(zone / "energy_uj") for zone in self._ranges}
        known = {zone: reading for zone, reading in found.items() if reading is not None}
        return known if found and len(known) == len(found) else None


@contextmanager
def packages(folder: Path = POWERCAP, every_s: float = EVERY_S) -> Iterator[Packages]:
    """The CPU packages, read often enough in a thread of its own that no counter begins anew unseen."""
    found, over = Packages(folder), threading.Event()

    def watch() -> None:
        while found.joules() is not None and not over.wait(every_s):
            pass

    thread = threading.Thread(target=watch, daemon=True, name="energy")
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _packages(folder: Path) -> list[Path]:
    """Counters of whole packages: not of their parts (intel-rapl:0:1), nor of the platform, which holds the packages once more."""
    with suppress(OSError):
        zones = [zone for zone in folder.iterdir() if re.fullmatch(r"intel-rapl:\d+", zone.name)]
        return sorted(zone for zone in zones if _text(zone / "name").startswith("package"))
    return []


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
