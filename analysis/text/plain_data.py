"""Write CSV and JSON for other programs, with significant digits only."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from analysis.text.plain import plain

DIGITS = 8
"""Significant digits of a written number: further ones depend on the order of summation and on the version of scipy."""


def csv_text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Format rows as CSV."""
    return "".join(csv_parts(columns, rows))


def csv_parts(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the same line by line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for cells in chain([columns], ([row.get(column) for column in columns] for row in rows)):
        writer.writerow(map(_cell, cells))
        yield out.getvalue()
        out.seek(0)
        out.truncate()


def json_text(data: Any) -> str:
    """Format data as JSON, with DIGITS significant digits. Raises ValueError for NaN and infinity, which JSON lacks."""
    return json.dumps(significant(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def significant(data: Any) -> Any:
    """Return the same data with numbers rounded to DIGITS significant digits."""
    if isinstance(data, float):
        return float(f"{data:.{DIGITS}g}")
    if isinstance(data, Mapping):
        return {name: significant(value) for name, value in data.items()}
    return [significant(value) for value in data] if isinstance(data, (list, tuple)) else data


def _cell(value: Any) -> Any:
    """Prefix text that a spreadsheet would take for a formula with an apostrophe; round numbers to DIGITS digits."""
    value = significant(value)
    if isinstance(value, (list, tuple)):
        value = " + ".join(map(str, value))
    if isinstance(value, str):
        return _text(value)
    return "" if value is None else value


@lru_cache(10_000)  # results.csv repeats a few texts in every row, and `plain` is slow
def _text(value: str) -> str:
    value = plain(value)
    return "'" + value if value[:1] in tuple("=+-@\t\r|%") else value
