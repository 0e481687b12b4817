"""Rows that a lone quote swallowed: a quoted text, well-formed by chance, whose lines read as rows of their own.

A genuine text of several lines may hold delimiters too. What tells them apart: rows have the header's number of delimiters in every
line, no space behind them, and in one column values that other rows have there as well, as labels are.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import numpy as np

ENOUGH = 6
"""Lines of one text from which on values that recur among them are evidence by themselves."""


class Swallowed(NamedTuple):
    """A quoted text whose lines read as rows of their own."""

    row: int
    """Its row in the table, counted from 0."""
    lines: int
    sure: bool
    """Whether they have values of other rows, too."""


class Lines(NamedTuple):
    """The lines of a text, divided at delimiters as if no quotes were round them."""

    row: int
    place: int
    """Column of the text."""
    cells: list[list[str]]
    """Of every line that is not empty; of the first only those from the text on, of the last those up to its end."""


def swallowed(table: Any, delimiter: str, end: str, prose: bool) -> Swallowed | None:
    """The first such text of a table whose lines end with `end`; one that is sure goes before others.

    `prose`: spaces behind delimiters speak against it. In a table of one column any text of several lines is one, and none is sure.
    """
    if table.num_columns == 1:
        return _of_one_column(table, end)
    texts = [lines for place in range(table.num_columns) for lines in _texts_of_rows(table, place, delimiter, end)]
    texts = [each for each in texts if not (prose and _is_prose(each.cells))]
    sure = _values_of_other_rows(texts, table)
    found = [Swallowed(each.row, len(each.cells), is_so) for each, is_so in zip(texts, sure, strict=True)]
    return min(found, key=lambda each: (not each.sure, each.row), default=None)


def _of_one_column(table: Any, end: str) -> Swallowed | None:
    """The first text of several lines."""
    import pyarrow as pa

    kind = table.schema.field(0).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not is_text or not len(rows := _rows_with(table.column(0), end)):
        return None
    row = int(rows[0])
    return Swallowed(row, len(table.column(0)[row].as_py().split(end)), False)


def _texts_of_rows(table: Any, place: int, delimiter: str, end: str) -> list[Lines]:
    """Texts of a column whose lines have the header's number of delimiters each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column, most = table.column(place), table.num_columns - 1
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return []
    several = _rows_with(column, end)
    if not len(several):  # pyarrow 21 crashes in `indices_nonzero` of no chunks
        return []
    column = column.take(pa.array(several))
    # All lines together have as many as their number asks for; nobody need look at the others.
    counts = pc.count_substring(column, delimiter)
    breaks = pc.count_substring(column, end)
    chosen = pc.indices_nonzero(pc.and_(pc.greater(counts, 0), pc.greater_equal(pc.multiply(breaks, most), counts))).to_pylist()
    found = []
    for i, text in zip(chosen, column.take(pa.array(chosen, pa.int64())).to_pylist(), strict=True):
        # Most genuine texts differ in their first line already, which spares dividing them.
        if text.count(delimiter, 0, text.index(end)) != most - place or text.count(delimiter, text.rindex(end)) != place:
            continue
        first, *more = text.split(end)
        lines = [first, *filter(lambda line: line.strip("\r"), more[:-1]), *more[-1:]]
        asked = [most - place, *[most] * (len(lines) - 2), place]
        if all(line.count(delimiter) == count for line, count in zip(lines, asked, strict=True)):
            found.append(Lines(int(several[i]), place, [line.rstrip("\r").split(delimiter) for line in lines]))
    return found


def _rows_with(column: Any, character: str) -> Any:
    """Rows of a text column in which an ASCII character stands, by its bytes, for speed."""
    import pyarrow as pa

    rows, first = [np.empty(0, dtype=np.int64)], 0
    for array in filter(len, column.chunks):
        _, offsets, data = array.buffers()
        width = np.int64 if pa.types.is_large_string(array.type) else np.int32
        bounds = np.frombuffer(offsets, dtype=width)[array.offset : array.offset + len(array) + 1]
        inside = np.frombuffer(data or b"", dtype=np.uint8)[bounds[0] : bounds[-1]]
        places = np.flatnonzero(inside == ord(character)) + bounds[0]
        rows.append(np.unique(np.searchsorted(bounds, places, side="right") - 1) + first)
        first += len(array)
    return np.concatenate(rows)


def _is_prose(lines: list[list[str]]) -> bool:
    """Whether a space or the end of the line follows a delimiter in half of the lines."""
    spaced = [any(cell.startswith(" ") for cell in line[1:]) for line in lines]
    ended = [len(line) > 1 and not line[-1] for line in lines[:-1]]
    return 2 * (sum(spaced) + sum(ended)) >= sum(len(line) > 1 for line in lines)


def _values_of_other_rows(texts: list[Lines], table: Any) -> list[bool]:
    """Whether lines have in one column values of the table's, or such that recur."""
    found = [False] * len(texts)
    for column in range(table.num_columns if texts else 0):
        # Behind the text's own column the last line's value is the row's and tells nothing, before it the first line's.
        values = [
            [line[column - each.place] for line in each.cells[:1] if column > each.place]
            + [line[column] for line in each.cells[1:-1] if column != each.place]
            + [line[column] for line in each.cells[-1:] if column < each.place]
            for each in texts
        ]
        known = iter(_known([value for each in values for value in each], table.column(column)))
        for i, each in enumerate(values):
            told = list(islice(known, len(each)))
            recur = len(each) >= ENOUGH and 2 * len(set(each)) <= len(each)
            found[i] |= bool(each) and all(each) and (recur or 2 * sum(told) >= len(told))
    return found


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
