"""How the C library keeps memory, and when Python looks for what it can free.

Training frees and asks for the same large blocks in every step; what large libraries make when they are imported stays.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
from collections.abc import Iterator
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""
KEPT = 2**31 - 1
"""Bytes of free memory that stay with the process: the most that mallopt takes."""


@cache  # set once a process
def keep_freed() -> bool:
    """Let freed blocks stay with the process instead of going back to the system; whether this C library can.

    glibc maps every large block anew and the system clears it page by page: 12 % of the time of a step on short texts.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, KEPT))


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """For imports of large libraries: within the block, and at the end of the process, Python looks for no cycles of objects.

    Measured for torch and transformers: 2.5 s instead of 3.2 s for the imports, 0.2 s instead of 1.1 s for the end.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # what is there then goes with the process
    searches = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searches:
            gc.enable()
