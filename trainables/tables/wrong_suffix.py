"""Detect files with a wrong suffix: JSON, and tables in plain text. Imports nothing heavy."""

from __future__ import annotations

import csv
import json
import re
from itertools import islice

from trainables.settings.dialect import NAMES
from trainables.settings.errors import ConfigError

HEAD = 1 << 20
"""Number of characters from which the first lines are taken."""
LINES, ROWS = 20, 3
"""Number of first lines examined; least number of rows of a table."""
_NAME = re.compile(r"\w[\w.#-]*( [\w.#-]+){0,2}")


def is_json_lines(head: str) -> bool:
    """Whether all of the first lines are JSON objects."""
    lines = [line for line in head.split("\n")[: -1 if len(head) >= HEAD else None] if line.strip()][:LINES]
    return bool(lines) and all(line.lstrip("\ufeff \t").startswith("{") and isinstance(_json(line), dict) for line in lines)


def _json(text: str) -> object:
    try:
        return json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None


def table_in_text(text: str) -> list[str]:
    """A notice if plain text looks like a table with a header. Raises ConfigError if it is certainly JSON."""
    if is_json_lines(text[:HEAD]):
        raise ConfigError(["is JSON lines, not plain text; let its name end in .jsonl"])
    begin, end = text[:64].lstrip("\ufeff \t\r\n")[:1], text[-64:].rstrip()[-1:]
    if begin + end in ("{}", "[]") and isinstance(_json(text), dict | list):
        raise ConfigError(["is JSON, not plain text; write one object a line and let its name end in .jsonl"])
    for delimiter, name in NAMES.items():
        try:
            rows = list(islice(filter(None, csv.reader(text[:HEAD].splitlines(keepends=True), delimiter=delimiter)), LINES))
        except csv.Error:
            continue
        columns = {len(row) for row in rows}
        if len(rows) >= ROWS and len(columns) == 1 and columns != {1} and _is_header(rows[0]):
            kind = "tsv" if delimiter == "\t" else "csv"
            shown = f"{len(rows[0])} columns divided by {name}"
            way = f"let its name end in .{kind} if it is one"
            return [f"it looks like a table of {shown} and is read as plain text, header and all; {way}"]
    return []


def _is_header(cells: list[str]) -> bool:
    return len(set(cells)) == len(cells) and all(_NAME.fullmatch(cell) and len(cell) <= 30 for cell in cells)
