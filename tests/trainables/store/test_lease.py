"""Leases: who is dead, who owns, and that two who race never both own."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from trainables.store import lease
from trainables.store.files import LocalFiles
from trainables.store.lease import Claim, Process, Watch, attempt, this_process
from trainables.store.store import Store

PROCESSES = multiprocessing.get_context("spawn")


def content(process: Process, expires_in: float, ttl_s: float = 0.4, **changes: Any) -> bytes:
    """A lease file as that process would have written it."""
    times = {"expires": time.time() + expires_in, "expires_monotonic": time.monotonic() + expires_in, "ttl_s": ttl_s}
    return json.dumps({**asdict(process), **times, "token": "theirs", **changes}).encode()


def seconds_until_claimed(store: Store) -> float:
    started = time.monotonic()
    with store.claim("stage", poll_s=0.02) as claim:
        assert claim is not None
    return time.monotonic() - started


def ended_process() -> Process:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = replace(this_process(), pid=child.pid, started=lease._started(child.pid))
        assert process.alive() is True
        child.communicate(b"\n")
    return process


ELSEWHERE = Process("another-host", 12345, "another boot", 99)


def test_processes_alive_and_dead() -> None:
    me = this_process()
    assert me.alive() is True
    assert replace(me, started=(me.started or 0) + 1).alive() is False  # the pid was given out again
    assert ended_process().alive() is False
    assert ELSEWHERE.alive() is None
    assert replace(me, system="another container").alive() is None


def test_remains_of_a_process_are_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    process = replace(this_process(), pid=child.pid, started=lease._started(child.pid))
    deadline = time.monotonic() + 20
    while process.alive() and time.monotonic() < deadline:  # nobody has waited for it: it is a zombie
        time.sleep(0.01)
    assert process.alive() is False
    os.kill(child.pid, 0)
    child.wait()


@pytest.mark.parametrize(
    ("held", "least", "most"),
    [
        (lambda: content(ended_process(), expires_in=60), 0, 0.35),
        (lambda: content(replace(this_process(), started=1), expires_in=60), 0, 0.35),
        (lambda: content(this_process(), expires_in=0.5), 0.4, 3),  # alive, but silent
        (lambda: content(ELSEWHERE, expires_in=60), 0.4, 3),  # its clock may be ahead
        (lambda: content(ELSEWHERE, expires_in=-60), 0.4, 3),  # its clock may be behind
        (lambda: content(ELSEWHERE, expires_in=-3600), 0, 0.35),
    ],
    ids=["dead", "recycled pid", "silent", "foreign ahead", "foreign behind", "foreign long ago"],
)
def test_taking_over(tmp_path: Path, held: Callable[[], bytes], least: float, most: float) -> None:
    store = Store(tmp_path, notice=lambda line: None)
    store.files.write("leases/stage/3.json", held())
    assert least <= seconds_until_claimed(store) <= most
    assert store.files.names("leases") == []


def test_a_foreign_owner_that_renews_keeps_it(tmp_path: Path) -> None:
    files, watch = LocalFiles(tmp_path), Watch()
    for _ in range(10):
        files.write("leases/stage/1.json", content(ELSEWHERE, expires_in=-30))
        assert attempt(files, "leases/stage", 60, watch) == ELSEWHERE
        time.sleep(0.1)
    time.sleep(0.5)
    assert isinstance(attempt(files, "leases/stage", 60, watch), Claim)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"pid": "x"}', content(this_process(), 60, pid=-1), b"\xff\xfe"],
    ids=["empty", "cut", "list", "null", "of text", "negative", "no text"],  # fixed: every process of pytest-xdist has the same
)
def test_a_lease_that_nobody_can_read_is_waited_for_then_taken(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "TTL_S", 0.3)
    files, watch = LocalFiles(tmp_path), Watch()
    files.write("leases/stage/1.json", data)
    holder = attempt(files, "leases/stage", 60, watch)
    assert isinstance(holder, Process)
    assert holder.host == "an unknown host"
    time.sleep(0.4)
    claim = attempt(files, "leases/stage", 60, watch)
    assert isinstance(claim, Claim)
    assert claim.generation == 2


def test_an_owner_renews_and_notices_that_it_was_overtaken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("stage", ttl_s=0.4) as claim:
        assert claim is not None
        first = json.loads(store.files.read("leases/stage/1.json"))
        time.sleep(0.6)
        later = json.loads(store.files.read("leases/stage/1.json"))
        assert later["expires"] > first["expires"]
        assert later["token"] == first["token"]
        assert not claim.lost
        store.files.write("leases/stage/2.json", content(ELSEWHERE, expires_in=60))
        time.sleep(0.4)
        assert claim.lost
    assert store.files.names("leases/stage") == ["2.json"]  # not ours to remove


def test_an_owner_that_was_overtaken_leaves_a_new_count_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("stage", ttl_s=0.4) as claim:
        assert claim is not None
        theirs = content(ELSEWHERE, expires_in=60)  # someone took over, finished, and another began from 1
        store.files.write("leases/stage/1.json", theirs)
        time.sleep(0.3)
        assert claim.lost
        assert store.files.read("leases/stage/1.json") == theirs
    assert store.files.read("leases/stage/1.json") == theirs


def test_what_waits_says_for_whom(tmp_path: Path) -> None:
    store, said = Store(tmp_path), list[str]()
    store.files.write("leases/stage/1.json", content(ELSEWHERE, expires_in=60, ttl_s=0.3))
    with store.claim("stage", poll_s=0.02, waiting=said.append) as claim:
        assert claim is not None
    assert said == ["waiting for stage stage, which process 12345 on another-host computes"]


class Interrupted(LocalFiles):
    """Files where something happens just before an operation, once."""

    def __init__(self, root: Path, operation: str, happens: Callable[[], Any]) -> None:
        super().__init__(root)
        self.operation, self.happens = operation, happens

    def _now(self, operation: str) -> None:
        if operation == self.operation:
            self.operation = ""
            self.happens()

    def read(self, path: str) -> bytes:
        self._now("read")
        return super().read(path)

    def create(self, path: str, data: bytes) -> bool:
        self._now("create")
        return super().create(path, data)


def test_a_release_while_reading_does_not_make_two_owners(tmp_path: Path) -> None:
    files, owners = LocalFiles(tmp_path), []
    files.write("leases/stage/5.json", content(this_process(), 60))

    def release_and_begin_anew() -> None:
        files.remove("leases/stage/5.json")
        owners.append(attempt(files, "leases/stage", 60, Watch()))

    found = attempt(Interrupted(tmp_path, "read", release_and_begin_anew), "leases/stage", 60, Watch())
    assert [type(each) for each in (*owners, found)] == [Claim, Process]
    assert files.names("leases/stage") == ["1.json"]


def test_a_new_count_while_taking_over_does_not_make_two_owners(tmp_path: Path) -> None:
    files, owners = LocalFiles(tmp_path), []
    files.write("leases/stage/1.json", content(replace(this_process(), started=1), 60))

    def take_over_release_and_begin_anew() -> None:
        claim = attempt(files, "leases/stage", 60, Watch())
        assert isinstance(claim, Claim)
        claim.release()
        owners.append(attempt(files, "leases/stage", 60, Watch()))

    found = attempt(Interrupted(tmp_path, "create", take_over_release_and_begin_anew), "leases/stage", 60, Watch())
    assert [type(each) for each in (*owners, found)] == [Claim, Process]
    assert files.names("leases/stage") == ["1.json"]


def test_a_higher_generation_while_beginning_does_not_make_two_owners(tmp_path: Path) -> None:
    files, owners = LocalFiles(tmp_path), []

    def take_over_what_was_not_there() -> None:
        files.write("leases/stage/5.json", content(replace(this_process(), started=1), 60))
        owners.append(attempt(files, "leases/stage", 60, Watch()))

    found = attempt(Interrupted(tmp_path, "create", take_over_what_was_not_there), "leases/stage", 60, Watch())
    assert [type(each) for each in (*owners, found)] == [Claim, Process]
    assert files.names("leases/stage") == ["5.json", "6.json"]


def race(folder: str, ready: Any, out: str) -> None:
    """Claim and let go as often as there is time; complain when someone else is inside too."""
    files, inside = LocalFiles(Path(folder)), Path(folder) / "inside"
    count, watch = 0, Watch()
    ready.wait(60)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        claim = attempt(files, "leases/stage", 60, watch)
        if isinstance(claim, Claim):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            count += 1
            inside.unlink()
            if count % 3:
                claim.release()
            else:  # leave it as the dead do; the next one takes over
                dead = content(replace(this_process(), started=1), expires_in=60, token=claim.token)
                files.write(f"leases/stage/{claim.generation}.json", dead)
    Path(out).write_text(str(count))


def test_two_never_own_at_once(tmp_path: Path) -> None:
    ready = PROCESSES.Barrier(4)
    processes = [PROCESSES.Process(target=race, args=(str(tmp_path), ready, str(tmp_path / f"{i}"))) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    counts = [int((tmp_path / f"{i}").read_text()) for i in range(4)]
    assert sum(counts) > 10


def test_a_fork_of_the_owner_owns_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("stage") as claim:
        assert claim is not None
        child = os.fork()
        if child == 0:
            claim.release()
            os._exit(0)
        os.waitpid(child, 0)
        assert store.files.names("leases/stage") == ["1.json"]


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    with Store(tmp_path).claim("stage"):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
