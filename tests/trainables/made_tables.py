"""Small files of rows, what is read from them, and the one fault that they are answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from trainables.settings.dialect import Dialect
from trainables.settings.errors import ConfigError
from trainables.tables.table_files import read_file

ROWS = [("fine", "pos"), ("poor", "neg")]


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def rows(url: str, **dialect: Any) -> list[tuple[str, str]]:
    table, _ = read_file(url, ("text", "label"), Dialect(**dialect))
    return list(zip(table["text"].to_pylist(), map(str, table["label"].to_pylist()), strict=True))


def fault(url: str, **dialect: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_file(url, ("text", "label"), Dialect(**dialect))
    (found,) = caught.value.faults
    assert found.startswith(f"{url}: ")
    assert "\n" not in found
    return found


def parquet_of(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())
