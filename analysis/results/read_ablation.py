"""Read the run folder of an ablation into its ledger."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from analysis.records import predictions, record
from analysis.records.metric import ERROR_RATE, METRICS, Metric
from analysis.records.run_folder import Run, load, unread
from analysis.records.trials import Trial
from analysis.results import cost, published
from analysis.results.ledger import Cell, Ledger, SeedRun, StudySummary, _other_tests, as_dict, letters, listed, printed_numbers
from analysis.results.origin import origin
from analysis.results.published import Number
from analysis.text.plain import plain

FILE = "ablation.yaml"


def folder_of(study: Any) -> str | None:
    """Folder of one of an ablation's studies; None if it is not within the run folder."""
    name = study.get("folder") if isinstance(study, dict) else None
    place = PurePosixPath(str(name or ""))
    inside = isinstance(name, str) and "\0" not in name and place.parts and not place.is_absolute() and ".." not in place.parts
    return name if inside else None


def is_ablation(folder: str | Path) -> bool:
    """Whether a run folder belongs to an ablation."""
    return (Path(folder) / FILE).is_file()


def ledger(folder: str | Path) -> Ledger:
    """Read a run folder. Raises FileNotFoundError without `ablation.yaml`, ValueError if that file holds no ablation."""
    import yaml

    folder = Path(folder)
    if not is_ablation(folder):
        raise FileNotFoundError(f"{folder}: no run of an ablation (there is no {FILE} in it)")
    try:
        ablation = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / FILE}: not readable as YAML: {plain(error, 200)}") from None
    if not isinstance(ablation, dict):
        raise ValueError(f"{folder / FILE}: holds no ablation")
    result = Ledger(ablation, [], [])
    settings = [as_dict(setting) for setting in listed(ablation.get("settings"))]
    tables = [name for setting in settings for name in listed(setting.get("table"))]
    numbers = printed_numbers(result, tables)
    planned = _planned(ablation)
    for task, fields in as_dict(ablation.get("tasks")).items():
        for index, setting in enumerate(settings) if as_dict(fields).get("target", True) else ():
            if planned is None or index in planned.get(str(task), ()):
                result.cells.append(_empty(result, numbers, str(task), index, setting))
    states = [_add(result, folder, as_dict(study)) for study in listed(ablation.get("studies"))]
    result.statistics = _statistics(folder) if ablation.get("statistics") else []
    result.finished = all(states) and bool(states or result.statistics)
    for cell in result.cells:
        settle(result, cell, folder)
    result.problems += _other_tests(result)
    _unknown(result, numbers)
    return result


def _planned(ablation: Mapping[str, Any]) -> dict[str, set[int]] | None:
    """{task: indices of the settings run on it}, since a row may lack some tasks; None if the file does not list them."""
    settings: dict[str, set[int]] = {}
    for study in map(as_dict, listed(ablation.get("studies"))):
        settings.setdefault(str(study.get("task")), set()).update(i for i in listed(study.get("settings")) if isinstance(i, int))
    return settings if any(settings.values()) else None


def _statistics(folder: Path) -> list[dict[str, Any]]:
    """Statistics of the tasks' texts, for an ablation that computes them; empty if the file is missing or damaged."""
    try:
        entries = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in map(as_dict, listed(entries)) if as_dict(entry.get("row"))]


def _empty(ledger: Ledger, numbers: Sequence[Number], task: str, index: int, setting: Mapping[str, Any]) -> Cell:
    """A cell without runs, with its published number."""
    row, column = plain(setting.get("row", index)), plain(setting.get("column") or "")
    columns = [name for name in (column, ledger.printed_name(task)) if name]
    tables = listed(setting.get("table")) or listed(as_dict(ledger.definition.get("source")).get("table"))
    own = [number for number in numbers if number.table in map(str, tables)]
    number = published.find(own, row, columns)
    suffix = re.search(r"\((\w+)\)$", number.metric) if number else None  # of one task: `test error rate % (IMDb)`
    if suffix and letters(suffix[1]) not in map(letters, ledger.names_of(task)):
        number = None
    return Cell(row, column, task, index, _metric(number) or ERROR_RATE, _count(ledger.definition.get("seeds")), published=number)


def _unknown(ledger: Ledger, numbers: Sequence[Number]) -> None:
    """Add a problem for every row that the published table lacks."""
    if not numbers:
        return
    known = list(dict.fromkeys(name for number in numbers for name in (number.row, number.column)))
    for row in dict.fromkeys(cell.row for cell in ledger.cells):
        if not any(cell.published for cell in ledger.cells if cell.row == row):
            close = published.near(row, known).partition("; there is")[0]
            ledger.problems.append(f"the published table has no row {row!r} for these tasks{close}")


def _metric(number: Number | None) -> Metric | None:
    """Metric of a published number; None without a number, or if its description names no known metric."""
    printed = number.metric.casefold() if number else ""
    return next((metric for metric in reversed(METRICS.values()) if metric.label.casefold() in printed), None)


# Records -------------------------------------------------------------------------------------------------------------------------


def _add(ledger: Ledger, folder: Path, study: Mapping[str, Any]) -> bool:
    """Add a study's results to its cells; return whether the study has finished."""
    name, task = folder_of(study), str(study.get("task") or "")
    if name is None:
        ledger.problems.append(f"study folder {study.get('folder')!r:.80} is not within the run folder and was left out")
        return False
    try:
        draws_curves = ledger.definition.get("layout") == "curve" and not ledger.definition.get("x")
        run = load(folder / name, skip=None if draws_curves else _is_validation)
    except FileNotFoundError:
        return False
    if run.problems:
        few = "; ".join(plain(problem, 120) for problem in run.problems[:3]) + ("; …" if len(run.problems) > 3 else "")
        ledger.problems.append(f"{name}: {len(run.problems)} line(s) of the records could not be used ({few})")
    ledger.problems += [f"{name}: {plain(record.accepted(row), 500)}" for row in run.of("inputs") if record.starts_again(row)]
    ledger.studies[name] = StudySummary(run.folder, run.labels, run.config, run.inputs)
    indices = [index for index in listed(study.get("settings")) if isinstance(index, int)]
    mine = {cell.setting: cell for cell in ledger.cells if cell.task == task and (cell.setting in indices or not indices)}
    ledger.origins.append(origin(run))
    part = f"fine-tuning on {ledger.task_name(task)}"
    ledger.accounts.append(cost.account(run, lambda _: part))
    ledger.validated.setdefault(task, run.metric)
    for cell in mine.values():
        if not cell.runs:
            cell.metric = _metric(cell.published) or run.metric
        trials = _of_label(run, cell.label)
        _borrow_curves(run, trials)
        scores = [cell.metric.score(t.test) if t.test and t.phase == "final" else None for t in trials]
        cell.runs += [SeedRun(name, t, score, len(run.labels)) for t, score in zip(trials, scores, strict=True)]
        if trials:
            ledger.params[task, cell.setting] = trials[0].params
    for row in run.iterate("evaluation"):
        if row.get("train_error_rate_percent") is not None and row.get("epoch") is not None:
            ledger.training.setdefault((name, str(row.get("trial"))), []).append((row["epoch"], row["train_error_rate_percent"]))
    return run.state == "finished"


def _of_label(run: Run, label: str) -> list[Trial]:
    """Finals of a setting; without any, its trials of the search, those that diverged or failed first."""
    same = [trial for trial in run.trials if trial.label == plain(label)]
    settings = {trial.setting for trial in same if trial.setting}
    finals = [trial for trial in run.finals if trial in same or trial.setting in settings]
    lost = [trial for trial in same if trial.phase == "search" and trial.status in ("diverged", "failed")]
    begun = [trial for trial in same if trial.phase == "search"]
    return finals or lost or [trial for trial in begun if trial.status != "complete"] or begun


def _borrow_curves(run: Run, trials: Iterable[Trial]) -> None:
    """A final that is known to diverge is not run: give it the curve of the search trial that diverged."""
    curves = {trial.stage_ids[-1]: trial.curve for trial in run.search if trial.stage_ids}
    for trial in trials:
        if trial.stage_ids and not trial.curve:
            trial.curve = curves.get(trial.stage_ids[-1], [])


def _is_validation(line: bytes) -> bool:
    """Whether a line is an evaluation on validation: most lines are, and they need not be parsed here."""
    return b'"split":"validation"' in line and b'"event":"evaluation"' in line and line.rstrip().endswith(b"}")


def settle(ledger: Ledger, cell: Cell, folder: Path) -> None:
    """Keep one run per seed, and load the losses of the finished ones."""
    kept: dict[Any, SeedRun] = {}
    for run in sorted(cell.runs, key=lambda run: not run.finished):  # stable: of equal ones the first
        other = kept.setdefault(run.trial.seed, run)
        if other is not run and run.finished:
            twice = f"{cell.task}: {cell.label} has seed {run.trial.seed} twice"
            ledger.problems.append(f"{twice} ({other.study}/{other.trial.name}, {run.study}/{run.trial.name}); the first counts")
    cell.runs = sorted(kept.values(), key=lambda run: (run.trial.seed is None, run.trial.seed or 0))
    if not cell.finished:
        return
    seeds = []
    for run in cell.finished:
        try:
            seeds.append(predictions.of_trial(folder / run.study, run.trial.name, run.classes, cell.metric))
        except (OSError, ValueError) as error:
            ledger.problems.append(f"{run.study}/{run.trial.name}: {unread(error)}, so that {cell.label} is not compared")
            return
        if abs(seeds[-1].score(cell.metric) - (run.score or 0.0)) > 0.01:
            ledger.problems.append(f"{run.study}/{run.trial.name}: the test predictions give another score than the records")
    cell.losses, cell.texts = predictions.stacked(seeds, cell.metric)
    if cell.losses is None:
        ledger.problems.append(f"{cell.task}: seeds of {cell.label} were tested on different texts, so that it is not compared")


def _count(seeds: Any) -> int:
    return len(seeds) if isinstance(seeds, (list, tuple)) else seeds if isinstance(seeds, int) and seeds > 0 else 1
