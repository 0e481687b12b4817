"""Files that are written whole: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from analysis.text.places import shareable


def replace(path: Path, text: str | Iterable[str]) -> None:
    """Write a file, from a text or from its parts, so that a reader sees the old one or the new one, never half.

    It is made to be sent to others, and names nobody's home folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(aside, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(map(shareable, [text] if isinstance(text, str) else text))
    aside.replace(path)


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once, never half."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
