"""Read a file as a table (csv, tsv, jsonl, parquet) or as documents (plain text), on any file system, compressed or not.

pyarrow's readers are used. Every fault of the user's files is a ConfigError that names the file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any

from trainables.settings.dialect import DELIMITERS, Dialect
from trainables.settings.errors import ConfigError, closest
from trainables.settings.file_names import TABLES
from trainables.tables.delimited import declared_delimiter, read_delimited
from trainables.tables.encodings import doubts
from trainables.tables.file_content import as_utf8, check_kind, check_lasting, read_content
from trainables.tables.free_memory import check_fits
from trainables.tables.wrong_suffix import HEAD, is_json_lines, table_in_text

Table = Any
"""A pyarrow.Table."""
_NAN = "NaN (write null where a value is missing)"


def read_file(url: str, columns: Sequence[str], dialect: Dialect | None = None) -> tuple[Table, tuple[str, ...]]:
    """(table, notices) of a csv, tsv, jsonl or parquet file, compressed or not; `columns` are read as text.

    Raises ConfigError that names the file.
    """
    check_lasting(url)
    kind, raw = read_content(url)
    try:
        table, notices = _parse(raw, kind, columns, dialect or Dialect())
        if not table.num_rows:
            raise ConfigError(["the file has a header but no rows"])
    except ConfigError as error:
        raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None
    return table, tuple(f"{url}: {notice}" for notice in notices)


def read_text_table(url: str, columns: Sequence[str], dialect: Dialect) -> tuple[Table, str, tuple[str, ...]]:
    """(table, delimiter, notices) of a csv or tsv file, compressed or not, with all its columns as they are written: as text.

    `columns` are looked for in the header. Raises ConfigError that names the file.
    """
    kind, raw = read_content(url)
    try:
        check_kind(raw, kind)
        raw = as_utf8(raw, dialect)
        if not raw or raw.isspace():
            raise ConfigError(["the file is empty"])
        if kind not in DELIMITERS or is_json_lines(raw[:HEAD].decode(errors="replace")):
            raise ConfigError(["is JSON lines, not csv or tsv; let its name end in .jsonl"])
        table, notices = read_delimited(raw, columns, DELIMITERS[kind], dialect)
        if not all(_is_string(column.type) for column in table.schema):
            table, notices = read_delimited(raw, table.schema.names, DELIMITERS[kind], dialect)
        if not table.num_rows:
            raise ConfigError(["the file has a header but no rows"])
    except ConfigError as error:
        raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None
    delimiter = declared_delimiter(raw) or dialect.delimiter or DELIMITERS[kind]
    return table, delimiter, tuple(f"{url}: {notice}" for notice in [*notices, *doubts(raw)])


def open_parquet(source: Any, url: str) -> Any:
    """A pyarrow ParquetFile of a path or of bytes. Raises ConfigError that names the file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(source)
    except FileNotFoundError:
        read_content(url)  # says what is there
        raise
    except (pa.ArrowException, OSError) as error:
        raise ConfigError([f"{url}: not parquet, or a damaged file: {_short(str(error))}"]) from None


def read_documents(
    url: str, columns: Sequence[str] = ("text",), dialect: Dialect | None = None
) -> tuple[list[str], str, tuple[str, ...]]:
    """(texts without labels, how they are separated, notices) of a file: joined columns of a table, or plain text.

    Plain text has one document per line, or documents between blank lines if it has any; their lines stay separate. Without a
    dialect, messages do not suggest to set one. Raises ConfigError that names the file.
    """
    dialect = dialect or Dialect(settable=False)
    check_lasting(url)
    kind, raw = read_content(url, (*TABLES, "txt"))
    try:
        if kind != "txt":
            table, notices = _parse(raw, kind, columns, dialect)
            if not table.num_rows:
                raise ConfigError(["the file has a header but no rows"])
            return joined_texts(table, columns), "one a row", tuple(notices)
        check_kind(raw, kind)
        raw = as_utf8(raw, dialect)
        text = raw.decode()
        remarks = tuple(doubts(raw) + table_in_text(text))
    except ConfigError as error:
        raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None
    documents = [list(block) for filled, block in groupby(_lines(text.strip()), key=bool) if filled]
    if not documents:
        raise ConfigError([f"{url}: the file is empty"])
    if len(documents) == 1:
        return documents[0], "one a line", remarks
    longest = max(map(len, documents))
    hint = f", of up to {longest} lines; if each line is a text, remove the blank lines" if longest > 1 else ""
    return ["\n".join(lines) for lines in documents], f"separated by blank lines{hint}", remarks


def _lines(text: str) -> list[str]:
    """Stripped lines. A file without any \\n has other line ends: \\r, or those of Unicode."""
    lines = text.split("\n") if "\n" in text else text.splitlines()
    return [line.strip() for line in lines]


def _parse(raw: bytes, kind: str, columns: Sequence[str], dialect: Dialect) -> tuple[Table, list[str]]:
    check_kind(raw, kind)
    if kind == "parquet":
        return (table := _parquet(raw)), _doubts_of(table, columns)
    raw = as_utf8(raw, dialect)
    if not raw or raw.isspace():
        raise ConfigError(["the file is empty"])
    if kind in DELIMITERS:
        if is_json_lines(raw[:HEAD].decode(errors="replace")):
            raise ConfigError([f"is JSON lines, not {kind}; let its name end in .jsonl"])
        table, notices = read_delimited(raw, columns, DELIMITERS[kind], dialect)
        return table, notices + doubts(raw)
    table, remarks = _json_lines(raw, kind, columns), doubts(raw)
    return table, remarks or (_doubts_of(table, columns) if b"\\u" in raw else [])  # \u may encode such a character


def _doubts_of(table: Table, columns: Sequence[str]) -> list[str]:
    """Notices on lost or misread characters in these columns."""
    notices: list[str] = []
    for name in dict.fromkeys(columns):
        if table.schema.names.count(name) == 1 and _is_text(table.schema.field(name).type):
            rows = "\n".join(" ".join(text.splitlines()) for text in _texts(table.column(name), name))
            notices += [f"the column {name!r}: {doubt}" for doubt in doubts(rows.encode(errors="surrogatepass"), "row")]
    return notices


def _parquet(raw: bytes) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(io.BytesIO(raw))
        # The file may store repeated texts once, but memory needs at least an offset for every row.
        check_fits(
            sum(max((group := metadata.row_group(i)).total_byte_size, 4 * group.num_rows) for i in range(metadata.num_row_groups))
        )
        return parquet.read_table(io.BytesIO(raw))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError([f"not parquet, or a damaged file: {_short(str(error))}"]) from None


def _json_lines(raw: bytes, kind: str, columns: Sequence[str]) -> Table:
    import pyarrow as pa
    from pyarrow import json as arrow

    def parsed(schema: Any = None) -> Table:
        # One block for the whole file: a value may be longer than any fixed block size.
        block = min(len(raw) + 1024, 2**31 - 1)
        options = arrow.ParseOptions(explicit_schema=schema)
        return arrow.read_json(io.BytesIO(raw), arrow.ReadOptions(block_size=block, use_threads=False), options)

    try:
        table = parsed()
        # Arrow converts strings that look like timestamps; these columns are read again as text.
        names = table.schema.names
        if line := _rounded(raw, [name for name in columns if name in names and _is_rounded(table.column(name))]):
            raise ConfigError([line])
        moments = [name for name in columns if name in names and _of_moments(table.schema.field(name).type)]
        return parsed(pa.schema([(name, _as_text(table.schema.field(name).type)) for name in moments])) if moments else table
    except pa.ArrowException as error:
        reason = _short(str(error))
    if raw.lstrip().startswith(b"["):
        reason = "the file is one array; write each object on a line of its own"
    elif line := _faulty_line(raw):
        reason = f"{line}; {reason}"
    raise ConfigError([f"not {kind}: {reason}; it needs one JSON object a line"])


def _faulty_line(raw: bytes) -> str:
    """Message on the first line that is not a JSON object, has a lone surrogate, or has a value of another type; else empty."""
    types: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return f"line {number} holds half of a character (a lone surrogate such as \\ud800)"
        except ValueError as error:
            return f"line {number}: {error}"
        if not isinstance(content, dict):
            return f"line {number} is no object"
        lists = [(f"{key}[]", item) for key, value in content.items() if isinstance(value, list) for item in value]
        for key, value in [*content.items(), *lists]:
            kind = _NAN if value != value else "number" if type(value) in (int, float) else type(value).__name__
            before, first = types.setdefault(key, (kind, number)) if value is not None else (kind, number)
            if before != kind and {before, kind} != {_NAN, "number"}:
                return f"{key!r} is {kind} on line {number} and {before} on line {first}"
    return ""


def _is_rounded(column: Any) -> bool:
    """Whether a column, or its lists, may contain whole numbers that Arrow rounded to floats."""
    import pyarrow as pa
    from pyarrow import compute

    values = compute.list_flatten(column) if pa.types.is_list(column.type) else column
    if not pa.types.is_floating(values.type):
        return False
    return bool(compute.any(compute.greater_equal(compute.abs(values), 2.0**53)).as_py())


def _rounded(raw: bytes, columns: Sequence[str]) -> str:
    """Message on the first number in these columns that a float cannot represent exactly; else empty."""
    for number, line in enumerate(raw.split(b"\n") if columns else (), start=1):
        row = json.loads(line, parse_int=Decimal, parse_float=Decimal) if line.strip() else {}
        for name in columns:
            value = row.get(name)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Decimal) and abs(item) >= 2**53 and Decimal(float(item)) != item:
                    return (
                        f"line {number}: {name!r} is {item}, too large to be read exactly as a number: write it in quotes, as text"
                    )
    return ""


def _of_moments(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(kind) or (pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type)))


def _as_text(kind: Any) -> Any:
    import pyarrow as pa

    return pa.list_(pa.string()) if pa.types.is_list(kind) else pa.string()


def _short(message: str) -> str:
    message = " ".join(message.split())
    return message if len(message) <= 200 else message[:197] + "..."


def column_faults(names: list[str], wanted: Sequence[str]) -> list[str]:
    """Faults for missing columns, with the near miss or the existing columns, and for duplicate ones."""
    there = _short(", ".join(names))
    hints = {c: f"did you mean {close!r}?" if (close := closest(c, names)) else f"there are: {there}" for c in wanted}
    missing = [f"there is no column {c!r}; {hints[c]}" for c in wanted if c not in names]
    return missing + [f"the column {c!r} occurs {names.count(c)} times" for c in dict.fromkeys(wanted) if names.count(c) > 1]


def joined_texts(table: Table, columns: Sequence[str]) -> list[str]:
    """The text columns joined to one text per row. Raises ConfigError for missing columns and columns of another type."""
    if faults := column_faults(table.schema.names, columns):
        raise ConfigError(faults)
    parts = [_texts(table.column(c), c) for c in columns]
    return parts[0] if len(parts) == 1 else [" ".join(filter(None, row)) for row in zip(*parts, strict=True)]


def _texts(column: Any, name: str) -> list[str]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return [""] * len(column)
    if not _is_string(column.type):
        raise ConfigError([f"the column {name!r} holds {column.type}, not text"])
    try:
        return [text or "" for text in column.to_pylist()]
    except UnicodeDecodeError as error:
        raise ConfigError([f"the column {name!r} holds bytes that are not UTF-8: {_short(str(error))}"]) from None


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return _is_string(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
