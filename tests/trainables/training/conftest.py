"""Two processes that are the ranks of a group, for all tests of this wing: they take seconds to start."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest


@pytest.fixture(scope="package")
def ranks() -> Iterator[list[ProcessPoolExecutor]]:
    """A process for each of two ranks, which all cases use one after the other."""
    context = multiprocessing.get_context("spawn")
    executors = [ProcessPoolExecutor(1, context) for _ in range(2)]
    yield executors
    for process in multiprocessing.active_children():  # after a failed test one may wait for the other for ever
        process.kill()
    for executor in executors:
        executor.shutdown()
