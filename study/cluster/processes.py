"""Find, silence and end the processes of a local Ray cluster; handle Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
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
    """Redirect the output of this process and its children to a log file; yield the terminal, for messages to the user."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        with stream(os.dup(kept[0]), sys.stdout.encoding) as terminal:
            yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(log)


class Interrupts:
    """Handler of SIGINT and SIGTERM: the first raises KeyboardInterrupt in the main thread with a time limit, the second kills."""

    def __init__(self) -> None:
        self.requested_at: float | None = None
        self._limit: threading.Timer | None = None
        self._before: Mapping[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        if self._limit is not None:
            self._limit.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Install the handlers; to be repeated after Ray has started, which replaces that of SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested_at is not None:
            die()
        self.requested_at = time.monotonic()
        self._limit = threading.Timer(STOP_WITHIN_S, die)
        self._limit.daemon = True
        self._limit.start()
        raise KeyboardInterrupt


def die() -> None:
    """End this process and its local cluster at once. Finished results are safe in the store and the records."""
    session = os.environ.get(MARK)
    if session:
        kill_processes(session)
        shutil.rmtree(session, ignore_errors=True)
    os._exit(130)
