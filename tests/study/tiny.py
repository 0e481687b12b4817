"""A study that runs in seconds, and the command line as a process of its own."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import pytest
import yaml

from study.cli import main
from tests.helpers import TINY_BERT, reviews, write_csv

ROOT = Path(__file__).parent.parent.parent


def tiny_study(folder: Path, **changes: Any) -> dict[str, Any]:
    """A study of a two-layer BERT from scratch on 60 reviews; one trial at a time, so that its order is fixed."""
    files = {split: write_csv(folder / f"{split}.csv", reviews("sls_imdb", split, n)) for split, n in (("train", 60), ("test", 24))}
    return {
        "name": "tiny",
        "tasks": {"reviews": files | {"validation_share": 0.25}},
        "task": "reviews",
        "encoder": {"config": TINY_BERT, "vocabulary": 400},
        "recipe": [
            {"pretrain": {"schedule_steps": 6, "steps": 0, "batch_size": 8, "max_length": 24}},
            {"finetune": {"epochs": 3, "batch_size": 8, "max_length": 24, "head_tokens": 6, "learning_rate": 1e-3}},
        ],
        "precision": "float32",
        "space": {
            "finetune.learning_rate": {"log_uniform": [1e-4, 1e-2]},
            "pretrain.steps": {"choice": [0, 3, 6]},
        },
        "search": {
            "sampler": "random",
            "seed": 1,
            "first": [{"finetune.learning_rate": 1e-3, "pretrain.steps": 0}],
            "early_stopping": {"kind": "asha", "grace_epochs": 1, "reduction": 3},
        },
        "budget": {"trials": 4},
        "final": {"top_k": 1, "seeds": 2, "label_of_first": "the usual"},
        "resources": {"concurrent": 1},
    } | changes


def write_study(folder: Path, **changes: Any) -> Path:
    """The tiny study as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tiny_study(folder, **changes)), encoding="utf-8")
    return path


def command(*arguments: object) -> list[str]:
    """The `study` command line."""
    return [sys.executable, "-m", "study", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """One thread per process, so that the tests of two cores do not fight over them."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | changes


def study(*arguments: object, timeout: float = 500, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout, env=environment(**changes), cwd=ROOT, check=False
    )


def study_here(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in this process with a Ray of its own: torch, Ray and Optuna are loaded here already.

    For tests whose subject is neither a signal nor a process, nor a variable that libraries read when they are loaded: Ray's
    processes and the trials are the same. Variables that the command sets are gone afterwards.
    """
    import ray  # noqa: F401  # before the command, which would choose another authentication for a process without it

    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once a process
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        with patch.dict(os.environ, environment(**changes)), _written_to(out, err), pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(arguments, int(left.value.code or 0), out.read(), err.read())
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


@cache  # Ray's loggers keep it
def _stream(descriptor: int) -> TextIO:
    """A stream to where this process writes, so that the log of a study gets what is said: pytest's own ones pass it by."""
    return open(descriptor, "w", encoding="utf-8", closefd=False)


@contextmanager
def _written_to(out: TextIO, err: TextIO) -> Iterator[None]:
    """Within the block what this process and its children write to stdout and stderr goes to two files."""
    from ray._private.log import PlainRayHandler

    streams, kept = (_stream(1), _stream(2)), (os.dup(1), os.dup(2))
    for handler in logging.getLogger("ray").handlers:
        if isinstance(handler, PlainRayHandler):
            handler.setStream(streams[1])  # it has the stderr of the time when Ray was imported
    for descriptor, file in enumerate((out, err), start=1):
        os.dup2(file.fileno(), descriptor)
    try:
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            yield
    finally:
        for descriptor, (stream, copy) in enumerate(zip(streams, kept, strict=True), start=1):
            stream.flush()
            os.dup2(copy, descriptor)
            os.close(copy)


def inside(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command in this process, for what starts no Ray: no library is loaded once more."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err, said.out + said.err
    return int(left.value.code or 0), said.out, said.err


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says in this process where nothing is wrong."""
    code, out, err = inside(capsys, *arguments)
    assert code == 0, err
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says in this process to wrong input."""
    code, out, err = inside(capsys, *arguments)
    assert code == 2, out + err
    return err


def fits(text: str) -> bool:
    """Within 80 columns, but for web addresses, which are never broken."""
    return all(len(line) <= 80 for line in text.splitlines() if "https://" not in line)


def records(run_dir: Path, event: str | None = None) -> list[dict[str, Any]]:
    """Records of a run, read without the code under test; a line that is being written is left out."""
    path = run_dir / "records.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if event is None or row["event"] == event]


UNTIMED = ("trial", "stage_id", "split", "epoch", "step", "seed", "error_rate_percent", "loss", "setting", "phase", "tokens")


def table(run_dir: Path) -> list[tuple[Any, ...]]:
    """All results of a run without what a clock determines: equal for a run that was killed and resumed, and one that was not."""
    rows = records(run_dir)
    evaluations = [tuple(row.get(name) for name in UNTIMED) for row in rows if row["event"] == "evaluation" and row.get("trial")]
    last = {row["trial"]: row for row in rows if row["event"] == "trial"}
    ends = {name: (name, row["status"], row["setting"], row.get("epochs")) for name, row in last.items()}
    selected = [tuple((s["setting"], s["rank"]) for s in row["settings"]) for row in rows if row["event"] == "selection"][-1:]
    return sorted(evaluations, key=str) + sorted(ends.values()) + selected


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(pids: Sequence[int] | set[int]) -> set[int]:
    """Those that still run; a process that only waits to be collected by its parent does not."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(pid)
    return found


def begin(*arguments: object, **environ: str) -> subprocess.Popen[str]:
    """The command in the background."""
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**environ), cwd=ROOT
    )


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 300) -> Any:
    """The first true value of `what`; fails when it does not come, or when the process ends before."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process is None or process.poll() is None, f"ended early: {process.communicate()}"
        time.sleep(0.02)
    return value


def trial_actor(pid: int) -> int | None:
    """The process of the trial that runs under a driver."""
    for each in family(pid):
        try:
            title = Path(f"/proc/{each}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::") and b"Trial" in title:
            return each
    return None
