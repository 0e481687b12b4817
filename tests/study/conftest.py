"""One finished run that several tests look at."""

from __future__ import annotations

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
    """The tiny study, run to its end by the command: from a path with spaces in it, without a home to write to."""
    folder = tmp_path_factory.mktemp("a path with spaces")
    path = write_study(folder / "input")
    run, store = folder / "the run", folder / "the store"
    done = study("run", path, "--out", run, "--store", store, HOME="/nonexistent")
    assert done.returncode == 0, done.stdout + done.stderr + _log(run)
    return Run(path, run, store, done)


def _log(run: Path) -> str:
    log = run / "study.log"
    return log.read_text(encoding="utf-8")[-5000:] if log.exists() else ""
