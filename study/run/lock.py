"""Lock a run folder, so that one driver at a time works on it.

The operating system holds the lock (`flock` on RUN/lock.json), so it ends with the process in any case; the file names the holder,
for users, for `study status` and for the message to a second driver. On NFS a lock reaches other machines only if the server's lock
service runs, which is the default; mounted with `nolock` or `local_lock`, machines do not see each other's locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from analysis.records.record import utc_now
from trainables.settings.errors import ConfigError
from trainables.store.lease import Process, this_process

log = logging.getLogger(__name__)
NAME = "lock.json"
PATIENCE_S = 1.0
"""Seconds that a second driver waits for the holder to write its name."""


class RunInUse(RuntimeError):
    """Raised when another driver works on the run folder."""

    def __init__(self, run: Path, holder: Process | None) -> None:
        self.run = run
        self.pid: int | None = holder.pid if holder else None
        self.host: str | None = holder.host if holder else None
        who = str(holder) if holder else "another process"
        super().__init__(f"{run} is in use by {who}; wait for it, stop it with Ctrl-C there, or give another folder with --out")


class RunLock:
    """Locks the run folder, which is created if needed, for the time of a `with` block.

    Raises RunInUse if another driver has it, ConfigError if the folder cannot be written or locked.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.path = run, run / NAME
        self._handle: int | None = None
        self._owner = os.getpid()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock or raise."""
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                self._handle = self._try()
            former = holder(self.run)
            os.ftruncate(self._handle, 0)
            fields = {**asdict(this_process()), "utc": utc_now("seconds")}
            os.pwrite(self._handle, json.dumps(fields).encode(), 0)
            os.fsync(self._handle)
        except OSError as error:
            self.release()
            raise ConfigError([f"run folder {self.run}: {_advice(error)}"]) from error
        if former is not None:
            log.info("the lock of %s, which ended without releasing it, was taken over", former)

    def _try(self) -> int | None:
        """Descriptor of the locked file; None if the file was removed meanwhile, so that the lock is worthless."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by programs that we start
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == self.path.stat().st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            raise RunInUse(self.run, _named(self.run)) from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def release(self) -> None:
        """Release the lock; the file is removed while the lock is held, so that no process locks a file about to be removed."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if os.getpid() == self._owner:  # a fork of the driver keeps the lock while it lives, but must not remove it
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(handle)


def holder(run: Path) -> Process | None:
    """Return the process that the run folder's lock names; None without a lock. It may have ended: see `Process.alive`."""
    try:
        fields = json.loads((run / NAME).read_bytes())
        return Process(fields["host"], fields["pid"], fields["system"], fields["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running(run: Path) -> Process | None:
    """Return the driver that works on the run folder now, or may do so on another machine; None without one."""
    process = holder(run)
    return None if process is None or process.alive() is False else process


def _named(run: Path) -> Process | None:
    """The holder of a held lock; waits up to PATIENCE_S, since a new holder writes its name after it has the lock."""
    deadline = time.monotonic() + PATIENCE_S
    while (process := running(run)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def _advice(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"not writable: {reason}; give another folder with --out"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"disk full: {reason}; free some space or give another folder with --out"
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        return f"its file system has no locks: {reason}; give a folder on another one with --out"
    return f"{reason}; give another folder with --out"
