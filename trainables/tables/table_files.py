"""One file as a table: csv, tsv, jsonl and parquet on any file system, compressed or not; plain text as documents.

Readers are pyarrow's own. Whatever is wrong with the user's files is a ConfigError that names the file.
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
from trainables.tables.delimited import read_delimited
from trainables.tables.encodings import doubts
from trainables.tables.file_content import as_utf8, check_kind, read_content
from trainables.tables.free_memory import check_fits
from trainables.tables.wrong_suffix import HEAD, is_json_lines, table_in_text

Table = Any
"""A pyarrow.Table."""
_NAN = "NaN (write null where a value is missing)"


def read_file(url: str, columns: Sequence[str], dialect: Dialect | None = None) -> tuple[Table, tuple[str, ...]]:
    """(table, notices) of a csv, tsv, jsonl or parquet file, compressed or not; `columns` are those that hold text.

    Raises ConfigError that names the file.
    """
    kind, raw = read_content(url)
    try:
        table, notices = _parse(raw, kind, columns, dialect or Dialect())
        if not table.num_rows:
            raise ConfigError(["the file has a header but no rows"])
    except ConfigError as error:
        raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None
    return table, tuple(f"{url}: {notice}" for notice in notices)


def read_documents(
    url: str, columns: Sequence[str] = ("text",), dialect: Dialect | None = None
) -> tuple[list[str], str, tuple[str, ...]]:
    """(texts without labels, how they were told apart, notices) of a file: the columns of a table joined by a space, or plain text.

    Plain text holds one document per line, or documents between blank lines if it has any: their lines stay lines. Without
    a dialect there is no place to give one. Raises ConfigError that names the file.
    """
    dialect = dialect or Dialect(settable=False)
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
        told = tuple(doubts(raw) + table_in_text(text))
    except ConfigError as error:
        raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None
    documents = [list(block) for filled, block in groupby(_lines(text.strip()), key=bool) if filled]
    if not documents:
        raise ConfigError([f"{url}: the file is empty"])
    if len(documents) == 1:
        return documents[0], "one a line", told
    longest = max(map(len, documents))
    hint = f", of up to {longest} lines; if each line is a text, remove the blank lines" if longest > 1 else ""
    return ["\n".join(lines) for lines in documents], f"separated by blank lines{hint}", told


def _lines(text: str) -> list[str]:
    """Lines without white space round them. A file without any \\n has other line ends: \\r, or those of Unicode."""
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
    table, told = _json_lines(raw, kind, columns), doubts(raw)
    return table, told or (_doubts_of(table, columns) if b"\\u" in raw else [])  # which may spell such a character


def _doubts_of(table: Table, columns: Sequence[str]) -> list[str]:
    """What in the texts of these columns speaks of characters that were lost or misread."""
    told: list[str] = []
    for name in dict.fromkeys(columns):
        if table.schema.names.count(name) == 1 and _is_text(table.schema.field(name).type):
            rows = "\n".join(" ".join(text.splitlines()) for text in _texts(table.column(name), name))
            told += [f"the column {name!r}: {each}" for each in doubts(rows.encode(errors="surrogatepass"), "row")]
    return told


def _parquet(raw: bytes) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        about = parquet.read_metadata(io.BytesIO(raw))
        # Of texts that are all the same the file holds one, memory at least the place of each.
        check_fits(sum(max((group := about.row_group(i)).total_byte_size, 4 * group.num_rows) for i in range(about.num_row_groups)))
        return parquet.read_table(io.BytesIO(raw))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError([f"not parquet, or a damaged file: {_short(str(error))}"]) from None


def _json_lines(raw: bytes, kind: str, columns: Sequence[str]) -> Table:
    import pyarrow as pa
    from pyarrow import json as arrow

    def parsed(schema: Any = None) -> Table:
        # One block for the whole file: a value may be longer than any block size one would choose.
        block = min(len(raw) + 1024, 2**31 - 1)
        options = arrow.ParseOptions(explicit_schema=schema)
        return arrow.read_json(io.BytesIO(raw), arrow.ReadOptions(block_size=block, use_threads=False), options)

    try:
        table = parsed()
        # Arrow takes strings that look like a moment for one; they are read again as the text that they are.
        found = table.schema.names
        if line := _rounded(raw, [name for name in columns if name in found and _is_rounded(table.column(name))]):
            raise ConfigError([line])
        moments = [name for name in columns if name in found and _of_moments(table.schema.field(name).type)]
        return parsed(pa.schema([(name, _as_text(table.schema.field(name).type)) for name in moments])) if moments else table
    except pa.ArrowException as error:
        said = _short(str(error))
    if raw.lstrip().startswith(b"["):
        said = "the file is one array; write each object on a line of its own"
    elif line := _faulty_line(raw):
        said = f"{line}; {said}"
    raise ConfigError([f"not {kind}: {said}; it needs one JSON object a line"])


def _faulty_line(raw: bytes) -> str:
    """The first line that is not a JSON object by itself, or holds half of a pair of surrogates, or is of another type."""
    types: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return f"line {number} holds half of a character (a lone surrogate such as \\ud800)"
        except ValueError as error:
            return f"line {number}: {error}"
        if not isinstance(found, dict):
            return f"line {number} is no object"
        lists = [(f"{key}[]", each) for key, value in found.items() if isinstance(value, list) for each in value]
        for key, value in [*found.items(), *lists]:
            kind = _NAN if value != value else "number" if type(value) in (int, float) else type(value).__name__
            before, first = types.setdefault(key, (kind, number)) if value is not None else (kind, number)
            if before != kind and {before, kind} != {_NAN, "number"}:
                return f"{key!r} is {kind} on line {number} and {before} on line {first}"
    return ""


def _is_rounded(column: Any) -> bool:
    """Whether a column, or its lists, may hold whole numbers that Arrow has rounded to floats."""
    import pyarrow as pa
    from pyarrow import compute

    values = compute.list_flatten(column) if pa.types.is_list(column.type) else column
    if not pa.types.is_floating(values.type):
        return False
    return bool(compute.any(compute.greater_equal(compute.abs(values), 2.0**53)).as_py())


def _rounded(raw: bytes, columns: Sequence[str]) -> str:
    """The first number in these columns that a float cannot hold, with its line and the way out; empty text for none."""
    for number, line in enumerate(raw.split(b"\n") if columns else (), start=1):
        row = json.loads(line, parse_int=Decimal, parse_float=Decimal) if line.strip() else {}
        for name in columns:
            value = row.get(name)
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, Decimal) and abs(each) >= 2**53 and Decimal(float(each)) != each:
                    return (
                        f"line {number}: {name!r} is {each}, too large to be read exactly as a number: write it in quotes, as text"
                    )
    return ""


def _of_moments(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(kind) or (pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type)))


def _as_text(kind: Any) -> Any:
    import pyarrow as pa

    return pa.list_(pa.string()) if pa.types.is_list(kind) else pa.string()


def _short(said: str) -> str:
    said = " ".join(said.split())
    return said if len(said) <= 200 else said[:197] + "..."


def column_faults(names: list[str], wanted: Sequence[str]) -> list[str]:
    """Columns that are missing, with the near miss or those that are there, and such as occur several times."""
    there = _short(", ".join(names))
    hints = {c: f"did you mean {close!r}?" if (close := closest(c, names)) else f"there are: {there}" for c in wanted}
    missing = [f"there is no column {c!r}; {hints[c]}" for c in wanted if c not in names]
    return missing + [f"the column {c!r} occurs {names.count(c)} times" for c in dict.fromkeys(wanted) if names.count(c) > 1]


def joined_texts(table: Table, columns: Sequence[str]) -> list[str]:
    """The text columns as one text per row."""
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
