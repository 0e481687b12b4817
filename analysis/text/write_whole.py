"""Write files atomically: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from analysis.text.places import shareable


def replace(path: Path, text: str | Iterable[str]) -> None:
    """Write a file atomically, from a text or from its parts.

    The file may be shared with others: home folders and user names are removed from paths in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(aside, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(map(shareable, [text] if isinstance(text, str) else text))
    aside.replace(path)


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
