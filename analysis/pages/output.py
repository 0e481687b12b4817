"""The common form of all reports, a ledger, an answer and files by format; write the files atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from analysis.figures.svg import Figure
from analysis.results.ledger import Ledger
from analysis.tables.published_layout import TableLayout
from analysis.text.places import shareable
from analysis.text.write_whole import write_whole

FORMATS = ("html", "md", "tex", "csv", "json")
ALL_FORMATS = (*FORMATS, "txt", "pdf")
ALWAYS = ("txt", "")
"""Formats that are always written; the empty one stands for provenance and figures."""
Files = Mapping[str, Mapping[str, Callable[[], str | Iterable[str]]]]
"""{format: {name of a file: function that makes its text or the parts of it}}"""


@dataclass(frozen=True)
class Report:
    """The report of a run, before it is written."""

    ledger: Ledger
    layout: TableLayout
    headline: str
    sentence: str
    missing: Sequence[str]
    files: Files


def figure_files(figures: Iterable[Figure]) -> dict[str, Callable[[], str]]:
    """Return {name of a file: function that makes it} of figures."""
    return {f"figures/{figure.name}.svg": partial(getattr, figure, "svg") for figure in figures}


def check(formats: Sequence[str]) -> None:
    """Raise ValueError for an unknown format."""
    if unknown := [name for name in formats if name not in ALL_FORMATS]:
        raise ValueError(f"format {', '.join(unknown)}: there are {', '.join(ALL_FORMATS)}")


def write(folder: Path, files: Files, formats: Sequence[str]) -> Path:
    """Write the files of these formats except the PDF. Returns the path of the page, or the folder without one.

    Reports are shared with others: home folders and user names are removed from paths in them.
    Raises ValueError for an unknown format, OSError if the folder cannot be written.
    """
    check(formats)
    wanted = dict.fromkeys([*formats, *ALWAYS, *(["html"] if "pdf" in formats else [])])
    texts = {name: make() for format_ in wanted for name, make in files.get(format_, {}).items()}
    for name, text in texts.items():
        write_whole(folder / name, shareable(text) if isinstance(text, str) else map(shareable, text))
    for old in (folder / "figures").glob("*.svg"):
        if f"figures/{old.name}" not in texts:
            old.unlink()  # from an earlier state of the run
    return folder / "report.html" if "report.html" in texts else folder


def print_pdf(folder: Path, formats: Sequence[str]) -> None:
    """Print the page in a folder as PDF, if that is among the formats. Raises NoBrowser without a browser."""
    if "pdf" in formats:
        from analysis.pages.pdf import print_page

        print_page(folder / "report.html", folder / "report.pdf")
