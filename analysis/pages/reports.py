"""Write the report of any run folder, of a study or (with `ablation.yaml` in it) of an ablation, and one over several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.pages import ablation_page, output, overview_page, study_page
from analysis.pages.output import FORMATS, Report
from analysis.results.read_ablation import is_ablation
from analysis.text.plain import plain

OUT = Path("report")
"""Default folder for the report of several runs."""


@dataclass(frozen=True)
class Written:
    """A written report."""

    page: Path
    """The page, or the folder without one."""
    text: str
    """The result for a terminal."""
    lost: tuple[str, ...] = ()
    """Sentences on folders that could not be used."""


def formats(text: str | None) -> tuple[str, ...]:
    """Parse the names of formats, separated by commas. Raises ValueError for an unknown one."""
    if text is None:
        return FORMATS
    names = tuple(name for name in text.replace(" ", "").split(",") if name)
    if not names:
        raise ValueError(f"format {text!r}: there are {', '.join(output.ALL_FORMATS)}")
    output.check(names)
    return names


def read(run: Path) -> Report:
    """Read the report of a run folder. Raises FileNotFoundError if there is no run, ValueError if it cannot be read."""
    if not is_ablation(run) and not (run / "records.jsonl").exists():
        raise FileNotFoundError(f"{run}: no run folder (there is neither records.jsonl nor ablation.yaml in it)")
    try:
        return ablation_page.read(run) if is_ablation(run) else study_page.read(run)
    except OSError as error:
        raise ValueError(f"{run}: cannot be read ({error})") from None


def write(runs: Sequence[Path], out: Path | None = None, names: Sequence[str] = FORMATS) -> Written:
    """Write the report of a run folder, by default into its `report/`; of several one report, by default into `./report`.

    The latter holds the reports of the runs in folders of their names. A repeated folder counts once; of several, unusable ones
    are listed. Raises FileNotFoundError or ValueError if none can be used, OSError if `out` cannot be written, and NoBrowser, after
    all other files are written, if a PDF cannot be printed.
    """
    output.check(names)
    if len(runs) == 1:
        report = read(runs[0])
        folder = out or runs[0] / "report"
        page = output.write(folder, report.files, names)
        output.print_pdf(folder, names)
        return Written(page, "".join(report.files["txt"]["table.txt"]()))
    folder = out or OUT
    used, lost = _usable(runs, folder)
    for entry in used:
        output.write(folder / entry.name, entry.report.files, names)
    files = overview_page.files(used, lost)
    page = output.write(folder, files, names)
    for place in (folder, *(folder / entry.name for entry in used)):
        output.print_pdf(place, names)
    return Written(page, "".join(files["txt"]["table.txt"]()), tuple(lost))


def _usable(runs: Sequence[Path], folder: Path) -> tuple[list[overview_page.Entry], list[str]]:
    """(runs under unique names, sentences on the others)."""
    used: dict[str, overview_page.Entry] = {}
    seen: set[Path] = set()
    lost: list[str] = []
    for run in runs:
        if (place := run.resolve()) in seen:
            lost.append(f"{place.name} is given twice and counts once")
            continue
        seen.add(place)
        name = _free(place.name or "run", used)
        if (folder / name).resolve() == place:
            raise ValueError(f"--out {folder}: the report of {run} would go into the run folder itself; give another folder")
        try:
            used[name] = overview_page.Entry(name, read(run))
        except (FileNotFoundError, ValueError) as error:
            lost.append(f"left out: {error}")
    if not used:
        raise ValueError("\n".join(lost))
    left = sum(text.startswith("left out") for text in lost)
    counted = [f"{left} of {len(seen)} folders could not be used."] if left else []
    return list(used.values()), [*counted, *(plain(text, 300) + "." for text in lost)]


def _free(name: str, taken: Sequence[str] | dict[str, overview_page.Entry]) -> str:
    """The name, or `name-2` and so on if it is taken."""
    numbers = (f"{name}-{count}" for count in range(2, len(taken) + 3))
    return name if name not in taken else next(other for other in numbers if other not in taken)
