"""One finished run that several tests look at."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.study.tiny import study, write_study


@dataclass(frozen=True)
class Run:
    """A study file, its run folder and store, and what the command said."""

    file: Path
    folder: Path
    store: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny study, run to its end by the command: from a path with spaces in it, without a home to write to.

    The processes of pytest-xdist share one run: who comes first makes it, the others wait for it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "a path with spaces"
    folder.mkdir(exist_ok=True)
    path, run, store, said = folder / "input" / "study.yaml", folder / "the run", folder / "the store", folder / "said.json"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            write_study(folder / "input")
            done = study("run", path, "--out", run, "--store", store, HOME="/nonexistent")
            assert done.returncode == 0, done.stdout + done.stderr + _log(run)
            said.write_text(json.dumps([done.stdout, done.stderr]), encoding="utf-8")
    return Run(path, run, store, subprocess.CompletedProcess("study", 0, *json.loads(said.read_text(encoding="utf-8"))))


def _log(run: Path) -> str:
    log = run / "study.log"
    return log.read_text(encoding="utf-8")[-5000:] if log.exists() else ""
