"""One driver per run folder, whatever happens to it: real processes, real signals."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from study.run.lock import RunInUse, RunLock, holder, running
from trainables.settings.errors import ConfigError
from trainables.store.lease import this_process

PROCESSES = multiprocessing.get_context("spawn")


def drive(run: str, out: str, ready: Any, seconds: float) -> None:
    """Be a driver; exit code 3 when another one is."""
    if ready is not None:
        ready.wait(60)
    try:
        with RunLock(Path(run)):
            Path(out, f"{os.getpid()}").write_text("drives")
            time.sleep(seconds)
    except RunInUse:
        os._exit(3)


def start(run: Path, out: Path, seconds: float, ready: Any = None) -> Any:
    process = PROCESSES.Process(target=drive, args=(str(run), str(out), ready, seconds), daemon=True)
    process.start()
    return process


def until_it_drives(process: Any, out: Path) -> None:
    deadline = time.monotonic() + 30
    while not (out / f"{process.pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "my rün"


def test_a_lock_names_its_driver_and_goes_with_it(run: Path) -> None:
    assert running(run) is None
    with RunLock(run):
        about = json.loads((run / "lock.json").read_text())
        assert about["pid"] == os.getpid()
        assert about["host"] == this_process().host
        assert about["started"] == this_process().started
        assert running(run) == this_process()
    assert list(run.iterdir()) == []
    assert running(run) is None
    with RunLock(run):
        pass


def test_a_second_driver_is_refused_with_pid_and_host(run: Path, out: Path) -> None:
    first = start(run, out, 600)
    until_it_drives(first, out)
    with pytest.raises(RunInUse) as caught, RunLock(run):
        pass
    assert (caught.value.pid, caught.value.host) == (first.pid, this_process().host)
    assert f"is in use by process {first.pid} on {this_process().host}" in str(caught.value)
    assert "--out" in str(caught.value)
    assert running(run) is not None
    first.kill()
    first.join()


def test_one_process_does_not_lock_twice(run: Path) -> None:
    with RunLock(run), pytest.raises(RunInUse, match=f"process {os.getpid()}"), RunLock(run):
        pass


def test_a_dead_drivers_lock_is_taken_over(run: Path, out: Path) -> None:
    first = start(run, out, 600)
    until_it_drives(first, out)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    left = holder(run)
    assert left is not None
    assert left.pid == first.pid
    assert running(run) is None
    with RunLock(run):
        assert running(run) == this_process()


@pytest.mark.parametrize("left", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "host": "elsewhere", "system": "x", "started": 5}'])
def test_whatever_a_dead_driver_left_is_taken_over(run: Path, left: str) -> None:
    run.mkdir()
    (run / "lock.json").write_text(left)
    with RunLock(run):
        assert running(run) == this_process()


def test_of_two_starters_exactly_one_wins(run: Path, out: Path) -> None:
    run.mkdir()
    (run / "lock.json").write_text('{"pid": 1, "host": "elsewhere", "system": "x", "started": 5}')  # what a dead one left
    ready = PROCESSES.Barrier(3)
    starters = [start(run, out, 2.0, ready) for _ in range(3)]
    for process in starters:
        process.join(120)
    assert sorted(process.exitcode or 0 for process in starters) == [0, 3, 3]


def rush(run: str, ready: Any) -> None:
    ready.wait(60)
    inside, deadline = Path(run, "inside"), time.monotonic() + 1.5
    while time.monotonic() < deadline:
        try:
            with RunLock(Path(run)):
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # complains when another one is inside too
                inside.unlink()
        except RunInUse:
            pass


def test_two_never_drive_at_once(run: Path) -> None:
    ready = PROCESSES.Barrier(3)
    processes = [PROCESSES.Process(target=rush, args=(str(run), ready)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 3


def test_a_lock_on_a_file_that_was_just_removed_is_none(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, removed = fcntl.flock, []

    def remove_first(handle: int, operation: int) -> None:
        if not removed:  # its holder lets go between our opening and our locking
            removed.append((run / "lock.json").unlink())
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with RunLock(run), pytest.raises(RunInUse), RunLock(run):
        pass


def test_programs_that_the_driver_starts_do_not_keep_the_lock(run: Path) -> None:
    with RunLock(run):
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
    with RunLock(run):
        pass
    child.kill()
    child.wait()


def test_a_read_only_folder(run: Path) -> None:
    run.mkdir()
    if os.geteuid() != 0:
        run.chmod(0o555)
    else:
        for options in (["--bind"], ["-o", "remount,bind,ro"]):
            if subprocess.run(["mount", *options, run, run], check=False).returncode:
                pytest.skip("root without the right to mount cannot make a read-only folder")
    try:
        with (
            pytest.raises(ConfigError, match=r"my rün: not writable: (Read-only file system|Permission denied); give .* --out"),
            RunLock(run),
        ):
            pass
        with pytest.raises(ConfigError, match="not writable"), RunLock(run / "below"):
            pass
    finally:
        if os.geteuid() != 0:
            run.chmod(0o755)
        else:
            subprocess.run(["umount", "-l", run], check=True)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="File exists"), RunLock(tmp_path / "run"):
        pass
