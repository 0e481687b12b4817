"""Find the text and the label among the columns of a table: only where there is no doubt, else the message shows all columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from study.own_data.given import Given
from trainables.data.scripts import length
from trainables.settings.errors import ConfigError
from trainables.tables.table_files import column_faults

LABELS = (
    *("label", "labels", "class", "category", "categories", "target", "stars", "star", "rating", "score", "sentiment", "polarity"),
    *("intent", "topic", "genre", "emotion", "tag", "tags", "y"),
)
"""Names of columns that hold labels, in lower case."""
PROSE_WORDS = 3.0
"""Mean number of words from which a column may hold texts."""
MOST_LABELS = 200
"""Largest number of different values in a column that is taken for the label without being named."""
SAMPLE = 2000
"""Rows of which words are counted."""
EXAMPLES, EXAMPLE_WIDTH = 3, 24


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    rows: int
    distinct: int
    """Number of different values, missing ones not counted."""
    kind: str
    """`text`, `whole` or `fraction` (numbers), `list`, `other`."""
    words: float
    """Mean number of words of a text; 0 for other kinds."""
    examples: tuple[str, ...]
    """The first different values, shortened."""
    gaps: bool = False
    """Whether whole numbers between the smallest and the largest do not occur."""

    @property
    def is_prose(self) -> bool:
        """Whether it may hold the texts: words in a row that seldom repeat."""
        return self.kind == "text" and self.words >= PROSE_WORDS and 5 * self.distinct > self.rows

    @property
    def is_few(self) -> bool:
        """Whether it may hold labels: few different values, each of several rows."""
        return self.kind != "fraction" and not self.is_prose and 2 <= self.distinct <= min(MOST_LABELS, self.rows // 3)

    @property
    def described(self) -> str:
        """`stars: 5 different values, such as 4, 2, 5`."""
        values = f"{self.distinct:,} different value{'s' * (self.distinct != 1)}"
        return f"{self.name}: {values}, such as {', '.join(self.examples)}" if self.examples else f"{self.name}: empty"


def columns_of(table: Any) -> list[Column]:
    """Describe all columns of a pyarrow table. Columns whose names occur twice are left out."""
    names = [name for name in table.schema.names if table.schema.names.count(name) == 1]
    return [_column(name, table.column(name)) for name in names]


def _column(name: str, column: Any) -> Column:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = types.is_string(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type)
    is_list = types.is_list(column.type) or types.is_large_list(column.type)
    values = column.to_pylist()
    there = [str(value) for value in values if value is not None and str(value).strip()]
    different = dict.fromkeys(there)
    kind = "text" if is_text else "list" if is_list else "other"
    numbers = _numbers(different)
    if numbers:  # also those of a column that was read as text, since it is the label
        kind = "whole" if all(map(float.is_integer, numbers)) else "fraction"
    gaps = kind == "whole" and max(numbers) - min(numbers) + 1 > len(numbers)
    sample = there[:: max(1, len(there) // SAMPLE)]
    words = sum(map(length, sample)) / len(sample) if kind == "text" and sample else 0.0
    return Column(name, len(values), len(different), kind, words, tuple(map(_short, list(different)[:EXAMPLES])), gaps)


def _numbers(values: Iterable[str]) -> set[float]:
    """The values as numbers; empty if one of them is none."""
    try:
        numbers = set(map(float, values))
    except ValueError:
        return set()
    return {number for number in numbers if math.isfinite(number)}


def _short(value: str) -> str:
    value = " ".join(value.split())
    return repr(value if len(value) <= EXAMPLE_WIDTH else value[: EXAMPLE_WIDTH - 3] + "...")


def chosen(given: Given, columns: Sequence[Column], command: str) -> dict[str, Any]:
    """The fields `text`, `text_pair`, `label` and `multi_label` of the task.

    Columns that are not given are taken from the table if there is no doubt. Raises ConfigError: a given column is missing (with
    the near miss) or serves twice, or there is doubt (with all columns, and what to type).
    """
    faults = [*_given_faults(given, columns)]
    if faults:
        raise ConfigError(faults)
    taken = {*given.text, *given.text_pair, *given.label}
    text = given.text or tuple(column.name for column in columns if column.is_prose and column.name not in taken)
    labels = given.label or _labels(columns, {*taken, *text})
    missing = {"text": len(text) != 1 and not given.text, "label": len(labels) != 1 and not given.label}
    if any(missing.values()):
        raise ConfigError(_doubt(given, columns, text, labels, missing, command))
    several = len(labels) > 1 or any(column.name == labels[0] and column.kind == "list" for column in columns)
    fields: dict[str, Any] = {"text": text[0] if len(text) == 1 else list(text)}
    if given.text_pair:
        fields["text_pair"] = given.text_pair[0] if len(given.text_pair) == 1 else list(given.text_pair)
    fields["label"] = labels[0] if len(labels) == 1 else list(labels)
    return fields | ({"multi_label": True} if several else {})


def _given_faults(given: Given, columns: Sequence[Column]) -> Iterator[str]:
    names = [column.name for column in columns]
    for option, wanted in (("text", given.text), ("text-pair", given.text_pair), ("label", given.label)):
        yield from (f"--{option}: {fault}" for fault in column_faults(names, wanted))
    twice = [name for name in given.label if name in (*given.text, *given.text_pair)]
    yield from (f"--label {name}: is a column of the text too; the label is another one" for name in twice)
    if given.text_pair and not given.text:
        yield "--text-pair: give --text too, the column with the first text"


def _labels(columns: Sequence[Column], taken: set[str]) -> tuple[str, ...]:
    """Columns that may hold the label: those named so, else the only one that is left."""
    left = [column for column in columns if column.name not in taken]
    named = tuple(column.name for column in left if column.is_few and column.name.strip().lower() in LABELS)
    return named or tuple(column.name for column in left if column.is_few and len(left) == 1)


def _doubt(
    given: Given, columns: Sequence[Column], text: Sequence[str], labels: Sequence[str], missing: dict[str, bool], command: str
) -> Iterator[str]:
    """Which columns are in doubt, all columns, and what to type."""
    rows = columns[0].rows if columns else 0
    found = {"text": text, "label": labels}
    for name in (name for name, is_missing in missing.items() if is_missing):
        seen = f"{' and '.join(map(repr, found[name][:3]))} may be it" if found[name] else "none is clearly it"
        yield f"--{name}: which column holds the {name}? Of {len(columns)} columns with {rows:,} rows {seen}:"
    yield from (f"  {column.described}" for column in columns)
    if missing["text"] and len(text) > 1:
        yield "  two texts of a pair, such as question and answer: --text and --text-pair"
    likely = {
        "text": next(iter([*text, *(c.name for c in sorted(columns, key=lambda c: -c.words))]), "COLUMN"),
        "label": next(iter([*labels, *(c.name for c in columns if c.is_few and c.name not in text)]), "COLUMN"),
    }
    typed = given.with_columns(text=given.text or (likely["text"],), label=given.label or (likely["label"],))
    yield f"type: {command} {typed}"
