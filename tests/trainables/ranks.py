"""A group of ranks for tests, over the loopback interface."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def group(place: str, rank: int, size: int, backend: str = "gloo", **more: Any) -> Iterator[None]:
    """Within the block, this process is a rank of the group that meets at a new file `place`; nothing happens for a single rank.

    It leaves the group also after a failure, else the next test would meet it there.
    """
    if size == 1:
        yield
        return
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(backend, init_method=f"file://{place}", rank=rank, world_size=size, **more)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
