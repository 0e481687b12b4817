"""Write files atomically: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str | Iterable[str]) -> None:
    """Write a file atomically, from a text or from its parts; folders are created as needed.

    An error or an interrupt, such as a full disk, leaves the old content and nothing else; a process that is killed while it writes
    leaves `NAME.PID.new` beside the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")  # two processes may write the same report
    try:
        with open(aside, "w", encoding="utf-8", newline="\n") as file:
            file.writelines([text] if isinstance(text, str) else text)
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
