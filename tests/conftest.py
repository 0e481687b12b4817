"""Before anything imports torch: threads that wait must not spin, the tests run several processes on few cores.

And nothing that the user's shell sets decides what a test sees: colours, widths, another Ray, another store.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests import s3

if find_spec("hypothesis"):  # a machine with a GPU may have only what the tests marked gpu need
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
    settings.load_profile("untimed")

THEIRS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES", "PYTHONWARNINGS", "PYTHONIOENCODING")
for name in list(os.environ):
    if name in THEIRS or name.startswith(("RAY_", "TUNE_", "FINETUNE_STUDY_")):
        del os.environ[name]

LONG = (
    "test_launch.py",
    "test_reproduce.py",
    "test_faults.py",
    "test_stopped.py",
    "test_api.py",
    "test_gpus.py",
    "test_predict.py",
    "test_export.py",
    "test_tracking.py",
    "test_inputs.py",
    "test_repository.py",
    "test_names.py",
    "test_shipped_ablations.py",
    "test_study_page.py",
    "test_cli.py",
    "test_run_recipe.py",
    "test_checkpoint.py",
    "test_reports.py",
    "test_search.py",
    "test_doctor.py",
    "test_families.py",
    "test_benchmarks.py",
)
"""From four minutes to ten seconds, the longest first; a file is never split over processes."""


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist would hand out first what has the most tests: files of a few tests that take minutes would come last."""
    config.option.loadscopereorder = False
    gc.disable()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Long bytes are named by their length: what they hold, such as the time in a zip, may differ in each process."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 20 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process has one left when the others are done."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """Variables that lead to an S3 server on this machine."""
    with s3.server() as variables:
        yield variables


@pytest.fixture
def bucket(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a new bucket, to which the environment holds address and keys."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # another test's keys
    yield s3.new_bucket()
    S3FileSystem.clear_instance_cache()


def pytest_collection_finish() -> None:
    """What was imported stays: from now on Python looks for cycles of objects among what tests make."""
    gc.freeze()
    gc.enable()
