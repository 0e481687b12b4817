"""Rows that a lone quote swallowed: a quoted text, well-formed by chance, whose lines read as rows of their own.

A genuine text of several lines may hold delimiters too. What tells them apart: rows have the header's number of delimiters in every
line, no space behind them, and in one column values that other rows have there as well, as labels are.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from trainables.quotes import CR, Fields, Places

ENOUGH = 6
"""Lines of one text from which on values that recur among them are evidence by themselves."""
Cells = list[list[str]]
"""The lines of a quoted text that are not empty, divided as if there were no quotes."""


class Swallowed(NamedTuple):
    """A quoted text whose lines read as rows of their own."""

    line: int
    lines: int
    sure: bool
    """Whether they have values of other rows, too."""


def swallowed(fields: Fields, table: Any, delimiter: str) -> Swallowed | None:
    """The first such text of a file; one that is sure goes before others."""
    ends = fields.breaks()
    within = fields.inside(ends)
    if table.num_columns < 2 or not within.any():
        return None
    if ends[-1] != len(fields.raw) - 1:
        ends, within = np.append(ends, len(fields.raw)), np.append(within, False)
    starts = np.concatenate([[0], ends[:-1] + 1])
    firsts = np.flatnonzero(~np.concatenate([[False], within[:-1]]))  # lines on which a row begins
    sizes = np.diff(np.append(firsts, len(ends)))
    alike = _like_rows(fields.raw, starts, ends, delimiter, table.num_columns)
    chosen = np.flatnonzero((sizes > 1) & np.logical_and.reduceat(alike, firsts))
    texts = [(int(firsts[i]), int(sizes[i])) for i in chosen]
    groups = [_cells(fields.raw, starts[f : f + n], ends[f : f + n], delimiter) for f, n in texts]
    if delimiter != "\t" and delimiter.encode() + b" " not in fields.raw[: ends[0]]:
        kept = [i for i, rows in enumerate(groups) if not _prose(rows)]
        texts, groups = [texts[i] for i in kept], [groups[i] for i in kept]
    sure = _values_of_other_rows(groups, table)
    found = [Swallowed(first + 1, lines, each) for (first, lines), each in zip(texts, sure, strict=True)]
    return max(found, key=lambda each: each.sure, default=None)


def _like_rows(raw: bytes, starts: Places, ends: Places, delimiter: str, columns: int) -> Any:
    """Whether each line has as many delimiters as the header, or is empty."""
    buffer = np.frombuffer(raw, dtype=np.uint8)
    marks = np.flatnonzero(buffer == ord(delimiter))
    counts = np.searchsorted(marks, ends) - np.searchsorted(marks, starts)
    return (counts == columns - 1) | (ends == starts) | ((ends == starts + 1) & (buffer[starts] == CR))


def _cells(raw: bytes, starts: Places, ends: Places, delimiter: str) -> Cells:
    lines = [raw[start:end].rstrip(b"\r").decode(errors="replace") for start, end in zip(starts, ends, strict=True)]
    return [line.split(delimiter) for line in lines if line]


def _prose(rows: Cells) -> bool:
    """Whether a space follows the delimiter in half of the lines."""
    return 2 * sum(any(cell.startswith(" ") for cell in row[1:]) for row in rows) >= len(rows)


def _values_of_other_rows(groups: list[Cells], table: Any) -> list[bool]:
    """Whether lines have in one column values of the table's, or such that recur.

    Behind the quoted column the last line's value is the row's own and tells nothing, before it the first line's.
    """
    found = [False] * len(groups)
    opened = [_opened(rows[0]) for rows in groups]
    for column in range(table.num_columns if groups else 0):
        known = iter(_known([row[column] for rows in groups for row in rows], table.column(column)))
        for i, rows in enumerate(groups):
            told = list(islice(known, len(rows)))
            if column != opened[i]:
                mine = slice(0, -1) if column > opened[i] else slice(1, None)
                found[i] |= _evident([row[column] for row in rows][mine], told[mine])
    return found


def _evident(values: list[str], known: list[bool]) -> bool:
    recur = len(values) >= ENOUGH and 2 * len(set(values)) <= len(values)
    return bool(values) and all(values) and (recur or 2 * sum(known) >= len(known))


def _opened(cells: list[str]) -> int:
    """Which of the cells of a line begins the quoted field that goes on behind the line."""
    place, quotes = 0, 0
    for i, cell in enumerate(cells):
        if quotes % 2 == 0:
            place, quotes = i, 0
        if quotes or cell.startswith('"'):
            quotes += cell.count('"')
    return place


def _known(values: list[str], column: Any) -> list[bool]:
    """Whether each occurs in a column or, in one of numbers that are all different, is a number that is left out there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        return [False] * len(values)
    kind = pa.large_string()
    there: list[bool] = pc.is_in(pa.array(values, kind), value_set=column.cast(kind).combine_chunks()).to_pylist()
    if pa.types.is_integer(column.type) and pc.count_distinct(column).as_py() == len(column) > 1:
        return [value.isdecimal() and not known for value, known in zip(values, there, strict=True)]
    return there
