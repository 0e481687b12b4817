"""Arrange a ledger as the published table: rows, columns, marks, the Avg. column, caption and notes; `forms.py` writes it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.results.ledger import Cell, Ledger, shared_stages
from analysis.stats import inference
from analysis.stats.inference import ALPHA
from analysis.text.numbers import DASH, number, over_seeds
from analysis.text.plain import plain

LEVEL = "†"
"""Marks cells that are not significantly worse than the best."""


@dataclass(frozen=True)
class CellText:
    """One cell as text."""

    ours: str
    """Our result, `9.62 ± 0.36 (3)`, or the reason why there is none."""
    paper: str
    """The published number; empty without one."""
    mark: str = ""
    """best, level or empty."""
    state: str = "complete"
    cell: Cell | None = None


@dataclass(frozen=True)
class TableLayout:
    """A table as text."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[CellText, ...]], ...]
    caption: tuple[str, ...]
    """Sentences."""
    notes: tuple[str, ...]

    @property
    def has_paper(self) -> bool:
        """Whether any cell has a published number."""
        return any(shown.paper for _, row in self.rows for shown in row)


def layout(ledger: Ledger) -> TableLayout:
    """Return the table of an ablation; its rows are settings or, as in some published tables, tasks."""
    if ledger.definition.get("statistics"):
        return _of_statistics(ledger)
    keys = list(dict.fromkeys((cell.task, cell.column) for task in ledger.tasks for cell in ledger.cells if cell.task == task))
    rows = list(dict.fromkeys(cell.row for cell in ledger.cells))
    marked, comparisons = marks(ledger)
    base = average_against(ledger)
    body = []
    for row in rows:
        cells = [ledger.at(task, row, column) for task, column in keys]
        shown = [_shown(cell, marked.get(id(cell), "")) for cell in cells]
        body.append((row, (*shown, *([_average(ledger, row, base)] if base else []))))
    head = [_head(ledger, task, column) for task, column in keys] + ([f"Avg. gain on {base}, %"] if base else [])
    source = ledger.definition.get("source")
    if isinstance(source, dict) and source.get("rows") == "tasks":
        columns = list(zip(*(cells for _, cells in body), strict=True))
        body, head = [(name, cells) for name, cells in zip(head, columns, strict=True)], [row for row, _ in body]
    return TableLayout(tuple(head), tuple(body), _caption(ledger, comparisons, base), tuple(_notes(ledger)))


def _of_statistics(ledger: Ledger) -> TableLayout:
    """Table of the tasks' text statistics beside the published ones."""
    columns = list(dict.fromkeys(str(name) for entry in ledger.statistics for name in entry["row"]))
    rows = []
    for stats in ledger.statistics:
        name = str(stats.get("task") or stats.get("name") or stats.get("published"))
        printed = ledger.printed_row(ledger.printed_name(name), columns)
        cells = [CellText(_value(stats["row"].get(column)), printed.get(column, "")) for column in columns]
        rows.append((ledger.task_name(name), tuple(cells)))
    caption = [f"{ledger.title.rstrip('.')}.", f"Ours | as published ({ledger.source})." if ledger.source else "", _scale(ledger)]
    head = tuple(plain(name.replace("_", " ")) for name in columns)
    return TableLayout(head, tuple(rows), tuple(text for text in caption if text), tuple(ledger.notes))


def _value(value: object, nothing: str = DASH) -> str:
    if value is None or value == "":
        return nothing
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return plain(value, 60)
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _head(ledger: Ledger, task: str, column: str) -> str:
    name = ledger.task_name(task)
    return name if not column else column if len(ledger.tasks) == 1 else f"{name}, {column}"


def _shown(cell: Cell | None, mark: str) -> CellText:
    if cell is None:
        return CellText("", "", state="none")
    paper = cell.published.shown if cell.published else ""
    return CellText(ours(cell), paper, mark, cell.state, cell)


def ours(cell: Cell) -> str:
    """Format a cell's result: `9.62 ± 0.36 (3)`, mean, standard deviation and number of seeds, with missing and lost seeds."""
    lost = ", ".join(f"{cell.lost(status)} {status}" for status in ("diverged", "failed") if cell.lost(status))
    if cell.mean is None:
        return {"missing": "missing", "unfinished": "unfinished"}.get(cell.state, lost) or "missing"
    spread = f" ± {cell.sd:.2f}" if cell.sd is not None else ""
    count = f"{len(cell.finished)}" if cell.state == "complete" else f"{len(cell.finished)} of {cell.wanted}"
    return f"{cell.mean:.2f}{spread} ({count}{f', {lost}' if lost else ''})"


def marks(ledger: Ledger) -> tuple[dict[int, str], int]:
    """Return ({id of a cell: best or level}, number of comparisons corrected for).

    In each task all settings with numbers are compared with the best. Since the best is chosen by the same numbers, the correction
    covers all pairs, not only those compared.
    """
    marked: dict[int, str] = {}
    p_values: list[float] = []
    rivals: list[Cell] = []
    pairs = 0
    for task in ledger.tasks:
        cells = [cell for cell in ledger.cells if cell.task == task and cell.mean is not None]
        if len(cells) < 2:
            continue
        best = min(cells, key=lambda cell: _loss(cell))
        marked |= {id(cell): "best" for cell in cells if _loss(cell) == _loss(best)}
        several = [cell for cell in cells if ledger.comparable(best, cell) and len(cell.finished) > 1]
        pairs += len(several) * (len(several) - 1) // 2
        for cell in several if best in several else ():
            if cell.losses is None or best.losses is None or id(cell) in marked:
                continue
            p_value = inference.difference(cell.losses, best.losses).p_value
            p_values.append(1.0 if p_value is None else p_value)
            rivals.append(cell)
    corrected = inference.holm([*p_values, *[1.0] * (max(pairs, len(p_values)) - len(p_values))])
    for cell, p_value in zip(rivals, corrected, strict=False):
        if p_value >= ALPHA:
            marked[id(cell)] = "level"
    return marked, pairs


def _loss(cell: Cell) -> float:
    assert cell.mean is not None
    return round(cell.metric.turned(cell.mean), 9)


def average_against(ledger: Ledger) -> str:
    """Row that the last column of Table 6 is relative to, from the metric of the published column; empty without one."""
    from analysis.results import published

    named = str(ledger.definition.get("average") or "")
    source = ledger.definition.get("source")
    if not named and isinstance(source, dict) and source.get("paper"):
        tables = source.get("table")
        try:
            numbers = published.table(
                str(source["paper"]), [str(name) for name in (tables if isinstance(tables, list) else [tables])]
            )
        except KeyError:
            return ""
        matches = (re.match(r"mean relative error reduction vs (.+?),", number.metric) for number in numbers)
        named = next((match[1] for match in matches if match), "")
    return named if any(cell.row == named for cell in ledger.cells) else ""


def _average(ledger: Ledger, row: str, base: str) -> CellText:
    """Mean relative error reduction over the tasks that both rows have, percent: ours, and the paper's by the same rule."""
    pairs = [(ledger.at(task, row, ""), ledger.at(task, base, "")) for task in ledger.tasks]
    measured = [(a.mean, b.mean) for a, b in pairs if a and b and a.mean is not None and b.mean]
    printed = [(a.published.percent, b.published.percent) for a, b in pairs if a and b and a.published and b.published]
    gains = [_gain(pairs_) for pairs_ in (measured, [(a, b) for a, b in printed if a is not None and b])]
    if row == base:
        return CellText("", "", state="none")
    count = f" ({len(measured)} of {len(pairs)} tasks)" if 0 < len(measured) < len(pairs) else ""
    return CellText(f"{number(gains[0])}{count}" if measured else "missing", "" if gains[1] is None else f"{gains[1]:.2f}")


def _gain(pairs: Sequence[tuple[float, float]]) -> float | None:
    return 100 * statistics.fmean((base - error) / base for error, base in pairs) if pairs else None


# Sentences -----------------------------------------------------------------------------------------------------------------------


def _caption(ledger: Ledger, comparisons: int, base: str) -> tuple[str, ...]:
    metrics = list(dict.fromkeys(cell.metric for cell in ledger.cells))
    what = " or ".join(f"{metric.label} %" for metric in metrics)
    several = any(cell.sd is not None for cell in ledger.cells) or not any(cell.finished for cell in ledger.cells)
    sentences = [f"{ledger.title.rstrip('.')}.", f"Test {what}, ours: {over_seeds(several)}"]
    sentences[-1] += f" | as published ({ledger.source})." if any(cell.published for cell in ledger.cells) else "."
    if comparisons:
        sentences.append(
            f"Best in bold; {LEVEL} not significantly worse than it (paired over test texts and seeds,"
            f" p values corrected for {comparisons} comparison{'s' * (comparisons != 1)})."
        )
    elif any(cell.finished for cell in ledger.cells):
        sentences.append("Best in bold; with one seed or without predictions its uncertainty is unknown.")
    if base:
        sentences.append(f"Avg.: mean over the tasks that both have of (error of {base} - error) / error of {base}.")
    return tuple(text for text in (*sentences, _scale(ledger)) if text)


def _scale(ledger: Ledger) -> str:
    """Sentence on the scale and what it changes."""
    if ledger.changes:
        against = "paper" if ledger.source else "file"
        return f"Scale {ledger.scale}, changed against the {against}: {'; '.join(ledger.changes).rstrip('.')}."
    return "" if ledger.scale == "paper" else f"Scale {ledger.scale}."


def _notes(ledger: Ledger) -> list[str]:
    notes = list(ledger.notes)
    finished = {len(cell.finished) for cell in ledger.cells if cell.finished}
    if finished == {1}:
        notes.append("One seed only: the spread over seeds is unknown, and no interval is given.")
    if shared_stages(ledger.cells):
        notes.append(
            "All seeds of a setting start from one further pre-training: the spread over further pre-trainings is unknown."
        )
    others = {
        f"{cell.published.metric}, {cell.published.column}"
        for cell in ledger.cells
        if cell.published and "test" not in f"{cell.published.metric} {cell.published.column}"
    }
    notes += [f"The published number is of another kind than ours: {text}." for text in sorted(others)]
    sources = sorted(
        {
            cell.published.source
            for cell in ledger.cells
            if cell.published and ("read" in cell.published.source or "marker" in cell.published.source)
        }
    )
    notes += [f"Published numbers are from {source}." for source in sources]
    return notes


def missing(ledger: Ledger) -> list[str]:
    """Return the parts that this report still lacks, a sentence each."""
    sentences = []
    if not ledger.finished:
        sentences.append(f"The {ledger.kind} has not finished: these are interim results.")
    for state, what in (
        ("missing", "not begun"),
        ("unfinished", "not finished"),
        ("diverged", "diverged in all seeds"),
        ("failed", "failed"),
    ):
        cells = [cell for cell in ledger.cells if cell.state == state]
        if cells:
            few = ", ".join(f"{cell.label} ({cell.task})" for cell in cells[:6]) + (
                f" and {len(cells) - 6} more" if len(cells) > 6 else ""
            )
            sentences.append(f"{len(cells)} of {len(ledger.cells)} cells {what}: {few}.")
    for cell in ledger.cells:
        reasons = sorted({run.trial.reason for run in cell.runs if run.trial.status == "failed" and run.trial.reason})
        sentences += [f"{cell.label} ({cell.task}) failed: {reasons[0]}."] if reasons else []
    return sentences + [f"{problem[:1].upper()}{problem[1:]}." for problem in ledger.problems]
