"""What has been sent to trackers that cannot tell: a small file in the run folder. Without it everything is sent again.

The folder `tracked` also holds a lock for each tracker, so that only one process at a time sends a run to it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.text.write_whole import write_whole

FOLDER = "tracked"
"""Folder in the run folder that holds ledgers and locks."""


class Ledger:
    """Numbers of points and states of the runs that one tracker at one address has got."""

    def __init__(self, folder: Path, tracker: str, at: str | None) -> None:
        """Read the ledger of a run folder; one that is missing or damaged is empty."""
        self._path = folder / FOLDER / f"{tracker}.json"
        self._place = hashlib.sha256(at.encode()).hexdigest()[:16] if at else "default"  # an address may hold a password
        self._sent: dict[str, Any] = _read(self._path).get(self._place, {})

    def points(self, key: str) -> int:
        """Number of points of a run that were sent."""
        return int(self._sent.get(key, [0, ""])[0])

    def state(self, key: str) -> str:
        """State of a run when it was sent last; empty if it was not."""
        return str(self._sent.get(key, [0, ""])[1])

    def write(self, key: str, points: int, state: str) -> None:
        """Keep what was sent of a run."""
        self._sent[key] = [points, state]
        write_whole(self._path, json.dumps(_read(self._path) | {self._place: self._sent}, indent=1))

    def note(self, name: str, value: str) -> str:
        """Return the value that was kept first under a name."""
        if name not in self._sent:
            self.write(name, 0, value)
        return self.state(name)


class Busy(ValueError):
    """Another process sends the run to the same tracker."""


@contextmanager
def alone(folder: Path, tracker: str, patience_s: float) -> Iterator[None]:
    """Hold the lock of a tracker in a run folder, which is free again when its holder dies.

    Raises Busy if another process has it for `patience_s`, OSError if the file system has no locks.
    """
    path = folder / FOLDER / f"{tracker}.lock"
    path.parent.mkdir(exist_ok=True)
    deadline = time.monotonic() + patience_s
    with open(path, "w", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(f"another process sends {folder} to {tracker} now, perhaps the study itself") from None
                time.sleep(0.1)
        yield


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
