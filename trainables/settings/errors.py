"""How faulty input is answered: every fault at once, with its place, the value, what is allowed and the near miss.

Imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Faults of the user's input, all of them, each a line that names the place, the value and what is allowed."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.faults,)  # another process is to read the same lines


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else the allowed names."""
    known = sorted(known)
    if close := closest(name, known):
        return f"; did you mean {close!r}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def closest(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely misspells; swapped letters count as the smallest slip."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.6)
    return min(close, key=lambda candidate: sorted(candidate) != sorted(str(name)), default=None)
