"""Turn user text into one line that is safe to show in a terminal, table or page."""

from __future__ import annotations

import re

CONTROL = re.compile(
    "\x1b\\[[0-9;?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)
"""Control characters, terminal escapes and marks that change the direction of text."""


def plain(text: object, limit: int = 0) -> str:
    """Return a text as one line without control characters, cut to `limit` characters unless that is 0."""
    line = " ".join(CONTROL.sub("", str(text)).split())
    return line if not limit or len(line) <= limit else line[: limit - 1] + "…"


def shown(value: object) -> str:
    """Format a setting's value for readers: 2e-05, 0.95, head+tail, sls_imdb + sls_yelp."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return " + ".join(map(shown, value))
    return plain(value)
