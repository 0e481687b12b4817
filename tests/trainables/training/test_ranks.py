"""A test that fails in one rank leaves the next test none that waits. The ranks here need no torch, and start at once."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator

import pytest

from tests.trainables.ranks import Ranks


@pytest.fixture
def own() -> Iterator[Ranks]:
    """Processes of this test alone."""
    ranks = Ranks()
    yield ranks
    ranks.end()


def pids() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def answers(own: Ranks) -> list[int]:
    return [each.result(timeout=60) for each in own.ask(max, 5)]


def test_processes_are_replaced_after_a_failure(own: Ranks) -> None:
    others = pids()
    assert answers(own) == [5, 5]
    own.settle()
    first = pids() - others
    assert answers(own) == [5, 5]
    assert pids() - others == first, "they stay where all went well"
    with pytest.raises(ZeroDivisionError):  # of rank 0, which has no inverse
        own.ask(pow, -1)[0].result(timeout=60)
    own.settle()
    assert not pids() & first
    assert answers(own) == [5, 5]
    second = pids() - others
    own.ask(time.sleep)  # rank 1 is not done for a second
    own.settle()
    assert not pids() & second
    assert answers(own) == [5, 5]
