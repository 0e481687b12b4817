"""A run folder as plain objects: what its records say, its search space, its test predictions. Nothing else is read."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from analysis.records import bulk, record
from analysis.records.bulk import Columns
from analysis.records.metric import Metric, of_run
from analysis.records.predictions import Array, Predictions, of_trial, stacked
from analysis.records.trials import Dimension, Row, Trial, dimensions_of, trials_of
from analysis.text.plain import plain, shown


def trained_tokens(trials: Iterable[Trial]) -> int:
    """Pieces that these trials were fine-tuned on in this run: each fine-tuning once, what came from the store not at all."""
    computed = [trial for trial in trials if trial.source != "loaded"]
    longest: dict[str, int] = {}
    for trial in computed:
        name = trial.stage_ids[-1] if trial.stage_ids else trial.name
        longest[name] = max(longest.get(name, 0), trial.tokens)
    return sum(longest.values())


@dataclass
class Run:
    """Everything that a report is made of."""

    folder: Path
    rows: list[Row]
    problems: list[str]
    config: dict[str, Any]
    """The resolved study file; empty where it is missing or unreadable."""
    config_text: str = ""
    columns: Columns | None = field(default=None, repr=False)
    """Evaluations that are not among the rows, of a large run."""
    _predictions: dict[str, Predictions | str] = field(default_factory=dict, repr=False)
    _losses: dict[tuple[str, ...], tuple[Array | None, str]] = field(default_factory=dict, repr=False)

    def of(self, event: str) -> list[Row]:
        """Records of one event, in order."""
        return list(self.each(event))

    def each(self, event: str) -> Iterator[Row]:
        """The same one by one, without holding all of a large run."""
        if event != "evaluation" or self.columns is None:
            return (row for row in self.rows if row["event"] == event)
        own = ((at, row) for at, row in zip(self.columns.row_lines, self.rows, strict=True) if row["event"] == event)
        return (row for _, row in heapq.merge(own, self.columns.rows(), key=itemgetter(0)))

    def distinct(self, *names: str) -> list[tuple[Any, ...]]:
        """What these fields of the evaluations are together, in the order in which it stands last in the records."""
        own = [(at, row) for at, row in enumerate(self.rows) if row["event"] == "evaluation"]
        lines = self.columns.row_lines if self.columns else range(len(self.rows))
        found = {tuple(row.get(name) for name in names): lines[at] for at, row in own}
        for key, line in (self.columns.distinct(names) if self.columns else {}).items():
            found[key] = max(line, found.get(key, 0))
        return sorted(found, key=lambda key: found[key])

    @cached_property
    def name(self) -> str:
        """Name of the study."""
        return plain(next((row["study"] for row in self.rows if row.get("study")), self.folder.name))

    @cached_property
    def trials(self) -> list[Trial]:
        """All trials, those of the search first, each phase in order."""
        return trials_of(self.rows, self.metric, self.columns)

    @cached_property
    def metric(self) -> Metric:
        """What trials are compared by, and what is shown."""
        return of_run(self.rows)

    @cached_property
    def labels(self) -> list[str]:
        """Names of the target task's classes in order; empty where the records are older than that."""
        return [plain(name, 60) for name in next((plan["labels"] for plan in reversed(self.of("plan")) if plan.get("labels")), [])]

    @cached_property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return any(row.get("f1_by_label") for row in self.rows if row["event"] in ("evaluation", "baseline"))

    def loss(self, trial: Trial) -> float:
        """Of a trial, smaller for the better; infinite without a score."""
        return math.inf if trial.score is None else self.metric.turned(trial.score)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """{what the study read: digest of its content}, as last recorded; empty where the records are older than that."""
        last: Row = next((row["inputs"] for row in reversed(self.of("inputs"))), {})
        return {
            plain(name, 80): str(each["digest"]) for name, each in last.items() if isinstance(each, dict) and each.get("digest")
        }

    @property
    def search(self) -> list[Trial]:
        """Trials of the search in the order asked."""
        return [trial for trial in self.trials if trial.phase == "search"]

    @property
    def finals(self) -> list[Trial]:
        """Trials over seeds after the search."""
        return [trial for trial in self.trials if trial.phase == "final"]

    @cached_property
    def baseline(self) -> dict[str, Row]:
        """{split: scores of the bag of words}; empty without one."""
        return {row["split"]: row for row in self.of("baseline")}

    @cached_property
    def stages(self) -> dict[str, Row]:
        """{stage id: its record}, the one that computed it where there are several; else what the plan says of it."""
        planned: dict[str, Row] = {
            str(s.get("stage_id")): s for plan in self.of("plan") for s in plan.get("stages") or () if isinstance(s, dict)
        }
        found: dict[str, Row] = {}
        for row in self.of("stage"):
            if found.get(row["stage_id"], {}).get("status") != "computed":
                found[row["stage_id"]] = planned.get(row["stage_id"], {}) | row
        return {key: value | {"status": "cached" if value.get("cached") else "planned"} for key, value in planned.items()} | found

    @cached_property
    def space(self) -> list[Dimension]:
        """Dimensions of the search, from the study file where it is there, else as the trials' parameters show them."""
        return dimensions_of(self.config.get("space"), self.search or self.trials)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """{split: number of examples} as far as known."""
        sizes = {split: int(examples) for split, examples in self.distinct("split", "examples") if examples}
        sizes |= {row["split"]: row["examples"] for row in self.of("baseline") if row.get("examples")}
        planned: Row = next((row["splits"] for row in reversed(self.of("plan")) if row.get("splits")), {})
        sizes |= {split: size for split, size in planned.items() if isinstance(size, int)}
        return {split: sizes[split] for split in ("train", "validation", "test") if split in sizes}

    @property
    def state(self) -> str:
        """finished, interrupted, stopped or unfinished; the last also after a kill."""
        last = next((row["status"] for row in reversed(self.of("study"))), "")
        return last if last in ("finished", "interrupted", "stopped") else "unfinished"

    @cached_property
    def seconds(self) -> float:
        """Time of all sessions, each from its first record to its last."""
        spans: dict[int, list[float]] = {}
        told = [(row.get("session"), row.get("utc")) for row in self.rows]
        for session, utc in chain(told, self.columns.ends() if self.columns else ()):
            at = _seconds(utc)
            if at is not None:
                spans.setdefault(int(session or 0), []).append(at)
        return sum(max(times) - min(times) for times in spans.values())

    def predictions(self, name: str) -> Predictions | None:
        """Test predictions of a trial, or of the bag of words; None where they are not kept, or cannot be used."""
        found = self._read(name)
        return found if isinstance(found, Predictions) else None

    def losses(self, names: Sequence[str]) -> tuple[Array | None, str]:
        """(loss of every one of these trials and test text in percent, [trials, texts], digest of the texts).

        Without predictions of all of them on the same texts (None, why).
        """
        key = tuple(names)
        if key not in self._losses:
            found = [self._read(name) for name in key]
            known = [each for each in found if isinstance(each, Predictions)]
            faults = [each for each in found if isinstance(each, str)]
            if faults or not known:
                self._losses[key] = None, faults[0] if faults else "no test predictions"
            else:
                losses, texts = stacked(known, self.metric)
                self._losses[key] = losses, texts if losses is not None else "seeds were tested on different texts"
        return self._losses[key]

    def _read(self, name: str) -> Predictions | str:
        """Test predictions, or why there are none."""
        if name not in self._predictions:
            try:
                self._predictions[name] = of_trial(self.folder, name, len(self.labels))
            except (OSError, ValueError) as error:
                self._predictions[name] = unread(error)
        return self._predictions[name]


def load(folder: str | Path, skip: Callable[[bytes], bool] | None = None) -> Run:
    """Read a run folder, of its records those lines that `skip` is not true of.

    A run without any record yet is an empty one; raises FileNotFoundError where there is no such file.
    """
    folder = Path(folder)
    path = folder / "records.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no run folder (there is no records.jsonl in it)")
    columns = None
    if skip is None and path.stat().st_size >= bulk.FROM:
        rows, problems, columns = bulk.read(path)
    else:
        rows, problems = record.read(path, skip)
    text, config = _config(folder / "study.yaml")
    return Run(folder, rows, problems, config, text, columns)


def unread(error: Exception) -> str:
    """Why there are no test predictions to be used."""
    return "no test predictions" if isinstance(error, FileNotFoundError) else plain(error, 160)


def settings_text(params: Mapping[str, Any], space: Sequence[Dimension]) -> str:
    """A setting in one line, in the order of the space."""
    names = {dimension.path: dimension.name for dimension in space}
    order = [path for path in names if path in params] + [path for path in params if path not in names]
    return ", ".join(f"{plain(names.get(path, path))} {shown(params[path])}" for path in order)


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return "", {}
    return text, config if isinstance(config, dict) else {}


def _seconds(utc: str | None) -> float | None:
    try:
        return datetime.fromisoformat(utc).timestamp() if utc else None
    except ValueError:
        return None
