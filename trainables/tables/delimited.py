"""Read csv and tsv by pyarrow's reader, with checks that no delimiter or quote silently loses, splits or changes a row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trainables.settings.dialect import NAMES, Dialect
from trainables.settings.errors import ConfigError, closest
from trainables.tables.quotes import Fields, line_at, lone_returns, quoted_fields
from trainables.tables.swallowed import Swallowed, swallowed

Table = Any
"""A pyarrow.Table."""
SEP_LINE = re.compile(rb'"?sep=([^\r\n"])"?\r?\n', re.IGNORECASE)
"""Line that Excel writes above the header to declare the delimiter."""


def read_delimited(raw: bytes, columns: Sequence[str], delimiter: str, dialect: Dialect) -> tuple[Table, list[str]]:
    """(table, notices) of UTF-8 text; `delimiter` follows from the file's name, `columns` are read as text.

    Raises ConfigError with the line if the file cannot be read unambiguously.
    """
    delimiter = dialect.delimiter or delimiter
    if declared := SEP_LINE.match(raw):
        if dialect.delimiter not in (None, declared[1].decode()):
            raise ConfigError([f"the first line says {declared[0].decode().strip()!r}, but delimiter {dialect.delimiter!r} is set"])
        # The line is replaced by an empty one, which is not a row, so that line numbers stay those of the file.
        delimiter, raw = declared[1].decode(errors="replace"), b"\n" + raw[declared.end() :]
    if fault := _header_fault(raw, columns, delimiter, dialect):
        raise ConfigError([fault])
    table, notices = _by_quoting(raw, columns, delimiter, dialect)
    if fault := _second_header(table, columns):
        raise ConfigError([fault])
    return table, notices + _spelt_out(raw, dialect) + _returns(raw, delimiter, dialect)


def declared_delimiter(raw: bytes) -> str | None:
    """The delimiter that the first line declares, as Excel writes it; None without such a line."""
    declared = SEP_LINE.match(raw)
    return declared[1].decode(errors="replace") if declared else None


def _header_fault(raw: bytes, columns: Sequence[str], delimiter: str, dialect: Dialect) -> str | None:
    """Fault if the columns are missing because of another delimiter or a missing header; None otherwise."""
    header = next((line for line in re.split(rb"[\r\n]+", raw[:65536]) if line.strip()), b"").decode(errors="replace")
    names = _names(header, delimiter)
    if all(column in names for column in columns):
        return None
    shown = repr(header if len(header) <= 80 else header[:77] + "...")
    for other in NAMES:
        others = _names(header, other)
        if other != delimiter and (all(c in others for c in columns) or (len(names) == 1 and len(others) > 1)):
            way = dialect.way("delimiter", '"\\t"' if other == "\t" else f'"{other}"')
            divided = f"{NAMES.get(delimiter, repr(delimiter))} divide the columns of such a file"
            return f"the header {shown} has {NAMES[other]} in it, but {divided}, so there is no column {columns[0]!r}; {way}"
    if header.count('"') % 2 == 0 and not any(column in names or closest(column, names) for column in columns):
        named = " and ".join(map(repr, columns))
        return f"there is no column {named}: the first line, which must be the header, is {shown}"
    return None


def _names(header: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]


def _by_quoting(raw: bytes, columns: Sequence[str], delimiter: str, dialect: Dialect) -> tuple[Table, list[str]]:
    """(table, notices) read with quotes, or by lines in a tab-separated file whose quotes cannot enclose fields."""
    if b'"' not in raw and dialect.quoting != "backslash":
        dialect = replace(dialect, quoting="none")
    if dialect.quoting == "none":
        return _parsed(raw, columns, delimiter, dialect, None), []
    fields, suspect = quoted_fields(raw, delimiter, dialect), None
    try:
        if fields.fault:
            raise ConfigError([fields.fault])
        table = _parsed(raw, columns, delimiter, dialect, fields)
        # If every field is quoted, there is no lone quote.
        every = (table.num_rows + raw.lstrip().startswith(b'"')) * table.num_columns
        lone = dialect.quoting is None and fields.count < every and not (table.num_columns == 1 and fields.doubled)
        suspect = _swallowed(raw, table, delimiter) if lone else None
        if suspect and (suspect.sure or (delimiter == "\t" and not fields.doubled)):
            raise ConfigError([_swallowed_fault(fields, suspect, dialect)])
    except ConfigError as error:
        doubtful = suspect is not None and not suspect.sure
        if delimiter != "\t" or dialect.quoting is not None or doubtful or fields.doubled:
            raise
        try:
            table = _parsed(raw, columns, delimiter, replace(dialect, quoting="none"), None)
        except ConfigError:
            raise error from None
        why = error.faults[0].partition(": a lone quote?")[0]
        return table, [
            f"every quote is read as part of a text, since they cannot all enclose one ({why}){_to_confirm('none', dialect)}"
        ]
    if not suspect or suspect.sure:
        return table, _needless(fields, delimiter, table, dialect)
    notice = f"{_doubt(fields, suspect)}; {dialect.way('quoting', 'none')} if they are rows"
    return table, [notice, *_needless(fields, delimiter, table, dialect)]


def _to_confirm(value: str, dialect: Dialect) -> str:
    return f"; {dialect.way('quoting', value)} if that is right" if dialect.settable else ""


def _swallowed(raw: bytes, table: Table, delimiter: str) -> Swallowed | None:
    """The first text that may have swallowed rows; None if there is none.
    A space after a delimiter indicates prose, except in tab-separated files and if the header has such a space too.
    """
    header = raw[:4096].lstrip().partition(b"\n")[0]
    prose = delimiter != "\t" and delimiter.encode() + b" " not in header
    return swallowed(table, delimiter, "\n" if b"\n" in raw else "\r", prose)


def _swallowed_fault(fields: Fields, suspect: Swallowed, dialect: Dialect) -> str:
    return (
        f"{_doubt(fields, suspect)}: a lone quote?"
        f' Write it twice in a quoted text (""), or if quotes belong to the texts everywhere, {dialect.way("quoting", "none")};'
        f" if the text does hold these lines, {dialect.way('quoting', 'double')}"
    )


def _doubt(fields: Fields, suspect: Swallowed) -> str:
    line = fields.line_of_row(suspect.row + 2)
    return f"line {line}: a quote opens a text of {suspect.lines} lines, each of which looks like a row"


def _needless(fields: Fields, delimiter: str, table: Table, dialect: Dialect) -> list[str]:
    """A notice on tab-separated files in which only some fields are quoted, without need: the quotes may belong to the text."""
    if delimiter != "\t" or dialect.quoting is not None or len(fields.opens) >= table.num_rows:
        return []
    needs = re.compile(rb'[\t\n\r",;]')
    for start, end in zip(fields.opens.tolist(), fields.closes.tolist(), strict=True):
        if not needs.search(fields.raw, start + 1, end) and fields.raw[end + 1 : end + 2] != b'"':
            line = line_at(fields.raw, start)
            notice = f"some texts are in quotes and are read without them, such as that on line {line}"
            return [f"{notice}; {dialect.way('quoting', 'none')} to keep the quotes" if dialect.settable else notice]
    return []


def _parsed(raw: bytes, columns: Sequence[str], delimiter: str, dialect: Dialect, fields: Fields | None) -> Table:
    """pyarrow's table. Raises ConfigError with the line of a row that has too few or too many columns."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    quoted = dialect.quoting != "none"
    escaped = dialect.quoting == "backslash"
    options = arrow.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if quoted else False,
        escape_char="\\" if escaped else False,
        newlines_in_values=quoted,
    )
    content = _only_escapes(raw, delimiter) if escaped else raw
    try:
        return arrow.read_csv(
            io.BytesIO(content),
            # One block for the whole file: a value may be longer than any fixed block size.
            read_options=arrow.ReadOptions(block_size=min(max(len(content) + 1, 1024), 2**31 - 1), use_threads=False),
            parse_options=options,
            # Text stays text: the label 01 is not 1, and the text NA is not a missing value.
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(columns, "large_string"), strings_can_be_null=False),
        )
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
    if "Empty CSV" in reason:
        raise ConfigError(["the file has a header but no rows"])
    raise ConfigError([_broken(raw, reason, delimiter, fields, dialect)])


def _only_escapes(raw: bytes, delimiter: str) -> bytes:
    """Double every backslash that escapes nothing, as in C:\\new. It escapes a quote, a backslash, a delimiter or a line end."""
    return re.sub(rb'\\([\\"\r\n%b])?' % re.escape(delimiter).encode(), lambda m: m[0] if m[1] else rb"\\", raw)


def _broken(raw: bytes, reason: str, delimiter: str, fields: Fields | None, dialect: Dialect) -> str:
    """Message with pyarrow's reason, the line and the probable cause."""
    where, hint = "", "is a quote left open?" if delimiter == "\t" else "is a quote or a comma in a text not quoted?"
    if row := re.search(r"Row #(\d+): Expected (\d+) columns?, got (\d+): ?(.*)", reason):
        layout = fields or Fields(raw, *(quoted_fields(b"", delimiter, dialect).opens,) * 2)
        where = f"line {layout.line_of_row(int(row[1]))}: "
        if b"\n" in raw and len(returns := lone_returns(layout)):
            line = line_at(raw, int(returns[0]))
            hint = (
                f"a carriage return ends line {line}, where others end with a line feed: quote the text that holds it, or remove it"
            )
        elif row[4].rstrip().endswith(delimiter) and int(row[3]) == int(row[2]) + 1:
            hint = "the line ends with a delimiter that the header does not end with"
        elif b'\\"' in raw and dialect.quoting is None:
            hint = f"are quotes escaped by backslashes? Then {dialect.way('quoting', 'backslash')}"
    reason = reason if len(reason) <= 200 else reason[:197] + "..."
    kind = {",": "csv", "\t": "tsv"}.get(delimiter, f"csv with {delimiter!r}")
    return f"not {kind}: {where}{reason}; {hint}"


def _second_header(table: Table, columns: Sequence[str]) -> str | None:
    """Fault of concatenated files with repeated headers; None if the header occurs once."""
    import pyarrow.compute as pc

    if len(set(columns)) < 2 or any(table.schema.names.count(c) != 1 for c in columns) or not table.num_rows:
        return None
    again = None
    for column in columns[::-1]:  # the label first, because it is short
        mine = pc.equal(pc.utf8_trim(table.column(column), characters="\ufeff "), column)
        again = mine if again is None else pc.and_(again, mine)
        if not pc.any(again).as_py():
            return None
    row = pc.index(again, True).as_py() + 1
    return f"row {row} (without the header) repeats the header: were files joined with their headers? Remove that line"


def _returns(raw: bytes, delimiter: str, dialect: Dialect) -> list[str]:
    """A notice on lone carriage returns that end rows though other rows end with a line feed."""
    none = quoted_fields(b"", delimiter, dialect).opens
    if b"\r" not in raw or b"\n" not in raw or not len(places := lone_returns(Fields(raw, none, none))):
        return []
    if b'"' in raw and dialect.quoting != "none":
        places = lone_returns(quoted_fields(raw, delimiter, dialect))
    if not len(places):
        return []
    notice = f"{len(places)} carriage returns without a line feed end rows, first on line {line_at(raw, int(places[0]))}"
    return [f"{notice}; if they are part of texts, quote these texts"]


def _spelt_out(raw: bytes, dialect: Dialect) -> list[str]:
    """Notices on line ends and tabs that a database wrote as a backslash and a letter, and on byte-order marks within the file."""
    notices = []
    places = [place for spelt in (rb"\n", rb"\t") if (place := raw.find(spelt)) >= 0] if b"\\" in raw else []
    if places:  # the search above for a single character is a hundred times faster
        place = min(places)
        count = raw.count(rb"\n") + raw.count(rb"\t")
        shown = raw[place : place + 2].decode()
        notices.append(
            f"a backslash and a letter are read as they are, not as a line end or a tab ({count} in all, first {shown} on line"
            f" {line_at(raw, place)}); if that is not meant, replace them in the file"
        )
    if b"\xef" in raw and (place := raw.find(b"\xef\xbb\xbf")) >= 0:
        count = raw.count(b"\xef\xbb\xbf")
        notices.append(f"{count} byte-order marks are inside the file, first on line {line_at(raw, place)}, and are read as text")
    return notices
