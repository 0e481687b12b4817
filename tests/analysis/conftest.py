"""Runs that several tests read and no test writes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis.made_records import make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 trials with everything in it."""
    return make(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 300 trials."""
    return make(tmp_path_factory.mktemp("large") / "run", trials=300)
