"""The ledger of an ablation's run folder: one cell for each row, column and task, with all that is known of it.

Everything is read from `ablation.yaml`, the records and the test predictions of the studies in the folder. Tables, figures,
verdicts and provenance are made from the ledger alone.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from analysis import cost, inference, predictions, published
from analysis.inference import Estimate
from analysis.load import Run, Trial, load, plain, unread
from analysis.predictions import Array
from analysis.published import Number
from study import record
from study.metric import ERROR_RATE, METRICS, Metric

FILE = "ablation.yaml"


@dataclass(frozen=True)
class SeedRun:
    """One seed of a cell: a final of its study."""

    study: str
    """Folder of the study within the run folder."""
    trial: Trial
    score: float | None
    """Test score in percent, in the cell's metric; None where the test split was not read."""
    classes: int = 0
    """How many classes or labels the task has, as far as the records say."""

    @property
    def finished(self) -> bool:
        """Whether it has a number."""
        return self.trial.status == "complete" and self.score is not None


@dataclass(eq=False)
class Cell:
    """One cell: a setting on a task."""

    row: str
    column: str
    """Empty where the table's columns are tasks."""
    task: str
    setting: int
    metric: Metric
    wanted: int
    """How many seeds it is to have."""
    runs: list[SeedRun] = field(default_factory=list)
    published: Number | None = None
    losses: Array | None = None
    """Loss of every seed and test text in percent, [seeds, texts]; None where not all finished seeds have predictions."""
    texts: str = ""
    """Digest of the test texts' labels."""

    @property
    def label(self) -> str:
        """Its setting's label: `row` or `row | column`."""
        return f"{self.row} | {self.column}" if self.column else self.row

    @property
    def finished(self) -> list[SeedRun]:
        """Seeds that have a number."""
        return [run for run in self.runs if run.finished]

    def lost(self, status: str) -> int:
        """How many seeds have diverged, or failed."""
        return sum(run.trial.status == status for run in self.runs)

    @property
    def state(self) -> str:
        """complete, diverged, failed, unfinished, or missing where nothing of it has begun."""
        if not self.runs:
            return "missing"
        if len(self.finished) + self.lost("diverged") + self.lost("failed") < self.wanted:
            return "unfinished"
        return "complete" if self.finished else "diverged" if self.lost("diverged") else "failed"

    @property
    def scores(self) -> list[float]:
        """Test score of each finished seed, percent."""
        return [run.score for run in self.finished if run.score is not None]

    @property
    def mean(self) -> float | None:
        """Mean score; None without a finished seed."""
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @cached_property
    def estimate(self) -> Estimate | None:
        """Mean loss with its uncertainty over seeds and texts; None without predictions."""
        return None if self.losses is None else inference.mean(self.losses)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the score over seeds and texts, within what is possible; None for one seed or without predictions."""
        return predictions.as_scores(self.estimate.interval if self.estimate else None, self.metric)

    @cached_property
    def bootstrap(self) -> tuple[float, float] | None:
        """The same by bootstrap over texts and seeds: percentiles, which of few seeds do not know the tails."""
        return predictions.as_scores(None if self.losses is None else inference.bootstrap_interval(self.losses), self.metric)


@dataclass(frozen=True)
class Study:
    """What is known of one study beside its trials."""

    folder: Path
    labels: Sequence[str]
    """Names of its task's classes."""
    config: Mapping[str, Any]
    """The resolved study file."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """{what it read: digest of its content}"""


@dataclass
class Ledger:
    """An ablation as run."""

    about: dict[str, Any]
    """`ablation.yaml`."""
    cells: list[Cell]
    problems: list[str]
    """What could not be used, and what does not fit together."""
    training: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    """{(study, trial): training error (epoch, percent)}, where the layout needs it and the records have it."""
    statistics: list[dict[str, Any]] = field(default_factory=list)
    """Statistics of each task's texts: `row` holds them by column."""
    params: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    """{(task, setting): its parameters as the records have them}"""
    studies: dict[str, Study] = field(default_factory=dict)
    """{folder within the run folder: the study}"""
    finished: bool = False
    """Whether every study has finished."""
    versions: dict[str, str] = field(default_factory=dict)
    accounts: list[cost.Account] = field(default_factory=list)
    """What each study has spent."""
    validated: dict[str, Metric] = field(default_factory=dict)
    """{task: what its curves on validation are by}"""
    kind: str = "ablation"
    """Or study."""

    @property
    def name(self) -> str:
        """Name of the ablation."""
        return plain(self.about.get("name") or "ablation", 60)

    @property
    def title(self) -> str:
        """What it is about."""
        return plain(self.about.get("title") or self.name, 200)

    @property
    def scale(self) -> str:
        """The scale that it was run at."""
        return plain(self.about.get("scale") or "paper", 40)

    @property
    def changes(self) -> list[str]:
        """What the scale changes, and what is worth knowing of it."""
        return [plain(each, 300).replace(" -> ", " to ") for name in ("changes", "says") for each in listed(self.about.get(name))]

    @property
    def notes(self) -> list[str]:
        """What the paper leaves unsaid or contradicts itself in."""
        return [plain(each, 600) for each in listed(self.about.get("notes"))]

    @property
    def source(self) -> str:
        """`Sun et al. 2019, ...: Table 2`; empty for an ablation of one's own."""
        source = _dict(self.about.get("source"))
        paper = str(source.get("paper") or "")
        tables = ", ".join(map(plain, listed(source.get("table"))))
        return ": ".join(each for each in (published.PAPERS.get(paper, plain(paper)), tables) if each)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks in order."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    def names_of(self, task: str) -> list[str]:
        """All that a task is called: its own name, the known set's, the published table's, and the task in whose place it is."""
        about = _dict(_dict(self.about.get("tasks")).get(task))
        return [task, *(plain(about[name]) for name in ("known", "published", "stands_for") if about.get(name))]

    def printed_name(self, task: str) -> str:
        """What the published table calls a task."""
        about = _dict(_dict(self.about.get("tasks")).get(task))
        return plain(about.get("published") or about.get("stands_for") or task, 60)

    def known_name(self, task: str) -> str:
        """What the task's data are called, whatever they stand for."""
        return plain(_dict(_dict(self.about.get("tasks")).get(task)).get("known") or task, 60)

    def task_name(self, task: str) -> str:
        """A task as tables call it: `IMDb`, and where the data are other ones `sls_imdb (for IMDb)`."""
        about = _dict(_dict(self.about.get("tasks")).get(task))
        known, printed = self.known_name(task), self.printed_name(task)
        alike = map(_letters, (known, task))
        return printed if _letters(printed) in alike and not about.get("stands_for") else f"{known} (for {printed})"

    def printed_row(self, row: str, columns: Sequence[str]) -> dict[str, str]:
        """{column: what is published there in that row}"""
        numbers = _numbers(self, ())
        found = {column: published.find(numbers, row, [column]) for column in columns}
        return {column: number.shown for column, number in found.items() if number is not None}

    def at(self, task: str, row: str, column: str) -> Cell | None:
        """One cell."""
        return next((cell for cell in self.cells if (cell.task, cell.row, cell.column) == (task, row, column)), None)

    def comparable(self, one: Cell, other: Cell) -> bool:
        """Whether both have losses on the same test texts, by their labels and, where they are recorded, their digests."""
        same = one.losses is not None and other.losses is not None and one.texts == other.texts and one.metric == other.metric
        return same and len(self.tested_on(one) | self.tested_on(other)) < 2

    def tested_on(self, cell: Cell) -> set[str]:
        """Digests of the test splits that a cell's studies have read; empty where the records are older than that."""
        found = set()
        for run in cell.finished:
            task = plain((run.trial.test or {}).get("task") or cell.task)
            inputs = self.studies[run.study].inputs if run.study in self.studies else {}
            found |= {inputs[name] for name in (f"tasks.{task}.test",) if name in inputs}
        return found


def folder_of(study: Any) -> str | None:
    """The folder of one of an ablation's studies; None where it is none within the run folder."""
    name = study.get("folder") if isinstance(study, dict) else None
    place = PurePosixPath(str(name or ""))
    inside = isinstance(name, str) and "\0" not in name and place.parts and not place.is_absolute() and ".." not in place.parts
    return name if inside else None


def is_ablation(folder: str | Path) -> bool:
    """Whether a run folder is that of an ablation."""
    return (Path(folder) / FILE).is_file()


def ledger(folder: str | Path) -> Ledger:
    """Read a run folder. Raises FileNotFoundError without `ablation.yaml`, ValueError where that is no ablation."""
    import yaml

    folder = Path(folder)
    if not is_ablation(folder):
        raise FileNotFoundError(f"{folder}: no run of an ablation (there is no {FILE} in it)")
    try:
        about = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / FILE}: not readable as YAML: {plain(error, 200)}") from None
    if not isinstance(about, dict):
        raise ValueError(f"{folder / FILE}: holds no ablation")
    made = Ledger(about, [], [])
    settings = [_dict(each) for each in listed(about.get("settings"))]
    tables = [each for setting in settings for each in listed(setting.get("table"))]
    numbers = _numbers(made, tables)
    planned = _planned(about)
    for task, given in _dict(about.get("tasks")).items():
        for index, setting in enumerate(settings) if _dict(given).get("target", True) else ():
            if planned is None or index in planned.get(str(task), ()):
                made.cells.append(_empty(made, numbers, str(task), index, setting))
    states = [_add(made, folder, _dict(study)) for study in listed(about.get("studies"))]
    made.statistics = _statistics(folder) if about.get("statistics") else []
    made.finished = all(states) and bool(states or made.statistics)
    for cell in made.cells:
        settle(made, cell, folder)
    made.problems += _other_tests(made)
    _unknown(made, numbers)
    return made


def _planned(about: Mapping[str, Any]) -> dict[str, set[int]] | None:
    """{task: settings that are run on it}, since a row may lack some tasks; None where nothing says so."""
    found: dict[str, set[int]] = {}
    for study in map(_dict, listed(about.get("studies"))):
        found.setdefault(str(study.get("task")), set()).update(i for i in listed(study.get("settings")) if isinstance(i, int))
    return found if any(found.values()) else None


def _statistics(folder: Path) -> list[dict[str, Any]]:
    """Statistics of the tasks' texts, where the ablation is about those."""
    try:
        found = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [each for each in map(_dict, listed(found)) if _dict(each.get("row"))]


def _empty(made: Ledger, numbers: Sequence[Number], task: str, index: int, setting: Mapping[str, Any]) -> Cell:
    row, column = plain(setting.get("row", index)), plain(setting.get("column") or "")
    columns = [each for each in (column, made.printed_name(task)) if each]
    tables = listed(setting.get("table")) or listed(_dict(made.about.get("source")).get("table"))
    own = [number for number in numbers if number.table in map(str, tables)]
    number = published.find(own, row, columns)
    about = re.search(r"\((\w+)\)$", number.metric) if number else None  # of one task: `test error rate % (IMDb)`
    if about and _letters(about[1]) not in map(_letters, made.names_of(task)):
        number = None
    return Cell(row, column, task, index, _metric(number) or ERROR_RATE, _count(made.about.get("seeds")), published=number)


def _numbers(made: Ledger, tables: Sequence[Any]) -> tuple[Number, ...]:
    source = _dict(made.about.get("source"))
    if not source.get("paper"):
        return ()
    try:
        return published.table(str(source["paper"]), [str(each) for each in (*listed(source.get("table")), *tables)])
    except KeyError as error:
        made.problems.append(f"published numbers: {error.args[0]}")
        return ()


def _unknown(made: Ledger, numbers: Sequence[Number]) -> None:
    """Say which rows the published table lacks altogether."""
    if not numbers:
        return
    known = list(dict.fromkeys(name for number in numbers for name in (number.row, number.column)))
    for row in dict.fromkeys(cell.row for cell in made.cells):
        if not any(cell.published for cell in made.cells if cell.row == row):
            close = published.near(row, known).partition("; there is")[0]
            made.problems.append(f"the published table has no row {row!r} for these tasks{close}")


def _metric(number: Number | None) -> Metric | None:
    """What a published number is by; None without one, and where its words name none."""
    printed = number.metric.casefold() if number else ""
    return next((metric for metric in reversed(METRICS.values()) if metric.label.casefold() in printed), None)


# Records -------------------------------------------------------------------------------------------------------------------------


def _add(made: Ledger, folder: Path, study: Mapping[str, Any]) -> bool:
    """Put what a study has found into its cells; whether the study has finished."""
    name, task = folder_of(study), str(study.get("task") or "")
    if name is None:
        made.problems.append(f"study folder {study.get('folder')!r:.80} is not within the run folder and was left out")
        return False
    try:
        run = load(folder / name, skip=None if _wants_curves(made) else _validation)
    except FileNotFoundError:
        return False
    if run.problems:
        few = "; ".join(plain(each, 120) for each in run.problems[:3]) + ("; …" if len(run.problems) > 3 else "")
        made.problems.append(f"{name}: {len(run.problems)} line(s) of the records could not be used ({few})")
    made.problems += [f"{name}: {plain(record.accepted(row), 500)}" for row in run.of("inputs") if record.starts_again(row)]
    made.studies[name] = Study(run.folder, run.labels, run.config, run.inputs)
    indices = [each for each in listed(study.get("settings")) if isinstance(each, int)]
    mine = {cell.setting: cell for cell in made.cells if cell.task == task and (cell.setting in indices or not indices)}
    for row in run.of("study"):
        about = {**(row.get("versions") or {}), "commit": row.get("commit"), "device": row.get("device")}
        made.versions |= {plain(key): plain(value, 80) for key, value in about.items() if value}
    part = f"fine-tuning on {made.task_name(task)}"
    made.accounts.append(cost.account(run, lambda _: part))
    made.validated.setdefault(task, run.metric)
    for cell in mine.values():
        if not cell.runs:
            cell.metric = _metric(cell.published) or run.metric
        trials = _of_label(run, cell.label)
        _borrow_curves(run, trials)
        scores = [cell.metric.score(t.test) if t.test and t.phase == "final" else None for t in trials]
        cell.runs += [SeedRun(name, t, score, len(run.labels)) for t, score in zip(trials, scores, strict=True)]
        if trials:
            made.params[task, cell.setting] = trials[0].params
    for row in run.each("evaluation"):
        if row.get("train_error_rate_percent") is not None and row.get("epoch") is not None:
            made.training.setdefault((name, str(row.get("trial"))), []).append((row["epoch"], row["train_error_rate_percent"]))
    return run.state == "finished"


def _of_label(run: Run, label: str) -> list[Trial]:
    """Finals of a setting; where there are none, its trial of the search if that came to nothing."""
    same = [trial for trial in run.trials if trial.label == plain(label)]
    settings = {trial.setting for trial in same if trial.setting}
    finals = [trial for trial in run.finals if trial in same or trial.setting in settings]
    lost = [trial for trial in same if trial.phase == "search" and trial.status in ("diverged", "failed")]
    begun = [trial for trial in same if trial.phase == "search"]
    return finals or lost or [trial for trial in begun if trial.status != "complete"] or begun


def _borrow_curves(run: Run, trials: Iterable[Trial]) -> None:
    """A final that is known to diverge is not run, so its curve stands under the trial of the search that did."""
    curves = {trial.stage_ids[-1]: trial.curve for trial in run.search if trial.stage_ids}
    for trial in trials:
        if trial.stage_ids and not trial.curve:
            trial.curve = curves.get(trial.stage_ids[-1], [])


def _validation(line: bytes) -> bool:
    """Whether a line is an evaluation on validation, most of what there is, so that it need not be read."""
    return b'"split":"validation"' in line and b'"event":"evaluation"' in line and line.rstrip().endswith(b"}")


def _wants_curves(made: Ledger) -> bool:
    return made.about.get("layout") == "curve" and not made.about.get("x")


def settle(made: Ledger, cell: Cell, folder: Path) -> None:
    """Each seed once, and the losses of those that have finished."""
    kept: dict[Any, SeedRun] = {}
    for run in sorted(cell.runs, key=lambda run: not run.finished):  # stable: of equal ones the first
        other = kept.setdefault(run.trial.seed, run)
        if other is not run and run.finished:
            twice = f"{cell.task}: {cell.label} has seed {run.trial.seed} twice"
            made.problems.append(f"{twice} ({other.study}/{other.trial.name}, {run.study}/{run.trial.name}); the first counts")
    cell.runs = sorted(kept.values(), key=lambda run: (run.trial.seed is None, run.trial.seed or 0))
    if not cell.finished:
        return
    found = []
    for run in cell.finished:
        try:
            found.append(predictions.of_trial(folder / run.study, run.trial.name, run.classes))
        except (OSError, ValueError) as error:
            made.problems.append(f"{run.study}/{run.trial.name}: {unread(error)}, so that {cell.label} is compared with nothing")
            return
        if abs(found[-1].score(cell.metric) - (run.score or 0.0)) > 0.01:
            made.problems.append(f"{run.study}/{run.trial.name}: the test predictions say another score than the records")
    cell.losses, cell.texts = predictions.stacked(found, cell.metric)
    if cell.losses is None:
        made.problems.append(
            f"{cell.task}: seeds of {cell.label} were tested on different texts, so that it is compared with nothing"
        )


def _other_tests(made: Ledger) -> Iterator[str]:
    """Tasks whose cells were tested on splits that differ by their recorded digests."""
    for task in made.tasks:
        by_split: dict[str, list[str]] = {}
        for cell in made.cells:
            for split in sorted(made.tested_on(cell)) if cell.task == task else ():
                by_split.setdefault(split, []).append(cell.label)
        if len(by_split) > 1:
            groups = " | ".join(", ".join(labels) for labels in by_split.values())
            yield f"{task}: the test splits differ ({groups}), so that nothing is compared between them"


# YAML that a user may have written -----------------------------------------------------------------------------------------------


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """What is written as a list; one that is not is a list of its own."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _count(seeds: Any) -> int:
    return len(seeds) if isinstance(seeds, (list, tuple)) else seeds if isinstance(seeds, int) and seeds > 0 else 1


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def shared_stages(cells: Iterable[Cell]) -> bool:
    """Whether some cell's seeds all start from one and the same further pre-training, whose own spread is then not seen."""
    for cell in cells:
        stages = [set(run.trial.stage_ids[:-1]) for run in cell.finished]
        if len(stages) > 1 and set.intersection(*stages):
            return True
    return False
