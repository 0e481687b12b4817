"""Write to a store in a thread while training goes on: one task at a time, and no failure is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

THREAD = "background write"
"""Prefix of the threads' names."""


class Background:
    """At most one running task."""

    def __init__(self) -> None:
        self._running: Future[None] | None = None

    def start(self, task: Callable[[], None]) -> None:
        """Run a task in a thread, which ends with it. Waits for the task before it, and raises what that raised."""
        self.wait()
        worker = ThreadPoolExecutor(1, thread_name_prefix=THREAD)
        self._running = worker.submit(task)
        worker.shutdown(wait=False)

    def wait(self) -> None:
        """Wait until the last task has ended. Raises what it raised."""
        if self._running is not None:
            running = self._running
            running.exception()  # an interrupt while waiting leaves the task to the next wait
            self._running = None
            running.result()


@contextmanager
def background() -> Iterator[Background]:
    """Leaving the block waits for the last task and raises its failure; where the block fails itself, that becomes a note."""
    tasks = Background()
    try:
        yield tasks
    except GeneratorExit:
        tasks.wait()
        raise
    except BaseException as error:
        try:
            tasks.wait()
        except Exception as failure:
            error.add_note(f"the last state was not saved: {failure}")
        raise
    else:
        tasks.wait()
