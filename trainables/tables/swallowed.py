"""Detect rows that a lone quote swallowed: a quoted text, well-formed by chance, whose lines look like rows.

A genuine text of several lines may contain delimiters too. Swallowed rows differ from it: every line has the header's number of
delimiters, without spaces after them, and in one column, such as that of the label, values that also occur in other rows.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import numpy as np

ENOUGH = 6
"""Least number of lines of a text for which recurring values are sufficient evidence."""


class Swallowed(NamedTuple):
    """A quoted text whose lines look like rows."""

    row: int
    """Its row in the table, counted from 0."""
    lines: int
    sure: bool
    """Whether the lines also have values of other rows."""


class Lines(NamedTuple):
    """The lines of a text, split at delimiters as if it were not quoted."""

    row: int
    place: int
    """Column of the text."""
    cells: list[list[str]]
    """Cells of every non-empty line: of the first line from the text on, of the last line up to the end of the text."""


def swallowed(table: Any, delimiter: str, end: str, prose: bool) -> Swallowed | None:
    """The first suspicious text of a table whose lines end with `end`, preferably one that is sure; None if there is none.

    `prose`: spaces after delimiters indicate prose, not rows. In a table with one column every text of several lines is suspicious,
    and none is sure.
    """
    if table.num_columns == 1:
        return _of_one_column(table, end)
    texts = [lines for place in range(table.num_columns) for lines in _texts_of_rows(table, place, delimiter, end)]
    texts = [text for text in texts if not (prose and _is_prose(text.cells))]
    sure = _values_of_other_rows(texts, table)
    suspects = [Swallowed(text.row, len(text.cells), is_sure) for text, is_sure in zip(texts, sure, strict=True)]
    return min(suspects, key=lambda suspect: (not suspect.sure, suspect.row), default=None)


def _of_one_column(table: Any, end: str) -> Swallowed | None:
    """The first text with several lines; None if there is none."""
    import pyarrow as pa

    kind = table.schema.field(0).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not is_text or not len(rows := _rows_with(table.column(0), end)):
        return None
    row = int(rows[0])
    return Swallowed(row, len(table.column(0)[row].as_py().split(end)), False)


def _texts_of_rows(table: Any, place: int, delimiter: str, end: str) -> list[Lines]:
    """Texts of a column in which every line has the header's number of delimiters."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column, most = table.column(place), table.num_columns - 1
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return []
    several = _rows_with(column, end)
    if not len(several):  # pyarrow 21 crashes in `indices_nonzero` of no chunks
        return []
    column = column.take(pa.array(several))
    # Quick filter: the total number of delimiters must fit the number of lines.
    counts = pc.count_substring(column, delimiter)
    breaks = pc.count_substring(column, end)
    chosen = pc.indices_nonzero(pc.and_(pc.greater(counts, 0), pc.greater_equal(pc.multiply(breaks, most), counts))).to_pylist()
    candidates = []
    for i, text in zip(chosen, column.take(pa.array(chosen, pa.int64())).to_pylist(), strict=True):
        # Most genuine texts differ in their first or last line already, so they need not be split.
        if text.count(delimiter, 0, text.index(end)) != most - place or text.count(delimiter, text.rindex(end)) != place:
            continue
        first, *more = text.split(end)
        lines = [first, *filter(lambda line: line.strip("\r"), more[:-1]), *more[-1:]]
        expected = [most - place, *[most] * (len(lines) - 2), place]
        if all(line.count(delimiter) == count for line, count in zip(lines, expected, strict=True)):
            candidates.append(Lines(int(several[i]), place, [line.rstrip("\r").split(delimiter) for line in lines]))
    return candidates


def _rows_with(column: Any, character: str) -> Any:
    """Indices of the rows of a text column that contain an ASCII character; works on bytes, for speed."""
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
    """Whether in half of the lines a delimiter is followed by a space or the end of the line."""
    spaced = [any(cell.startswith(" ") for cell in line[1:]) for line in lines]
    ended = [len(line) > 1 and not line[-1] for line in lines[:-1]]
    return 2 * (sum(spaced) + sum(ended)) >= sum(len(line) > 1 for line in lines)


def _values_of_other_rows(texts: list[Lines], table: Any) -> list[bool]:
    """For every text, whether its lines have in some column values that occur in the table or recur among them."""
    sure = [False] * len(texts)
    for column in range(table.num_columns if texts else 0):
        # Values of the row itself are no evidence: after the text's column those of the last line, before it those of the first.
        values = [
            [line[column - text.place] for line in text.cells[:1] if column > text.place]
            + [line[column] for line in text.cells[1:-1] if column != text.place]
            + [line[column] for line in text.cells[-1:] if column < text.place]
            for text in texts
        ]
        known = iter(_known([value for own in values for value in own], table.column(column)))
        for i, own in enumerate(values):
            occurs = list(islice(known, len(own)))
            recur = len(own) >= ENOUGH and 2 * len(set(own)) <= len(own)
            sure[i] |= bool(own) and all(own) and (recur or 2 * sum(occurs) >= len(occurs))
    return sure


def _known(values: list[str], column: Any) -> list[bool]:
    """For every value, whether it occurs in the column or, if the column numbers its rows, is a number missing there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        return [False] * len(values)
    kind = pa.large_string()
    there: list[bool] = pc.is_in(pa.array(values, kind), value_set=column.cast(kind).combine_chunks()).to_pylist()
    if pa.types.is_integer(column.type) and pc.count_distinct(column).as_py() == len(column) > 1:
        return [value.isdecimal() and not known for value, known in zip(values, there, strict=True)]
    return there
