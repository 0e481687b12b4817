"""Free memory of this process, and whether a file fits into it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from trainables.settings.errors import ConfigError

GIB = 2**30


def available() -> tuple[int, int] | None:
    """(free, total) bytes of memory for this process, by the limits of system and container; None if unknown."""
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
    """Raise ConfigError if a decompressed file of `size` bytes does not fit into memory."""
    if (memory := available()) is not None and size > memory[0]:
        there = f"{size / GIB:,.1f} GiB, but {memory[0] / GIB:,.1f} GiB of memory are free"
        raise ConfigError([f"unpacked it is at least {there}: is it damaged? Else keep only the columns and rows that are needed"])
