"""The report of any run folder: that of a study, or, where `ablation.yaml` lies in it, of an ablation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis import ablation, report, tables
from analysis.cells import is_ablation

FORMATS = ablation.ALL_FORMATS


def formats(given: str | None) -> tuple[str, ...]:
    """Names that were given by comma. Raises ValueError for one that there is not."""
    if given is None:
        return ablation.FORMATS
    names = tuple(name for name in given.replace(" ", "").split(",") if name)
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise ValueError(f"format {', '.join(unknown) or given!r}: there are {', '.join(FORMATS)}")
    return names


def write(run: Path, out: Path | None = None, names: Sequence[str] = ablation.FORMATS) -> Path:
    """Write the report of a run folder; of a study all forms, and a PDF where that is asked for. Returns the page.

    Raises FileNotFoundError where there is no run, OSError where the folder cannot be written, ValueError where `ablation.yaml`
    holds no ablation, and NoBrowser where there is none for a PDF.
    """
    if is_ablation(run):
        return ablation.write_report(run, out, names)
    page = report.write(run, out)
    if "pdf" in names:
        from analysis.pdf import print_page

        print_page(page, page.with_suffix(".pdf"))
    return page


def text(run: Path) -> str:
    """The result for a terminal."""
    return ablation.text(run) if is_ablation(run) else tables.result_text(run)
