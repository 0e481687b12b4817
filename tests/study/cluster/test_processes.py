"""A process that goes on after its study: an interrupt does not end it, and its streams and loggers are as before."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from study.cluster.processes import Interrupts, levels_kept, quiet


def test_a_second_interrupt_ends_the_cluster_and_not_a_process_that_goes_on() -> None:
    ended: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(lambda: ended.append(1)):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert not ended
        os.kill(os.getpid(), signal.SIGINT)  # what is being cleaned up must not be cut short
        assert ended == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_messages_go_to_the_stream_of_a_notebook_and_all_else_to_the_log(tmp_path: Path) -> None:
    """Its `sys.stdout` writes to no descriptor: neither Python's own output nor that of children may be lost or shown."""
    log, cell, errors = tmp_path / "log", io.StringIO(), io.StringIO()
    with redirect_stdout(cell), redirect_stderr(errors):
        for number in (1, 2):
            with quiet(log) as terminal:
                print("progress", number, file=terminal)
                print("noise", number)
                print("warning", number, file=sys.stderr)
                os.system(f"echo child {number}")
            assert sys.stdout is cell
            print("after", number)
    assert cell.getvalue() == "progress 1\nafter 1\nprogress 2\nafter 2\n"
    assert errors.getvalue() == ""
    said = log.read_text().splitlines()
    assert sorted(said) == sorted(f"{word} {number}" for word in ("noise", "warning", "child") for number in (1, 2))


def test_levels_of_loggers_are_as_before() -> None:
    logger = logging.getLogger("a library")
    logger.setLevel(logging.INFO)
    with levels_kept():
        logger.setLevel(logging.ERROR)
    assert logger.level == logging.INFO
