"""How the C library keeps memory, which training frees and asks for in the same large blocks; how much there is for a file."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from pathlib import Path

from trainables.faults import ConfigError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""
KEPT = 2**31 - 1
"""Bytes of free memory that stay with the process: the most that mallopt takes."""

GIB = 2**30


@cache
def keep_freed() -> bool:
    """Let freed blocks stay with the process instead of going back to the system; whether this C library can.

    glibc maps every large block anew and the system clears it page by page: 12 % of the time of a step on short texts.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, KEPT))


def available() -> tuple[int, int] | None:
    """(free, all) bytes of memory for this process, by the system and its container; None where nobody tells."""
    fields = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, value = line.split(":")
            fields[name] = int(value.split()[0]) * 1024
        free, total = fields["MemAvailable"], fields["MemTotal"]
    except (OSError, ValueError, LookupError):
        return None
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, free = min(total, limit), min(free, limit - used)
    return free, total


def check_fits(size: int) -> None:
    """Raises ConfigError for a file that is so many bytes large when it is unpacked, which memory does not hold."""
    if (found := available()) is not None and size > found[0]:
        there = f"{size / GIB:,.1f} GiB, but {found[0] / GIB:,.1f} GiB of memory are free"
        raise ConfigError([f"unpacked it is at least {there}: is it damaged? Else keep only the columns and rows that are needed"])
