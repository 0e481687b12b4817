"""Load a run folder as plain objects: its records, search space and test predictions. No other file is read."""

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
from analysis.records.trials import Row, SearchDimension, Trial, dimensions_of, trials_of
from analysis.text.plain import plain, shown


def trained_tokens(trials: Iterable[Trial]) -> int:
    """Pieces that these trials were fine-tuned on in this run: a shared fine-tuning counts once, one from the store is excluded."""
    computed = [trial for trial in trials if trial.source != "loaded"]
    longest: dict[str, int] = {}
    for trial in computed:
        name = trial.stage_ids[-1] if trial.stage_ids else trial.name
        longest[name] = max(longest.get(name, 0), trial.tokens)
    return sum(longest.values())


@dataclass
class Run:
    """A run with everything that its reports need."""

    folder: Path
    rows: list[Row]
    problems: list[str]
    config: dict[str, Any]
    """The resolved study file; empty where it is missing or unreadable."""
    config_text: str = ""
    columns: Columns | None = field(default=None, repr=False)
    """In a large run the evaluations on validation, which are then not among `rows`."""
    _predictions: dict[str, Predictions | str] = field(default_factory=dict, repr=False)
    _losses: dict[tuple[str, ...], tuple[Array | None, str]] = field(default_factory=dict, repr=False)

    def of(self, event: str) -> list[Row]:
        """Return the records of one event, in order."""
        return list(self.iterate(event))

    def iterate(self, event: str) -> Iterator[Row]:
        """Yield the same one by one, without holding all of a large run in memory."""
        if event != "evaluation" or self.columns is None:
            return (row for row in self.rows if row["event"] == event)
        own = ((at, row) for at, row in zip(self.columns.row_lines, self.rows, strict=True) if row["event"] == event)
        return (row for _, row in heapq.merge(own, self.columns.rows(), key=itemgetter(0)))

    def distinct(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the distinct combinations of these fields in the evaluations, ordered by their last occurrence."""
        own = [(at, row) for at, row in enumerate(self.rows) if row["event"] == "evaluation"]
        lines = self.columns.row_lines if self.columns else range(len(self.rows))
        last_lines = {tuple(row.get(name) for name in names): lines[at] for at, row in own}
        for key, line in (self.columns.distinct(names) if self.columns else {}).items():
            last_lines[key] = max(line, last_lines.get(key, 0))
        return sorted(last_lines, key=lambda key: last_lines[key])

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
        """The metric that trials are compared by and reports show."""
        return of_run(self.rows)

    @cached_property
    def labels(self) -> list[str]:
        """Names of the target task's classes in order; empty if old records lack them."""
        return [plain(name, 60) for name in next((plan["labels"] for plan in reversed(self.of("plan")) if plan.get("labels")), [])]

    @cached_property
    def several(self) -> bool:
        """Whether a text may have several labels."""
        return any(row.get("f1_by_label") for row in self.rows if row["event"] in ("evaluation", "baseline"))

    def loss(self, trial: Trial) -> float:
        """Loss of a trial in percent, smaller is better; infinite without a score."""
        return math.inf if trial.score is None else self.metric.turned(trial.score)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """{input of the study: digest of its content}, as last recorded; empty if old records lack them."""
        last: Row = next((row["inputs"] for row in reversed(self.of("inputs"))), {})
        return {
            plain(name, 80): str(entry["digest"]) for name, entry in last.items() if isinstance(entry, dict) and entry.get("digest")
        }

    @property
    def search(self) -> list[Trial]:
        """Trials of the search in the order proposed."""
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
        """{stage id: its record}: of several the one that computed it, without any the plan's entry."""
        planned: dict[str, Row] = {
            str(s.get("stage_id")): s for plan in self.of("plan") for s in plan.get("stages") or () if isinstance(s, dict)
        }
        recorded: dict[str, Row] = {}
        for row in self.of("stage"):
            if recorded.get(row["stage_id"], {}).get("status") != "computed":
                recorded[row["stage_id"]] = planned.get(row["stage_id"], {}) | row
        return {
            key: value | {"status": "cached" if value.get("cached") else "planned"} for key, value in planned.items()
        } | recorded

    @cached_property
    def space(self) -> list[SearchDimension]:
        """Dimensions of the search, from the study file; without one, inferred from the trials' parameters."""
        return dimensions_of(self.config.get("space"), self.search or self.trials)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """{split: number of examples}, as far as known."""
        sizes = {split: int(examples) for split, examples in self.distinct("split", "examples") if examples}
        sizes |= {row["split"]: row["examples"] for row in self.of("baseline") if row.get("examples")}
        planned: Row = next((row["splits"] for row in reversed(self.of("plan")) if row.get("splits")), {})
        sizes |= {split: size for split, size in planned.items() if isinstance(size, int)}
        return {split: sizes[split] for split in ("train", "validation", "test") if split in sizes}

    @property
    def state(self) -> str:
        """State of the run: finished, interrupted, stopped or unfinished; also unfinished after a kill."""
        last = next((row["status"] for row in reversed(self.of("study"))), "")
        return last if last in ("finished", "interrupted", "stopped") else "unfinished"

    @property
    def seconds(self) -> float:
        """Seconds of all sessions, from the first record of a session to its last."""
        return sum(last - first for first, last in self._sessions.values())

    @property
    def times(self) -> tuple[float, float] | None:
        """Seconds since 1970 of the first record and of the last; None if no record has a time."""
        spans = self._sessions.values()
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    @cached_property
    def _sessions(self) -> dict[int, tuple[float, float]]:
        """{session: seconds since 1970 of its first and of its last record}"""
        spans: dict[int, list[float]] = {}
        times_written = [(row.get("session"), row.get("utc")) for row in self.rows]
        for session, utc in chain(times_written, self.columns.ends() if self.columns else ()):
            at = _seconds(utc)
            if at is not None:
                spans.setdefault(int(session or 0), []).append(at)
        return {session: (min(times), max(times)) for session, times in spans.items()}

    def predictions(self, name: str) -> Predictions | None:
        """Test predictions of a trial, or of the bag of words; None if they are not stored or unusable."""
        predictions = self._read(name)
        return predictions if isinstance(predictions, Predictions) else None

    def losses(self, names: Sequence[str]) -> tuple[Array | None, str]:
        """Return (losses of these trials in percent [trials, texts], digest of the texts).

        If not all have predictions on the same texts, (None, the reason).
        """
        key = tuple(names)
        if key not in self._losses:
            answers = [self._read(name) for name in key]
            known = [answer for answer in answers if isinstance(answer, Predictions)]
            faults = [answer for answer in answers if isinstance(answer, str)]
            if faults or not known:
                self._losses[key] = None, faults[0] if faults else "no test predictions"
            else:
                losses, texts = stacked(known, self.metric)
                self._losses[key] = losses, texts if losses is not None else "seeds were tested on different texts"
        return self._losses[key]

    def _read(self, name: str) -> Predictions | str:
        """Test predictions, or the reason why there are none."""
        if name not in self._predictions:
            try:
                self._predictions[name] = of_trial(self.folder, name, len(self.labels), self.metric)
            except (OSError, ValueError) as error:
                self._predictions[name] = unread(error)
        return self._predictions[name]


def load(folder: str | Path, skip: Callable[[bytes], bool] | None = None) -> Run:
    """Read a run folder, without the lines of its records for which `skip` is true.

    A run without records yet gives an empty Run; raises FileNotFoundError if there is no records file.
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
    """The reason why there are no usable test predictions."""
    return "no test predictions" if isinstance(error, FileNotFoundError) else plain(error, 160)


def settings_text(params: Mapping[str, Any], space: Sequence[SearchDimension]) -> str:
    """Format a setting in one line, in the order of the search space."""
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
