"""Read the training table of own data as it is, and refuse labels and texts from which no classifier can learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from study.own_data.columns import Column
from study.own_data.given import Given
from trainables.data.label_doubts import FEW, MANY
from trainables.data.sources import splits_there
from trainables.settings.dialect import Dialect, options_said
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task
from trainables.settings.validate import validate
from trainables.tables.table_files import read_file

TEST_SHARE = 0.2
"""Share of the training texts that is taken for the test split where there is none."""
VALIDATION = ("validation", "valid", "dev", "val")
"""Usual names of a validation split in folders and on the hub."""
MOST_NUMBERS = 100
"""With more different whole numbers and gaps between them, a column holds amounts."""


def read_table(given: Given, source: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(the training split as a pyarrow table, the source's fields with its splits). Raises ConfigError in words of the options."""
    try:
        if "train" in source:
            named = (*given.text, *given.text_pair, *given.label)
            dialect = Dialect.of(**given.dialect)
            table = _read(source["train"], named, dialect)
            share: dict[str, Any] = {} if "test" in source else {"test_share": TEST_SHARE}
            return table, source | share
        where, splits = splits_there(validate(Task, {key: source[key] for key in ("folder", "hub") if key in source}))
    except ConfigError as error:
        raise ConfigError(map(options_said, error.faults)) from None
    if "train" not in splits:
        raise ConfigError([f"{where}: there is no split 'train'; there are: {', '.join(map(str, splits))}"])
    found = next((name for name in VALIDATION if name in splits), None)
    fields: dict[str, Any] = {"validation_split": found} if found and "validation_split" not in source else {}
    fields |= {} if "test_split" in source or "test" in splits else {"test_share": TEST_SHARE}
    return splits["train"].with_format("arrow")[:], source | fields


def _read(url: str, named: Sequence[str], dialect: Dialect) -> Any:
    """The table of a file, with the named columns as text. Raises ConfigError."""
    table: Any = None
    faults: tuple[str, ...] = ()
    try:
        table, _ = read_file(url, named, dialect)
    except ConfigError as error:
        faults = error.faults
    if not named and (table is None or table.num_columns == 1):  # of another delimiter the reader knows once columns are named
        try:
            read_file(url, ("text",), dialect)
        except ConfigError as error:
            faults = error.faults if any("`delimiter" in fault for fault in error.faults) else faults
    if faults:
        raise ConfigError(faults)
    return table


def refusals(columns: list[Column], task: Task) -> Iterator[str]:
    """Faults of texts and labels that can be read, but from which no classifier can be learnt."""
    by_name = {column.name: column for column in columns}
    texts = [by_name[name] for name in (*task.text_columns, *task.second_columns) if name in by_name]
    if texts and all(column.distinct == 1 for column in texts):
        yield f"--text {texts[0].name}: all {texts[0].rows:,} texts are equal ({texts[0].examples[0]}): they tell no class apart"
    if task.labels is None and not task.multi_label and (column := by_name.get(task.label_columns[0])):
        yield from _label_refusals(column)


def _label_refusals(column: Column) -> Iterator[str]:
    """Numbers to predict instead of classes, and identifiers."""
    amounts = column.kind == "whole" and (
        (column.distinct > MANY and column.rows < FEW * column.distinct) or (column.distinct > MOST_NUMBERS and column.gaps)
    )
    name = column.name
    ascending = column.kind == "whole" and column.distinct == column.rows and not column.gaps
    if 2 * column.distinct > column.rows and column.rows > 4 and (column.kind != "fraction") and (ascending or not amounts):
        yield f"--label {name}: {column.distinct:,} classes for {column.rows:,} texts: is {name!r} an identifier?"
    elif column.kind == "fraction" or amounts:
        bins = f"table[{name + '_class'!r}] = pandas.qcut(table[{name!r}], 3, labels=['low', 'middle', 'high'])"
        yield (
            f"--label {name}: {column.distinct:,} different numbers, such as {', '.join(column.examples)}: to predict a number is"
            f" regression, which is out of scope here. Make a few classes of them, in Python for example {bins}; if they are"
            " classes, list them: --set tasks.NAME.labels=[...]"
        )


def in_options(fault: str, name: str) -> str:
    """Rewrite a fault of a task in words of the command line: without the task's place, with options instead of fields."""
    for split in ("train", "validation", "test"):
        fault = fault.replace(f"tasks.{name}.{split}: ", "" if split == "train" else f"{split}: ", 1)
    fault = options_said(fault.removeprefix(f"tasks.{name}: ").removeprefix(f"tasks.{name}."))
    fields = ("missing_labels: drop", "multi_label", "label_separator", "labels", "test_share: 0.2")
    used = next((field for field in fields if f"`{field}`" in fault or f"set {field}" in fault), None)
    if used is None:
        return fault
    path, _, value = used.partition(": ")
    value = "true" if path == "multi_label" else value or "..."
    return f"{fault} (here: --set tasks.{name}.{path}={value})"
