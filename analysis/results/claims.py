"""What an ablation says of each of its paper's claims: supported, contradicted, or undecided at this size.

A claim compares settings: `better` with `worse`, or one as the `best` of all. The estimate is the loss of the one less that of the
other, in points of percent, so that less than zero speaks for the claim. Over several tasks their differences are averaged. The p
values are corrected for there being several claims (Holm), and only a corrected one below 5 % decides.
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
"""Kinds of verdict and what they are called. Open are those whose cells are not there."""


@dataclass(frozen=True)
class Compared:
    """One claim on one task."""

    task: str
    estimate: Estimate | None
    """Loss of the one less that of the other, points; None where there is nothing to compare."""
    published: float | None
    """The same difference in the paper."""
    missing: tuple[str, ...] = ()
    """Why there is no estimate, or what was left out."""
    diverged: tuple[int, int, int, int] | None = None
    """Where one side has no finished seed because all diverged: (diverged, seeds) of the one and of the other."""
    bootstrap: tuple[float, float] | None = None
    """Interval of the difference by bootstrap over texts and seeds; None for one seed."""
    single: float | None = None
    """p value of McNemar's test, where there is one run of each."""


@dataclass(frozen=True)
class Verdict:
    """One claim with what speaks for or against it."""

    says: str
    kind: str
    metric: Metric | None
    """None where its cells have several, or none."""
    one: str
    other: str
    tasks: tuple[Compared, ...]
    estimate: Estimate | None = None
    """Over all tasks that could be compared."""
    p_value: float | None = None
    corrected: float | None = None
    """p value after Holm's correction over the claims."""
    of: int = 1
    """How many claims the correction is over."""

    @property
    def published(self) -> float | None:
        """Difference in the paper, mean over the tasks that are compared here."""
        values = [each.published for each in self.tasks if each.estimate is not None]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None

    @property
    def needed(self) -> int | None:
        """How many seeds would decide it; None where none would, or nothing is known of their spread."""
        return inference.seeds_to_decide(self.estimate) if self.estimate else None

    @property
    def text(self) -> str:
        """The verdict and its reasons in words."""
        return said(self)


def verdicts(ledger: Ledger) -> list[Verdict]:
    """A verdict for every claim, in order."""
    made = [_verdict(ledger, claim) for claim in listed(ledger.about.get("claims")) if isinstance(claim, dict)]
    tested = [v.p_value for v in made if v.p_value is not None]
    corrected = iter(inference.holm(tested))
    return [_decided(v, next(corrected), len(tested)) if v.p_value is not None else v for v in made]


def _decided(found: Verdict, corrected: float, of: int) -> Verdict:
    kind = "undecided"
    if corrected < ALPHA:
        kind = "supported" if _towards(found) < 0 else "contradicted"
    return replace(found, kind=kind, corrected=corrected, of=of)


def _towards(found: Verdict) -> float:
    if found.estimate is not None:
        return found.estimate.value
    return float(sum(each.diverged[0] - each.diverged[2] for each in found.tasks if each.diverged))


def _verdict(ledger: Ledger, claim: Mapping[str, Any]) -> Verdict:
    best = isinstance(claim.get("best"), dict)
    one, other = (claim["best"], {}) if best else (_selector(claim, "better"), _selector(claim, "worse"))
    tasks = [task for task in ledger.tasks if _is_of(ledger, claim, task)]
    compared = tuple(_best(ledger, task, one, claim) if best else _compared(ledger, task, one, other) for task in tasks)
    found = [each.estimate for each in compared if each.estimate is not None]
    metrics = {cell.metric for cell in ledger.cells if cell.task in tasks}
    verdict = Verdict(
        says=plain(claim.get("says") or f"{_name(one)} beats {'all others' if best else _name(other)}", 300),
        kind="open",
        metric=metrics.pop() if len(metrics) == 1 else None,
        one=_name(one),
        other="the best of the others" if best else _name(other),
        tasks=compared,
    )
    if found:
        estimate = inference.pooled(found)
        return replace(verdict, kind="undecided", estimate=estimate, p_value=estimate.p_value)
    lost = [each.diverged for each in compared if each.diverged]
    if lost:
        from scipy.stats import fisher_exact

        a, n, b, m = (sum(column) for column in zip(*lost, strict=True))
        return replace(verdict, kind="undecided", p_value=float(fisher_exact([[a, n - a], [b, m - b]]).pvalue))
    return verdict


def _is_of(ledger: Ledger, claim: Mapping[str, Any], task: str) -> bool:
    """Whether a claim is said of a task: of all, where it names none."""
    named = set(_texts(claim.get("tasks") or ()))
    return not named or bool(named & set(ledger.names_of(task)))


def _among(claim: Mapping[str, Any]) -> dict[str, Any]:
    """What a whole claim holds for: one column, or everything."""
    return {"column": claim["column"]} if claim.get("column") else {}


def _selector(claim: Mapping[str, Any], side: str) -> dict[str, Any]:
    """The settings that one side of a claim names; a `column` of the whole claim holds for both sides."""
    given = claim.get(side)
    given = given if isinstance(given, dict) else {"row": given}
    return _among(claim) | given


def _selected(ledger: Ledger, task: str, selector: Mapping[str, Any]) -> list[Cell]:
    return [
        cell
        for cell in ledger.cells
        if cell.task == task
        and all(getattr(cell, name) in _texts(selector[name]) for name in ("row", "column") if selector.get(name) is not None)
    ]


def sides(ledger: Ledger, task: str) -> list[Cell]:
    """What to look at closely on a task: the best of both sides of the first claim that has them, else the best and the first."""
    for claim in (each for each in listed(ledger.about.get("claims")) if isinstance(each, dict)):
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
    """The best of those with predictions; nothing of none."""
    done = [cell for cell in cells if cell.losses is not None]
    return [min(done, key=lambda cell: cell.metric.turned(cell.mean or 0.0))] if done else []


def _texts(value: Any) -> list[str]:
    return [plain(each) for each in (value if isinstance(value, (list, tuple)) else [value])]


def _name(selector: Mapping[str, Any]) -> str:
    return ", ".join(" and ".join(_texts(selector[name])) for name in ("row", "column") if selector.get(name) is not None) or "all"


def _compared(ledger: Ledger, task: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Compared:
    """Two groups of settings on a task. Where both leave the same thing open, such as the row, they are compared row by row."""
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
    """One setting and the best of all others on a task."""
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
    """What of the cells that are compared is not in the comparison."""
    found = []
    for cell in (cell for side in sides for cell in side):
        lost = [f"{cell.lost(status)} {status}" for status in ("diverged", "failed") if cell.lost(status)]
        if lost:
            found.append(f"{cell.label}: {', '.join(lost)} of {len(cell.runs)} seeds left out")
        elif cell.state == "unfinished":
            found.append(f"{cell.label}: {len(cell.finished)} of {cell.wanted} seeds so far")
    return tuple(found)


def _diverged(sides: Sequence[Sequence[Cell]]) -> tuple[int, int, int, int] | None:
    """(diverged, seeds) of both sides, where one has come to nothing but divergence and the other to a number or the like."""
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


def said(found: Verdict) -> str:
    """The verdict in words: what was found, how sure it is, what would decide it."""
    parts = [_found(found), _seeds_needed(found), _paper(found), _aside(found)]
    return f"{KINDS[found.kind]}: {' '.join(part for part in parts if part)}"


def _found(found: Verdict) -> str:
    if found.estimate is None:
        return _without_number(found)
    estimate = found.estimate
    text = (
        f"{found.one} has {points(estimate.value, found.metric)} {'than' if round(abs(estimate.value), 2) else 'as'} {found.other}"
    )
    if estimate.interval is None:
        single = next((each.single for each in found.tasks if each.single is not None), None)
        test = (
            f"; McNemar's test of these two runs: {p_text(single)}, which says nothing of other seeds" if single is not None else ""
        )
        return f"{text}, in one seed only, so that its spread is unknown{test}; {_basis(found)}."
    bounds = f"95 % interval {signed(estimate.interval[0], 2)} to {signed(estimate.interval[1], 2)}"
    correction = f" after correction for {found.of} claims" if found.of > 1 else ""
    return f"{text} ({bounds}, {p_text(found.corrected)}{correction}; {_basis(found)})."


def _without_number(found: Verdict) -> str:
    lost = [each.diverged for each in found.tasks if each.diverged]
    if lost:
        a, n, b, m = (sum(column) for column in zip(*lost, strict=True))
        test = f"Fisher's exact test, {p_text(found.corrected)}"
        return f"{found.one} diverged in {a} of {n} seeds, {found.other} in {b} of {m} ({test})."
    return "nothing to compare yet."


def _basis(found: Verdict) -> str:
    estimate = found.estimate
    assert estimate is not None
    tasks = [each.task for each in found.tasks if each.estimate is not None]
    where = f" of {len(tasks)} tasks" if len(tasks) > 1 else f" of {plain(tasks[0], 40)}"
    return f"{estimate.seeds} seed{'s' * (estimate.seeds != 1)}, {estimate.texts:,} test texts{where}"


def _seeds_needed(found: Verdict) -> str:
    if found.kind != "undecided" or found.estimate is None or not found.estimate.freedom:
        return ""
    if found.estimate.value == 0:
        return "There is no difference that seeds could decide."
    if found.needed is None:
        return "No number of seeds would decide it: more test texts are needed."
    if found.needed <= found.estimate.seeds:
        return (
            "The interval leaves zero out, but not after the correction for the number of claims: a few more seeds would decide it."
        )
    return f"About {found.needed} seeds of each would decide it, if the difference stays what it is."


def _paper(found: Verdict) -> str:
    return "" if found.published is None else f"In the paper: {points(found.published, found.metric)}."


def _aside(found: Verdict) -> str:
    """Tasks apart, and what is missing."""
    compared = [each for each in found.tasks if each.estimate is not None]
    apart = ""
    if len(compared) > 1:
        apart = "By task: " + "; ".join(f"{plain(e.task, 40)} {_by_task(e)}" for e in compared) + "."
    missing = [f"{plain(each.task, 40)}, {text}" for each in found.tasks for text in each.missing]
    shown = "; ".join(missing[:6]) + (f"; and {len(missing) - 6} more" if len(missing) > 6 else "")
    return " ".join(part for part in (apart, f"Not in it: {shown}." if missing else "") if part)


def _by_task(compared: Compared) -> str:
    assert compared.estimate is not None
    bounds = compared.estimate.interval
    interval = f" ({signed(bounds[0], 2)} to {signed(bounds[1], 2)})" if bounds else ""
    return f"{signed(compared.estimate.value, 2)}{interval}"


def points(value: float, metric: Metric | None) -> str:
    """A difference of losses in words: `1.90 points of error less`, `0.40 points of macro-F1 more`."""
    unit = f"points of {metric.label}" if metric else "points"
    size = f"{abs(value):.2f}"
    if float(size) == 0:
        return f"as many {unit}"
    fewer = (value < 0) != (metric is not None and metric.higher)
    return f"{size} {unit} {'less' if fewer else 'more'}"


def plain_verdict(found: Verdict) -> dict[str, Any]:
    """As plain data for JSON."""
    bounds = found.estimate.interval if found.estimate else None
    return {
        "says": found.says,
        "verdict": found.kind,
        "text": found.text,
        "difference_points": found.estimate.value if found.estimate else None,
        "interval": list(bounds) if bounds else None,
        "p": found.p_value,
        "p_corrected": found.corrected,
        "claims_corrected_for": found.of,
        "seeds": found.estimate.seeds if found.estimate else None,
        "texts": found.estimate.texts if found.estimate else None,
        "seeds_to_decide": found.needed,
        "published_difference_points": found.published,
        "by_task": {
            each.task: {
                "difference_points": each.estimate.value if each.estimate else None,
                "interval": list(each.estimate.interval) if each.estimate and each.estimate.interval else None,
                "bootstrap_interval": list(each.bootstrap) if each.bootstrap else None,
                "published_difference_points": each.published,
                "not_in_it": list(each.missing),
            }
            for each in found.tasks
        },
    }
