"""Compare two runs by task and setting, from their records and test predictions: two encoders, two versions, two scales."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.records.metric import Metric
from analysis.records.predictions import Array
from analysis.records.run_folder import load
from analysis.results.final_settings import paired, settings
from analysis.results.ledger import Cell, Ledger
from analysis.results.read_ablation import is_ablation, ledger
from analysis.stats import inference
from analysis.stats.inference import ALPHA, Estimate, p_text
from analysis.text.numbers import DASH, WIDTH, aligned, over_seeds, signed, wrapped
from analysis.text.plain import plain
from analysis.text.plain_data import json_text

Key = tuple[str, str]
"""(task, label)"""


@dataclass(frozen=True)
class TestedSetting:
    """One setting of one run."""

    metric: Metric
    scores: tuple[float, ...]
    """Test score of each seed, percent."""
    losses: Array | None
    """Losses [seeds, texts] in percent; None without predictions."""
    texts: str
    """Digest of the test texts' labels; without losses the reason."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """{input of its study: digest of its content}; empty in old records."""
    data: str = ""
    """Name of the task in its study."""

    @property
    def test(self) -> str | None:
        """Digest of the test split, texts and labels; None in old records."""
        return self.inputs.get(f"tasks.{self.data}.test")

    @property
    def shown(self) -> str:
        """Test score as text: `9.62 ± 0.36 (3)`."""
        spread = f" ± {statistics.stdev(self.scores):.2f}" if len(self.scores) > 1 else ""
        return f"{statistics.fmean(self.scores):.2f}{spread} ({len(self.scores)})"


@dataclass(frozen=True)
class Pair:
    """A setting that both runs have."""

    key: Key
    one: TestedSetting
    other: TestedSetting
    estimate: Estimate | None
    """Loss of the second minus loss of the first, points; None if they cannot be compared."""
    why: str
    """The method of comparison, or the reason why there is none."""
    p_value: float | None = None
    corrected: float | None = None

    @property
    def verdict(self) -> str:
        """Which run is better: `A better`, `B better`, `undecided`, or a dash if they cannot be compared."""
        if self.estimate is None:
            return "–"
        if self.corrected is None or self.corrected >= ALPHA:
            return "undecided"
        return "B better" if self.estimate.value < 0 else "A better"


def compare(one: Path, other: Path) -> tuple[list[Pair], list[str]]:
    """Return (settings that both have, by task; notes on settings that only one has and on files that could not be used).

    Raises FileNotFoundError if there is no run, ValueError if they have no tested task in common.
    """
    (mine, notes), (theirs, their_notes) = _sides(one), _sides(other)
    keys = {key: key for key in mine if key in theirs}
    if not keys:
        keys = _chosen(mine, theirs)
    if not keys:
        raise ValueError(f"{one} and {other} have no task in common whose finals have been tested")
    pairs = [_pair(key, mine[key], theirs[other_key]) for key, other_key in keys.items()]
    tested = [pair.p_value for pair in pairs if pair.p_value is not None]
    corrected = iter(inference.holm(tested))
    pairs = [p if p.p_value is None else Pair(**(vars(p) | {"corrected": next(corrected)})) for p in pairs]
    lacking = [f"only A has {_name(key)}" for key in mine if key not in keys]
    lacking += [f"only B has {_name(key)}" for key in theirs if key not in keys.values()]
    lacking += _other_inputs((pair.one, pair.other) for pair in pairs)
    return pairs, [*lacking, *(f"A: {text}" for text in notes), *(f"B: {text}" for text in their_notes)]


def _chosen(mine: dict[Key, TestedSetting], theirs: dict[Key, TestedSetting]) -> dict[Key, Key]:
    """Match the first setting of each task, which in a study is the chosen one, for runs whose labels differ."""
    first = {task: (task, label) for task, label in reversed(mine)}
    return {first[task]: (task, label) for task, label in reversed(theirs) if task in first}


def _sides(folder: Path) -> tuple[dict[Key, TestedSetting], list[str]]:
    if is_ablation(folder):
        ablation = ledger(folder)
        cells = [cell for cell in ablation.cells if cell.finished]
        return {(c.task, c.label): _side(ablation, c) for c in cells}, ablation.problems
    run = load(folder)
    sides, problems = {}, [f"{len(run.problems)} line(s) of the records could not be used"] if run.problems else []
    for setting in settings(run):
        tested = [trial for trial in setting.trials if trial.test]
        if not tested:
            continue
        task = plain(next((trial.test["task"] for trial in tested if trial.test and trial.test.get("task")), "") or "the task")
        if setting.losses is None:
            problems.append(f"{setting.label}: {setting.texts}")
        sides[task, setting.label] = TestedSetting(run.metric, tuple(setting.test), setting.losses, setting.texts, run.inputs, task)
    return sides, problems


def _side(ledger: Ledger, cell: Cell) -> TestedSetting:
    first = cell.finished[0]
    data = plain((first.trial.test or {}).get("task") or cell.task)
    return TestedSetting(cell.metric, tuple(cell.scores), cell.losses, cell.texts, ledger.studies[first.study].inputs, data)


def _other_inputs(sides: Iterable[tuple[TestedSetting, TestedSetting]]) -> list[str]:
    """A note on the inputs that differ between the two sides; empty if old records lack the inputs."""
    known = [(one.inputs, other.inputs) for one, other in sides if one.inputs and other.inputs]
    names = {name for one, other in known for name in {*one, *other} if one.get(name) != other.get(name)}
    return [f"not the same in A and B: {', '.join(sorted(names))}"] if names else []


def _pair(key: Key, one: TestedSetting, other: TestedSetting) -> Pair:
    if one.metric != other.metric:
        return Pair(key, one, other, None, f"{one.metric.label} % and {other.metric.label} %")
    if one.losses is None or other.losses is None:
        return Pair(key, one, other, None, "no test predictions of all seeds")
    if one.texts != other.texts:
        return Pair(key, one, other, None, "tested on other texts: number or labels differ")
    if one.test and other.test and one.test != other.test:
        return Pair(key, one, other, None, "tested on other texts: the test splits differ, by their recorded digests")
    estimate, how = paired(one.metric, other.losses, one.losses)
    return Pair(key, one, other, estimate, how, estimate.p_value)


def text(one: Path, other: Path) -> str:
    """Format the comparison for a terminal."""
    pairs, notes = compare(one, other)
    rows = [["", "A", "B", "B - A, 95 %", ""]]
    rows += [[pair.key[1], pair.one.shown, pair.other.shown, _bounds(pair), pair.verdict] for pair in pairs]
    room = WIDTH - sum(2 + max(len(row[i]) for row in rows) for i in range(1, 5))
    lines = aligned([[plain(row[0], max(room, 8)), *row[1:]] for row in rows]).splitlines()
    table, tasks = lines[:1], [pair.key[0] for pair in pairs]
    for place, (task, line) in enumerate(zip(tasks, lines[1:], strict=True)):
        table += [plain(task, WIDTH)] if task not in tasks[:place] else []
        table.append(line)
    of = sum(pair.p_value is not None for pair in pairs)
    metrics = " or ".join(dict.fromkeys(f"{pair.one.metric.label} %" for pair in pairs))
    several = any(len(side.scores) > 1 for pair in pairs for side in (pair.one, pair.other))
    facts = [f"A is {one}, B is {other}. Test {metrics}: {over_seeds(several)}."]
    facts += [f"p values are corrected for {of} comparisons; below {ALPHA:.2g} the better run is named."] if of > 1 else []
    facts += [f"{_name(pair.key)}: {pair.why}, {p_text(pair.corrected)}." for pair in pairs if pair.corrected is not None]
    facts += [f"{_name(pair.key)}: {pair.why}." for pair in pairs if pair.corrected is None]
    facts += [f"{note[:1].upper()}{note[1:]}." for note in notes]
    return "\n".join(table) + "\n\n" + "\n".join(wrapped(plain(fact)) for fact in facts) + "\n"


def _bounds(pair: Pair) -> str:
    """Interval of the score of B minus the score of A; for one seed the difference itself."""
    if pair.estimate is None:
        return DASH
    way = -1 if pair.one.metric.higher else 1
    bounds = sorted(way * bound for bound in pair.estimate.interval or ())
    return " to ".join(signed(bound, 2) for bound in bounds) or signed(way * pair.estimate.value, 2)


def _name(key: Sequence[str]) -> str:
    return plain(f"{key[0]}: {key[1]}")


def as_json(one: Path, other: Path) -> str:
    """Format the comparison as JSON. Differences are of losses: below zero if B is better."""
    pairs, notes = compare(one, other)
    data = {"pairs": [_plain_pair(pair) for pair in pairs], "notes": notes}
    return json_text(data)


def _plain_pair(pair: Pair) -> dict[str, Any]:
    bounds = pair.estimate.interval if pair.estimate else None
    return {
        "task": pair.key[0],
        "label": pair.key[1],
        "metric": pair.one.metric.name,
        "a": list(pair.one.scores),
        "b": list(pair.other.scores),
        "loss_of_b_less_a_points": pair.estimate.value if pair.estimate else None,
        "interval": list(bounds) if bounds else None,
        "p": pair.p_value,
        "p_corrected": pair.corrected,
        "verdict": pair.verdict,
        "how": pair.why,
    }
