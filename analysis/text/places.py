"""Remove home folders, user names and passwords from paths and addresses before they are shared. Standard library only."""

from __future__ import annotations

import os
import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"<>]+@")
_PATH = re.compile(r"(?:(?<![^\s'\"=(\[{>:;,|`])|(?<=://)|(?<=\\n))(?:\.\.)?(?:/[^/\s'\"<>:;,|`)\]}&]+)+")
"""A path at the start of a word: absolute, or starting with `../`."""
_HOME = re.compile(r"^.*?/(?:home|Users)/[^/]+(?=/|$)|^/root(?=/|$)")


def shareable(text: str) -> str:
    """Replace home folders in a text by `~`, the user's name in other paths by `user`, and drop credentials from addresses."""
    if "/" not in text:
        return text
    return _PATH.sub(lambda match: _shareable_path(match[0]), without_credentials(text))


def without_credentials(text: str) -> str:
    """Drop user and password from the addresses in a text."""
    return _CREDENTIALS.sub("", text)


def _shareable_path(path: str) -> str:
    home, user = _here()
    if path == home or path.startswith(f"{home}/"):
        return "~" + path[len(home) :]
    path = _HOME.sub("~", path, count=1)
    return "/".join("user" if user and part == user else part for part in path.split("/"))


def _here() -> tuple[str, str]:
    """(home folder of the user, the user's name); the name is empty for root, which identifies no person."""
    home = os.path.normpath(os.path.expanduser("~"))
    if home.strip("/") in ("", "nonexistent"):
        return "/nonexistent", ""
    name = os.path.basename(home)
    return home, "" if name == "root" else name
