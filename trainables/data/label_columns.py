"""Read the label column of a table, or several columns of 0 and 1, as cells of text: the same text from every file format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from typing import Any

from trainables.settings.errors import ConfigError
from trainables.settings.task import Task

_NO_NUMBER = ("nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN")
_NOTHING = ("None", "NULL", "Null", "null", "N/A", "n/a", "NA", "<NA>", "<na>", "#N/A", "#n/a", "#NA", "#N/A N/A")
_DUMPED = ("\\N", "(null)", "(NULL)")
"""NULL as MySQL, Postgres and their clients write it into files."""
MISSING = frozenset((*_NO_NUMBER, *_NOTHING, *_DUMPED))
"""Words that programs write for a missing value."""
Cell = str | tuple[str | None, ...] | None
"""Text, or the labels of a list; None for an empty cell."""
BITS = {"0": False, "0.": False, "0.0": False, "false": False, "1": True, "1.": True, "1.0": True, "true": True}
"""Notations in columns of 0 and 1: whether a text has the label."""


@dataclass(frozen=True)
class Column:
    """The labels of one split as written in the file."""

    cells: list[Any]
    """A `Cell` for each row."""
    names: tuple[str, ...] | None = None
    """Names of the classes in order, if the file defines them."""
    numbers: bool = False
    """Whether the column holds whole numbers."""
    booleans: bool = False
    """Whether the column is of boolean type."""
    given: Mapping[int, str] = field(default_factory=dict)
    """{row: its content} if it is neither a label nor text."""
    partly: frozenset[int] = frozenset()
    """Rows of `given` that also have valid labels."""
    notices: tuple[str, ...] = ()

    def written(self, rows: Mapping[int, str]) -> dict[int, str]:
        """{row: its content} for those of these rows whose cell does not contain it."""
        return {row: self.given[row] for row in rows if row in self.given}


def column_of(table: Any, task: Task) -> Column:
    """Read the label columns of a table. Raises ConfigError if their type or a value cannot be a label."""
    if task.several_columns:
        return _of_bits({name: table.column(name) for name in task.label_columns})
    (name,) = task.label_columns
    return _of_one(table.column(name), task, class_names(table.schema, name))


def class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Class names of a ClassLabel column, in tables and parquet files of `datasets`; None for another column."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = noted.get("info", {}).get("features", {}).get(label, {})
    if isinstance(feature, dict) and "feature" in feature:  # a list of class labels
        feature = feature["feature"]
    return tuple(feature["names"]) if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _of_one(column: Any, task: Task, classes: tuple[str, ...] | None) -> Column:
    import pyarrow as pa

    types = pa.types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_list_view(kind)
    inner = kind.value_type if is_list else kind
    if is_list and not task.multi_label:
        raise ConfigError([f"the column {task.label!r} holds {column.type}, several labels for one text: set multi_label"])
    if types.is_nested(inner):
        allowed = "text, numbers or lists of them" if task.multi_label else "text or numbers"
        raise ConfigError([f"the column {task.label!r} holds {column.type}; a label is one of {allowed}"])
    values = column.to_pylist()
    midnight = types.is_timestamp(inner) and all(moment.time() == time() for moment in _flat(values))
    numbered = classes if classes is not None and (types.is_integer(inner) or types.is_floating(inner)) else None
    texts: dict[Any, str | None] = {None: None}  # a column has few labels and may have millions of rows
    cells: list[Cell] = []
    content: dict[int, str] = {}
    for i, value in enumerate(values):
        for item in value if isinstance(value, list) else (value,):
            if item not in texts:
                texts[item] = _text(item, numbered, midnight, task, i)
        cell = tuple(texts[item] for item in value) if isinstance(value, list) else texts[value]
        if numbered is not None and value is not None and (cell is None or (isinstance(cell, tuple) and None in cell)):
            content[i] = str(value)
        cells.append(cell)
    if task.multi_label:
        cells = ["" if value is None else cell for value, cell in zip(values, cells, strict=True)]
    whole = types.is_integer(inner) or types.is_floating(inner)
    return Column(cells, classes, whole, types.is_boolean(inner), content, notices=tuple(_notices(values, task)))


def _notices(values: Sequence[Any], task: Task) -> Iterator[str]:
    empty = sum(value is None for value in values)
    if empty and task.multi_label:
        yield f"{empty} of {len(values)} rows hold null in {task.label!r}, which is read as no label"
    padded = [value for value in values if isinstance(value, str) and value.strip() not in ("", value)]
    if padded:
        yield f"{len(padded)} of {len(values)} labels have white space around them, such as {padded[0]!r}: read without it"


def _flat(values: Sequence[Any]) -> list[Any]:
    rows = (value if isinstance(value, list) else [value] for value in values)
    return [item for row in rows for item in row if item is not None]


def _text(value: Any, classes: tuple[str, ...] | None, midnight: bool, task: Task, row: int) -> str | None:
    """A value as the text that a csv file would contain; None for a missing one, which is -1 in class numbers."""
    if value is None or value != value:
        return None
    if classes is not None:
        if not -1 <= value < len(classes) or value != int(value):
            fault = f"row {row + 1} holds {value}, which is no number of the {len(classes)} classes that the file names"
            raise ConfigError([f"the column {task.label!r}: {fault}"])
        return classes[int(value)] if value >= 0 else None
    if isinstance(value, float) and value.is_integer():
        return f"{int(value)}.0"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return str(value.date() if midnight else value)
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise ConfigError([f"the column {task.label!r}: row {row + 1} holds bytes that are not UTF-8"]) from None
    return str(value).strip()


def _of_bits(columns: Mapping[str, Any]) -> Column:
    """Labels of every row from columns of 0 and 1, which are named after the labels."""
    rows: list[list[str]] = [[] for _ in range(len(next(iter(columns.values()))))]
    content: dict[int, str] = {}
    faults: list[str] = []
    labelled: set[int] = set()
    for name, column in columns.items():
        wrong: list[tuple[int, str]] = []
        for i, value in enumerate(column.to_pylist()):
            text = "" if value is None or value != value else str(value).strip()
            if text.lower() in BITS:
                rows[i] += [name] * BITS[text.lower()]
                labelled.add(i)
            elif not text or text in MISSING:
                content.setdefault(i, f"{name}: {text or 'nothing'}")
            else:
                wrong.append((i, text))
        if wrong:
            more = f" and {len(wrong) - 1} rows more" if len(wrong) > 1 else ""
            allowed = "a column of `label` among several holds 0 or 1, true or false"
            faults.append(f"the column {name!r} holds {wrong[0][1]!r} in row {wrong[0][0] + 1}{more}; {allowed}")
    if faults:
        raise ConfigError(faults)
    return Column(
        [None if i in content else tuple(row) for i, row in enumerate(rows)],
        tuple(columns),
        given=content,
        partly=frozenset(labelled & content.keys()),
    )
