"""The report of any run folder, a study's or, where `ablation.yaml` lies in it, an ablation's; and one of several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.pages import ablation_page, output, overview_page, study_page
from analysis.pages.output import FORMATS, Report
from analysis.results.read_ablation import is_ablation
from analysis.text.plain import plain

OUT = Path("report")
"""Where the report of several runs goes without another word."""


@dataclass(frozen=True)
class Written:
    """What has been written."""

    page: Path
    """The page, or the folder without one."""
    text: str
    """The result for a terminal."""
    lost: tuple[str, ...] = ()
    """Folders that could not be used, and why."""


def formats(given: str | None) -> tuple[str, ...]:
    """Names that were given by comma. Raises ValueError for one that there is not."""
    if given is None:
        return FORMATS
    names = tuple(name for name in given.replace(" ", "").split(",") if name)
    if not names:
        raise ValueError(f"format {given!r}: there are {', '.join(output.ALL_FORMATS)}")
    output.check(names)
    return names


def read(run: Path) -> Report:
    """The report of a run folder. Raises FileNotFoundError where there is no run, ValueError where it cannot be read."""
    if not is_ablation(run) and not (run / "records.jsonl").exists():
        raise FileNotFoundError(f"{run}: no run folder (there is neither records.jsonl nor ablation.yaml in it)")
    try:
        return ablation_page.read(run) if is_ablation(run) else study_page.read(run)
    except OSError as error:
        raise ValueError(f"{run}: cannot be read ({error})") from None


def write(runs: Sequence[Path], out: Path | None = None, names: Sequence[str] = FORMATS) -> Written:
    """Write the report of a run folder, by default into its `report/`; of several one report, by default into `./report`.

    In that, each run's own report lies in a folder of the run's name. A folder that is given twice counts once; of several, those
    that cannot be used are named. Raises FileNotFoundError or ValueError where none can be used, OSError where `out` cannot be
    written, and NoBrowser, after all else is written, where there is none for a PDF.
    """
    output.check(names)
    if len(runs) == 1:
        found = read(runs[0])
        folder = out or runs[0] / "report"
        page = output.write(folder, found.files, names)
        output.print_pdf(folder, names)
        return Written(page, "".join(found.files["txt"]["table.txt"]()))
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
    """(runs under names of their own, what is wrong with the others)."""
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
    left = sum(each.startswith("left out") for each in lost)
    counted = [f"{left} of {len(seen)} folders could not be used."] if left else []
    return list(used.values()), [*counted, *(plain(each, 300) + "." for each in lost)]


def _free(name: str, taken: Sequence[str] | dict[str, overview_page.Entry]) -> str:
    """The name, or `name-2` where it is taken."""
    numbers = (f"{name}-{count}" for count in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbers if each not in taken)
