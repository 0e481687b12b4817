"""One file as a table: csv, tsv, jsonl and parquet on any file system, compressed or not; plain text as documents.

Readers are pyarrow's own. Whatever is wrong with the user's files is a ConfigError that names the file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from trainables.corpus_names import COMPRESSIONS, is_plain_text
from trainables.corpus_names import TABLES as FORMATS
from trainables.faults import ConfigError, closest, near
from trainables.files import is_local

Table = Any
"""A pyarrow.Table."""


def read_file(url: str, columns: Sequence[str]) -> Table:
    """A csv, tsv, jsonl or parquet file, compressed or not, as a table; `columns` are those that hold text.

    Raises ConfigError that names the file.
    """
    suffix = _format(url)
    raw = _content(url)
    if suffix != "parquet":
        _check_utf8(raw, url)
        if not raw.removeprefix(b"\xef\xbb\xbf").strip():
            raise ConfigError([f"{url}: the file is empty"])
    import pyarrow as pa

    try:
        table = _parse(raw, suffix, columns)
    except pa.ArrowException as error:
        hint = {"csv": "; is a quote or a comma in a text not quoted?", "tsv": "; is a quote left open?", "parquet": ""}
        said = " ".join(str(error).split())
        if "Empty CSV" in said:
            raise ConfigError([f"{url}: the file has a header but no rows"]) from None
        said = said if len(said) <= 200 else said[:197] + "..."
        raise ConfigError([f"{url}: not {suffix}: {said}{hint.get(suffix, '; it needs one JSON object a line')}"]) from None
    if not table.num_rows:
        raise ConfigError([f"{url}: the file has a header but no rows"])
    return table


def read_documents(url: str, columns: Sequence[str] = ("text",)) -> tuple[list[str], str]:
    """(texts without labels, how they were told apart) of a file: the columns of a table joined by a space, or plain text.

    Plain text holds one document per line, or documents between blank lines if it has any: their lines stay lines. Raises
    ConfigError that names the file.
    """
    if not is_plain_text(url):
        table = read_file(url, columns)
        try:
            return joined_texts(table, columns), "one a row"
        except ConfigError as error:
            raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None
    raw = _content(url)
    _check_utf8(raw, url)
    documents = [list(block) for filled, block in groupby(_lines(raw.decode("utf-8-sig").strip()), key=bool) if filled]
    if not documents:
        raise ConfigError([f"{url}: the file is empty"])
    if len(documents) == 1:
        return documents[0], "one a line"
    longest = max(map(len, documents))
    hint = f", of up to {longest} lines; if each line is a text, remove the blank lines" if longest > 1 else ""
    return ["\n".join(lines) for lines in documents], f"separated by blank lines{hint}"


def _lines(text: str) -> list[str]:
    """Lines without white space round them. A file without any \\n has other line ends: \\r, or those of Unicode."""
    lines = text.split("\n") if "\n" in text else text.splitlines()
    return [line.strip() for line in lines]


def _format(url: str) -> str:
    suffix = _suffix(url)
    if suffix not in FORMATS:
        shown = "." + suffix if "." in os.path.basename(url) else suffix
        raise ConfigError([f"{url}: the format {shown!r} is not one of {', '.join(FORMATS)}"])
    return suffix


def _suffix(url: str) -> str:
    """How the file's name ends, compression left out."""
    parts = os.path.basename(url if is_local(url) else url.split("?")[0]).lower().split(".")
    return parts[-2] if parts[-1] in COMPRESSIONS and len(parts) > 2 else parts[-1]


def _opened(url: str) -> Any:
    """The file, uncompressed. In a local path `*`, `?`, `#` and `::` mean nothing, as they do in a URL."""
    import fsspec

    if is_local(url):
        path = os.path.abspath(os.path.expanduser(url))
        return fsspec.filesystem("file").open(path, "rb", compression="infer")
    return fsspec.open(url, "rb", compression="infer")


def _content(url: str) -> bytes:
    try:
        with _opened(url) as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise ConfigError([f"{url}: there is no such file{_sibling(url)}"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{url}: is a folder; give a file, or as `folder` what `datasets` saved"]) from None
    except Exception as error:  # whatever the file system's own library raises: rights, network, a missing package
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise ConfigError([f"{url}: cannot be read: {' '.join(reason.split())}"]) from None


def _sibling(url: str) -> str:
    """`; did you mean 'x'?` for a file beside the missing one."""
    folder = Path(os.path.expanduser(url)).parent
    close = closest(Path(url).name, os.listdir(folder)) if folder.is_dir() else None
    return f"; did you mean {close!r}?" if close else ""


def _check_utf8(raw: bytes, url: str) -> None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [f"{url}: not UTF-8: byte {raw[error.start]:#04x} at offset {error.start} (line {line}); save the file as UTF-8"]
        ) from None


def _parse(raw: bytes, suffix: str, columns: Sequence[str]) -> Table:
    # One block for the whole file: a value may be longer than any block size one would choose.
    block = min(max(len(raw) + 1, 1024), 2**31 - 1)
    if suffix == "parquet":
        from pyarrow import parquet

        return parquet.read_table(io.BytesIO(raw))
    if suffix in ("csv", "tsv"):
        from pyarrow import csv

        return csv.read_csv(
            io.BytesIO(raw),
            read_options=csv.ReadOptions(block_size=block, use_threads=False),
            parse_options=csv.ParseOptions(delimiter="\t" if suffix == "tsv" else ",", newlines_in_values=True),
            # Text stays text: the label 01 is not 1, and the text NA is not missing.
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(columns, "large_string"), strings_can_be_null=False),
        )
    import pyarrow as pa
    from pyarrow import json as arrow_json

    def parsed(schema: Any = None) -> Table:
        options = arrow_json.ParseOptions(explicit_schema=schema)
        return arrow_json.read_json(io.BytesIO(raw), arrow_json.ReadOptions(block_size=block, use_threads=False), options)

    table = parsed()
    # Arrow takes strings that look like a moment for one; they are read again as the text that they are.
    moments = [name for name in columns if name in table.schema.names and _of_moments(table.schema.field(name).type)]
    if not moments:
        return table
    return parsed(pa.schema([(name, _as_text(table.schema.field(name).type)) for name in moments]))


def _of_moments(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(kind) or (pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type)))


def _as_text(kind: Any) -> Any:
    import pyarrow as pa

    return pa.list_(pa.string()) if pa.types.is_list(kind) else pa.string()


def column_faults(names: list[str], wanted: Sequence[str]) -> list[str]:
    missing = [f"there is no column {c!r}{near(c, names)}" for c in wanted if c not in names]
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
    return [text or "" for text in column.to_pylist()]


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
