"""Find, silence and end the processes of a local Ray cluster; handle Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from analysis.text.terminal import stream

MARK = "FINETUNE_STUDY_SESSION"
"""Environment variable of every process of a local cluster, by which all of them and no others are ended."""
STOP_WITHIN_S = 8.0
"""Seconds after an interrupt until processes that still run are killed."""


def processes(session: str) -> list[int]:
    """Return the ids of the processes, except this one, of the local cluster whose folder is `session`.

    They inherit the variable MARK; processes that overwrite their environment with a title have a log in the folder open.
    """
    sign = f"{MARK}={session}".encode()
    others = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
    return [pid for pid in others if _belongs(pid, sign, session)]


def _belongs(pid: int, sign: bytes, session: str) -> bool:
    with contextlib.suppress(OSError):
        if sign in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return True
        return any(os.readlink(entry.path).startswith(session + "/") for entry in os.scandir(f"/proc/{pid}/fd"))
    return False


def kill_processes(session: str) -> None:
    """Kill the remaining processes of a local cluster."""
    for _ in range(5):
        left = processes(session)
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.05)


@contextlib.contextmanager
def quiet(log_path: Path) -> Iterator[TextIO]:
    """Redirect the output of this process and its children to a log file; yield the terminal, for messages to the user.

    If `sys.stdout` does not write to the terminal, as in a notebook, the messages go to that stream.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    replaced = _descriptor(sys.stdout) != 1, _descriptor(sys.stderr) != 2
    try:
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        with contextlib.ExitStack() as stack:
            terminal = sys.stdout if replaced[0] else stack.enter_context(stream(os.dup(kept[0]), sys.stdout.encoding))
            if replaced[0]:
                stack.callback(_standard(1).flush)
                stack.enter_context(contextlib.redirect_stdout(_standard(1)))
            if replaced[1]:
                stack.callback(_standard(2).flush)
                stack.enter_context(contextlib.redirect_stderr(_standard(2)))
            yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(log)


@contextlib.contextmanager
def levels_kept() -> Iterator[None]:
    """After the block the loggers that there were before have the same levels as before."""
    loggers = [
        logging.getLogger(),
        *(each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger)),
    ]
    before = [(logger, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


def _descriptor(out: Any) -> int | None:
    """The descriptor that a stream writes to; None for a stream without one."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return int(out.fileno())
    return None


@cache  # the loggers of libraries keep the stream that they found when they were imported
def _standard(descriptor: int) -> TextIO:
    """A stream to a standard descriptor of this process, wherever that leads."""
    return stream(descriptor, own=False)


class Interrupts:
    """Handler of SIGINT and SIGTERM: the first raises KeyboardInterrupt in the main thread.

    If that has not ended the study after STOP_WITHIN_S, and at a second signal, `end` is called: it ends this process, or only the
    local cluster if the process is to go on. With `session_hours` this process sends itself a SIGTERM so many hours after
    `began`, a time of `time.monotonic`.
    """

    def __init__(self, end: Callable[[], None], session_hours: float | None = None, began: float | None = None) -> None:
        self.requested_at: float | None = None
        self.reason = "interrupted"
        """Argument of the KeyboardInterrupt."""
        self._end = end
        self._limit: threading.Timer | None = None
        self._session: threading.Timer | None = None
        if session_hours is not None:
            spent = 0.0 if began is None else time.monotonic() - began
            self._session = threading.Timer(max(0.0, 3600 * session_hours - spent), self._session_over, [session_hours])
            self._session.daemon = True
        self._before: Mapping[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        if self._session is not None:
            self._session.start()
        return self

    def __exit__(self, *_: object) -> None:
        for timer in (self._limit, self._session):
            if timer is not None:
                timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers; to be repeated after Ray has started, which replaces that of SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested_at is not None:
            self._end()
            return
        self.requested_at = time.monotonic()
        if self._session is not None:
            self._session.cancel()  # its signal would count as a second one
        self._limit = threading.Timer(STOP_WITHIN_S, self._end)
        self._limit.daemon = True
        self._limit.start()
        raise KeyboardInterrupt(self.reason)

    def _session_over(self, hours: float) -> None:
        self.reason = f"session_hours ({hours:g}) are over"
        print(self.reason, flush=True)  # to the log
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def end_cluster() -> None:
    """End the local cluster of this process at once, so that nothing waits for its trials any more."""
    if session := os.environ.get(MARK):
        kill_processes(session)


def die() -> None:
    """End this process and its local cluster at once. Finished results are safe in the store and the records."""
    session = os.environ.get(MARK)
    if session:
        kill_processes(session)
        shutil.rmtree(session, ignore_errors=True)
    os._exit(130)
