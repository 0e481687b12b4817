"""The exception for wrong input, and near misses for its messages. Imports no torch.

All faults are reported together, each with its place, the value, the allowed values and the near miss.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """All faults of the user's input, one line per fault with place, value and allowed values."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.faults,)  # keeps the faults when pickled to another process


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else the allowed names."""
    known = sorted(known)
    if close := closest(name, known):
        return f"; did you mean {close!r}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def closest(name: object, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, swapped letters first; None if none is close."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.6)
    return min(close, key=lambda candidate: sorted(candidate) != sorted(str(name)), default=None)
