"""Test the claims of a paper against an ablation: supported, contradicted, or undecided at this size.

A claim compares settings: `better` with `worse`, or one setting as the `best` of all. The estimate is the loss of the first minus
the loss of the second, in percentage points: a negative value supports the claim. Differences on several tasks are averaged. The p
values are corrected for the number of claims (Holm), and only a corrected one below 5 % decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.records.metric import Metric
from analysis.results.ledger import Cell, Ledger, listed
from analysis.stats import inference
from analysis.stats.inference import ALPHA, Estimate, p_text
from analysis.text.numbers import signed
from analysis.text.plain import plain

KINDS = {"supported": "supported", "contradicted": "contradicted", "undecided": "undecided at this size", "open": "not yet decided"}
"""{kind of verdict: its name}. A claim is open while its cells are missing."""


@dataclass(frozen=True)
class Compared:
    """One claim on one task."""

    task: str
    estimate: Estimate | None
    """Loss of the first minus loss of the second, points; None if there is nothing to compare."""
    published: float | None
    """The same difference in the paper."""
    missing: tuple[str, ...] = ()
    """Reasons why there is no estimate, or the cells left out."""
    diverged: tuple[int, int, int, int] | None = None
    """(diverged, seeds) of the first and of the second, if all seeds of one side diverged; else None."""
    bootstrap: tuple[float, float] | None = None
    """Interval of the difference by bootstrap over texts and seeds; None for one seed."""
    single: float | None = None
    """p value of McNemar's test, if both sides have one run."""


@dataclass(frozen=True)
class Verdict:
    """One claim with the evidence for or against it."""

    says: str
    kind: str
    metric: Metric | None
    """None if its cells have several metrics, or none."""
    one: str
    other: str
    tasks: tuple[Compared, ...]
    estimate: Estimate | None = None
    """Estimate over all tasks that could be compared."""
    p_value: float | None = None
    corrected: float | None = None
    """p value after Holm's correction over the claims."""
    of: int = 1
    """Number of claims that the p value is corrected for."""

    @property
    def published(self) -> float | None:
        """Difference in the paper, mean over the tasks compared here; None unless all of them have one."""
        values = [task.published for task in self.tasks if task.estimate is not None]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None

    @property
    def needed(self) -> int | None:
        """Number of seeds that would decide the claim; None if no number would, or their spread is unknown."""
        return inference.seeds_to_decide(self.estimate) if self.estimate else None

    @property
    def text(self) -> str:
        """The verdict and its reasons as sentences."""
        return in_words(self)


def verdicts(ledger: Ledger) -> list[Verdict]:
    """Return a verdict for every claim, in order."""
    results = [_verdict(ledger, claim) for claim in listed(ledger.definition.get("claims")) if isinstance(claim, dict)]
    tested = [v.p_value for v in results if v.p_value is not None]
    corrected = iter(inference.holm(tested))
    return [_decided(v, next(corrected), len(tested)) if v.p_value is not None else v for v in results]


def _decided(verdict: Verdict, corrected: float, of: int) -> Verdict:
    kind = "undecided"
    if corrected < ALPHA:
        kind = "supported" if _towards(verdict) < 0 else "contradicted"
    return replace(verdict, kind=kind, corrected=corrected, of=of)


def _towards(verdict: Verdict) -> float:
    """Direction of the evidence: below 0 for the claim, above 0 against it."""
    if verdict.estimate is not None:
        return verdict.estimate.value
    return float(sum(task.diverged[0] - task.diverged[2] for task in verdict.tasks if task.diverged))


def _verdict(ledger: Ledger, claim: Mapping[str, Any]) -> Verdict:
    best = isinstance(claim.get("best"), dict)
    one, other = (claim["best"], {}) if best else (_selector(claim, "better"), _selector(claim, "worse"))
    tasks = [task for task in ledger.tasks if _is_of(ledger, claim, task)]
    compared = tuple(_best(ledger, task, one, claim) if best else _compared(ledger, task, one, other) for task in tasks)
    estimates = [comparison.estimate for comparison in compared if comparison.estimate is not None]
    metrics = {cell.metric for cell in ledger.cells if cell.task in tasks}
    verdict = Verdict(
        says=plain(claim.get("says") or f"{_name(one)} beats {'all others' if best else _name(other)}", 300),
        kind="open",
        metric=metrics.pop() if len(metrics) == 1 else None,
        one=_name(one),
        other="the best of the others" if best else _name(other),
        tasks=compared,
    )
    if estimates:
        estimate = inference.pooled(estimates)
        return replace(verdict, kind="undecided", estimate=estimate, p_value=estimate.p_value)
    lost = [comparison.diverged for comparison in compared if comparison.diverged]
    if lost:
        from scipy.stats import fisher_exact

        a, n, b, m = (sum(column) for column in zip(*lost, strict=True))
        return replace(verdict, kind="undecided", p_value=float(fisher_exact([[a, n - a], [b, m - b]]).pvalue))
    return verdict


def _is_of(ledger: Ledger, claim: Mapping[str, Any], task: str) -> bool:
    """Whether a claim is about a task; a claim that names no task is about all."""
    named = set(_texts(claim.get("tasks") or ()))
    return not named or bool(named & set(ledger.names_of(task)))


def _among(claim: Mapping[str, Any]) -> dict[str, Any]:
    """Selector of the cells that a whole claim is about: one column, or all."""
    return {"column": claim["column"]} if claim.get("column") else {}


def _selector(claim: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Selector of the settings on one side of a claim; a `column` of the whole claim applies to both sides."""
    named = claim.get(side)
    named = named if isinstance(named, dict) else {"row": named}
    return _among(claim) | named


def _selected(ledger: Ledger, task: str, selector: Mapping[str, Any]) -> list[Cell]:
    return [
        cell
        for cell in ledger.cells
        if cell.task == task
        and all(getattr(cell, name) in _texts(selector[name]) for name in ("row", "column") if selector.get(name) is not None)
    ]


def sides(ledger: Ledger, task: str) -> list[Cell]:
    """Return two cells of a task to show in detail: the best of both sides of the first claim, else the best and the first."""
    for claim in (entry for entry in listed(ledger.definition.get("claims")) if isinstance(entry, dict)):
        if not _is_of(ledger, claim, task):
            continue
        best = claim.get("best")
        one = _selected(ledger, task, best if isinstance(best, dict) else _selector(claim, "better"))
        other = _selected(ledger, task, _among(claim) if isinstance(best, dict) else _selector(claim, "worse"))
        pair = [*_best_of(one), *_best_of([cell for cell in other if cell not in one])]
        if len(pair) == 2:
            return pair
    every = [cell for cell in ledger.cells if cell.task == task and cell.losses is not None]
    first = _best_of(every)
    return [*first, *[cell for cell in every if cell not in first][:1]]


def _best_of(cells: Sequence[Cell]) -> list[Cell]:
    """The best cell with predictions, in a list; empty if no cell has any."""
    done = [cell for cell in cells if cell.losses is not None]
    return [min(done, key=lambda cell: cell.metric.turned(cell.mean or 0.0))] if done else []


def _texts(value: Any) -> list[str]:
    return [plain(item) for item in (value if isinstance(value, (list, tuple)) else [value])]


def _name(selector: Mapping[str, Any]) -> str:
    return ", ".join(" and ".join(_texts(selector[name])) for name in ("row", "column") if selector.get(name) is not None) or "all"


def _compared(ledger: Ledger, task: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Compared:
    """Compare two groups of settings on a task. If neither names the row (or the column), they are compared row by row."""
    sides = [_selected(ledger, task, selector) for selector in (one, other)]
    names = [f"{_name(selector)}: no such setting" for selector, side in zip((one, other), sides, strict=True) if not side]
    if names:
        return Compared(task, None, None, tuple(names))
    missing = tuple(f"{cell.label}: {cell.state}" for side in sides for cell in side if cell.losses is None)
    open_ = [name for name in ("row", "column") if one.get(name) is None and other.get(name) is None]
    ready = [[cell for cell in side if cell.losses is not None] for side in sides]
    if open_:
        keys = [{tuple(getattr(cell, name) for name in open_) for cell in side} for side in ready]
        both = keys[0] & keys[1]
        ready = [[cell for cell in side if tuple(getattr(cell, name) for name in open_) in both] for side in ready]
    if not all(ready):
        return Compared(task, None, None, missing, diverged=_diverged(sides))
    if any(not ledger.comparable(ready[0][0], cell) for side in ready for cell in side):
        return Compared(task, None, None, (*missing, "not tested on the same texts"))
    groups = [cell.losses for side in ready for cell in side if cell.losses is not None]
    weights = [sign / len(side) for sign, side in zip((1, -1), ready, strict=True) for _ in side]
    single = len(groups) == 2 and all(len(group) == 1 for group in groups) and ready[0][0].metric.share
    return Compared(
        task,
        inference.contrast(groups, weights),
        _printed(ready[0], ready[1]),
        (*missing, *_left_out(ready)),
        bootstrap=inference.bootstrap_interval(*groups, weights=weights),
        single=inference.mcnemar(groups[0][0] > 0, groups[1][0] > 0) if single else None,
    )


def _best(ledger: Ledger, task: str, one: Mapping[str, Any], claim: Mapping[str, Any]) -> Compared:
    """Compare one setting with the best of all others on a task."""
    mine, every = _selected(ledger, task, one), _selected(ledger, task, _among(claim))
    others = [cell for cell in every if cell not in mine]
    if not mine or not others:
        return Compared(task, None, None, (f"{_name(one)}: no such setting" if not mine else "there is nothing to compare with",))
    missing = tuple(f"{cell.label}: {cell.state}" for cell in [*mine, *others] if cell.losses is None)
    ready = [cell for cell in others if ledger.comparable(mine[0], cell)]
    if mine[0].losses is not None:
        lacking = [cell for cell in others if cell.losses is not None and cell not in ready]
        missing += tuple(f"{cell.label}: not tested on the same texts" for cell in lacking)
    if mine[0].losses is None or not ready:
        return Compared(task, None, None, missing)
    rivals = [cell.losses for cell in ready if cell.losses is not None]
    printed = [(_loss(cell), cell) for cell in others if cell.published]
    rival = min((pair for pair in printed if pair[0] is not None), key=lambda pair: pair[0] or 0.0, default=(None, mine[0]))[1]
    return Compared(
        task,
        inference.against_best(mine[0].losses, rivals),
        _printed(mine[:1], [rival]) if rival is not mine[0] else None,
        (*missing, *_left_out([mine[:1], ready])),
    )


def _left_out(sides: Sequence[Sequence[Cell]]) -> tuple[str, ...]:
    """Describe the seeds of the compared cells that are not in the comparison."""
    texts = []
    for cell in (cell for side in sides for cell in side):
        lost = [f"{cell.lost(status)} {status}" for status in ("diverged", "failed") if cell.lost(status)]
        if lost:
            texts.append(f"{cell.label}: {', '.join(lost)} of {len(cell.runs)} seeds left out")
        elif cell.state == "unfinished":
            texts.append(f"{cell.label}: {len(cell.finished)} of {cell.wanted} seeds so far")
    return tuple(texts)


def _diverged(sides: Sequence[Sequence[Cell]]) -> tuple[int, int, int, int] | None:
    """(diverged, seeds) of both sides if all their cells have ended and every seed of one side diverged; else None."""
    settled = all(cell.state in ("complete", "diverged") for side in sides for cell in side)
    if not settled or not any(all(cell.state == "diverged" for cell in side) for side in sides):
        return None
    (a, n), (b, m) = [(sum(cell.lost("diverged") for cell in side), sum(len(cell.runs) for cell in side)) for side in sides]
    return a, n, b, m


def _loss(cell: Cell) -> float | None:
    value = cell.published.percent if cell.published else None
    return None if value is None else cell.metric.turned(value)


def _printed(one: Sequence[Cell], other: Sequence[Cell]) -> float | None:
    means = []
    for side in (one, other):
        values = [_loss(cell) for cell in side]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not known:
            return None
        means.append(float(np.mean(known)))
    return means[0] - means[1]


# Words ---------------------------------------------------------------------------------------------------------------------------


def in_words(verdict: Verdict) -> str:
    """Put a verdict into words: the difference, its uncertainty, and what would decide the claim."""
    paper = "" if verdict.published is None else f"In the paper: {points(verdict.published, verdict.metric)}."
    parts = [_difference(verdict), _seeds_needed(verdict), paper, _details(verdict)]
    return f"{KINDS[verdict.kind]}: {' '.join(part for part in parts if part)}"


def _difference(verdict: Verdict) -> str:
    if verdict.estimate is None:
        return _without_number(verdict)
    estimate = verdict.estimate
    compared = "than" if round(abs(estimate.value), 2) else "as"
    text = f"{verdict.one} has {points(estimate.value, verdict.metric)} {compared} {verdict.other}"
    if estimate.interval is None:
        single = next((task.single for task in verdict.tasks if task.single is not None), None)
        test = (
            f"; McNemar's test of these two runs: {p_text(single)}, which does not cover other seeds" if single is not None else ""
        )
        return f"{text}, in one seed only, so that its spread is unknown{test}; {_basis(verdict)}."
    bounds = f"95 % interval {signed(estimate.interval[0], 2)} to {signed(estimate.interval[1], 2)}"
    correction = f" after correction for {verdict.of} claims" if verdict.of > 1 else ""
    return f"{text} ({bounds}, {p_text(verdict.corrected)}{correction}; {_basis(verdict)})."


def _without_number(verdict: Verdict) -> str:
    lost = [task.diverged for task in verdict.tasks if task.diverged]
    if lost:
        a, n, b, m = (sum(column) for column in zip(*lost, strict=True))
        test = f"Fisher's exact test, {p_text(verdict.corrected)}"
        return f"{verdict.one} diverged in {a} of {n} seeds, {verdict.other} in {b} of {m} ({test})."
    return "nothing to compare yet."


def _basis(verdict: Verdict) -> str:
    estimate = verdict.estimate
    assert estimate is not None
    tasks = [task.task for task in verdict.tasks if task.estimate is not None]
    where = f" of {len(tasks)} tasks" if len(tasks) > 1 else f" of {plain(tasks[0], 40)}"
    return f"{estimate.seeds} seed{'s' * (estimate.seeds != 1)}, {estimate.texts:,} test texts{where}"


def _seeds_needed(verdict: Verdict) -> str:
    if verdict.kind != "undecided" or verdict.estimate is None or not verdict.estimate.freedom:
        return ""
    if verdict.estimate.value == 0:
        return "There is no difference that seeds could decide."
    if verdict.needed is None:
        return "No number of seeds would decide it: more test texts are needed."
    if verdict.needed <= verdict.estimate.seeds:
        return (
            "The interval leaves zero out, but not after the correction for the number of claims: a few more seeds would decide it."
        )
    return f"About {verdict.needed} seeds of each would decide it, if the difference stays the same."


def _details(verdict: Verdict) -> str:
    """The difference on every task, and the cells left out."""
    compared = [task for task in verdict.tasks if task.estimate is not None]
    apart = ""
    if len(compared) > 1:
        apart = "By task: " + "; ".join(f"{plain(e.task, 40)} {_by_task(e)}" for e in compared) + "."
    missing = [f"{plain(task.task, 40)}, {text}" for task in verdict.tasks for text in task.missing]
    shown = "; ".join(missing[:6]) + (f"; and {len(missing) - 6} more" if len(missing) > 6 else "")
    return " ".join(part for part in (apart, f"Excluded: {shown}." if missing else "") if part)


def _by_task(compared: Compared) -> str:
    assert compared.estimate is not None
    bounds = compared.estimate.interval
    interval = f" ({signed(bounds[0], 2)} to {signed(bounds[1], 2)})" if bounds else ""
    return f"{signed(compared.estimate.value, 2)}{interval}"


def points(value: float, metric: Metric | None) -> str:
    """Put a difference of losses into words: `1.90 points of error less`, `0.40 points of macro-F1 more`."""
    unit = f"points of {metric.label}" if metric else "points"
    size = f"{abs(value):.2f}"
    if float(size) == 0:
        return f"as many {unit}"
    fewer = (value < 0) != (metric is not None and metric.higher)
    return f"{size} {unit} {'less' if fewer else 'more'}"


def plain_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain data for JSON."""
    bounds = verdict.estimate.interval if verdict.estimate else None
    return {
        "says": verdict.says,
        "verdict": verdict.kind,
        "text": verdict.text,
        "difference_points": verdict.estimate.value if verdict.estimate else None,
        "interval": list(bounds) if bounds else None,
        "p": verdict.p_value,
        "p_corrected": verdict.corrected,
        "claims_corrected_for": verdict.of,
        "seeds": verdict.estimate.seeds if verdict.estimate else None,
        "texts": verdict.estimate.texts if verdict.estimate else None,
        "seeds_to_decide": verdict.needed,
        "published_difference_points": verdict.published,
        "by_task": {
            task.task: {
                "difference_points": task.estimate.value if task.estimate else None,
                "interval": list(task.estimate.interval) if task.estimate and task.estimate.interval else None,
                "bootstrap_interval": list(task.bootstrap) if task.bootstrap else None,
                "published_difference_points": task.published,
                "not_in_it": list(task.missing),
            }
            for task in verdict.tasks
        },
    }
