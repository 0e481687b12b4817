"""Everything that is killed, interrupted, started twice or goes wrong by itself."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from study.cluster.processes import Interrupts
from study.cluster.ray_session import Shared
from tests.study.conftest import Run
from tests.study.tiny import (
    ROOT,
    alive,
    answer,
    begin,
    family,
    records,
    study,
    study_here,
    table,
    trial_actor,
    wait_for,
    write_study,
)

PARTS = {"pretrain": 6, "search": 12, "final": 6}
"""Evaluations of the tiny study in its shared stage, its search and its finals."""


def test_a_driver_killed_in_every_part_comes_to_the_same_table(finished: Run, tmp_path: Path) -> None:
    seed = int(time.time())
    print(f"seed of the moments: {seed}")
    moments = random.Random(seed)
    folder = tmp_path / "run"
    call = ("run", finished.file, "--out", folder, "--store", tmp_path / "store")
    left: set[int] = set()
    for session, (part, evaluations) in enumerate(PARTS.items()):
        process = begin(*call)
        wait_for(partial(_has, folder, part, moments.randint(1, evaluations - 1), session), process)
        time.sleep(moments.random() * 0.2)
        left |= family(process.pid)
        assert process.poll() is None, "the study ended before it could be killed"
        process.kill()
        process.communicate()
    done = study_here(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    assert table(folder) == table(finished.folder)
    assert_computed_once(folder, tmp_path / "store")
    statuses = Counter(row["status"] for row in records(folder, "study"))
    assert statuses["started"] + statuses["resumed"] == len(PARTS) + 1
    assert not alive(left), "the next start clears away what the killed one left"


def test_killed_with_two_at_a_time_nothing_recorded_is_computed_again(tmp_path: Path) -> None:
    space = {"finetune.learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    changes: dict[str, Any] = {"space": space, "budget": {"trials": 5}, "baseline": False}
    path = write_study(tmp_path, **changes, search={"sampler": "tpe"}, final={"top_k": 1, "seeds": 1}, resources={"concurrent": 2})
    folder, store = tmp_path / "run", tmp_path / "store"
    process = begin("run", path, "--out", folder, "--store", store)
    wait_for(lambda: len(records(folder, "evaluation")) >= 5, process)
    process.kill()
    process.communicate()
    done = study_here("run", path, "--out", folder, "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = {row["trial"]: row["status"] for row in records(folder, "trial")}
    assert sorted(ends) == ["f00", "t000", "t001", "t002", "t003", "t004"]
    assert set(ends.values()) <= {"complete", "stopped"}
    assert_computed_once(folder, store)


def assert_computed_once(folder: Path, store: Path) -> None:
    """What was recorded is what the artifacts hold, to the clock: an evaluation that was computed again would have another time."""
    kept = {
        (path.parent.name, row["step"]): row["wall_s"]
        for path in (store / "artifacts").glob("*/COMPLETE.json")
        for row in json.loads(path.read_text())["manifest"]["rows"]
        if "wall_s" in row
    }
    recorded = {
        (row["stage_id"], row["step"]): row["wall_s"] for row in records(folder, "evaluation") if row["stage"] == "finetune"
    }
    common = kept.keys() & recorded.keys()
    assert len(common) >= 3
    assert {key: kept[key] for key in common} == {key: recorded[key] for key in common}


def _has(folder: Path, part: str, count: int, session: int) -> bool:
    """Whether so many evaluations of a part are recorded, of the shared stage or of a phase of the trials, and a session has begun.

    On a busy machine the one before may have come as far before it was killed.
    """
    begun = any(row["session"] == session for row in records(folder, "study"))
    return begun and sum(part in (row.get("phase"), row["stage"]) for row in records(folder, "evaluation")) >= count


def test_an_actor_is_killed_then_a_second_driver_comes_then_the_user_presses_ctrl_c(tmp_path: Path) -> None:
    alone: dict[str, Any] = {"space": {}, "search": {}, "final": {"top_k": 1, "seeds": 1}, "budget": {"trials": 1}}
    path = write_study(tmp_path / "input", **alone, baseline=False)
    folder = tmp_path / "run"
    call = ("run", path, "--out", folder, "--store", tmp_path / "store", "--set", "recipe.finetune.epochs=500")
    process = begin(*call)

    def epochs() -> list[float]:
        return [row["epoch"] for row in records(folder, "evaluation")]

    # A trial whose process dies continues in another one, from its last state.
    wait_for(lambda: len(epochs()) >= 5, process)
    actor = wait_for(lambda: trial_actor(process.pid), process, 20)
    os.kill(actor, signal.SIGKILL)
    dead_at = max(epochs())
    wait_for(lambda: max(epochs()) >= dead_at + 5, process)
    assert epochs() == sorted(set(epochs())), "an evaluation was counted twice"

    # A second driver is refused, and told by whom; status answers meanwhile.
    second = study(*call)
    assert second.returncode == 3
    assert str(process.pid) in second.stderr
    assert socket.gethostname() in second.stderr
    assert f"running, process {process.pid}" in study("status", folder).stdout

    # Ctrl-C reaches every process of the terminal; nothing survives it.
    pids = family(process.pid)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - start < 10
    assert process.returncode == 130, out + err
    assert "study run" in err
    assert "Traceback" not in out + err
    assert "its process died; it continues" in out
    wait_for(lambda: not alive(pids), seconds=5)
    assert records(folder, "study")[-1]["status"] == "interrupted"
    assert "interrupted" in study("status", folder).stdout


def test_a_session_whose_hours_are_over_stops_as_at_ctrl_c_and_says_why(tmp_path: Path) -> None:
    """Counted from the start of the command, wherever it is then: while Ray starts, or in an epoch."""
    alone: dict[str, Any] = {"space": {}, "search": {}, "final": {"top_k": 1, "seeds": 1}, "budget": {"trials": 1}}
    path = write_study(tmp_path / "input", **alone, baseline=False)
    folder, hours = tmp_path / "run", 12 / 3600
    call = ("run", path, "--out", folder, "--store", tmp_path / "store", "--set", "recipe.finetune.epochs=5000")
    began = time.monotonic()
    done = study_here(*call, "--set", f"budget.session_hours={hours}")
    assert hours * 3600 <= time.monotonic() - began < hours * 3600 + 10
    assert done.returncode == 130, done.stdout + done.stderr
    assert f"session_hours ({hours:g}) are over; nothing that was evaluated is lost. Resume with:\n  study run" in done.stderr
    assert f"budget.session_hours={hours}" in done.stderr
    assert records(folder, "study")[-1]["status"] == "interrupted"


def test_other_hours_of_a_session_do_not_run_a_finished_study_again(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("run", finished.file, "--out", finished.folder, "--store", finished.store)
    assert "nothing was run again" in answer(capsys, *call, "--set", "budget.session_hours=4")


def test_the_hours_of_a_command_of_several_studies_are_counted_from_its_start() -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match=r"session_hours \(1\) are over"), Shared(1, began - 3600 + 0.2):
        time.sleep(20)
    assert 0.2 <= time.monotonic() - began < 10


def test_ctrl_c_shortly_before_the_hours_are_over_counts_once() -> None:
    ended: list[str] = []
    with Interrupts(lambda: ended.append("killed"), 0.3 / 3600) as interrupts:
        with pytest.raises(KeyboardInterrupt, match="interrupted"):
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.5)
    assert not ended
    assert interrupts.reason == "interrupted"


def test_a_study_without_any_result_ends_with_1_and_says_why(tmp_path: Path) -> None:
    path = write_study(tmp_path, space={}, search={}, budget={"trials": 1}, final={"top_k": 1, "seeds": 1}, baseline=False)
    wrong = ("--set", "encoder.config.vocab_size=10")  # what the tokenizer has is known once its vocabulary is trained
    done = study("run", path, "--out", tmp_path / "run", "--store", tmp_path / "store", *wrong)
    assert done.returncode == 1, done.stdout + done.stderr
    (end,) = [row for row in records(tmp_path / "run", "trial") if row["status"] != "started"]
    assert end["status"] == "failed"
    assert "vocab_size: 10 given, but the tokenizer has" in end["reason"]
    assert "no trial has a result" in done.stdout
    assert end["reason"] in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "Traceback" in (tmp_path / "run" / "study.log").read_text()


STUBBORN = """
import sys, time
from study.cluster.processes import Interrupts, die
with Interrupts(die):
    while True:
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("once", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_what_does_not_listen(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert [process.stdout.readline() for _ in range(2)] == ["once\n", "ready\n"]
    start = time.monotonic()
    process.send_signal(number)
    assert process.wait(5) == 130
    assert time.monotonic() - start < 2


def test_what_a_killed_driver_left_in_tmp_is_removed_and_what_is_used_is_not(tmp_path: Path) -> None:
    import fcntl

    from study.cluster.ray_session import remove_stale

    for name in ("ft-study-dead", "ft-study-used", "ft-study-other"):
        (tmp_path / name).mkdir()
    (tmp_path / "ft-study-dead" / "lock").touch()
    with open(tmp_path / "ft-study-used" / "lock", "w") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        remove_stale(str(tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ft-study-other", "ft-study-used"]
