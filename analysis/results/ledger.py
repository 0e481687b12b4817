"""The ledger of an ablation: one cell for each row, column and task, with its runs, scores and losses.

It is read from `ablation.yaml`, the records and the test predictions of the studies in the run folder. Tables, figures, verdicts
and provenance are built from the ledger alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.records import predictions
from analysis.records.metric import Metric
from analysis.records.predictions import Array
from analysis.records.trials import Trial
from analysis.results import cost, published
from analysis.results.origin import Origin
from analysis.results.published import Number
from analysis.stats import inference
from analysis.stats.inference import Estimate
from analysis.text.plain import plain


@dataclass(frozen=True)
class SeedRun:
    """One seed of a cell: a final of its study."""

    study: str
    """Folder of the study within the run folder."""
    trial: Trial
    score: float | None
    """Test score in percent, in the cell's metric; None if the test split was not read."""
    classes: int = 0
    """Number of the task's classes or labels; 0 if the records lack it."""

    @property
    def finished(self) -> bool:
        """Whether it is complete and has a test score."""
        return self.trial.status == "complete" and self.score is not None


@dataclass(eq=False)
class Cell:
    """One cell: a setting on a task."""

    row: str
    column: str
    """Empty if the table's columns are tasks."""
    task: str
    setting: int
    metric: Metric
    wanted: int
    """Number of seeds planned."""
    runs: list[SeedRun] = field(default_factory=list)
    published: Number | None = None
    losses: Array | None = None
    """Losses [seeds, texts] in percent; None unless all finished seeds have predictions."""
    texts: str = ""
    """Digest of the test texts' labels."""

    @property
    def label(self) -> str:
        """Label of its setting: `row` or `row | column`."""
        return f"{self.row} | {self.column}" if self.column else self.row

    @property
    def finished(self) -> list[SeedRun]:
        """Seeds with a test score."""
        return [run for run in self.runs if run.finished]

    def lost(self, status: str) -> int:
        """Return the number of seeds with this status, `diverged` or `failed`."""
        return sum(run.trial.status == status for run in self.runs)

    @property
    def state(self) -> str:
        """State of the cell: complete, diverged, failed, unfinished, or missing before any seed has begun."""
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
        """95 % interval of the score over seeds and texts, clipped to possible scores; None for one seed or without predictions."""
        return predictions.as_scores(self.estimate.interval if self.estimate else None, self.metric)

    @cached_property
    def bootstrap(self) -> tuple[float, float] | None:
        """The same by bootstrap over texts and seeds: percentiles, too narrow for few seeds."""
        return predictions.as_scores(None if self.losses is None else inference.bootstrap_interval(self.losses), self.metric)


@dataclass(frozen=True)
class StudySummary:
    """What the ledger keeps of one study beside its trials."""

    folder: Path
    labels: Sequence[str]
    """Names of its task's classes."""
    config: Mapping[str, Any]
    """The resolved study file."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """{input: digest of its content}"""


@dataclass
class Ledger:
    """An ablation as run."""

    definition: dict[str, Any]
    """Contents of `ablation.yaml`."""
    cells: list[Cell]
    problems: list[str]
    """Files that could not be used and contradictions between them, a sentence each."""
    training: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    """{(study, trial): training error (epoch, percent)}, if the layout needs it and the records have it."""
    statistics: list[dict[str, Any]] = field(default_factory=list)
    """Statistics of each task's texts; `row` maps columns to values."""
    params: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    """{(task, setting): its parameters, from the records}"""
    studies: dict[str, StudySummary] = field(default_factory=dict)
    """{folder within the run folder: the study}"""
    finished: bool = False
    """Whether every study has finished."""
    origins: list[Origin] = field(default_factory=list)
    """Where and when each study was computed."""
    accounts: list[cost.Account] = field(default_factory=list)
    """Cost of each study."""
    validated: dict[str, Metric] = field(default_factory=dict)
    """{task: metric of its validation curves}"""
    kind: str = "ablation"
    """`ablation` or `study`."""

    @property
    def name(self) -> str:
        """Name of the ablation."""
        return plain(self.definition.get("name") or "ablation", 60)

    @property
    def title(self) -> str:
        """Title of the ablation; its name without one."""
        return plain(self.definition.get("title") or self.name, 200)

    @property
    def scale(self) -> str:
        """Scale that it was run at."""
        return plain(self.definition.get("scale") or "paper", 40)

    @property
    def changes(self) -> list[str]:
        """What the scale changes, and remarks on it."""
        return [
            plain(text, 300).replace(" -> ", " to ") for name in ("changes", "says") for text in listed(self.definition.get(name))
        ]

    @property
    def notes(self) -> list[str]:
        """Notes on gaps and contradictions in the paper."""
        return [plain(note, 600) for note in listed(self.definition.get("notes"))]

    @property
    def source(self) -> str:
        """Paper and table, `Sun et al. 2019, ...: Table 2`; empty for a user's own ablation."""
        source = as_dict(self.definition.get("source"))
        paper = str(source.get("paper") or "")
        tables = ", ".join(map(plain, listed(source.get("table"))))
        return ": ".join(part for part in (published.PAPERS.get(paper, plain(paper)), tables) if part)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks in order."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    def names_of(self, task: str) -> list[str]:
        """All names of a task: its own, the known set's, the published table's, and that of the task it stands for."""
        task_entry = as_dict(as_dict(self.definition.get("tasks")).get(task))
        return [task, *(plain(task_entry[name]) for name in ("known", "published", "stands_for") if task_entry.get(name))]

    def printed_name(self, task: str) -> str:
        """Name of a task in the published table."""
        task_entry = as_dict(as_dict(self.definition.get("tasks")).get(task))
        return plain(task_entry.get("published") or task_entry.get("stands_for") or task, 60)

    def known_name(self, task: str) -> str:
        """Name of the task's data, also if they stand for another task."""
        return plain(as_dict(as_dict(self.definition.get("tasks")).get(task)).get("known") or task, 60)

    def task_name(self, task: str) -> str:
        """Name of a task in tables: `IMDb`, or `sls_imdb (for IMDb)` if other data stand for it."""
        task_entry = as_dict(as_dict(self.definition.get("tasks")).get(task))
        known, printed = self.known_name(task), self.printed_name(task)
        alike = map(letters, (known, task))
        return printed if letters(printed) in alike and not task_entry.get("stands_for") else f"{known} (for {printed})"

    def printed_row(self, row: str, columns: Sequence[str]) -> dict[str, str]:
        """{column: text published in that row and column}"""
        numbers = printed_numbers(self, ())
        cells = {column: published.find(numbers, row, [column]) for column in columns}
        return {column: number.shown for column, number in cells.items() if number is not None}

    def at(self, task: str, row: str, column: str) -> Cell | None:
        """Return the cell of a task, row and column; None without one."""
        return next((cell for cell in self.cells if (cell.task, cell.row, cell.column) == (task, row, column)), None)

    def comparable(self, one: Cell, other: Cell) -> bool:
        """Whether both have losses on the same test texts, by their labels and, if recorded, the digests of the splits."""
        same = one.losses is not None and other.losses is not None and one.texts == other.texts and one.metric == other.metric
        return same and len(self.tested_on(one) | self.tested_on(other)) < 2

    def tested_on(self, cell: Cell) -> set[str]:
        """Digests of the test splits that a cell's studies have read; empty if old records lack them."""
        digests = set()
        for run in cell.finished:
            task = plain((run.trial.test or {}).get("task") or cell.task)
            inputs = self.studies[run.study].inputs if run.study in self.studies else {}
            digests |= {inputs[name] for name in (f"tasks.{task}.test",) if name in inputs}
        return digests


def printed_numbers(ledger: Ledger, tables: Sequence[Any]) -> tuple[Number, ...]:
    """Return the published numbers of the ledger's source and of further `tables`; unknown ones become a problem of the ledger."""
    source = as_dict(ledger.definition.get("source"))
    if not source.get("paper"):
        return ()
    try:
        return published.table(str(source["paper"]), [str(name) for name in (*listed(source.get("table")), *tables)])
    except KeyError as error:
        ledger.problems.append(f"published numbers: {error.args[0]}")
        return ()


def _other_tests(ledger: Ledger) -> Iterator[str]:
    """Yield a problem for every task whose cells were tested on different splits, by their recorded digests."""
    for task in ledger.tasks:
        by_split: dict[str, list[str]] = {}
        for cell in ledger.cells:
            for split in sorted(ledger.tested_on(cell)) if cell.task == task else ():
                by_split.setdefault(split, []).append(cell.label)
        if len(by_split) > 1:
            groups = " | ".join(", ".join(labels) for labels in by_split.values())
            yield f"{task}: the test splits differ ({groups}), so that these groups are not compared with each other"


# YAML that a user may have written -----------------------------------------------------------------------------------------------


def as_dict(value: Any) -> dict[Any, Any]:
    """Return a dict as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """Return a list or tuple as a list, None as an empty one, anything else as a list of one item."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def letters(name: str) -> str:
    """Letters and digits of a name, case-folded, to compare names."""
    return "".join(c for c in name.casefold() if c.isalnum())


def shared_stages(cells: Iterable[Cell]) -> bool:
    """Whether all seeds of some cell start from the same further pre-training, whose own spread is then not measured."""
    for cell in cells:
        stages = [set(run.trial.stage_ids[:-1]) for run in cell.finished]
        if len(stages) > 1 and set.intersection(*stages):
            return True
    return False
