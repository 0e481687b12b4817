"""Read the label columns of all splits as class names. The meaning of a value is decided over all splits together."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain
from typing import Any

from trainables.data.label_columns import MISSING, Column, column_of
from trainables.data.several_labels import parts_of
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf", re.IGNORECASE)
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
_COMMA = re.compile(r"[-+]?\d*,\d+")
_LONGEST = 30
"""Largest number of digits of a whole number that is written out."""


@dataclass(frozen=True)
class Labels:
    """The labels of one split, row by row."""

    rows: list[tuple[str, ...] | None]
    """Labels of a row: exactly one, except in a multi-label task. None if a label is missing."""
    missing: dict[int, str]
    """{row: its content} for rows with a missing label; empty text for an empty cell."""
    partly: dict[int, str]
    """{row: its whole content} for rows with both a missing and a valid label."""
    names: tuple[str, ...] | None
    """Names of the classes in order, if the file defines them."""
    notices: tuple[str, ...] = ()
    """Notices to the user about how the labels were read."""


def read_labels(tables: Mapping[str, Any], task: Task) -> tuple[dict[str, Labels], list[str]]:
    """Read labels from tables with the label columns: ({split: labels} of readable splits, faults that name their splits)."""
    columns: dict[str, Column] = {}
    faults: list[str] = []
    for split, table in tables.items():
        try:
            columns[split] = column_of(table, task)
        except ConfigError as error:
            faults += [f"{split}: {fault}" for fault in error.faults]
    faults += _number_and_name_faults(columns, task)
    columns = {split: replace(column, cells=_spelled(column, columns, task)) for split, column in columns.items()}
    rows, more, remarks = parts_of({split: column.cells for split, column in columns.items()}, task)
    labels = {split: _without_missing(rows[split], columns[split], task) for split in rows}
    labels, changed = _as_whole(labels, task)
    for split, part in labels.items():
        notices = [*columns[split].notices, *remarks.get(split, ()), *changed.get(split, ())]
        labels[split] = replace(part, notices=tuple(notices))
    named = any(column.names is not None for column in columns.values())
    return labels, [*faults, *more, *(() if named else regression_faults(labels, task))]


def column_names(task: Task) -> str:
    """The label columns as text for messages."""
    return ", ".join(map(repr, task.label_columns))


def missing_labels(missing: Mapping[int, str], total: int, partly: Mapping[int, str] | None = None) -> str:
    """Message on rows without a label, or with a missing label among others (`partly`): rows, their content, ways out."""
    rows = sorted(missing)
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    numbers = f"row{'s' * (len(rows) > 1)} {', '.join(str(row + 1) for row in rows[:5])}{more}"
    words = sorted({word for word in missing.values() if word})
    there = f", the cells contain {', '.join(map(repr, words[:5]))}" if words else ""
    whole = sorted({cell for row in rows if (cell := (partly or {}).get(row))})
    there += f"{' in' if words else ', the cells contain'} {', '.join(map(repr, whole[:5]))}" if whole else ""
    if len(rows) == total:
        what = "no label in any" if partly is None else "a label is missing in each"
        return f"{what} of {total} rows{there}: such a split cannot be used"
    what = "no label" if partly is None else "a label is missing among others"
    message = f"{what} in {numbers} (counted from 1, without the header){there}; `missing_labels: drop` leaves them out"
    return f"{message}, or list it as one of `labels` if it is a class" if words else message


def _number_and_name_faults(columns: Mapping[str, Column], task: Task) -> list[str]:
    """Faults of splits with class numbers if another split has class names, unless the names are these numbers."""
    named = next(((split, column.names) for split, column in columns.items() if column.names and not task.several_columns), None)
    if named is None or all(name == str(number) for number, name in enumerate(named[1])):
        return []
    return [
        f"{split}: the column {column_names(task)} holds numbers, that of {named[0]} has names for them"
        f" ({', '.join(named[1][:5])}): give names, or their numbers, in both"
        for split, column in columns.items()
        if column.names is None and column.numbers
    ]


def _spelled(column: Column, columns: Mapping[str, Column], task: Task) -> list[Any]:
    """Cells with booleans in the notation of `labels` or of the other splits: true, True or TRUE."""
    if not column.booleans:
        return column.cells
    texts = chain(task.labels or (), *(other.cells for other in columns.values() if not other.booleans))
    written = {text for text in texts if isinstance(text, str) and text.casefold() in ("true", "false")}
    spelling = {text.casefold(): text for text in written} if len({text.casefold() for text in written}) == len(written) else {}

    def spelled(cell: Any) -> Any:
        if isinstance(cell, tuple):
            return tuple(map(spelled, cell))
        return spelling.get(cell.casefold(), cell) if isinstance(cell, str) else cell

    return [spelled(cell) for cell in column.cells]


def _without_missing(rows: Sequence[tuple[str | None, ...] | None], column: Column, task: Task) -> Labels:
    """Labels of a split, with the missing ones listed separately."""
    kept = {*(task.labels or ()), *(column.names or ())}
    words = {row: _missing_word(row, kept) for row in set(rows)}
    missing = {i: word for i, row in enumerate(rows) if (word := words[row]) is not None}
    labels = [None if words[row] is not None else row for row in rows]
    partly = {
        i: _shown(column.cells[i])
        for i in missing
        if i in column.partly or any(name and name != words[rows[i]] for name in rows[i] or ())
    }
    return Labels(labels, missing | column.written(missing), partly, column.names)  # type: ignore[arg-type]  # no None remains


def _shown(cell: Any) -> str:
    """Content of a cell as text; empty for an empty cell."""
    return f"[{', '.join(name or 'null' for name in cell)}]" if isinstance(cell, tuple) else cell or ""


def _missing_word(row: tuple[str | None, ...] | None, kept: Collection[str]) -> str | None:
    """Content of a row in place of a label, empty text for an empty cell; None if no label is missing."""
    if row is None:
        return ""
    return next((name or "" for name in row if not name or (name in MISSING and name not in kept)), None)


# Numbers -------------------------------------------------------------------------------------------------------------------------


def _as_whole(labels: Mapping[str, Labels], task: Task) -> tuple[dict[str, Labels], dict[str, list[str]]]:
    """Read 1.0 as 1 if all labels are whole numbers, or if 1 occurs as well. Returns (labels, {split: notices})."""
    kept = {*(task.labels or ()), *chain.from_iterable(part.names or () for part in labels.values())}
    names = {name for part in labels.values() for row in set(part.rows) for name in row or ()}
    whole = {name: whole_number(name) for name in names - kept}
    everywhere = all(whole.values())
    read = {name: number for name, number in whole.items() if number and number != name and (everywhere or number in names | kept)}
    if not read:
        return dict(labels), {}
    notices: dict[str, list[str]] = {}
    for split, part in labels.items():
        changed = next((name for row in part.rows for name in row or () if name in read), None)
        if changed is not None:
            message = f"the labels in {column_names(task)} are written with fractions of zero: {changed} is read as {read[changed]}"
            notices[split] = [message]
    every = {row for part in labels.values() for row in part.rows}
    rows = {row: row and tuple(read.get(name, name) for name in row) for row in every}
    return {split: replace(part, rows=[rows[row] for row in part.rows]) for split, part in labels.items()}, notices


def whole_number(label: str) -> str | None:
    """Digits of a whole number, possibly written as a float, with sign and leading zeros; None for any other label."""
    if re.fullmatch(r"[-+]?\d+(\.0*)?", label):
        head = label.partition(".")[0]
        return "0" if head == "-0" and head != label else head
    if not _NUMBER.fullmatch(label) or "inf" in label.lower():
        return None
    number = Decimal(label)
    if number and not -1 < number.adjusted() < _LONGEST:
        return None
    return str(int(number)) if number == number.to_integral_value() else None


def is_grouped(label: str) -> bool:
    """Whether a label is a whole number with commas as thousands separators."""
    return _GROUPED.fullmatch(label) is not None


def regression_faults(labels: Mapping[str, Labels], task: Task) -> list[str]:
    """Faults of splits with fractional numbers as labels, if no label is a name and `labels` does not list them as classes."""
    if task.labels is not None or task.several_columns:
        return []
    distinct = {label for part in labels.values() for row in set(part.rows) for label in row or ()}
    if not all(
        _NUMBER.fullmatch(label) or is_grouped(label) or (_COMMA.fullmatch(label) and not task.multi_label) for label in distinct
    ):
        return []
    fractions = {label for label in distinct if whole_number(label) is None and not is_grouped(label)}
    return [
        f"{split}: the column {column_names(task)} holds {fraction}: {_why(fraction)}; make classes of"
        " them, or if they are classes, list them as `labels`"
        for split, part in labels.items()
        if (fraction := next((label for row in part.rows for label in row or () if label in fractions), None)) is not None
    ]


def _why(fraction: str) -> str:
    if "," in fraction:
        several = "several labels for a text (then set `multi_label` and `label_separator`)"
        return f"a number with a fraction (regression), where classes are learnt, or {several}"
    return "classes are learnt here, no numbers (regression)"
