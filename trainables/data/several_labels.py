"""Several labels of a text, as they are written in one cell: names with a separator, lists in text, vectors of 0 and 1.

A form is taken where all cells of all splits have it; where they do not, or could be read in another way, it is refused.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, TypeGuard

from trainables.data.label_columns import BITS, MISSING, Cell
from trainables.settings.task import Task

Rows = dict[str, list[tuple[str | None, ...] | None]]
Told = dict[str, list[str]]
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_EMPTY = ("set()", "frozenset()")
_CALL = re.compile(r"\w+\(.*\)", re.DOTALL)
_ITEM = re.compile(
    r"""(?:(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<bare>[^,'"\[\](){}:\s](?:[^,'"\[\](){}:]*[^,'"\[\](){}:\s])?))"""
    r"(?P<gap>\s*,\s*|\s+|$)",
    re.DOTALL,
)
_NULLS = ("None", "null", "nan", "NaN", "<NA>")
_ARRAY = re.compile(r"(?:[-+.\deE]+|None|nan|True|False)(?:\s+(?:[-+.\deE]+|None|nan|True|False))+")
"""Numbers as numpy prints them: with nothing but white space between."""
SEPARATORS = ("|", ",", ";", "\t", "\n", "/", "&", "+", "::", "~", "\u3001", "\uff0c", " ")
USUAL = (",", ";", "|", "\t", "\n")
"""Separators that seldom stand within a name."""


def parts_of(cells: Mapping[str, Sequence[Cell]], task: Task) -> tuple[Rows, list[str], Told]:
    """(labels of each row, faults, notices by split) of the cells of all splits; of a task with one label a row, the cell itself.

    None stands for a missing label or for one that a list leaves open; labels of a text are given once.
    """
    if task.several_columns:
        return {split: list(mine) for split, mine in cells.items()}, [], {}  # type: ignore[arg-type]
    if not task.multi_label:
        rows: Rows = {split: [(cell,) for cell in mine] for split, mine in cells.items()}  # type: ignore[misc]
        return rows, list(_list_faults(cells, task)), {}
    texts = {split: [cell for cell in mine if _says(cell)] for split, mine in cells.items()}
    every = set(chain.from_iterable(texts.values()))
    in_lists = _are_lists(every, task)
    blank = {split: list(_blank_notices(mine, bool(in_lists), task)) for split, mine in cells.items()}
    faults = list(_form_faults(cells, every, task)) if in_lists is None else []
    rows = {split: [_row(cell, task, bool(in_lists)) for cell in mine] for split, mine in cells.items()}
    if faults:
        return rows, faults, {}
    first = next(iter(cells), "train")
    if in_lists:
        rows, faults = _from_vectors(rows, task)
        return rows, faults, blank | {first: [_list_notice(cells, rows, task), *blank.get(first, ())]}
    doubt, told = _separator_doubts(texts, task, first)
    rows, more = _from_vectors(rows, task)
    return rows, doubt or more, blank | {split: [*lines, *blank.get(split, ())] for split, lines in told.items()}


def _blank_notices(cells: Sequence[Cell], in_lists: bool, task: Task) -> Iterator[str]:
    """A notice of lists that hold empty text, which is left out."""
    lists = [items_of(cell) if in_lists and _says(cell) else cell for cell in cells]
    blank = [items for items in lists if isinstance(items, tuple) and any(item is not None and not item.strip() for item in items)]
    if blank:
        example = json.dumps(blank[0], ensure_ascii=False)
        yield f"{len(blank)} of {len(cells)} rows hold empty text in a list in {task.label!r}, such as {example}, read as no label"


def _list_notice(cells: Mapping[str, Sequence[Cell]], rows: Rows, task: Task) -> str:
    """How the list with the most labels is read."""
    pairs = [(row or (), cell) for split in cells for cell, row in zip(cells[split], rows[split], strict=True) if _says(cell)]
    row, cell = max(pairs, key=lambda pair: len(pair[0]))
    return f"the labels in {task.label!r} are lists in text: {_short(cell)} is read as {' and '.join(map(str, row)) or 'no label'}"


def items_of(cell: str) -> tuple[str | None, ...] | None:
    """The items of a list as Python, JSON or numpy write it, None for each that is null; None where the text is no such list."""
    found = _scanned(cell)
    return None if found is None else found[0]


@lru_cache(maxsize=100_000)  # a column repeats its cells, and is looked at several times
def _scanned(cell: str) -> tuple[tuple[str | None, ...], bool] | None:
    """(items, whether brackets alone make it a list: quotes, several items or none) of a list in text."""
    if cell in _EMPTY:
        return (), True
    if len(cell) < 2 or _BRACKETS.get(cell[0]) != cell[-1]:
        return None
    inner = cell[1:-1].strip()
    if _ARRAY.fullmatch(inner):
        return tuple(None if item in _NULLS else item for item in inner.split()), True
    items: list[str | None] = []
    gaps: set[str] = set()
    at, quoted = 0, False
    while at < len(inner):
        found = _ITEM.match(inner, at)
        if found is None or found["bare"] == "..." or (found["bare"] and not found["gap"].strip() and found.end() < len(inner)):
            return None
        gaps |= {found["gap"].strip() or " "} if found["gap"] and found.end() < len(inner) else set()
        quoted = quoted or found["quoted"] is not None
        items.append(_unquoted(found["quoted"]) if found["quoted"] else None if found["bare"] in _NULLS else found["bare"])
        at = found.end()
    if len(gaps) > 1 or (len(items) == 1 and not quoted and " " in (items[0] or "") and "," not in inner):
        return None
    return tuple(items), quoted or len(items) != 1


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text[1:-1]


def _are_lists(every: Collection[str], task: Task) -> bool | None:
    """Whether all texts are lists; None where only some are, or where it cannot be said."""
    if not every or any(name[:1] in _BRACKETS for name in task.labels or ()):
        return False
    sure = [cell for cell in every if _looks_like_list(cell)]
    if not sure:
        return False
    return True if all(items_of(cell) is not None for cell in every) else None


def _looks_like_list(cell: str) -> bool:
    """Whether a text is a list beyond doubt, or would be one if it could be read."""
    found = _scanned(cell)
    if found is not None:
        return found[1]
    open_and_shut = len(cell) > 1 and _BRACKETS.get(cell[0]) == cell[-1]
    return (open_and_shut and any(sign in cell for sign in "'\",:")) or (_CALL.fullmatch(cell) is not None and "[" in cell)


def _form_faults(cells: Mapping[str, Sequence[Cell]], every: Collection[str], task: Task) -> Iterator[str]:
    """The first text of each split that is no list, where others are; where none can be read, the first."""
    example = next((cell for cell in sorted(every) if items_of(cell)), None)
    for split, mine in cells.items():
        for row, cell in enumerate(mine):
            if _says(cell) and items_of(cell) is None:
                others = f", where others hold lists such as {_short(example)}" if example else ""
                yield (
                    f"{split}: the column {task.label!r} holds {_short(cell)} in row {row + 1}{others}: write all as JSON lists,"
                    " or all as names with `label_separator` between"
                )
                break


def _list_faults(cells: Mapping[str, Sequence[Cell]], task: Task) -> Iterator[str]:
    """Splits of a task with one label for a text that hold lists."""
    for split, mine in cells.items():
        lists = {cell for cell in set(mine) - set(task.labels or ()) if isinstance(cell, str) and _looks_like_list(cell)}
        if lists:
            row = next(row for row, cell in enumerate(mine) if cell in lists)
            seen = (
                f"{split}: the column {task.label!r} holds {_short(str(mine[row]))} in row {row + 1}, a list of labels for one text"
            )
            yield f"{seen}: set multi_label, or if that is the name of a class, list all of them as `labels`"


def _says(cell: Cell) -> TypeGuard[str]:
    """Whether a cell is a text that names labels."""
    return isinstance(cell, str) and bool(cell) and cell not in MISSING


def _row(cell: Cell, task: Task, in_lists: bool) -> tuple[str | None, ...] | None:
    if cell is None:
        return None
    if isinstance(cell, str):
        given = items_of(cell) if in_lists and _says(cell) else cell.split(task.label_separator)
    else:
        given = cell
    parts = (part if part is None else part.strip() for part in given or ())
    return tuple(part for part in parts if part != "")


def _short(cell: str) -> str:
    shown = repr(cell)
    return shown if len(shown) <= 80 else shown[:77] + "..."


# Vectors of 0 and 1 --------------------------------------------------------------------------------------------------------------


def _from_vectors(rows: Rows, task: Task) -> tuple[Rows, list[str]]:
    """(rows with each label once, faults): vectors of 0 and 1 are the labels that they say, a fault where these have no names."""
    given = [row for mine in rows.values() for row in mine if row]
    widths = {len(row) for row in given}
    bits = all(item is not None and item.lower() in BITS for row in given for item in row)
    if not given or len(widths) != 1 or widths == {1} or not bits:
        return {split: [row and tuple(dict.fromkeys(row)) for row in mine] for split, mine in rows.items()}, []
    (width,) = widths
    if task.labels is None or len(task.labels) != width:
        has = f", which has {len(task.labels)}" if task.labels is not None else ""
        shown = f"[{', '.join(map(str, given[0][:8]))}{', ...' * (width > 8)}]"
        said = f"vectors of {width} numbers 0 or 1, such as {shown}: name the {width} labels in their order as `labels`{has}"
        return rows, [f"{next(iter(rows))}: the column {task.label!r} holds {said}"]
    names = task.labels
    if width == 2 and all(name.lower() in BITS for name in names) and all(len(set(row)) == 2 for row in given):
        seen = " and ".join(f"[{', '.join(map(str, row))}]" for row in dict.fromkeys(given))
        said = f"{seen}: vectors of 0 and 1, or the labels {' and '.join(names)} by name"
        return rows, [f"{next(iter(rows))}: the column {task.label!r} holds nothing but {said}: give the labels other names"]

    def named(row: tuple[str | None, ...] | None) -> tuple[str | None, ...] | None:
        return tuple(name for name, bit in zip(names, row, strict=True) if BITS[(bit or "").lower()]) if row else None

    return {split: [named(row) for row in mine] for split, mine in rows.items()}, []


# Separators ----------------------------------------------------------------------------------------------------------------------


class Guise(NamedTuple):
    """Names that hold what may be a separator."""

    separator: str
    names: int
    example: str
    shared: bool
    """Whether a part of one is, or is in, another name."""
    all_shared: bool
    """Whether every part is."""

    @property
    def shown(self) -> str:
        """The separator as a message writes it."""
        return {" ": "a space", "\t": "a tab", "\n": "a line break"}.get(self.separator, repr(self.separator))


def guise(names: Collection[str], separator: str) -> Guise | None:
    """Another separator than this one that stands in names, the likeliest first; None where there is none."""
    found = [_guise(names, other) for other in SEPARATORS if other not in (separator, separator.strip())]
    seen = [each for each in found if each is not None]
    return max(seen, key=lambda each: (each.all_shared, each.separator in USUAL, each.shared, each.names), default=None)


def _guise(names: Collection[str], separator: str) -> Guise | None:
    parts = {name: [part.strip() for part in name.split(separator) if part.strip()] for name in names}
    several = {name: mine for name, mine in parts.items() if len(mine) > 1}
    if not several:
        return None
    counts = Counter(part for mine in parts.values() for part in set(mine))
    shared = [counts[part] > 1 for mine in several.values() for part in mine]
    return Guise(separator, len(several), min(several), any(shared), all(shared))


def _separator_doubts(texts: Mapping[str, Sequence[str]], task: Task, first: str) -> tuple[list[str], Told]:
    """(faults, notices) of texts in which the separator does not stand, or stands beside another."""
    every = set(chain.from_iterable(texts.values()))
    names = {part.strip() for cell in every for part in cell.split(task.label_separator)}
    absent = bool(every) and not any(task.label_separator in cell for cell in every)
    other = guise(names, task.label_separator)
    doubtful = other is not None and (other.all_shared or (other.shared and other.separator in USUAL))
    where = f"the column {task.label!r}"
    if other is not None and doubtful and absent and "label_separator" not in task.model_fields_set:
        seen = f"{where} holds {_short(other.example)}, and `label_separator` {task.label_separator!r} stands nowhere"
        ways = f"`label_separator: {json.dumps(other.separator)}`, or `{json.dumps(task.label_separator)}` if these are names"
        return [f"{first}: {seen}: set {ways}"], {}
    holds = f"; {other.names} of {len(names)} hold {other.shown}, such as {_short(other.example)}" if other is not None else ""
    if absent:
        said = f"`label_separator` {task.label_separator!r} stands nowhere in {where}: every text has one label at most{holds}"
        return [], {first: [said]}
    if other is not None and doubtful:
        return [], {first: [f"of the labels in {where}{holds.replace('; ', ' ', 1)}: each is read as one label"]}
    return [], {}
