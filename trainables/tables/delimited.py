"""csv and tsv as tables by pyarrow's own reader, checked: no row is lost, split or changed by a delimiter or quote in silence."""

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
"""What Excel writes above the header to tell itself the delimiter."""


def read_delimited(raw: bytes, columns: Sequence[str], delimiter: str, dialect: Dialect) -> tuple[Table, list[str]]:
    """(table, notices) of UTF-8 text; `delimiter` is what the file's name means, `columns` hold text.

    Raises ConfigError with the line of what cannot be read beyond doubt.
    """
    delimiter = dialect.delimiter or delimiter
    if told := SEP_LINE.match(raw):
        if dialect.delimiter not in (None, told[1].decode()):
            raise ConfigError([f"the first line says {told[0].decode().strip()!r}, but delimiter {dialect.delimiter!r} is set"])
        # The line stays as an empty one, which is no row, so that lines are counted as in the file.
        delimiter, raw = told[1].decode(errors="replace"), b"\n" + raw[told.end() :]
    if fault := _header_fault(raw, columns, delimiter, dialect):
        raise ConfigError([fault])
    table, notices = _by_quoting(raw, columns, delimiter, dialect)
    if fault := _second_header(table, columns):
        raise ConfigError([fault])
    return table, notices + _spelt_out(raw, dialect) + _returns(raw, delimiter, dialect)


def _header_fault(raw: bytes, columns: Sequence[str], delimiter: str, dialect: Dialect) -> str | None:
    """Why the columns are not in the header, where another delimiter or no header at all is the reason."""
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
    """The table as its quotes are, or in a tab-separated file whose quotes cannot divide anything, as the lines are."""
    if b'"' not in raw and dialect.quoting != "backslash":
        dialect = replace(dialect, quoting="none")
    if dialect.quoting == "none":
        return _parsed(raw, columns, delimiter, dialect, None), []
    fields, found = quoted_fields(raw, delimiter, dialect), None
    try:
        if fields.fault:
            raise ConfigError([fields.fault])
        table = _parsed(raw, columns, delimiter, dialect, fields)
        # Where every field is quoted, no quote is a lone one.
        every = (table.num_rows + raw.lstrip().startswith(b'"')) * table.num_columns
        lone = dialect.quoting is None and fields.count < every and not (table.num_columns == 1 and fields.doubled)
        found = _swallowed(raw, table, delimiter) if lone else None
        if found and (found.sure or (delimiter == "\t" and not fields.doubled)):
            raise ConfigError([_swallowed_fault(fields, found, dialect)])
    except ConfigError as error:
        doubtful = found is not None and not found.sure
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
    told = [f"{_doubt(fields, found)}; {dialect.way('quoting', 'none')} if they are rows"] if found and not found.sure else []
    return table, told + _needless(fields, delimiter, table, dialect)


def _to_confirm(value: str, dialect: Dialect) -> str:
    return f"; {dialect.way('quoting', value)} if that is right" if dialect.settable else ""


def _swallowed(raw: bytes, table: Table, delimiter: str) -> Swallowed | None:
    """Whether a space behind a delimiter speaks for prose: not in a tab-separated file, nor where the header has one too."""
    header = raw[:4096].lstrip().partition(b"\n")[0]
    prose = delimiter != "\t" and delimiter.encode() + b" " not in header
    return swallowed(table, delimiter, "\n" if b"\n" in raw else "\r", prose)


def _swallowed_fault(fields: Fields, found: Swallowed, dialect: Dialect) -> str:
    return (
        f"{_doubt(fields, found)}: a lone quote?"
        f' Write it twice in a quoted text (""), or if quotes belong to the texts everywhere, {dialect.way("quoting", "none")};'
        f" if the text does hold these lines, {dialect.way('quoting', 'double')}"
    )


def _doubt(fields: Fields, found: Swallowed) -> str:
    line = fields.line_of_row(found.row + 2)
    return f"line {line}: a quote opens a text of {found.lines} lines, each of which reads as a row of its own"


def _needless(fields: Fields, delimiter: str, table: Table, dialect: Dialect) -> list[str]:
    """Of tab-separated files, whose quotes may be meant as they are: fields that are quoted without need, where others are not."""
    if delimiter != "\t" or dialect.quoting is not None or len(fields.opens) >= table.num_rows:
        return []
    needs = re.compile(rb'[\t\n\r",;]')
    for start, end in zip(fields.opens.tolist(), fields.closes.tolist(), strict=True):
        if not needs.search(fields.raw, start + 1, end) and fields.raw[end + 1 : end + 2] != b'"':
            line = line_at(fields.raw, start)
            said = f"some texts stand in quotes and are read without them, such as that on line {line}"
            return [f"{said}; {dialect.way('quoting', 'none')} to keep the quotes" if dialect.settable else said]
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
            # One block for the whole file: a value may be longer than any block size one would choose.
            read_options=arrow.ReadOptions(block_size=min(max(len(content) + 1, 1024), 2**31 - 1), use_threads=False),
            parse_options=options,
            # Text stays text: the label 01 is not 1, and the text NA is not missing.
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(columns, "large_string"), strings_can_be_null=False),
        )
    except pa.ArrowException as error:
        said = " ".join(str(error).split())
    if "Empty CSV" in said:
        raise ConfigError(["the file has a header but no rows"])
    raise ConfigError([_broken(raw, said, delimiter, fields, dialect)])


def _only_escapes(raw: bytes, delimiter: str) -> bytes:
    """A backslash escapes a quote, itself, a delimiter and a line end; any other stands for itself, as in C:\\new."""
    return re.sub(rb'\\([\\"\r\n%b])?' % re.escape(delimiter).encode(), lambda m: m[0] if m[1] else rb"\\", raw)


def _broken(raw: bytes, said: str, delimiter: str, fields: Fields | None, dialect: Dialect) -> str:
    """What pyarrow says, with the line and what may be the reason."""
    where, hint = "", "is a quote left open?" if delimiter == "\t" else "is a quote or a comma in a text not quoted?"
    if row := re.search(r"Row #(\d+): Expected (\d+) columns?, got (\d+): ?(.*)", said):
        found = fields or Fields(raw, *(quoted_fields(b"", delimiter, dialect).opens,) * 2)
        where = f"line {found.line_of_row(int(row[1]))}: "
        if b"\n" in raw and len(returns := lone_returns(found)):
            line = line_at(raw, int(returns[0]))
            hint = (
                f"a carriage return ends line {line}, where others end with a line feed: quote the text that holds it, or remove it"
            )
        elif row[4].rstrip().endswith(delimiter) and int(row[3]) == int(row[2]) + 1:
            hint = "the line ends with a delimiter that the header does not end with"
        elif b'\\"' in raw and dialect.quoting is None:
            hint = f"are quotes escaped by backslashes? Then {dialect.way('quoting', 'backslash')}"
    said = said if len(said) <= 200 else said[:197] + "..."
    kind = {",": "csv", "\t": "tsv"}.get(delimiter, f"csv with {delimiter!r}")
    return f"not {kind}: {where}{said}; {hint}"


def _second_header(table: Table, columns: Sequence[str]) -> str | None:
    """Files that were written one behind the other with their headers."""
    import pyarrow.compute as pc

    if len(set(columns)) < 2 or any(table.schema.names.count(c) != 1 for c in columns) or not table.num_rows:
        return None
    again = None
    for column in columns[::-1]:  # the label first, which is short
        mine = pc.equal(pc.utf8_trim(table.column(column), characters="\ufeff "), column)
        again = mine if again is None else pc.and_(again, mine)
        if not pc.any(again).as_py():
            return None
    row = pc.index(again, True).as_py() + 1
    return f"row {row} (without the header) repeats the header: were files joined with their headers? Remove that line"


def _returns(raw: bytes, delimiter: str, dialect: Dialect) -> list[str]:
    """Carriage returns by themselves that ended a row, where other rows end with a line feed."""
    none = quoted_fields(b"", delimiter, dialect).opens
    if b"\r" not in raw or b"\n" not in raw or not len(places := lone_returns(Fields(raw, none, none))):
        return []
    if b'"' in raw and dialect.quoting != "none":
        places = lone_returns(quoted_fields(raw, delimiter, dialect))
    if not len(places):
        return []
    said = f"{len(places)} carriage returns without a line feed end rows, first on line {line_at(raw, int(places[0]))}"
    return [f"{said}; if they stand in texts, quote these texts"]


def _spelt_out(raw: bytes, dialect: Dialect) -> list[str]:
    """Line ends and tabs that a database wrote as a backslash and a letter, and marks of joined files."""
    notices = []
    places = [place for spelt in (rb"\n", rb"\t") if (place := raw.find(spelt)) >= 0] if b"\\" in raw else []
    if places:  # the search above for one character alone is a hundred times as fast
        place = min(places)
        count = raw.count(rb"\n") + raw.count(rb"\t")
        shown = raw[place : place + 2].decode()
        notices.append(
            f"a backslash and a letter stand for themselves, not for a line end or a tab ({count} in all, first {shown} on line"
            f" {line_at(raw, place)}); if that is not meant, replace them in the file"
        )
    if b"\xef" in raw and (place := raw.find(b"\xef\xbb\xbf")) >= 0:
        count = raw.count(b"\xef\xbb\xbf")
        notices.append(
            f"{count} byte-order marks stand inside of the file, first on line {line_at(raw, place)}, and are read as text"
        )
    return notices
