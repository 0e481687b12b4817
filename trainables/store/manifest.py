"""Validation of manifests and saved positions: other writers of a shared store may write anything, readers rely on their form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainables.settings import stages
from trainables.settings.task import METRICS

TRAINED = {kind: ("split", *model.scored) for kind, model in stages.SETTINGS.items()}
"""Fields of every row, by kind of stage, beside those of the loop."""
LOOP = ("step", "tokens", "train_loss", "learning_rate", "wall_s", "tokens_per_s")
KINDS: dict[str, tuple[str, ...]] = TRAINED | {"test": ("examples", "loss", "error_rate_percent")}
"""Kinds of stages that have rows."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and (isinstance(value, float) or abs(value) < 2**63)


def _count(value: Any) -> bool:
    return _number(value) and isinstance(value, int) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()  # text on a terminal must not contain control characters


def _plain(value: Any) -> bool:
    """Whether it is plain data: numbers, texts, null, and lists and tables of these."""
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    return value is None or isinstance(value, bool | str) or _number(value)


def _list_of(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(sound, value))


def _table_of(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(sound, value.values()))


_MEASURED = ("train_loss", "learning_rate", "wall_s", "tokens_per_s", "epoch", "loss", "energy_j")
_SCORES = (*(metric.field for metric in METRICS.values()), "mark_f1")
FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys((*_MEASURED, *_SCORES), lambda value: value is None or _number(value)),
    **dict.fromkeys(("step", "tokens", "examples", "micro_batch"), _count),
    **dict.fromkeys(("split", "device", "attention", "source"), _text),
    "group_rates": _table_of(_number),
    "notices": _list_of(lambda value: isinstance(value, str)),
    "thresholds": _list_of(_number),
    "by_task": _table_of(_table_of(_plain)),
}
"""{field of a row that readers compute with: check of its value}; all other fields hold plain data."""


def fault_of(manifest: Mapping[str, Any]) -> str | None:
    """Fault of the manifest of a stage with rows; None if there is none, or if the kind has no rows."""
    kind = manifest.get("kind")
    if not (isinstance(kind, str) and kind in KINDS):
        return None
    if kind in TRAINED and not isinstance(manifest.get("settings"), dict):
        return "its settings are not a table"
    if kind in TRAINED and not (_count(manifest.get("tokens")) and _number(manifest.get("seconds"))):
        return "its tokens and seconds are not numbers"
    return fault_of_rows(kind, manifest.get("rows")) if manifest.get("rows") else "it has no rows"


def fault_of_rows(kind: str, rows: Any) -> str | None:
    """Fault of the rows of a stage of this kind, which may be empty; None if there is none."""
    needed = (*LOOP, *KINDS[kind]) if kind in TRAINED else KINDS[kind]
    if not isinstance(rows, list):
        return "its rows are not a list"
    return next((fault for row in rows if (fault := _fault_of_row(row, needed))), None)


def fault_of_position(kind: str, position: Mapping[str, Any]) -> str | None:
    """Fault of the saved position of an unfinished stage of this kind, apart from its step; None if there is none."""
    numbers = {"seconds": _number, "tokens": _count, "loss_sum": _number, "loss_weight": _number}
    wrong = [name for name, sound in numbers.items() if not sound(position.get(name))]
    wrong += [] if FIELDS["energy_j"](position.get("energy_j")) else ["energy_j"]
    if wrong:
        return f"{wrong[0]} of its position is not a number"
    if not _list_of(_text)(position.get("unreached")):
        return "unreached of its position is no list of names"
    return fault_of_rows(kind, position.get("rows"))


def _fault_of_row(row: Any, needed: tuple[str, ...]) -> str | None:
    if not isinstance(row, dict):
        return "a row is not a table"
    if lacks := [name for name in needed if row.get(name) is None]:
        return f"a row has no {lacks[0]}"
    wrong = [name for name, value in row.items() if not FIELDS.get(name, _plain)(value)]
    return f"a row has a wrong value of {wrong[0]!r}" if wrong else None
