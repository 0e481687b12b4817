"""Send a run to one tracker while it is running: `python -m analysis.trackers.follow`, a process that the driver of a study starts.

It is a process of its own, so that a tracker's library can neither stop nor slow the study, whatever it does. The first line of
stdin is JSON with run folder, tracker and address. The end of stdin is the end of the study, or of its driver: the rest is then
sent. A line on stdout describes a failure; only the first one is written.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from analysis.trackers.ledger import alone
from analysis.trackers.send import opened, reason
from analysis.trackers.tracked import TrackedStudy, read

EVERY_S, AT_MOST_S = 10.0, 600.0
"""Least and largest pause between two sendings; it doubles while they fail."""
SHARE = 10
"""A pause is at least so many times as long as the sending before."""
LAST_S = 120
"""Time for the last sending after the end of the study; then this process ends."""


def main(orders: TextIO = sys.stdin) -> int:
    """Follow the run that the first line names until stdin ends. Returns 0, or 1 if the last sending failed."""
    order = json.loads(orders.readline())
    os.nice(10)  # the trials come first
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(orders, ended), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log of the study
    return follow(Path(order["run"]), order["tracker"], order["at"], ended, lambda text: print(text, file=answers, flush=True))


def follow(folder: Path, tracker: str, at: str | None, ended: threading.Event, tell: Callable[[str], None]) -> int:
    """Send the run until `ended` is set, and then once more; `tell` gets the first failure.

    Returns 0, or 1 if the last sending failed. Raises Busy if another process keeps sending the run.
    """
    told, pause, seen, failed = False, EVERY_S, -1, False
    with alone(folder, tracker, LAST_S), ExitStack() as stack:
        send: Callable[[TrackedStudy], int] | None = None
        while True:
            last = ended.wait(pause)
            began, size = time.monotonic(), _size(folder)
            if size != seen or failed or last:
                try:
                    if send is None:
                        send = stack.enter_context(opened(tracker, at, folder))
                    send(read(folder))
                    seen, failed = size, False
                except Exception as error:
                    failed = True
                    if not told:
                        tell(reason(error))
                        told = True
            if last:
                return int(failed)
            pause = min(AT_MOST_S, 2 * pause if failed else max(EVERY_S, SHARE * (time.monotonic() - began)))


def _wait_for_end(orders: TextIO, ended: threading.Event) -> None:
    while orders.readline():
        pass
    ended.set()
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, LAST_S)  # SIGALRM ends the process


def _size(folder: Path) -> int:
    try:
        return (folder / "records.jsonl").stat().st_size
    except OSError:
        return -1


if __name__ == "__main__":
    sys.exit(main())
