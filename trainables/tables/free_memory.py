"""How much memory is free here, and whether a file fits into it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from trainables.settings.errors import ConfigError

GIB = 2**30


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
