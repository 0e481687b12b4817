"""Write and read records, an append-only file of JSON lines, from which everything about a study is read.

`FIELDS` defines what a record may hold; the writer refuses anything else, the reader reports it and uses the rest. A record is on
disk when `append` returns. Needs the standard library only: `analysis` reads records where neither torch nor ray is installed.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.records.record_fields import FIELDS, FLAT, JSON_NAMES, RecordError, fields, identity_of, near_miss
from analysis.text.places import shareable

Row = dict[str, Any]

PROSE = ("text", "reason", "note")
"""Fields that may quote paths and addresses: they are written as `analysis.text.places.shareable` returns them."""

LASTING = ("study", "inputs")
"""Events that still count after the inputs have changed."""


class Records:
    """Writer of a records file. One process writes at a time (the run folder's lock ensures it); threads may share a writer."""

    def __init__(self, path: str | Path, study: str | None = None, session: int | None = None) -> None:
        """Open for appending; `session` is by default the one after the last in the file."""
        self.path = Path(path)
        rows, _ = read(self.path)
        self.study = study if study is not None else next((row["study"] for row in rows if row.get("study")), None)
        self.session = 1 + max((row.get("session") or 0 for row in rows), default=-1) if session is None else session
        self._seen = {identity_of(row) for row in rows if row["event"] == "evaluation"}
        self._lock = threading.Lock()

    def append(self, event: str, **values: Any) -> bool:
        """Write one record and wait until it is on disk; False if the file already holds that evaluation.

        Values that are not finite become null, and such an evaluation gets the status `diverged`. Raises RecordError for an unknown
        event or field, a wrong type or a missing required field, and OSError if writing fails (the file keeps its old content).
        """
        row = {"event": event, "study": self.study, "utc": utc_now("milliseconds"), "session": self.session} | values
        if event in ("evaluation", "baseline") and any(isinstance(v, float) and not math.isfinite(v) for v in values.values()):
            row["status"] = "diverged"
        row = {name: value for name, value in _plain(row).items() if value is not None}
        row |= {name: shareable(text) for name in PROSE if isinstance(text := row.get(name), str)}
        if faults := list(_faults(row, strict=True)):
            raise RecordError("; ".join(faults))
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            key = identity_of(row) if event == "evaluation" else None
            if key in self._seen:
                return False
            _append(self.path, line)
            if key is not None:
                self._seen.add(key)
            if starts_again(row):
                self._seen.clear()
        return True


def utc_now(timespec: str) -> str:
    """Return the time in UTC to `seconds` or `milliseconds`, as `2026-11-27T15:26:01Z`."""
    return datetime.now(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def starts_again(row: Mapping[str, Any]) -> bool:
    """Whether results before this record no longer count, because the inputs have changed since."""
    return row["event"] == "inputs" and bool(row.get("changed"))


def accepted(row: Mapping[str, Any]) -> str:
    """Describe such a record in words."""
    when = f"inputs changed before session {row.get('session') or 0}, which was accepted"
    return f"{when}: {'; '.join(map(str, row['changed']))}. Earlier results no longer count"


def counting(rows: Sequence[Row]) -> list[Row]:
    """The records that still count: all from the last `starts_again` record on, and those of LASTING events before it."""
    last = max((at for at, row in enumerate(rows) if starts_again(row)), default=0)
    return [row for at, row in enumerate(rows) if at >= last or row["event"] in LASTING]


def read(path: str | Path, skip: Callable[[bytes], bool] | None = None) -> tuple[list[Row], list[str]]:
    """Return (records in order, problems: one for every line that is not a record); both are empty if the file does not exist.

    A damaged line is skipped; the others are used. Of two records of one evaluation the first counts.
    Results computed from inputs that have been replaced since are left out.
    Lines for which `skip` is true are not parsed: most readers need few of a million records.
    """
    rows: list[Row] = []
    problems, seen = [], set()
    for _, row in parsed(pair for pair in _lines(path) if pair[1].strip() and not (skip is not None and skip(pair[1]))):
        if isinstance(row, str):
            problems.append(row)
            continue
        if row["event"] == "evaluation":
            if identity_of(row) in seen:
                continue
            seen.add(identity_of(row))
        elif starts_again(row):
            seen.clear()
        rows.append(row)
    return counting(rows), problems


def parsed(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Row | str]]:
    """Yield (line number, its record or a description of its fault)."""
    sound: set[tuple[Any, ...]] = set()  # names and types of valid records, checked once: most records have a few shapes
    for number, line in lines:
        row = _parse(line)
        if row is None:
            torn = not line.endswith(b"\n")
            yield number, f"line {number}: {'torn by a crash' if torn else 'not a JSON object'}"
            continue
        shape = (row.get("event"), *row, *map(type, row.values()))
        if shape not in sound:
            if faults := list(_faults(row, strict=False)):
                yield number, f"line {number}: {'; '.join(faults)}"
                continue
            sound.add(shape)
        yield number, row


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        yield from enumerate(file, start=1)


def _faults(row: Mapping[str, Any], strict: bool) -> Iterator[str]:
    """Yield the faults of a row; unknown fields (of a newer version) are faults only when `strict`."""
    event = row.get("event")
    if not isinstance(event, str) or event not in FIELDS:
        yield f"unknown event {event!r:.60}{near_miss(str(event), FIELDS)}"
        return
    table = fields(event)
    for name, value in row.items():
        if name not in table:
            if strict:
                yield f"{event}: unknown field {name!r}{near_miss(name, table)}"
        elif value is not None and not _is(value, table[name].type):
            yield f"{event}.{name}: {value!r:.60} given, {JSON_NAMES[table[name].type]} expected"
    yield from (f"{event}.{name}: missing" for name, field in table.items() if field.required and row.get(name) is None)


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return False  # larger than any field's value can be
    return isinstance(value, (int, float) if kind is float else kind)


def _plain(value: Any) -> Any:
    """Convert to plain JSON data: no NaN, no infinity, no lone surrogates, no array scalars."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return str(value) if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is not None and not isinstance(value, (int, bool)) and hasattr(value, "item"):
        return _plain(value.item())
    return value


def _parse(line: bytes) -> Row | None:
    """The JSON object in a line, or None."""
    try:
        row = json.loads(line.decode("utf-8"))
        if isinstance(row, dict) and b"\\u" not in line and _is_plain(row):
            return row
        row = _plain(row)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_plain(row: Row) -> bool:
    """Whether `_plain` would leave a row without lone surrogates unchanged."""
    values = row.values()
    return FLAT.issuperset(map(type, values)) and math.isfinite(sum(value for value in values if type(value) is float))


def _append(path: Path, line: bytes) -> None:
    """Append a line, durable when this returns; all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    created = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        line = _mended(path, file) + line
        size = os.fstat(file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(file, line[written:])
            os.fsync(file)
        except OSError:
            with suppress(OSError):  # the first error is the one to report
                os.ftruncate(file, size)
            raise
    finally:
        os.close(file)
    if created and hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mended(path: Path, file: int) -> bytes:
    """Cut off a last line torn by a crash; return the line feed to write first if only that is missing."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return b""
    torn = path.read_bytes().rpartition(b"\n")[2]
    if _parse(torn) is not None:
        return b"\n"
    os.ftruncate(file, size - len(torn))
    return b""
