"""Leases: one process computes a stage, the others wait. They need only a shared file system, no server.

A lease is the file `leases/<id>/<generation>.json`, created exclusively; the highest generation is the owner. The owner renews it
from a thread. A process that sees a dead lease creates the next generation, which only one process can. A lease is dead if its
process has ended, where that can be checked (same machine, boot and process table; the start time detects a recycled pid), or else
if it was not renewed for its `ttl_s`. On one machine the monotonic clock decides: all processes share it, and it stops while the
machine sleeps. Between machines, whose clocks may differ, the waiter watches the file for `ttl_s` by its own clock; only a lease
that expired long ago counts as dead at once.

Leases save work; results are correct without them, since artifacts appear atomically and two owners produce the same one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import re
import socket
import threading
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from trainables.store.files import Files
from trainables.store.local_files import NotPlain

log = logging.getLogger(__name__)
TTL_S = 60.0
"""How long a lease is valid without renewal."""
SKEW_S = 600.0
"""Largest tolerated difference between the clocks of two machines."""
LONGEST_TTL_S = 3600.0
"""Longest validity without renewal; a longer one was not written by a store."""
LAST = 10**15
"""Largest generation; after it, counting restarts at 1."""
RETREAT_S = 0.02


@dataclass(frozen=True)
class Process:
    """A process on any machine of a cluster."""

    host: str
    pid: int
    system: str
    """Boot and process table that the pid belongs to; empty if unknown."""
    started: int | None
    """Start time in clock ticks since boot: it differs between two processes with the same pid."""

    def alive(self) -> bool | None:
        """Whether it is running; None if that cannot be checked from here."""
        here = this_process()
        if (self.host, self.system) != (here.host, here.system):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's process, so it exists
            pass
        started = _started(self.pid)
        return started is None or self.started is None or started == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Process:
    """The current process."""
    return _process(os.getpid())


@lru_cache(maxsize=1)  # a claim is renewed every few seconds; a forked process has an id of its own
def _process(pid: int) -> Process:
    system = ""
    with contextlib.suppress(OSError):
        # Containers on one machine share its boot id and maybe its name, but have separate process tables.
        system = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return Process(socket.gethostname(), pid, system, _started(pid))


def _started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; -1 for a zombie, None if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain any character
    return -1 if fields[0] in "ZXx" else int(fields[19])


class Claim:
    """A held lease, renewed by a thread until it is released."""

    def __init__(self, files: Files, folder: str, generation: int, ttl_s: float) -> None:
        self._files, self._folder, self._ttl_s = files, folder, ttl_s
        self.generation, self.token, self._owner = generation, uuid4().hex, this_process()
        self._lost, self._released = threading.Event(), threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease {folder}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another process took over because this one seemed dead. Continuing is harmless but wasted."""
        return self._lost.is_set()

    def content(self) -> bytes:
        """Content of the lease file, valid from now."""
        now = {"expires": time.time() + self._ttl_s, "expires_monotonic": time.monotonic() + self._ttl_s, "ttl_s": self._ttl_s}
        return json.dumps({**asdict(self._owner), **now, "token": self.token}).encode()

    def start(self) -> Claim:
        """Start the thread that renews the lease."""
        self._heart.start()
        return self

    def _beat(self) -> None:
        while not self._released.wait(self._ttl_s / 4):
            try:
                self.renew()
            except Exception as error:  # a full disk or a dropped connection may recover; the next beat tries again
                log.warning("lease %s could not be renewed: %s", self._folder, error)
            if self.lost:
                return

    def renew(self) -> None:
        """Extend by the whole time to live, unless another process took over."""
        if self.holds() and not self._released.is_set():
            self._files.write(_file(self._folder, self.generation), self.content())

    def holds(self) -> bool:
        """Whether the store still names this process as owner. Raises OSError."""
        if not self.lost and (not self._mine() or max(generations(self._files, self._folder), default=0) > self.generation):
            self._lost.set()
            log.warning("lease %s was taken over: %s seemed dead", self._folder, self._owner)
        return not self.lost

    def _mine(self) -> bool:
        """Whether the lease file is still ours: another owner may have finished since, and a third restarted the count."""
        lease = read(self._files, self._folder, self.generation)
        return lease is not None and lease["token"] == self.token

    def release(self) -> None:
        """Release the lease: remove this generation and all before it."""
        if os.getpid() != self._owner.pid:  # a fork of the owner owns nothing
            return
        self._released.set()
        if self._heart.ident is not None:
            self._heart.join(self._ttl_s)
        with contextlib.suppress(OSError):
            if self._mine():
                remove(self._files, self._folder, self.generation)


class Watch:
    """Leases that a waiter saw, and when: it detects leases that are not renewed."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, float], float] = {}

    def dead(self, lease: dict[str, Any]) -> bool:
        """Whether the owner has ended, or did not renew for its time to live."""
        alive = owner(lease).alive()
        if alive is None:
            first = self._seen.setdefault((lease["token"], lease["expires"]), time.monotonic())
            return time.monotonic() - first > float(lease["ttl_s"]) or time.time() > float(lease["expires"]) + SKEW_S
        left_s = float(lease["expires_monotonic"]) - time.monotonic()
        return not alive or not 0 <= left_s <= LONGEST_TTL_S  # no owner sets an end that is further away


def owner(lease: dict[str, Any]) -> Process:
    """The process that holds a lease."""
    return Process(lease["host"], lease["pid"], lease["system"], lease["started"])


def attempt(files: Files, folder: str, ttl_s: float, watch: Watch) -> Claim | Process:
    """Try once to get the lease. Returns a claim whose renewal has not started, or the holder. Raises OSError."""
    while True:
        last = max(generations(files, folder), default=0)
        held = read(files, folder, last) if last else None
        if last and held is None:  # released since we listed the generations
            continue
        if held is not None and not watch.dead(held):
            return owner(held)
        if last >= LAST:
            remove(files, folder, last)
            continue
        claim = Claim(files, folder, last + 1, ttl_s)
        if not files.create(_file(folder, claim.generation), claim.content()):
            continue
        # Between the listing and the creation, the predecessor may have been released and the count restarted. Both processes of
        # this race see the other one in this second listing, and at least the later one retreats.
        now = read(files, folder, last) if last else None
        if (now or {}).get("token") == (held or {}).get("token") and max(generations(files, folder), default=0) == claim.generation:
            return claim
        files.remove(_file(folder, claim.generation))
        time.sleep(random.uniform(0, RETREAT_S))  # without randomness two processes could collide forever


def generations(files: Files, folder: str) -> list[int]:
    """Generations of the lease files that exist."""
    return [int(name[:-5]) for name in files.names(folder) if re.fullmatch(r"[1-9]\d{0,15}\.json", name)]


def read(files: Files, folder: str, generation: int) -> dict[str, Any] | None:
    """Content of a lease file; None if it does not exist. An invalid one counts as the lease of an unknown, silent owner."""
    try:
        data = files.read(_file(folder, generation))
    except FileNotFoundError:
        return None
    except NotPlain:
        data = b""
    try:
        lease = json.loads(data)
        return dict(lease) if _sound(lease) else _unknown(data)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return _unknown(data)


def _sound(lease: dict[str, Any]) -> bool:
    """Whether a store may have written it. Raises KeyError, TypeError or OverflowError if its structure is different."""
    times = [float(lease[key]) for key in ("ttl_s", "expires", "expires_monotonic")]
    numbers = [lease["pid"], lease["ttl_s"], lease["expires"], lease["expires_monotonic"], lease["started"] or 0]
    texts = [lease["host"], lease["system"], lease["token"]]
    return (
        all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
        and all(isinstance(text, str) and len(text) < 256 and text.isprintable() for text in texts)
        and isinstance(lease["pid"], int)
        and 0 < lease["pid"] < 2**31
        and all(map(math.isfinite, times))
        and 0 < lease["ttl_s"] <= LONGEST_TTL_S
    )


def _unknown(data: bytes) -> dict[str, Any]:
    unknown = Process("an unknown host", 0, "", None)
    times = {"ttl_s": TTL_S, "expires": time.time() // SKEW_S * SKEW_S, "expires_monotonic": 0.0}
    return {**asdict(unknown), **times, "token": data.hex()[:64]}


def remove(files: Files, folder: str, last: int) -> None:
    """Remove the generations up to `last`, and the folder if it is empty then."""
    for generation in generations(files, folder):
        if generation <= last:
            files.remove(_file(folder, generation))
    files.prune(folder)


def _file(folder: str, generation: int) -> str:
    return f"{folder}/{generation}.json"
