"""Send a study to trackers while it runs: one process for each tracker, which reads the records.

Nothing in a trial or in the driver waits for a tracker. A failure is noted once; `study track` sends the rest later.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from study.cluster.processes import MARK
from study.run.scribe import Scribe

PATIENCE_S = 20.0
"""Time for which the end of a study waits until trackers have everything."""


@dataclass
class Follower:
    """A process that sends the run to one tracker, and the thread that reads its failures."""

    tracker: str
    process: subprocess.Popen[str]
    reader: threading.Thread
    failed: threading.Event

    def end(self) -> None:
        """Tell it that the study has ended: it sends the rest and ends by itself."""
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()


@contextmanager
def beside(track: Mapping[str, str | None], run_dir: Path, scribe: Scribe) -> Iterator[None]:
    """Send the run to these trackers during the block. After its regular end, wait a little for those without a failure."""
    followers = [follower for name, at in track.items() if (follower := _started(name, at, run_dir, scribe))]
    try:
        yield
    except BaseException:
        for follower in followers:
            follower.end()
        raise
    for follower in followers:
        follower.end()
    deadline = time.monotonic() + PATIENCE_S
    for follower in followers:
        while follower.process.poll() is None and not follower.failed.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
        if follower.process.poll() is None and not follower.failed.is_set():
            scribe.screen.say(f"{follower.tracker} has not got everything yet; {_later(follower.tracker, run_dir)}")
        follower.reader.join(0.5)


def _started(name: str, at: str | None, run_dir: Path, scribe: Scribe) -> Follower | None:
    """Start the process; without one (memory, limits) the failure is noted."""
    environment = {key: value for key, value in os.environ.items() if key != MARK}  # it may outlive this session's Ray
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "analysis.trackers.follow"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the driver
        )
        assert process.stdin is not None
        print(json.dumps({"run": str(run_dir.absolute()), "tracker": name, "at": at}), file=process.stdin, flush=True)
    except OSError as error:
        _note(scribe, name, run_dir, str(error))
        return None
    failed = threading.Event()
    reader = threading.Thread(target=_read, args=(process, name, run_dir, scribe, failed), daemon=True)
    reader.start()
    return Follower(name, process, reader, failed)


def _read(process: subprocess.Popen[str], name: str, run_dir: Path, scribe: Scribe, failed: threading.Event) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        failed.set()
        _note(scribe, name, run_dir, line.strip())
    if process.wait() and not failed.is_set():
        failed.set()
        _note(scribe, name, run_dir, f"its process ended with code {process.returncode}")


def _note(scribe: Scribe, name: str, run_dir: Path, reason: str) -> None:
    """Note a failure once in the run. The thread must not raise: a full disk stops the study elsewhere."""
    text = f"{name} gets nothing at present ({reason}); the study goes on, and {_later(name, run_dir)}"
    with suppress(Exception):
        if text not in scribe.noted:
            scribe.note(text)


def _later(name: str, run_dir: Path) -> str:
    return f"`study track {run_dir} --to {name}` sends the rest"
