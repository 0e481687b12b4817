"""The ledger of an ablation's run folder: one cell for each row, column and task, with all that is known of it.

Everything is read from `ablation.yaml`, the records and the test predictions of the studies in the folder. Tables, figures,
verdicts and provenance are made from the ledger alone.
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
class StudySummary:
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
    studies: dict[str, StudySummary] = field(default_factory=dict)
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
        source = as_dict(self.about.get("source"))
        paper = str(source.get("paper") or "")
        tables = ", ".join(map(plain, listed(source.get("table"))))
        return ": ".join(each for each in (published.PAPERS.get(paper, plain(paper)), tables) if each)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks in order."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    def names_of(self, task: str) -> list[str]:
        """All that a task is called: its own name, the known set's, the published table's, and the task in whose place it is."""
        about = as_dict(as_dict(self.about.get("tasks")).get(task))
        return [task, *(plain(about[name]) for name in ("known", "published", "stands_for") if about.get(name))]

    def printed_name(self, task: str) -> str:
        """What the published table calls a task."""
        about = as_dict(as_dict(self.about.get("tasks")).get(task))
        return plain(about.get("published") or about.get("stands_for") or task, 60)

    def known_name(self, task: str) -> str:
        """What the task's data are called, whatever they stand for."""
        return plain(as_dict(as_dict(self.about.get("tasks")).get(task)).get("known") or task, 60)

    def task_name(self, task: str) -> str:
        """A task as tables call it: `IMDb`, and where the data are other ones `sls_imdb (for IMDb)`."""
        about = as_dict(as_dict(self.about.get("tasks")).get(task))
        known, printed = self.known_name(task), self.printed_name(task)
        alike = map(letters, (known, task))
        return printed if letters(printed) in alike and not about.get("stands_for") else f"{known} (for {printed})"

    def printed_row(self, row: str, columns: Sequence[str]) -> dict[str, str]:
        """{column: what is published there in that row}"""
        numbers = printed_numbers(self, ())
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


def printed_numbers(made: Ledger, tables: Sequence[Any]) -> tuple[Number, ...]:
    source = as_dict(made.about.get("source"))
    if not source.get("paper"):
        return ()
    try:
        return published.table(str(source["paper"]), [str(each) for each in (*listed(source.get("table")), *tables)])
    except KeyError as error:
        made.problems.append(f"published numbers: {error.args[0]}")
        return ()


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


def as_dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """What is written as a list; one that is not is a list of its own."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def shared_stages(cells: Iterable[Cell]) -> bool:
    """Whether some cell's seeds all start from one and the same further pre-training, whose own spread is then not seen."""
    for cell in cells:
        stages = [set(run.trial.stage_ids[:-1]) for run in cell.finished]
        if len(stages) > 1 and set.intersection(*stages):
            return True
    return False
