"""A run folder as plain objects: what its records say, its search space, its test predictions. Nothing else is read."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from analysis import bulk
from analysis.bulk import Columns, Told
from analysis.predictions import Array, Predictions, of_trial, stacked
from study import record
from study.metric import Metric, objective, of_run

Row = dict[str, Any]
STATUSES = ("complete", "stopped", "diverged", "failed", "running")
CONTROL = re.compile(
    "\x1b\\[[0-9;?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)
"""Control characters, terminal escapes and marks that turn the direction of text."""


@dataclass(frozen=True)
class Dimension:
    """One dimension of the search space."""

    path: str
    name: str
    kind: str
    """log, linear or category."""
    values: tuple[str, ...] = ()
    """Categories in their order."""
    conditional: bool = False
    """Whether some trials do not have it."""

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers, categories of numbers too."""
        return self.kind != "category" or all(re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", value) for value in self.values)


@dataclass
class Trial:
    """One trial and what its records say last."""

    name: str
    phase: str
    params: dict[str, Any] = field(default_factory=dict)
    setting: str = ""
    label: str = ""
    seed: int | None = None
    status: str = "running"
    reason: str = ""
    stage_ids: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    """Of its fine-tuning, whenever that was; in older records that leave it open, of this run alone."""
    energy_j: float | None = None
    """Of the GPUs in these seconds; None where nothing tells."""
    source: str = ""
    error: float | None = None
    """Last validation error, percent."""
    score: float | None = None
    """Last on validation by the run's metric, percent."""
    curve: list[tuple[float, float]] = field(default_factory=list)
    """(epoch, score on validation in percent)."""
    test: Row | None = None
    """The evaluation of its test split."""


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
        return _trials(self.rows, self.metric, self.columns)

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
        return _space(self.config.get("space"), self.search or self.trials)

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


def plain(text: object, limit: int = 0) -> str:
    """One line of text without control characters, cut to `limit` characters where that is given."""
    line = " ".join(CONTROL.sub("", str(text)).split())
    return line if not limit or len(line) <= limit else line[: limit - 1] + "…"


def shown(value: object) -> str:
    """A setting's value as people write it: 2e-05, 0.95, head+tail, sls_imdb + sls_yelp."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return " + ".join(map(shown, value))
    return plain(value)


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


def _trials(rows: Sequence[Row], metric: Metric, columns: Columns | None) -> list[Trial]:
    """What rows and columns say of each trial, in the order of the records."""
    found: dict[str, Trial] = {}
    waiting = columns.by_trial(metric) if columns else {}
    for at, row in enumerate(rows):
        name = row.get("trial") if row["event"] in ("trial", "evaluation") else None
        if not name:
            continue
        told = waiting.get(name)
        first = told.phase if told and columns and told.lines[0] < columns.row_lines[at] else row.get("phase")
        trial = found.setdefault(name, Trial(name, first or "search"))
        if told and columns:
            _evaluations(trial, told, columns.row_lines[at])
        _last_word(trial, row, metric) if row["event"] == "trial" else _evaluation(trial, row, metric)
    for name, told in waiting.items():
        _evaluations(found.setdefault(name, Trial(name, told.phase or "search")), told)
    for trial in found.values():
        trial.curve.sort()
        if trial.score is None and trial.curve:
            trial.score = trial.curve[-1][1]
    order = {"search": 0, "final": 1}
    return sorted(found.values(), key=lambda trial: (order.get(trial.phase, 2), _natural(trial.name)))


def _natural(name: str) -> tuple[str, int, str]:
    """Sorts t999 before t1000."""
    match = re.fullmatch(r"(\D*)(\d{1,18})(.*)", name, flags=re.DOTALL)
    return (match[1], int(match[2]), match[3]) if match else (name, -1, "")


def _last_word(trial: Trial, row: Row, metric: Metric) -> None:
    """The newest record of a trial says how it stands."""
    trial.status = row["status"] if row["status"] in STATUSES else "running"
    trial.params = row.get("params") or trial.params
    trial.setting = row.get("setting") or trial.setting
    trial.label = plain(row.get("label") or trial.label)
    trial.seed = row["seed"] if row.get("seed") is not None else trial.seed
    trial.stage_ids = tuple(map(str, row.get("stage_ids") or trial.stage_ids))
    trial.reason = plain(row.get("reason") or "", 300)
    trial.source = row.get("source") or trial.source
    trial.error = row.get("error_rate_percent") if row.get("error_rate_percent") is not None else trial.error
    trial.score = metric.turned(loss) if (loss := objective(row)) is not None else trial.score
    trial.tokens = max(trial.tokens, row.get("tokens") or 0)
    trial.seconds = row.get("wall_s") or trial.seconds or row.get("seconds") or 0.0
    trial.energy_j = row["energy_j"] if row.get("energy_j") is not None else trial.energy_j


def _evaluation(trial: Trial, row: Row, metric: Metric) -> None:
    trial.setting = trial.setting or row.get("setting") or ""
    trial.seed = row.get("seed") if trial.seed is None else trial.seed
    score = metric.score(row)
    if row["split"] == "test":
        trial.test = row if score is not None else trial.test
    elif row["split"] == "validation" and score is not None and row.get("stage") in (None, "finetune"):
        trial.curve.append((row.get("epoch") or len(trial.curve) + 1, score))
        trial.error = row.get("error_rate_percent")
        trial.tokens = max(trial.tokens, row.get("tokens") or 0)
        trial.seconds = row.get("wall_s") or trial.seconds
        trial.energy_j = row.get("energy_j", trial.energy_j)


def _evaluations(trial: Trial, told: Told, until: int | None = None) -> None:
    """The same for all evaluations that stand before a line of the records, those that were taken already left out."""
    end = len(told.lines) if until is None else int(np.searchsorted(told.lines, until))
    new, told.taken = slice(told.taken, end), end
    trial.setting = trial.setting or next(filter(None, told.setting[new]), "")
    trial.seed = next((int(seed) for seed in told.seed[new] if seed == seed), None) if trial.seed is None else trial.seed
    counts = told.counts[new]
    if not counts.any():
        return
    epoch, score, error, tokens, wall_s = (
        each[new][counts] for each in (told.epoch, told.score, told.error, told.tokens, told.wall_s)
    )
    for at, value in zip(epoch.tolist(), score.tolist(), strict=True):
        trial.curve.append((at if at and at == at else len(trial.curve) + 1, value))
    trial.error = float(error[-1]) if error[-1] == error[-1] else None
    trial.tokens = max(trial.tokens, int(np.nanmax(tokens, initial=0)))
    timed = wall_s[np.nan_to_num(wall_s) != 0]
    trial.seconds = float(timed[-1]) if len(timed) else trial.seconds


def _space(config: Any, trials: Sequence[Trial]) -> list[Dimension]:
    config = config if isinstance(config, dict) else {}
    seen: dict[str, list[Any]] = {}
    for trial in trials:
        for path, value in trial.params.items():
            seen.setdefault(path, []).append(value)
    paths = [path for path in config if isinstance(path, str)] + [path for path in seen if path not in config]
    made = []
    for path in paths:
        spec = config[path] if isinstance(config.get(path), dict) else None
        kind, values = _kind(spec, seen.get(path, []))
        conditional = bool(spec.get("when")) if spec else len(seen.get(path, [])) < len(trials)
        made.append(Dimension(path, _short(path), kind, values, conditional))
    return made


def _short(path: str) -> str:
    """`finetune.learning_rate` as `learning rate`; fields of other stages keep the stage's name."""
    return plain(path.removeprefix("finetune.").replace(".", " ").replace("_", " "), 40)


def _kind(spec: Mapping[str, Any] | None, seen: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
    """(log, linear or category; categories in their order)."""
    numeric = bool(seen) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in seen)
    if spec and isinstance(spec.get("choice"), list):
        return "category", tuple(dict.fromkeys(map(shown, [*spec["choice"], *seen])))
    if spec and (numeric or not seen):
        return "log" if "log_uniform" in spec or spec.get("log") else "linear", ()
    if not numeric:
        return "category", tuple(dict.fromkeys(map(shown, seen)))
    if len(set(seen)) <= 5 and len(seen) > 5:
        return "category", tuple(map(shown, sorted(set(seen))))
    return "log" if min(seen) > 0 and max(seen) / min(seen) >= 8 else "linear", ()
