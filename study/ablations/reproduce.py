"""Run an ablation in one run folder, from its first study to its tables. It can be interrupted and resumed at any time."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from analysis.pages import ablation_page as tables
from analysis.pages import output
from analysis.results.read_ablation import FILE
from analysis.text.numbers import time_text
from analysis.text.places import shareable
from analysis.text.write_whole import write_whole
from study.ablations import ablation_file, gpu_costs, grid_plan_text
from study.ablations.ablation_file import Ablation
from study.ablations.grid import AblationGrid
from study.ablations.studies import AblationStudy
from study.cluster.machine_faults import stops
from study.cluster.ray_session import Shared, machine_for
from study.planning.check import check
from study.run import launch
from study.run.lock import RunLock
from trainables.settings.errors import ConfigError
from trainables.stages.inputs import Reader
from trainables.store.store import Store

STATISTICS = "statistics.json"


@dataclass(frozen=True)
class AblationOutcome:
    """The end of an ablation: whether there is a result, and the text to print."""

    has_result: bool
    text: str


def run(
    grid: AblationGrid,
    folder: Path,
    store: str | None = None,
    address: str | None = None,
    say: Callable[[str], None] = print,
    accept_changed_inputs: bool = False,
    retry_failed: bool = False,
) -> AblationOutcome:
    """Run the unfinished studies of an ablation, one after the other, then write its tables.

    Everything is checked before anything is computed. Raises ConfigError for wrong input, RunInUse if another driver has the
    folder, KeyboardInterrupt after SIGINT or SIGTERM, StudyStopped if the machine or all trials of a study failed.
    """
    began = time.monotonic()
    _check_folder(grid, folder)
    reader = Reader()
    todo, changed = _left(grid, folder, accept_changed_inputs, retry_failed, reader)
    measure = grid.ablation.statistics and (changed or not (_is_as_before(grid, folder) and (folder / STATISTICS).exists()))
    _check_all(todo, address, reader)
    measured = json.dumps(statistics(grid.ablation), indent=2, ensure_ascii=False) if measure else ""
    with RunLock(folder), stops():
        studies_began = time.monotonic()
        if measure:
            (folder / STATISTICS).unlink(missing_ok=True)  # computed from another set of tasks
        write_whole(folder / FILE, shareable(grid.to_yaml()))
        if measure:
            write_whole(folder / STATISTICS, measured)
        if todo:
            artifacts = Store(store or Store.default().url)
            say(f"{grid.name}: {grid_plan_text.estimate_text(grid, artifacts, reader, here=address is None)}")
        with Shared(grid.ablation.session_hours, began) as shared:
            for number, part in enumerate(todo, start=1):
                settings, seeds = len(part.settings), part.study.final.seeds
                cells = f"{settings} setting{'s' * (settings != 1)} over {seeds} seed{'s' * (seeds != 1)} on {part.task}"
                say(f"{grid.name}: study {number} of {len(todo)}, {part.folder}: {cells}")
                where = (folder / part.folder, store, address, shared)
                ran = launch.run(part.study, *where, accept_changed_inputs, retry_failed, reader=reader)
                if ran.failed:
                    say(f"{part.folder}: {ran.failed}")
        took = f" in {time_text(time.monotonic() - studies_began)}" if todo else ""
        ending = f"{grid.name} finished{took}" if todo or measure else f"{grid.name} is finished; nothing was run again"
        return _outcome(grid, folder, ending)


def _left(grid: AblationGrid, folder: Path, accept: bool, retry_failed: bool, reader: Reader) -> tuple[list[AblationStudy], bool]:
    """(unfinished studies, whether the inputs of any have changed). Raises ConfigError with the faults of all."""
    faults: dict[str, None] = {}
    todo, changed = [], False
    for part in grid.parts:
        try:
            finished, inputs = launch.opened(part.study, folder / part.folder, accept, retry_failed, reader)
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
            continue
        todo += [part] * (not finished)
        changed |= bool(inputs.changed)
    if faults:
        raise ConfigError(faults)
    return todo, changed


def _is_as_before(grid: AblationGrid, folder: Path) -> bool:
    path = folder / FILE
    return path.exists() and path.read_text(encoding="utf-8") == shareable(grid.to_yaml())


def _check_all(parts: list[Any], address: str | None, reader: Reader) -> None:
    """Check all data and encoders. Raises ConfigError with the faults of all studies."""
    faults: dict[str, None] = {}
    for part in parts:
        try:
            check(part.study, None if address else machine_for(part.study.resources), reader)
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise ConfigError(faults)


def _is_left_over(path: Path) -> bool:
    """Whether a start that failed may have left this file."""
    return path.name in ("lock.json", "study.log") or fnmatch(path.name, f"{FILE}.*new")


def _check_folder(grid: AblationGrid, folder: Path) -> None:
    """Raise ConfigError if the folder holds something else, or this ablation at another scale."""
    path = folder / FILE
    if not path.exists():
        if folder.exists() and not (folder.is_dir() and all(map(_is_left_over, folder.iterdir()))):
            raise ConfigError([f"--out {folder}: exists and is no run folder of an ablation; give another"])
        return
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: {error}"]) from None
    data = data if isinstance(data, dict) else {}
    mine = f"{grid.ablation.name} at scale {grid.scale}"
    theirs = f"{data.get('name')} at scale {data.get('scale')}"
    if mine != theirs:
        raise ConfigError([f"--out {folder}: holds {theirs}, not {mine}; give another folder"])


# Statistics ----------------------------------------------------------------------------------------------------------------------


def statistics(ablation: Ablation) -> list[dict[str, Any]]:
    """Return Table 1 of Sun et al. 2019, with all statistics of `study tasks --stats`, for every task of an ablation.

    Raises ConfigError with every fault.
    """
    from study.survey import dataset_statistics as measure
    from study.survey.tasks import plain_statistics

    results, faults = [], []
    for name, task in ablation.targets.items():
        try:
            measured = measure.statistics(name, task.task(), measure.ruler(ablation.encoder_of(name)))
        except ConfigError as error:
            faults += [f"tasks.{fault}" for fault in error.faults]
            continue
        fields: dict[str, Any] = {"published": task.published, "domain": task.task().domain}
        fields |= {"row": _row(measured, task.task().domain), "published_row": _published_row(ablation, task.published)}
        results.append(plain_statistics([measured])[0] | fields)
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return results


def _published_row(ablation: Ablation, name: str | None) -> dict[str, str]:
    source = ablation.source
    table = gpu_costs.published(source.paper, source.table) if source is not None else {}
    return {column: value for (row, column), value in table.items() if row == name}


def _row(measured: Any, domain: str | None) -> dict[str, Any]:
    """The columns of the paper's table: lengths are those of the training texts."""
    train, test = measured.splits["train"], measured.splits.get("test")
    return {
        "classes": measured.classes,
        "type": domain.capitalize() if domain else None,
        "average_length": train.mean,
        "max_length": train.maximum,
        "exceeding_512_ratio": train.over_limit_percent,
        "train_samples": train.examples,
        "test_samples": test.examples if test is not None else None,
    }


# Tables --------------------------------------------------------------------------------------------------------------------------


def _outcome(grid: AblationGrid, folder: Path, ending: str) -> AblationOutcome:
    """Write the tables from the records, and return the text to print."""
    tested = grid.ablation.statistics or any(any((folder / part.folder / "predictions").glob("*.parquet")) for part in grid.parts)
    report = tables.read(folder)
    try:
        page = output.write(folder / "report", report.files, output.FORMATS)
        text = (page.parent / "table.txt").read_text(encoding="utf-8")
    except OSError as error:
        return AblationOutcome(tested, f"{ending}\n\n{launch.unwritten(error, folder)}")
    spent = "" if grid.ablation.statistics else f"{tables.cost_text(report.ledger)}\n"
    return AblationOutcome(tested, f"{ending}\n\n{text}\n{spent}report: {page}")


# The shipped ones ----------------------------------------------------------------------------------------------------------------


def listing() -> str:
    """List the shipped ablations, 80 columns wide."""
    return "\n".join(line for name in ablation_file.shipped() for line in _entry(ablation_file.load(name).ablation))


def _entry(ablation: Ablation) -> Iterator[str]:
    where = f"{ablation.source.paper}, {ablation.source.table}" if ablation.source else "no published numbers"
    what = f"{len(ablation.settings)} settings" if ablation.settings else "statistics"
    scales = ", ".join(["paper", *(scale for scale in ablation_file.SCALES[1:] if scale in ablation.scales)])
    text = f"{where}; {what} on {', '.join(ablation.targets)}; scales {scales}"
    yield f"{ablation.name:<10} {ablation.title}"
    yield from textwrap.wrap(text, 80, initial_indent=" " * 11, subsequent_indent=" " * 11)
