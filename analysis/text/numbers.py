"""Format numbers and tables as text: counts, durations, intervals, columns of a terminal."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from analysis.text.plain import plain

DASH = "–"
NARROW = "\N{NO-BREAK SPACE}"
"""Separates a number and its unit; plain text has an ordinary space instead."""
WIDTH = 80
"""Columns of a terminal."""


# Numbers as text -----------------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """Format a number; a dash for None."""
    return DASH if value is None else f"{value:.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """Format mean and standard deviation over seeds, `9.62 ± 0.36`; the mean alone for one seed."""
    deviation = sd(values)
    return number(mean(values)) + (f" ± {deviation:.2f}" if deviation is not None else "")


def over_seeds(several: bool) -> str:
    """Explain `9.62 ± 0.36 (3)`, or `9.62 (1)` if no setting has `several` seeds."""
    shown = "mean ± standard deviation over seeds" if several else "one seed each, whose spread is unknown"
    return f"{shown} (number of seeds)"


def interval(bounds: Interval | None, digits: int = 1) -> str:
    """Format an interval, `8.4–10.1`; a dash for None."""
    return DASH if bounds is None else f"{bounds[0]:.{digits}f}–{bounds[1]:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """Format a difference with its sign; zero has none."""
    text = f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text[1:] if float(f"{value:.{digits}f}") == 0 else text


def count_text(value: float, gap: str = " ") -> str:
    """Format a count in three digits: `1.2 M`, `52 k`, `812`; more from 1,000 T on. `gap` separates the number and its unit."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:,.0f}{gap}{unit}" if scaled >= 999.5 else f"{scaled:.3g}{gap}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Format seconds: `4.2 s`, `42 s`, `3 min 10 s`, `2 h 05 min`."""
    return f"{seconds:.1f}{NARROW}s" if seconds < 10 else whole_seconds(seconds, NARROW)


def whole_seconds(seconds: float, gap: str = " ") -> str:
    """Format seconds without a fraction: `4 s`, `42 s`, `3 min 10 s`, `2 h 05 min`. `gap` separates a number and its unit."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{gap}s"
    if whole < 3600:
        return f"{whole // 60}{gap}min {whole % 60:02d}{gap}s"
    return f"{whole // 3600}{gap}h {whole % 3600 // 60:02d}{gap}min"


def time_text(seconds: float) -> str:
    """Format an estimated time: `90 min`, `2.5 h`, `12,345 h (514 days)`.

    `duration` formats measured times: its seconds and minutes would make an estimate look exact.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h ({hours / 24:,.0f} days)"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as columns: the first is left-aligned, the others are right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows = [
        [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in rows)


def wrapped(text: str) -> str:
    """Wrap a text at WIDTH columns; further lines are indented."""
    import textwrap

    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=True, break_on_hyphens=False)


def md(text: str) -> str:
    """Escape a text for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", plain(text))


Interval = tuple[float, float]


def mean(values: Sequence[float]) -> float | None:
    """Mean; None without values."""
    return statistics.fmean(values) if values else None


def sd(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def fit(left: str, right: str, width: int = WIDTH) -> str:
    """Place two texts at both ends of a line of `width` columns; the left one is cut if needed."""
    room = width - len(right) - 2
    shown = left if len(left) <= room else left[: room - 1] + "…"
    return f"{shown:<{room}}  {right}"


def pair(name: str, text: str) -> list[str]:
    """Lines of `name  text`, wrapped at WIDTH columns."""
    import textwrap

    return textwrap.wrap(text, WIDTH, initial_indent=f"{name:<15}", subsequent_indent=" " * 15)
