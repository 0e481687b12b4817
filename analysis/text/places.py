"""Paths and addresses as they may be shown to others: no home folder, no user's name, no password. The standard library only."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"<>]+@")
_PATH = re.compile(r"(?:(?<![^\s'\"=(\[{>:;,|`])|(?<=://)|(?<=\\n))(?:\.\.)?(?:/[^/\s'\"<>:;,|`)\]}&]+)+")
"""Where a path begins, at the start of a word: absolute, or upwards from a folder."""
_HOME = re.compile(r"^.*?/(?:home|Users)/[^/]+(?=/|$)|^/root(?=/|$)")


def shareable(text: str) -> str:
    """A text in which `~` stands for home folders, `user` for the user's name in other paths, and addresses hold no password."""
    if "/" not in text:
        return text
    return _PATH.sub(lambda found: _shareable_path(found[0]), without_credentials(text))


def without_credentials(text: str) -> str:
    """A text whose addresses hold no user and no password."""
    return _CREDENTIALS.sub("", text)


def _shareable_path(path: str) -> str:
    home, user = _here()
    if path == home or path.startswith(f"{home}/"):
        return "~" + path[len(home) :]
    path = _HOME.sub("~", path, count=1)
    return "/".join("user" if user and part == user else part for part in path.split("/"))


@lru_cache(maxsize=1)
def _here() -> tuple[str, str]:
    """(the home folder of this machine's user, the user's name); a name that says nothing about a person is left out."""
    home = Path(os.path.expanduser("~"))
    if home in (Path("/"), Path("/nonexistent")):
        return "/nonexistent", ""
    return str(home), "" if home.name == "root" else home.name
