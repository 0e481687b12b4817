"""The rows of a file in windows of bounded size: csv, tsv, jsonl, parquet, or plain text with one text a line.

A file is checked as a whole before its first window: nothing is predicted for a file that cannot be read to its end. csv and tsv
are in memory for that; of jsonl, plain text and parquet only a window is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from trainables.prediction import lines
from trainables.prediction.lines import Columns, Numbered
from trainables.settings.dialect import DELIMITERS, Dialect, dialect_faults
from trainables.settings.errors import ConfigError
from trainables.settings.file_names import TABLES, is_local, own_name, suffix
from trainables.tables.file_content import read_content
from trainables.tables.table_files import Table, column_faults, joined_texts, open_parquet, read_text_table

ROWS = 10_000
"""Most rows of a window: they are sorted by length before they are packed, so that a pass has texts of similar length."""
CHARACTERS = 1 << 25
"""Most characters of a window, unless its first row alone has more."""
STDIN = "-"


@dataclass(frozen=True)
class Window:
    """Rows that are predicted together."""

    texts: list[str]
    seconds: list[str] | None
    """The second text of every row, in a file of pairs."""
    rows: Any
    """What is written again: a pyarrow table, or a line of every row."""


@dataclass(frozen=True)
class Source:
    """A file that was checked and can be read."""

    url: str
    kind: str
    """csv, tsv, jsonl, parquet or txt."""
    names: tuple[str, ...]
    """Columns of the file; of standard input those of its first window."""
    total: int | None
    """Number of rows; None for standard input."""
    windows: Callable[[Collection[str]], Iterator[Window]]
    """Reads the rows; takes the names of the columns that will be added, which no row may have."""
    notices: tuple[str, ...] = ()
    delimiter: str = ","
    schema: Any = None
    """Arrow's schema of a parquet file."""
    grown: Callable[[], bool] = lambda: False
    """Whether rows were appended since the check; they are not read."""


def open_source(url: str, columns: Columns, dialect: Dialect, stdin: IO[bytes] | None = None) -> Source:
    """Check a file, or standard input (`-`) up to its first window. Raises ConfigError with all faults that were found."""
    if faults := dialect_faults(dialect, [suffix(url) if url != STDIN else "jsonl"]):
        raise ConfigError(f"--{fault}" for fault in faults)
    if url == STDIN:
        assert stdin is not None
        return _standard_input(stdin, columns, dialect)
    if is_local(url) and os.path.isdir(os.path.expanduser(url)):
        raise ConfigError([f"{url}: is a folder; give a file"])
    kind = suffix(url)
    try:
        if kind in DELIMITERS:
            return _delimited(url, kind, columns, dialect)
        if kind == "parquet":
            return _parquet(url, columns)
        if kind in (*TABLES, "txt"):
            return _lines(url, kind if kind == "txt" else "jsonl", columns, dialect)
        read_content(url, (*TABLES, "txt"))  # refuses any other format, and looks into a zip
        raise ConfigError([f"{url}: a zip archive; unpack it, and give the file in it"])
    except UnicodeError as error:
        raise ConfigError([f"{url}: {error}"]) from None


def _delimited(url: str, kind: str, columns: Columns, dialect: Dialect) -> Source:
    grown = _growth(url)
    table, delimiter, notices = read_text_table(url, columns.every, dialect)
    _check_columns(url, table.schema.names, columns)

    def windows(added: Collection[str]) -> Iterator[Window]:
        for start in range(0, table.num_rows, ROWS):
            yield _of_table(table.slice(start, ROWS), columns)

    return Source(url, kind, tuple(table.schema.names), table.num_rows, windows, notices, delimiter, grown=grown)


def _parquet(url: str, columns: Columns) -> Source:
    there = is_local(url) and own_name(url).endswith(".parquet")
    file = open_parquet(os.path.expanduser(url) if there else io.BytesIO(read_content(url)[1]), url)
    schema, count = file.schema_arrow, file.metadata.num_rows
    _check_columns(url, schema.names, columns)
    if not count:
        raise ConfigError([f"{url}: the file has no rows"])
    of_row = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)) // count
    size = min(ROWS, max(1, CHARACTERS // max(1, of_row)))
    try:
        _of_table(schema.empty_table(), columns)  # refuses columns that are not text
    except ConfigError as error:
        raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None

    def windows(added: Collection[str]) -> Iterator[Window]:
        import pyarrow as pa

        try:
            for batch in file.iter_batches(batch_size=size):
                yield _of_table(pa.Table.from_batches([batch], schema), columns)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError([f"{url}: a damaged file: {' '.join(str(error).split())[:200]}"]) from None

    return Source(url, "parquet", tuple(schema.names), count, windows, schema=schema)


def _of_table(table: Table, columns: Columns) -> Window:
    seconds = joined_texts(table, columns.second) if columns.second else None
    return Window(joined_texts(table, columns.text), seconds, table)


def _check_columns(url: str, names: Sequence[str], columns: Columns) -> None:
    if faults := column_faults(list(names), columns.every):
        raise ConfigError(f"{url}: {fault}" for fault in faults)


def _lines(url: str, kind: str, columns: Columns, dialect: Dialect) -> Source:
    """Read twice: every line is checked first, then windows are made. Lines that are appended meanwhile are left out."""
    grown, read = _growth(url), lines.reader(url, kind, dialect)
    survey = lines.survey(url, kind, columns, read())
    windows = partial(_windows, url, kind, columns, read)
    return Source(url, kind, survey.names, survey.count, windows, survey.notices, grown=grown)


def _growth(url: str) -> Callable[[], bool]:
    """Return what tells whether a local file has grown since now."""
    path = os.path.expanduser(url)
    if not is_local(url) or not os.path.isfile(path):
        return lambda: False
    size = os.path.getsize(path)
    return lambda: os.path.exists(path) and os.path.getsize(path) > size


def _windows(
    url: str, kind: str, columns: Columns, read: Callable[[], Iterator[Numbered]], added: Collection[str]
) -> Iterator[Window]:
    try:
        yield from _in_windows(lines.rows(kind, columns, read(), frozenset(added)), bool(columns.second))
    except ConfigError as error:
        where = "standard input" if url == STDIN else f"{url}: it was changed while it was read"
        raise ConfigError(f"{where}: {fault}" for fault in error.faults) from None
    except OSError as error:
        raise ConfigError([f"{'standard input' if url == STDIN else url}: cannot be read: {error.strerror or error}"]) from None


def _in_windows(rows: Iterator[lines.Row], pairs: bool) -> Iterator[Window]:
    window, size = Window([], [] if pairs else None, []), 0
    for row in rows:
        length = len(row.text) + len(row.second)
        if window.texts and (len(window.texts) == ROWS or size + length > CHARACTERS):
            yield window
            window, size = Window([], [] if pairs else None, []), 0
        size += length
        window.texts.append(row.text)
        window.rows.append(row.line)
        if window.seconds is not None:
            window.seconds.append(row.second)
    if window.texts:
        yield window


def _standard_input(stdin: IO[bytes], columns: Columns, dialect: Dialect) -> Source:
    """jsonl if the first line is a JSON object, else plain text. The first window is read before anything is predicted."""
    numbered = lines.decoded(stdin, dialect)
    first: list[Numbered] = []
    for line in numbered:
        first.append(line)
        if line[1].strip():
            break
    else:
        raise ConfigError(["standard input: it is empty"])
    kind = "jsonl" if lines.is_object(first[-1][1]) else "txt"
    names = lines.keys(first[-1][1]) if kind == "jsonl" else ()
    if fault := lines.plain_fault(columns) if kind == "txt" else None:
        raise ConfigError([f"standard input: {fault}"])
    if kind == "jsonl":
        _check_columns("standard input", names, columns)

    def read() -> Iterator[Numbered]:
        yield from first
        yield from numbered

    return Source(STDIN, kind, names, None, partial(_windows, STDIN, kind, columns, read))
