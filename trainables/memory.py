"""How the C library keeps memory: training frees and asks for the same large blocks in every step."""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""
KEPT = 2**31 - 1
"""Bytes of free memory that stay with the process: the most that mallopt takes."""


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
