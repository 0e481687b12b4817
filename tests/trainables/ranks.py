"""A group of ranks for tests, over the loopback interface, and processes that are its ranks."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
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


class Ranks:
    """A process for each rank. They take seconds to start, so that all tests use the same ones, until a test fails."""

    def __init__(self) -> None:
        self._executors: list[ProcessPoolExecutor] = []
        self._asked: list[Future[Any]] = []

    def ask(self, function: Callable[..., Any], *arguments: Any, size: int = 2) -> list[Future[Any]]:
        """Call function(rank, *arguments) in so many processes at once."""
        context = multiprocessing.get_context("spawn")
        self._executors += [ProcessPoolExecutor(1, context) for _ in range(size - len(self._executors))]
        asked = [each.submit(function, rank, *arguments) for rank, each in enumerate(self._executors[:size])]
        self._asked += asked
        return asked

    def settle(self) -> None:
        """After a test: end the processes if one has failed or is not done, in which case it may wait for another for ever."""
        if not all(each.done() and each.exception() is None for each in self._asked):
            self.end()
        self._asked = []

    def end(self) -> None:
        """End all processes; the next test gets new ones."""
        for executor in self._executors:
            for process in list((executor._processes or {}).values()):
                process.kill()
            executor.shutdown()
        self._executors = []
