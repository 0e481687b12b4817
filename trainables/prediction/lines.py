"""Rows of files with one row a line: JSON objects, or plain texts. One line at a time is in memory."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeVar

from trainables.settings.dialect import Dialect
from trainables.settings.errors import ConfigError
from trainables.settings.file_names import TABLES, is_local, own_name
from trainables.tables.file_content import BOMS, as_utf8, check_kind, read_content
from trainables.tables.table_files import column_faults
from trainables.tables.wrong_suffix import HEAD, table_in_text

T = TypeVar("T")
Numbered = tuple[int, str]
"""Number of a line from 1, and the line without its end."""
FAULTS = 10
"""Most lines whose faults are told."""
NUL = "holds a NUL character, which no text has: the file is damaged, or no text"


@dataclass(frozen=True)
class Columns:
    """Columns of the texts; several are joined by spaces."""

    text: tuple[str, ...] = ("text",)
    second: tuple[str, ...] = ()
    """Columns of the second text of pairs."""

    @property
    def every(self) -> tuple[str, ...]:
        """All of them."""
        return self.text + self.second


@dataclass(frozen=True)
class Row:
    """A row of a file."""

    text: str
    second: str
    line: str
    """The line as it is in the file."""


@dataclass(frozen=True)
class Survey:
    """What a first reading of a file tells."""

    count: int
    """Number of rows."""
    names: tuple[str, ...]
    """Keys of all rows."""
    notices: tuple[str, ...]


def reader(url: str, kind: str, dialect: Dialect) -> Callable[[], Iterator[Numbered]]:
    """Return what reads the lines from the beginning, always up to the size of now. Raises ConfigError naming the file.

    A local file in UTF-8 that is not compressed is read from the disk each time; others are kept in memory.
    """
    path = os.path.expanduser(url)
    plain_name = own_name(url).lower().endswith((".txt", ".jsonl", ".ndjson", ".json"))
    if is_local(url) and plain_name and dialect.encoding is None and os.path.isfile(path):
        with open(path, "rb") as file:
            head = file.read(4096)
        if not head.startswith(tuple(BOMS)):
            _checked(url, lambda: check_kind(head, kind))
            return partial(_of_file, url, path, os.path.getsize(path), dialect)
    _, raw = read_content(url, (*TABLES, "txt"))
    _checked(url, lambda: check_kind(raw, kind))
    utf8 = _checked(url, lambda: as_utf8(raw, dialect))
    return lambda: decoded(io.BytesIO(utf8), Dialect())


def _checked(url: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except ConfigError as error:
        raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None


def _of_file(url: str, path: str, size: int, dialect: Dialect) -> Iterator[Numbered]:
    with open(path, "rb") as file:
        try:
            yield from _decoded(_first(file, size))
        except UnicodeDecodeError:
            with open(path, "rb") as whole:
                raw = whole.read()
            _checked(url, lambda: as_utf8(raw, dialect))
            raise


def _first(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The lines of a file up to a size in bytes."""
    left = size
    for line in file:
        yield line[:left]
        left -= len(line)
        if left <= 0:
            return


def decoded(file: IO[bytes], dialect: Dialect) -> Iterator[Numbered]:
    """Lines of a stream. Raises ConfigError with the number of a line that is not in its encoding, which is UTF-8 by default."""
    encoding = dialect.encoding or "utf-8"
    wide = io.TextIOWrapper(file, encoding=encoding, newline="\n") if encoding.startswith(("utf-16", "utf-32")) else None
    number = 0
    try:
        for number, line in enumerate(wide, start=1) if wide else _decoded(file, encoding):
            yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        way = "is another `encoding` meant?" if dialect.encoding else dialect.way("encoding", "cp1252 or what else it is in")
        raise ConfigError([f"line {number + 1}: not {encoding}: byte {error.object[error.start]:#04x}; {way}"]) from None


def _decoded(file: Iterator[bytes] | IO[bytes], encoding: str = "utf-8") -> Iterator[Numbered]:
    for number, line in enumerate(file, start=1):
        text = line.decode(encoding).rstrip("\r\n")
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def survey(url: str, kind: str, columns: Columns, numbered: Iterator[Numbered]) -> Survey:
    """Read all lines once. Raises ConfigError with the faults of up to ten of them, and for missing columns."""
    faults: list[str] = []
    names: dict[str, None] = {}
    head: list[str] = []
    size = count = 0
    if fault := plain_fault(columns) if kind == "txt" else None:
        raise ConfigError([f"{url}: {fault}"])
    for number, line in numbered:
        if size < HEAD:
            head.append(line)
            size += len(line) + 1
        if kind == "txt":
            count += 1
            faults += [f"line {number} {NUL}"] if "\0" in line else []
        elif line.strip():
            count += 1
            row, fault = _object(number, line, columns)
            names.update(dict.fromkeys(row))
            faults += [fault] if fault else []
        if len(faults) == FAULTS:
            faults.append("further lines were not looked at")
            break
    if not any(head):
        faults = ["the file is empty"]
    elif kind == "jsonl" and not faults:
        faults = column_faults(list(names), columns.every)
    if faults:
        raise ConfigError(f"{url}: {fault}" for fault in faults)
    return Survey(count, tuple(names), tuple(f"{url}: {notice}" for notice in _remarks(url, kind, head, count)))


def _remarks(url: str, kind: str, head: list[str], count: int) -> list[str]:
    """Notices on plain text. Raises ConfigError if it is JSON, or if other signs than line feeds end its lines."""
    if kind != "txt":
        return []
    if count == 1 and re.search(r"[\r\x85\u2028\u2029]", head[0]):
        raise ConfigError([f"{url}: carriage returns or other signs end its lines; convert it so that line feeds do"])
    return _checked(url, lambda: table_in_text("\n".join(head)))


def rows(kind: str, columns: Columns, numbered: Iterator[Numbered], added: frozenset[str]) -> Iterator[Row]:
    """Yield the rows. Raises ConfigError with the number of a line that cannot be read, or that has an `added` column."""
    for number, line in numbered:
        if kind == "txt":
            if "\0" in line:
                raise ConfigError([f"line {number} {NUL}"])
            yield Row(line, "", line)
        elif line.strip():
            row, fault = _object(number, line, columns)
            if fault or not added.isdisjoint(row):
                raise ConfigError(
                    [fault or f"line {number} has {', '.join(sorted(added & set(row)))}, which is added to every row"]
                )
            yield Row(_joined(row, columns.text), _joined(row, columns.second), line.strip())


def _joined(row: dict[str, object], columns: tuple[str, ...]) -> str:
    return " ".join(str(row[name]) for name in columns if row.get(name))


def _object(number: int, line: str, columns: Columns) -> tuple[dict[str, object], str]:
    """(JSON object of a line, its fault or empty text)."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"line {number}: not JSON: {error}"
    if not isinstance(row, dict):
        return {}, f"line {number}: {_named(row)}, not a JSON object"
    for name in columns.every:
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            return row, f"line {number}: {name!r} is {_named(value)}, not text"
        if isinstance(value, str) and not _encodable(value):
            return row, f"line {number}: {name!r} holds half of a character (a lone surrogate such as \\ud800)"
    return row, ""


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")


def is_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def keys(line: str) -> tuple[str, ...]:
    """Keys of a line that is a JSON object."""
    return tuple(json.loads(line))


def plain_fault(columns: Columns) -> str | None:
    """Fault of columns that plain text does not have; None if there is none."""
    if columns.second:
        return "plain text has one text a line, but pairs are wanted; give csv, tsv, jsonl or parquet"
    if columns.text != ("text",):
        return f"--text {columns.text[0]}: plain text has no columns"
    return None
