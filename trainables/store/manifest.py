"""What a stage says of itself, held against what readers take for granted: whoever writes to a shared store may write anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainables.settings import stages
from trainables.settings.task import METRICS

TRAINED = {kind: ("split", *model.scored) for kind, model in stages.KINDS.items()}
"""Fields of every row, by kind of stage, beside those of the loop."""
LOOP = ("step", "tokens", "train_loss", "learning_rate", "wall_s", "tokens_per_s")
KINDS: dict[str, tuple[str, ...]] = TRAINED | {"test": ("examples", "loss", "error_rate_percent")}
"""Kinds of stages that have rows."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and (isinstance(value, float) or abs(value) < 2**63)


def _count(value: Any) -> bool:
    return _number(value) and isinstance(value, int) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()  # what is shown on a terminal must not steer it


def _plain(value: Any) -> bool:
    """Scores as they come: numbers, texts, null, and lists and tables of these."""
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
    **dict.fromkeys(("split", "device", "source"), _text),
    "group_rates": _table_of(_number),
    "notices": _list_of(lambda value: isinstance(value, str)),
    "thresholds": _list_of(_number),
    "by_task": _table_of(_table_of(_plain)),
}
"""Fields of a row that readers compute with, and what they hold; any other field holds plain data."""


def fault_of(manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with the manifest of a stage that has rows; None where nothing is, or where it is of another kind."""
    kind = manifest.get("kind")
    if not (isinstance(kind, str) and kind in KINDS):
        return None
    if kind in TRAINED and not isinstance(manifest.get("settings"), dict):
        return "its settings are none"
    if kind in TRAINED and not (_count(manifest.get("tokens")) and _number(manifest.get("seconds"))):
        return "its tokens and seconds are no numbers"
    return fault_of_rows(kind, manifest.get("rows")) if manifest.get("rows") else "it has no rows"


def fault_of_rows(kind: str, rows: Any) -> str | None:
    """What is wrong with the rows of a stage of this kind, of which there may be none yet."""
    needed = (*LOOP, *KINDS[kind]) if kind in TRAINED else KINDS[kind]
    if not isinstance(rows, list):
        return "its rows are no list"
    return next((fault for row in rows if (fault := _fault_of_row(row, needed))), None)


def fault_of_position(kind: str, position: Mapping[str, Any]) -> str | None:
    """What is wrong with where an unfinished stage of this kind stands, beside its step."""
    numbers = {"seconds": _number, "tokens": _count, "loss_sum": _number, "loss_weight": _number}
    wrong = [name for name, sound in numbers.items() if not sound(position.get(name))]
    wrong += [] if FIELDS["energy_j"](position.get("energy_j")) else ["energy_j"]
    if wrong:
        return f"{wrong[0]} of its position is no number"
    return fault_of_rows(kind, position.get("rows"))


def _fault_of_row(row: Any, needed: tuple[str, ...]) -> str | None:
    if not isinstance(row, dict):
        return "a row is no table"
    if lacks := [name for name in needed if row.get(name) is None]:
        return f"a row has no {lacks[0]}"
    wrong = [name for name, value in row.items() if not FIELDS.get(name, _plain)(value)]
    return f"a row's {wrong[0]!r} is not what it should be" if wrong else None
