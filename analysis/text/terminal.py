"""The terminal as it is: with signs that it cannot show, streams that are closed, a reader that has gone."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

_SIGNS = "–‑—−±…×→←≥≤≈≠·†↑↓✓✕∞μµ’“”─━│├└▁█äöüÄÖÜß"
_PLAIN = '- - - - +- ... x -> <- >= <= ~ != . + ^ v v x inf u u \' " " - - | | ` _ # ae oe ue Ae Oe Ue ss'
ASCII = dict(zip(_SIGNS, _PLAIN.split(), strict=True))
"""What stands for a sign where an encoding has none; `?` for all others."""
STAND_IN = "finetune-study.stand-in"
"""The error handler's name: of `errors` of a stream."""
STOPPED = 4
"""Exit code where the machine fails: the same command goes on once that is mended."""
GONE = (errno.EPIPE, errno.EIO)
"""Nobody reads any more: `| head` has what it wants, or the terminal is closed."""


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(STAND_IN, _stand_in)


class Unwritten(OSError):
    """What a command says cannot be written: a full disk, say, behind it."""

    def __str__(self) -> str:
        return f"output: {self.strerror}"


class _Patient(io.FileIO):
    """What is written after the reader has gone is lost, and nothing else: a study goes on, a command ends as it would."""

    lost = False
    """Whether all that comes now is lost too."""

    def write(self, data: Any, /) -> int:
        try:
            return memoryview(data).nbytes if self.lost else super().write(data) or 0
        except OSError as error:
            if error.errno not in GONE:
                raise Unwritten(error.errno, error.strerror) from error
            return memoryview(data).nbytes


def stream(descriptor: int, encoding: str | None = None, *, own: bool = True) -> TextIO:
    """A text stream on a descriptor that no sign and no reader that has gone can break; closed with it if it is `own`."""
    raw = io.BufferedWriter(_Patient(descriptor, "w", closefd=own))
    return io.TextIOWrapper(raw, encoding=encoding or "utf-8", errors=STAND_IN, line_buffering=True)


def open_streams() -> None:
    """Make the three streams of this process such ones, closed ones too; what somebody else has put in their place stays."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        there, first = getattr(sys, name), getattr(sys, f"__{name}__")
        if there is first and not isinstance(getattr(getattr(there, "buffer", None), "raw", None), _Patient):
            if there is not None:
                there.flush()
            setattr(sys, name, stream(descriptor, getattr(there, "encoding", None), own=False))


def guarded(command: Callable[[], int]) -> int:
    """The exit code of a command; STOPPED, and one line that says why, where what it prints cannot be written."""
    try:
        code = command()
        for out in (sys.stdout, sys.stderr):
            out.flush()
        return code
    except Unwritten as error:
        _lose(sys.stdout)  # what is left in it would fail once more when the process ends
        with contextlib.suppress(Unwritten):
            print(error, file=sys.stderr)
        _lose(sys.stderr)
        return STOPPED


def _lose(out: Any) -> None:
    raw = getattr(getattr(out, "buffer", None), "raw", None)
    if isinstance(raw, _Patient):
        raw.lost = True
