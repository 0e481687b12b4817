"""Reproduce the papers' figures: error against one setting (Sun et al. 2019, Figures 3 and 4), learning curves (Figure 2).

A scale may change the setting on the axis, so points are evenly spaced in the order of the rows; the paper's row is printed under
our value if the two differ.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from analysis.figures.study_figures import SERIES, line
from analysis.figures.svg import COLOURS, Figure
from analysis.records.metric import ERROR
from analysis.records.trials import Trial
from analysis.results.ledger import Cell, Ledger
from analysis.text.plain import plain, shown


def figures(ledger: Ledger) -> list[Figure]:
    """Return the figures of the ledger's layout; empty for a table."""
    if ledger.definition.get("layout") != "curve":
        return []
    drawn = (
        [against(ledger, task) for task in ledger.tasks]
        if ledger.definition.get("x")
        else [learning(ledger, t) for t in ledger.tasks]
    )
    return [figure for figure in drawn if figure is not None]


def against(ledger: Ledger, task: str) -> Figure | None:
    """Draw the test score against the setting `x`: mean and range over seeds, and the paper's points."""
    cells = [cell for cell in ledger.cells if cell.task == task]
    if not any(cell.finished or cell.lost("diverged") for cell in cells):
        return None
    higher, lost = cells[0].metric.higher, [cell for cell in cells if cell.lost("diverged")]
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    tips: dict[str, list[str]] = {}
    legend: list[tuple[str, Any]] = []

    def draw(axes: Any) -> None:
        for number, column in enumerate(columns):
            colour, marker, style = SERIES[number % len(SERIES)]
            mine = [cell for cell in cells if cell.column == column]
            done = [cell for cell in mine if cell.finished]
            places = [rows.index(cell.row) for cell in done]
            lows, highs = [min(cell.scores) for cell in done], [max(cell.scores) for cell in done]
            axes.fill_between(places, lows, highs, color=COLOURS[colour], alpha=0.15, linewidth=0)
            axes.plot(places, [cell.mean for cell in done], color=COLOURS[colour], linestyle=style, linewidth=1.8)
            means = [cell.mean for cell in done]
            axes.scatter(places, means, s=26, marker=marker, color=COLOURS[colour], linewidths=0, zorder=3, gid=f"ours-{number}")
            tips[f"ours-{number}"] = [_tip(cell) for cell in done]
            known = [cell for cell in mine if cell.published and cell.published.percent is not None]
            printed = [(rows.index(cell.row), cell.published.percent) for cell in known if cell.published]
            if printed:
                axes.plot(*zip(*printed, strict=True), color=COLOURS[colour], linestyle=(0, (1, 3)), linewidth=1)
                look: dict[str, Any] = {"marker": marker, "facecolors": "none", "edgecolors": COLOURS[colour], "linewidths": 1.2}
                axes.scatter(*zip(*printed, strict=True), s=26, zorder=3, gid=f"paper-{number}", **look)
                tips[f"paper-{number}"] = [f"{cell.row}: the paper's {cell.published.shown} %" for cell in known if cell.published]
        if lost:
            tips["lost"] = [_lost(cell) for cell in lost]
            edge = [0.03 if higher else 0.97] * len(lost)  # the edge with the worst scores
            axes.scatter([rows.index(cell.row) for cell in lost], edge, marker="X", s=30, color=COLOURS["warm"], linewidths=0,
                         transform=axes.get_xaxis_transform(), gid="lost", zorder=4)  # fmt: skip
        names = [_tick(ledger, task, row) for row in rows]
        axes.set_xticks(range(len(rows)), names, rotation=30 if max(map(len, names)) > 6 and len(rows) > 6 else 0)
        axes.set_xlim(-0.4, len(rows) - 0.6)
        axes.set_xlabel(plain(str(ledger.definition["x"]).replace(".", " ").replace("_", " "), 40))
        axes.set_ylabel(f"test {cells[0].metric.label}, %")

    for number, column in enumerate(columns):
        colour, marker, style = SERIES[number % len(SERIES)]
        name = plain(column, 22)
        legend.append((f"{name}, ours" if name else "ours", line(colour, 1.8, marker, style)))
        if any(cell.published for cell in cells if cell.column == column):
            legend.append((f"{name}, paper" if name else "paper", _hollow(colour, marker)))
    description = "; ".join([*(_tip(cell) for cell in cells if cell.finished), *map(_lost, lost)])
    name = ledger.task_name(task)
    caption = f"{name}: mean over seeds (filled), their range (band), and the paper's points (hollow, dotted)."
    caption += " Points are evenly spaced; the paper's value is printed below ours if they differ."
    if lost:
        caption += f" A cross at the {'lower' if higher else 'upper'} edge: seeds that diverged and are in no mean ("
        caption += f"{'; '.join(_lost(cell) for cell in lost)})."
    return Figure(f"against-{ledger.tasks.index(task)}", f"{ledger.title}: {name}", description, caption, draw, tips, legend)


def learning(ledger: Ledger, task: str) -> Figure | None:
    """Draw the validation score by epoch of every setting: mean and range over seeds; at the right edge the paper's number."""
    cells = [cell for cell in ledger.cells if cell.task == task]
    metric = ledger.validated.get(task, cells[0].metric)
    curves = {cell.setting: [run.trial.curve for run in cell.runs if run.trial.curve] for cell in cells}
    lost = [(cell, run.trial) for cell in cells for run in cell.runs if run.trial.status == "diverged"]
    if not lost and not any(curves.values()):
        return None
    trained = {} if metric.score({ERROR: 0.0}) is None else ledger.training  # training texts have only an error
    # A published error is not shown among F1 scores.
    printed = {cell.setting: cell.published.percent for cell in cells if cell.published and cell.metric == metric}
    tips: dict[str, list[str]] = {}
    legend: list[tuple[str, Any]] = []

    def draw(axes: Any) -> None:
        last = max((epoch for group in curves.values() for curve in group for epoch, _ in curve), default=1.0)
        for number, cell in enumerate(cells):
            colour, marker, style = SERIES[number % len(SERIES)]
            mine = curves[cell.setting]
            epochs = sorted({epoch for curve in mine for epoch, _ in curve})
            scores = [[score for curve in mine for at, score in curve if at == epoch] for epoch in epochs]
            low, high = list(map(min, scores)), list(map(max, scores))
            axes.fill_between(epochs, low, high, color=COLOURS[colour], alpha=0.13, linewidth=0)
            means = [statistics.fmean(values) for values in scores]
            axes.plot(epochs, means, color=COLOURS[colour], marker=marker, linestyle=style, markersize=4.5, linewidth=1.8)
            for run in cell.runs:
                points = [(epoch, metric.score({ERROR: error})) for epoch, error in trained.get((run.study, run.trial.name), [])]
                if points:
                    axes.plot(*zip(*points, strict=True), color=COLOURS[colour], linewidth=0.7, alpha=0.7)
            if printed.get(cell.setting) is not None:
                look: dict[str, Any] = {"marker": marker, "markerfacecolor": "none", "markeredgecolor": COLOURS[colour]}
                axes.plot([last * 1.07], [printed[cell.setting]], linestyle="", markersize=6, clip_on=False, **look)
        tips.update(_crosses(axes, lost, last, 0.04 if metric.higher else 0.96))
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation {metric.label}, %")
        if not metric.higher:
            axes.set_ylim(bottom=0)
        axes.set_xlim(0, last * 1.1)

    for number, cell in enumerate(cells):
        legend.append((plain(cell.row, 24), line(SERIES[number % len(SERIES)][0], 1.8, *SERIES[number % len(SERIES)][1:])))
    ends = [(cell.label, [curve[-1][1] for curve in curves[cell.setting]]) for cell in cells if curves[cell.setting]]
    parts = [f"{plain(label)} ends at {statistics.fmean(scores):.2f} %" for label, scores in ends]
    parts += [f"{plain(cell.label)}, seed {trial.seed}, {_end(trial)}" for cell, trial in lost]
    name = ledger.task_name(task)
    caption = f"{name}: validation {metric.label} after each epoch, mean over seeds (line) and their range (band)."
    printed_number = next((cell.published for cell in cells if cell.published and printed.get(cell.setting) is not None), None)
    if printed_number is not None:
        caption += f" Hollow marks at the right edge: the paper's {plain(printed_number.metric)}, {plain(printed_number.column)}"
        caption += f" ({plain(printed_number.source)})." if printed_number.source else "."
    if lost:
        caption += " A cross: a run diverged and ends there; from there on the line is of the others."
    if any(not trial.curve for _, trial in lost):
        caption += f" Crosses at the {'lower' if metric.higher else 'upper'} left: diverged before the first validation."
    on = metric.label if metric.higher else "errors"
    caption += f" Thin lines: {on} on training texts, seed by seed." if trained else ""
    title = f"{ledger.title}: {name}"
    return Figure(f"learning-{ledger.tasks.index(task)}", title, "; ".join(parts), caption, draw, tips, legend)


def _crosses(axes: Any, lost: Sequence[tuple[Cell, Trial]], last: float, worst: float) -> dict[str, list[str]]:
    """Mark the ends of diverged runs; those without a validation lie side by side at the worst edge. Returns their tool tips."""
    look = {"marker": "X", "s": 55, "color": COLOURS["warm"], "linewidths": 0, "clip_on": False, "zorder": 4}
    ended = [(trial.curve[-1], cell, trial) for cell, trial in lost if trial.curve]
    never = [(cell, trial) for cell, trial in lost if not trial.curve]
    aside = [((0.03 * last * place, worst), cell, trial) for place, (cell, trial) in enumerate(never)]
    tips = {}
    for gid, ends, where in (("ended", ended, axes.transData), ("never", aside, axes.get_xaxis_transform())):
        if ends:
            axes.scatter(*zip(*(at for at, _, _ in ends), strict=True), transform=where, gid=gid, **look)
            tips[gid] = [f"{cell.label}, seed {trial.seed}: {_end(trial)}" for _, cell, trial in ends]
    return tips


def _end(trial: Trial) -> str:
    """Text on when a run diverged."""
    return f"diverged after epoch {trial.curve[-1][0]:g}" if trial.curve else "diverged before its first validation"


def _lost(cell: Cell) -> str:
    """Text on how many seeds of a cell diverged."""
    count = cell.lost("diverged")
    return f"{cell.label}: {count} of {cell.wanted} seed{'s' * (cell.wanted != 1)} diverged"


def _tick(ledger: Ledger, task: str, row: str) -> str:
    """Tick label: our value of x, and the paper's row under it if that differs."""
    cells = [cell for cell in ledger.cells if cell.task == task and cell.row == row]
    value = _value(ledger, cells)
    words = row.split()
    name = words[0] if words and words[0][:1].isdigit() else plain(row, 14)
    if value is None or shown(value) == name:
        return name
    return shown(value) if _thousands(name) == value else f"{shown(value)}\n({name})"


def _value(ledger: Ledger, cells: Sequence[Cell]) -> Any:
    path = str(ledger.definition["x"])
    for cell in cells:
        value = ledger.params.get((cell.task, cell.setting), {}).get(path)
        if value is not None:
            return value
    settings = ledger.definition.get("settings") or []
    changed = settings[cells[0].setting].get("set") if isinstance(settings[cells[0].setting], dict) else None
    return changed.get(path) if isinstance(changed, dict) else None


def _thousands(name: str) -> float | None:
    """Number at the start of a name: 100,000 for `100K further ...`; None without one."""
    word = name.split()[0] if name.split() else ""
    scale = 1000 if word[-1:] in ("K", "k") else 1
    try:
        return float(word.rstrip("Kk%")) * scale
    except ValueError:
        return None


def _tip(cell: Cell) -> str:
    spread = f" ± {cell.sd:.2f}" if cell.sd is not None else ""
    return f"{cell.label}: {cell.mean:.2f}{spread} % ({len(cell.finished)} seed{'s' * (len(cell.finished) != 1)})"


def _hollow(colour: str, marker: str) -> Any:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": COLOURS[colour], "markersize": 5.5}
    return Line2D([], [], color=COLOURS[colour], linestyle=(0, (1, 3)), linewidth=1, marker=marker, **look)
