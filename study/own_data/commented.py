"""A study file as YAML with comments: nested mappings as blocks, small collections in one line, a reason behind its value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from study.definition.models import Dumper

WIDTH = 132
SMALL = 1e-2
"""Numbers below it are written as 2e-5."""
BLOCKS = ("tasks", "recipe", "space", "search", "resources")
"""Sections whose entries have lines of their own; others stand in one line."""


def render(data: Mapping[str, Any], reasons: Mapping[str, str], head: list[str]) -> str:
    """The text of a study file, which loads as `data`. `reasons`: {path: comment}; `head`: comments above everything."""
    lines = [f"# {line}".rstrip() for line in head]
    for section, value in data.items():
        is_block = section in BLOCKS
        lines += [""] * (is_block or section == "budget")
        lines += _lines(section, value, reasons, section, 0, 2 * is_block + (section == "tasks"))
    return "\n".join(lines) + "\n"


def _lines(key: str, value: Any, reasons: Mapping[str, str], path: str, depth: int, blocks: int) -> Iterator[str]:
    """Lines of an entry; collections are blocks down to this number of levels."""
    start = "  " * depth + _scalar(key) + ":"
    if blocks > 1 and isinstance(value, Mapping) and value:
        yield start + _comment(path, reasons)
        for name, each in value.items():
            yield from _lines(name, each, reasons, f"{path}.{name}", depth + 1, blocks - 1)
    elif blocks > 1 and isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        yield start + _comment(path, reasons)
        for each in value:
            yield from _entry(each, reasons, path, depth + 1, blocks)
    else:
        yield f"{start} {_flow(value)}{_comment(path, reasons)}{_inner(value, path, reasons)}"


def _entry(entry: Mapping[str, Any], reasons: Mapping[str, str], path: str, depth: int, blocks: int) -> Iterator[str]:
    """An entry of a list: a stage of the recipe as a block."""
    for place, (name, value) in enumerate(entry.items()):
        lines = list(_lines(name, value, reasons, f"{path}.{name}", depth + 1, blocks))
        yield ("  " * depth + ("- " if place == 0 else "  ")) + lines[0].lstrip()
        yield from lines[1:]


def _comment(path: str, reasons: Mapping[str, str]) -> str:
    return f" # {reasons[path]}" if path in reasons else ""


def _inner(value: Any, path: str, reasons: Mapping[str, str]) -> str:
    """Reasons of values within a collection that stands in one line."""
    keys = value if isinstance(value, Mapping) else ()
    inner = [f"{key}: {reasons[f'{path}.{key}']}" for key in keys if f"{path}.{key}" in reasons]
    return f" # {'; '.join(inner)}" if inner else ""


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        digits, _, exponent = f"{value:e}".partition("e")
        short = f"{float(digits):g}e{int(exponent)}"
        return short if abs(value) < SMALL and float(short) == value else repr(value)
    text: str = yaml.dump(value, Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("...").rstrip("\n")
