"""Parse cells with several labels: names with a separator, lists as text, or vectors of 0 and 1.

All cells of all splits must have the same form; a mixture, or cells that can be read in two ways, are refused.
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
Notices = dict[str, list[str]]
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
"""Numbers as numpy prints them, separated only by white space."""
SEPARATORS = ("|", ",", ";", "\t", "\n", "/", "&", "+", "::", "~", "\u3001", "\uff0c", " ")
USUAL = (",", ";", "|", "\t", "\n")
"""Separators that rarely occur within a name."""


def parts_of(cells: Mapping[str, Sequence[Cell]], task: Task) -> tuple[Rows, list[str], Notices]:
    """(labels of every row, faults, {split: notices}) from the cells of all splits; in a single-label task, a cell is the label.

    None stands for a missing label, also within a list; repeated labels of a text are removed.
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
    doubt, remarks = _separator_doubts(texts, task, first)
    rows, more = _from_vectors(rows, task)
    return rows, doubt or more, blank | {split: [*lines, *blank.get(split, ())] for split, lines in remarks.items()}


def _blank_notices(cells: Sequence[Cell], in_lists: bool, task: Task) -> Iterator[str]:
    """A notice on lists with empty items, which are ignored."""
    lists = [items_of(cell) if in_lists and _says(cell) else cell for cell in cells]
    blank = [items for items in lists if isinstance(items, tuple) and any(item is not None and not item.strip() for item in items)]
    if blank:
        example = json.dumps(blank[0], ensure_ascii=False)
        yield f"{len(blank)} of {len(cells)} rows hold empty text in a list in {task.label!r}, such as {example}, read as no label"


def _list_notice(cells: Mapping[str, Sequence[Cell]], rows: Rows, task: Task) -> str:
    """A notice that shows how the list with the most labels is read."""
    pairs = [(row or (), cell) for split in cells for cell, row in zip(cells[split], rows[split], strict=True) if _says(cell)]
    row, cell = max(pairs, key=lambda pair: len(pair[0]))
    return f"the labels in {task.label!r} are lists in text: {_short(cell)} is read as {' and '.join(map(str, row)) or 'no label'}"


def items_of(cell: str) -> tuple[str | None, ...] | None:
    """Items of a list in the notation of Python, JSON or numpy, None for null items; None if the text is not a list."""
    scan = _scanned(cell)
    return None if scan is None else scan[0]


@lru_cache(maxsize=100_000)  # a column repeats its cells, and is looked at several times
def _scanned(cell: str) -> tuple[tuple[str | None, ...], bool] | None:
    """(items, whether it is certainly a list: quotes, several items or none) of a list as text; None if it is not a list."""
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
        match = _ITEM.match(inner, at)
        if match is None or match["bare"] == "..." or (match["bare"] and not match["gap"].strip() and match.end() < len(inner)):
            return None
        gaps |= {match["gap"].strip() or " "} if match["gap"] and match.end() < len(inner) else set()
        quoted = quoted or match["quoted"] is not None
        items.append(_unquoted(match["quoted"]) if match["quoted"] else None if match["bare"] in _NULLS else match["bare"])
        at = match.end()
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
    """Whether all texts are lists; None if only some are, or if it is uncertain."""
    if not every or any(name[:1] in _BRACKETS for name in task.labels or ()):
        return False
    sure = [cell for cell in every if _looks_like_list(cell)]
    if not sure:
        return False
    return True if all(items_of(cell) is not None for cell in every) else None


def _looks_like_list(cell: str) -> bool:
    """Whether a text is certainly a list, or looks like a list that cannot be parsed."""
    scan = _scanned(cell)
    if scan is not None:
        return scan[1]
    open_and_shut = len(cell) > 1 and _BRACKETS.get(cell[0]) == cell[-1]
    return (open_and_shut and any(sign in cell for sign in "'\",:")) or (_CALL.fullmatch(cell) is not None and "[" in cell)


def _form_faults(cells: Mapping[str, Sequence[Cell]], every: Collection[str], task: Task) -> Iterator[str]:
    """Faults: the first text of every split that is not a readable list, though others are or look like lists."""
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
    """Faults of splits of a single-label task that contain lists."""
    for split, mine in cells.items():
        lists = {cell for cell in set(mine) - set(task.labels or ()) if isinstance(cell, str) and _looks_like_list(cell)}
        if lists:
            row = next(row for row, cell in enumerate(mine) if cell in lists)
            seen = (
                f"{split}: the column {task.label!r} holds {_short(str(mine[row]))} in row {row + 1}, a list of labels for one text"
            )
            yield f"{seen}: set multi_label, or if that is the name of a class, list all of them as `labels`"


def _says(cell: Cell) -> TypeGuard[str]:
    """Whether a cell is text and not a word for a missing value."""
    return isinstance(cell, str) and bool(cell) and cell not in MISSING


def _row(cell: Cell, task: Task, in_lists: bool) -> tuple[str | None, ...] | None:
    if cell is None:
        return None
    if isinstance(cell, str):
        items = items_of(cell) if in_lists and _says(cell) else cell.split(task.label_separator)
    else:
        items = cell
    parts = (part if part is None else part.strip() for part in items or ())
    return tuple(part for part in parts if part != "")


def _short(cell: str) -> str:
    shown = repr(cell)
    return shown if len(shown) <= 80 else shown[:77] + "..."


# Vectors of 0 and 1 --------------------------------------------------------------------------------------------------------------


def _from_vectors(rows: Rows, task: Task) -> tuple[Rows, list[str]]:
    """(rows without repeated labels, faults); vectors of 0 and 1 become label names. A fault if `labels` does not name them."""
    filled = [row for mine in rows.values() for row in mine if row]
    widths = {len(row) for row in filled}
    bits = all(item is not None and item.lower() in BITS for row in filled for item in row)
    if not filled or len(widths) != 1 or widths == {1} or not bits:
        return {split: [row and tuple(dict.fromkeys(row)) for row in mine] for split, mine in rows.items()}, []
    (width,) = widths
    if task.labels is None or len(task.labels) != width:
        has = f", which has {len(task.labels)}" if task.labels is not None else ""
        shown = f"[{', '.join(map(str, filled[0][:8]))}{', ...' * (width > 8)}]"
        fault = f"vectors of {width} numbers 0 or 1, such as {shown}: name the {width} labels in their order as `labels`{has}"
        return rows, [f"{next(iter(rows))}: the column {task.label!r} holds {fault}"]
    names = task.labels
    if width == 2 and all(name.lower() in BITS for name in names) and all(len(set(row)) == 2 for row in filled):
        seen = " and ".join(f"[{', '.join(map(str, row))}]" for row in dict.fromkeys(filled))
        fault = f"{seen}: vectors of 0 and 1, or the labels {' and '.join(names)} by name"
        return rows, [f"{next(iter(rows))}: the column {task.label!r} holds nothing but {fault}: give the labels other names"]

    def named(row: tuple[str | None, ...] | None) -> tuple[str | None, ...] | None:
        return tuple(name for name, bit in zip(names, row, strict=True) if BITS[(bit or "").lower()]) if row else None

    return {split: [named(row) for row in mine] for split, mine in rows.items()}, []


# Separators ----------------------------------------------------------------------------------------------------------------------


class Guise(NamedTuple):
    """Names that contain a possible separator."""

    separator: str
    names: int
    example: str
    shared: bool
    """Whether a part of one of them is, or is part of, another name."""
    all_shared: bool
    """Whether this holds for every part."""

    @property
    def shown(self) -> str:
        """The separator as text for messages."""
        return {" ": "a space", "\t": "a tab", "\n": "a line break"}.get(self.separator, repr(self.separator))


def guise(names: Collection[str], separator: str) -> Guise | None:
    """The most likely separator in names, other than `separator`; None if there is none."""
    guises = [_guise(names, other) for other in SEPARATORS if other not in (separator, separator.strip())]
    seen = [one for one in guises if one is not None]
    return max(seen, key=lambda one: (one.all_shared, one.separator in USUAL, one.shared, one.names), default=None)


def _guise(names: Collection[str], separator: str) -> Guise | None:
    parts = {name: [part.strip() for part in name.split(separator) if part.strip()] for name in names}
    several = {name: mine for name, mine in parts.items() if len(mine) > 1}
    if not several:
        return None
    counts = Counter(part for mine in parts.values() for part in set(mine))
    shared = [counts[part] > 1 for mine in several.values() for part in mine]
    return Guise(separator, len(several), min(several), any(shared), all(shared))


def _separator_doubts(texts: Mapping[str, Sequence[str]], task: Task, first: str) -> tuple[list[str], Notices]:
    """(faults, {split: notices}) if the separator does not occur in any text, or if another possible separator does."""
    every = set(chain.from_iterable(texts.values()))
    names = {part.strip() for cell in every for part in cell.split(task.label_separator)}
    absent = bool(every) and not any(task.label_separator in cell for cell in every)
    other = guise(names, task.label_separator)
    doubtful = other is not None and (other.all_shared or (other.shared and other.separator in USUAL))
    where = f"the column {task.label!r}"
    if other is not None and doubtful and absent and "label_separator" not in task.model_fields_set:
        seen = f"{where} holds {_short(other.example)}, and `label_separator` {task.label_separator!r} does not occur"
        ways = f"`label_separator: {json.dumps(other.separator)}`, or `{json.dumps(task.label_separator)}` if these are names"
        return [f"{first}: {seen}: set {ways}"], {}
    holds = f"; {other.names} of {len(names)} hold {other.shown}, such as {_short(other.example)}" if other is not None else ""
    if absent:
        message = f"`label_separator` {task.label_separator!r} does not occur in {where}: every text has one label at most{holds}"
        return [], {first: [message]}
    if other is not None and doubtful:
        return [], {first: [f"of the labels in {where}{holds.replace('; ', ' ', 1)}: each is read as one label"]}
    return [], {}
