"""Make the output streams robust: characters that the encoding lacks, closed streams, a broken pipe."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_SIGNS = "–‑—−±…×→←≥≤≈≠·†↑↓✓✕∞μµ’“”─━│├└▁█äöüÄÖÜß"
_PLAIN = '- - - - +- ... x -> <- >= <= ~ != . + ^ v v x inf u u \' " " - - | | ` _ # ae oe ue Ae Oe Ue ss'
ASCII = dict(zip(_SIGNS, _PLAIN.split(), strict=True))
"""{character: its replacement in encodings that lack it}; other characters become `?`."""
STAND_IN = "finetune-study.stand-in"
"""Name of the codec error handler, for `errors` of a stream."""
STOPPED = 4
"""Exit code after a failure of the machine: after the repair, run the same command again to resume."""
GONE = (errno.EPIPE, errno.EIO)
"""Error numbers when the reader has gone: `| head` has ended, or the terminal is closed."""


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(STAND_IN, _stand_in)


class Unwritten(OSError):
    """Raised when output cannot be written, for example to a full disk."""

    def __str__(self) -> str:
        return f"output: {self.strerror}"


class _Patient(io.FileIO):
    """A file that discards output after its reader has gone, so that a study continues and a command ends normally."""

    lost = False
    """Whether all further output is discarded too."""
    gone = False
    """Whether the reader has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return memoryview(data).nbytes if self.lost else super().write(data) or 0
        except OSError as error:
            if error.errno not in GONE:
                raise Unwritten(error.errno, error.strerror) from error
            self.gone = True
            return memoryview(data).nbytes


def stream(descriptor: int, encoding: str | None = None, *, own: bool = True) -> TextIO:
    """Open a text stream that survives unknown characters and broken pipes; closing it closes the descriptor if `own`."""
    raw = io.BufferedWriter(_Patient(descriptor, "w", closefd=own))
    return io.TextIOWrapper(raw, encoding=encoding or "utf-8", errors=STAND_IN, line_buffering=True)


def open_streams() -> None:
    """Replace the standard streams of this process by such streams, closed ones too; streams that a caller replaced stay."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        there, first = getattr(sys, name), getattr(sys, f"__{name}__")
        if there is first and not isinstance(getattr(getattr(there, "buffer", None), "raw", None), _Patient):
            if there is not None:
                there.flush()
            setattr(sys, name, stream(descriptor, getattr(there, "encoding", None), own=False))


@contextlib.contextmanager
def as_data(out: TextIO) -> Iterator[TextIO]:
    """Write data to a stream in UTF-8, with no character replaced, whatever the locale; a terminal keeps its encoding."""
    if out.isatty() or not isinstance(out, io.TextIOWrapper):
        yield out
        return
    encoding, errors = out.encoding, out.errors
    out.reconfigure(encoding="utf-8", errors="strict")
    try:
        yield out
    finally:
        out.reconfigure(encoding=encoding, errors=errors)


def reader_has_gone(out: TextIO) -> bool:
    """Whether what read a stream has ended, so that further output is discarded."""
    return bool(getattr(getattr(getattr(out, "buffer", None), "raw", None), "gone", False))


def guarded(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; STOPPED, with one line on the reason, if its output cannot be written."""
    try:
        code = command()
        for out in (sys.stdout, sys.stderr):
            out.flush()
        return code
    except Unwritten as error:
        _lose(sys.stdout)  # its buffer would fail once more when the process ends
        with contextlib.suppress(Unwritten):
            print(error, file=sys.stderr)
        _lose(sys.stderr)
        return STOPPED


def _lose(out: Any) -> None:
    raw = getattr(getattr(out, "buffer", None), "raw", None)
    if isinstance(raw, _Patient):
        raw.lost = True
