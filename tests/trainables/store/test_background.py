"""Tasks in a thread: one at a time, every failure raised once, none lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from trainables.store.background import Background, background


def fail() -> None:
    raise OSError("the disk is full")


def test_one_after_the_other_while_the_caller_goes_on() -> None:
    may_end, done = threading.Event(), list[int]()
    tasks = Background()

    def first() -> None:
        assert may_end.wait(10)
        done.append(1)

    tasks.start(first)
    assert done == []
    may_end.set()
    tasks.start(lambda: done.append(2))
    assert done[0] == 1
    tasks.wait()
    assert done == [1, 2]


@pytest.mark.parametrize("then", [Background.wait, lambda tasks: tasks.start(lambda: None)], ids=["wait", "next task"])
def test_a_failure_is_raised_at_the_next_wait_and_once(then: Callable[[Background], None]) -> None:
    tasks = Background()
    tasks.start(fail)
    with pytest.raises(OSError, match="the disk is full"):
        then(tasks)
    then(tasks)


def test_the_end_of_the_block_raises() -> None:
    with pytest.raises(OSError, match="the disk is full"), background() as tasks:
        tasks.start(fail)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_error_of_the_block_comes_first(error: type[BaseException]) -> None:
    def block() -> None:
        with background() as tasks:
            tasks.start(fail)
            raise error("of the block")

    with pytest.raises(error) as raised:
        block()
    assert raised.value.__notes__ == ["the last state was not saved: the disk is full"]


def test_a_closed_generator_waits_and_raises() -> None:
    done: list[int] = []

    def rows(task: Callable[[], None]) -> Iterator[int]:
        with background() as tasks:
            tasks.start(task)
            yield 1

    for row in (running := rows(lambda: done.append(1))):
        assert row == 1
        running.close()  # type: ignore[attr-defined]
    assert done == [1]
    with pytest.raises(OSError, match="the disk is full"), closing(rows(fail)) as failing:  # type: ignore[type-var]
        next(failing)
