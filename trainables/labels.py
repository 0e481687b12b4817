"""The label column of a table as names of classes: what one value means, and when it means none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainables.config import Task
from trainables.faults import ConfigError

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf", re.IGNORECASE)


def labels_of(column: Any, task: Task, classes: tuple[str, ...] | None) -> tuple[list[str | None], tuple[str, ...]]:
    """(labels as strings, notices): 1, 1.0 and '1' are one label; class numbers become class names; several are joined."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = column.to_pylist()
    if pa.types.is_nested(column.type):
        if not task.multi_label:
            raise ConfigError([f"the column {task.label!r} holds {column.type}, several labels for one text: set multi_label"])
        names = [[str(each) if classes is None else classes[each] for each in row or ()] for row in values]
        return [task.label_separator.join(row) for row in names], ()
    if classes is not None and pa.types.is_integer(column.type):
        return [classes[v] if v is not None and 0 <= v < len(classes) else None for v in values], ()
    labels = [None if v is None or v != v else str(v).strip() or None for v in values]
    kept = task.labels or ()
    as_they_are = task.multi_label and not pa.types.is_floating(column.type)
    if as_they_are or not all(label is None or label in kept or _whole(label) for label in labels):
        return labels, ()
    whole = [label if label is None or label in kept else label.partition(".")[0] for label in labels]
    changed = next((pair for pair in zip(labels, whole, strict=True) if pair[0] != pair[1]), None)
    if changed is None:
        return whole, ()
    return whole, (f"the labels in {task.label!r} are written with fractions of zero: {changed[0]} is read as {changed[1]}",)


def _whole(label: str) -> bool:
    """Whether a label is a whole number, perhaps written as a float: what a table program makes of classes."""
    head, _, tail = label.partition(".")
    return head.removeprefix("-").isdecimal() and not tail.strip("0")


def regression_faults(splits: Mapping[str, Sequence[str | None]], named: bool, task: Task) -> list[str]:
    """Splits whose labels are numbers with fractions, where no label at all is a name and nobody says that they are classes."""
    found = {split: _parts(labels, task) for split, labels in splits.items()}
    if named or task.labels is not None or not all(_NUMBER.fullmatch(label) for labels in found.values() for label in labels):
        return []
    fractions = {split: [label for label in labels if not _whole(label)] for split, labels in found.items()}
    return [
        f"{split}: the column {task.label!r} holds {labels[0]}: classes are learnt here, no numbers (regression); make classes of"
        " them, or if they are classes, list them as `labels`"
        for split, labels in fractions.items()
        if labels
    ]


def _parts(labels: Sequence[str | None], task: Task) -> list[str]:
    """Every label by itself."""
    given = [label for label in labels if label]
    if not task.multi_label:
        return given
    return [name for label in given for part in label.split(task.label_separator) if (name := part.strip())]
