"""Draw the figures of a study: result, learning curves, search history, budget, importance and single dimensions.

Colours never carry information alone: a shape or a line style shows the same. `svg.py` makes the files.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from analysis.figures.svg import COLOURS, Figure
from analysis.records.run_folder import Run, settings_text
from analysis.records.trials import SearchDimension, Trial
from analysis.results.final_settings import Finals
from analysis.stats import inference
from analysis.stats.importance import Importance, position
from analysis.text import numbers
from analysis.text.numbers import number
from analysis.text.plain import plain, shown

SERIES = (("accent", "o", "-"), ("warm", "s", "--"), ("green", "D", "-."), ("violet", "^", ":"))
"""(colour, marker, line style) of the final settings, in turn."""
MARKS = {
    "complete": ("accent", "o", True, "complete"),
    "stopped": ("muted", "v", False, "stopped early"),
    "diverged": ("warm", "X", True, "diverged"),
    "failed": ("warm", "s", False, "failed"),
    "running": ("green", "D", False, "not finished"),
}
"""{status: (colour, marker, whether it is filled, name)}"""
NOT_DRAWN = {"tpe": "the sampler learns", "random": "", "grid": "they are a grid", "given": "the study file lists them"}
"""{sampler: why its trials are not drawn independently; empty if they are}"""

POINTS = 20_000
"""Limit of the points of all learning curves on a page, so that it stays small."""
MANY = 60
"""Number of trials from which on lines are fainter and an axis of trials is logarithmic."""


def result(results: Finals) -> Figure | None:
    """Draw the test score of every final setting with its seeds and intervals, and the bag of words; None without test scores."""
    run, settings = results.run, results.tested
    baseline, label = run.metric.score(run.baseline.get("test", {})), run.metric.label
    if not settings:
        return None
    names = [plain(setting.label, 26) for setting in settings] + ["bag of words"] * (baseline is not None)
    tips: dict[str, list[str]] = {}

    def draw(axes: Any) -> None:
        for y, setting in enumerate(settings):
            colour, marker, _ = SERIES[y % len(SERIES)]
            if setting.texts_interval:
                axes.plot(setting.texts_interval, [y, y], color=COLOURS["muted"], linewidth=1, marker="|", markersize=6)
            if setting.interval:
                axes.plot(setting.interval, [y, y], color=COLOURS[colour], linewidth=5, alpha=0.3, solid_capstyle="butt")
            tips[f"seeds-{y}"] = [
                f"{plain(setting.label)}, seed {t.seed}: {number(run.metric.score(t.test))} %" for t in setting.trials if t.test
            ]
            axes.scatter(setting.test, [y + 0.24] * len(setting.test), s=9, color=COLOURS["muted"], linewidths=0, gid=f"seeds-{y}")
            axes.plot([statistics.fmean(setting.test)], [y], marker=marker, color=COLOURS[colour], markersize=7)
        if baseline is not None:
            if bounds := results.baseline_interval:
                axes.plot(bounds, [len(settings)] * 2, color=COLOURS["muted"], linewidth=1, marker="|", markersize=6)
            axes.plot([baseline], [len(settings)], marker="P", color=COLOURS["muted"], markersize=7)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        if not run.metric.higher:
            axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["fg"])
        axes.set_xlabel(f"test {label}, %")

    description = "; ".join(f"{plain(s.label)} {statistics.fmean(s.test):.2f} %" for s in settings)
    description += f"; bag of words {baseline:.2f} %" if baseline is not None else ""
    caption = f"Test {label}: mean over seeds (large mark), each seed (dot below), 95 % interval over seeds and texts (band) and"
    caption += " over texts alone (line)."
    return Figure(
        "result", f"Test {label} of the final settings", description, caption, draw, tips, height=0.75 + 0.42 * len(names)
    )


def curves(run: Run) -> Figure | None:
    """Draw the validation score by epoch, one line per trial of the search; None without curves."""
    trials = [trial for trial in run.search if trial.curve]
    if not trials:
        return None
    best, most = _best(run, trials), max(10, POINTS // len(trials))
    tips: dict[str, list[str]] = {}

    def draw(axes: Any) -> None:
        for trial in sorted(trials, key=lambda trial: trial is best):
            colour = MARKS[trial.status][0]
            style: dict[str, Any] = {"color": COLOURS[colour], "gid": f"line-{trial.name}"}
            style |= {"linewidth": 2.4} if trial is best else {"linewidth": 1, "alpha": 0.65 if len(trials) < MANY else 0.35}
            axes.plot(
                *zip(*_thinned(trial.curve, most), strict=True),
                linestyle="-" if trial.status == "complete" else (0, (3, 2)),
                **style,
            )
            _mark(axes, [trial.curve[-1]], trial.status, size=22 if trial.status != "complete" or trial is best else 7)
            tips[f"line-{trial.name}"] = [tip(trial, run.space)]
        _epochs(axes, trials, run.metric.label)

    counts = [
        f"{sum(t.status == status for t in trials)} {MARKS[status][3]}"
        for status in MARKS
        if any(t.status == status for t in trials)
    ]
    description = f"Validation {run.metric.label} by epoch of {len(trials)} trials: {', '.join(counts)}."
    description += f" The best, {best.name}, ends at {number(best.score)} %." if best is not None else ""
    legend = [("best", line("accent", 2.4)), ("complete", line("accent", 1))][: 2 if best else 0] + _legend(
        trials, leave=("complete",)
    )
    caption = f"Search: validation {run.metric.label} after each epoch, one line per trial; the mark shows where and how a trial"
    caption += " ended."
    caption += f" Curves are thinned to {most} points." if max(len(trial.curve) for trial in trials) > most else ""
    return Figure("curves", "Learning curves of the search", description, caption, draw, tips, legend)


def finals(results: Finals) -> Figure | None:
    """Draw the validation score by epoch of the final settings: mean over seeds and range; None without curves."""
    run, settings = results.run, [setting for setting in results.settings if any(trial.curve for trial in setting.trials)]
    if not settings:
        return None
    legend = []

    def draw(axes: Any) -> None:
        for index, setting in enumerate(settings):
            colour, marker, style = SERIES[index % len(SERIES)]
            epochs = sorted({epoch for trial in setting.trials for epoch, _ in trial.curve})
            scores = [[score for trial in setting.trials for at, score in trial.curve if at == epoch] for epoch in epochs]
            axes.fill_between(
                epochs, list(map(min, scores)), list(map(max, scores)), color=COLOURS[colour], alpha=0.13, linewidth=0
            )
            means = [statistics.fmean(values) for values in scores]
            axes.plot(epochs, means, color=COLOURS[colour], marker=marker, linestyle=style, markersize=4.5, linewidth=1.8)
        _epochs(axes, [trial for setting in settings for trial in setting.trials], run.metric.label)

    for index, setting in enumerate(settings):
        colour, marker, style = SERIES[index % len(SERIES)]
        legend.append((plain(setting.label, 24), line(colour, 1.8, marker, style)))
    seeds = max(len(setting.validation) for setting in settings)
    description = "; ".join(f"{plain(s.label)} ends at {number(numbers.mean(s.validation))} %" for s in settings)
    caption = f"Finals: validation {run.metric.label} after each epoch, "
    caption += f"mean over {seeds} seeds (line) and their range (band)." if seeds > 1 else "one seed."
    return Figure("finals", "Learning curves of the finals", description, caption, draw, {}, legend)


def history(run: Run) -> Figure | None:
    """Draw the validation score of the trials in order, with the best so far; None without scores."""
    trials = run.search
    known = [trial.score for trial in trials if trial.score is not None]
    if not known:
        return None
    tips: dict[str, list[str]] = {}
    places = {trial.name: index for index, trial in enumerate(trials)}
    steps = _best_so_far(run)

    def draw(axes: Any) -> None:
        room = 0.12 * max(max(known) - min(known), 0.5)
        edge = min(known) - room if run.metric.higher else max(known) + room
        for status in MARKS:
            some = [trial for trial in trials if trial.status == status]
            if some:
                points = [(places[t.name], edge if t.score is None else t.score) for t in some]
                _mark(axes, points, status, gid=f"status-{status}")
                tips[f"status-{status}"] = [tip(trial, run.space) for trial in some]
        if steps:
            axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=COLOURS["green"], linewidth=1.6, zorder=1)
        axes.set_xlabel("trial")
        axes.set_ylabel(f"validation {run.metric.label}, %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(-0.7, len(trials) - 0.3)

    description = f"{len(trials)} trials." + (
        f" Best validation {run.metric.label} so far goes from {steps[0][1]:.2f} to {steps[-1][1]:.2f} %." if steps else ""
    )
    lost, side = len(trials) - len(known), "lower" if run.metric.higher else "upper"
    caption = (
        f"Search history: last validation {run.metric.label} of each trial in the order proposed, and the best complete one so"
    )
    caption += " far (line)."
    caption += f" One without any value lies at the {side} edge." if lost == 1 else ""
    caption += f" {lost} without any value lie at the {side} edge." if lost > 1 else ""
    legend = _legend(trials) + ([("best so far", line("green", 1.6))] if steps else [])
    return Figure("history", "Search history", description, caption, draw, tips, legend)


def budget(run: Run) -> Figure | None:
    """Draw the expected best validation score against the number of trials (Dodge et al. 2019, section 3.1)."""
    known = [trial for trial in run.search if trial.score is not None and trial.status in ("complete", "stopped")]
    if len(known) < 2 or all(trial.status == "stopped" for trial in known):
        return None
    losses, label = [run.loss(trial) for trial in known], run.metric.label
    budgets = sorted({round(len(known) ** (i / 99)) for i in range(100)})
    expected, spread = inference.expected_best(losses, budgets)
    edges = np.clip([expected - spread, expected + spread], min(losses), max(losses))
    means, low, high = ([run.metric.turned(float(loss)) for loss in values] for values in (expected, *edges))

    def draw(axes: Any) -> None:
        axes.fill_between(budgets, low, high, color=COLOURS["accent"], alpha=0.16, linewidth=0)
        axes.plot(budgets, means, color=COLOURS["accent"], linewidth=1.8, marker="o" if len(budgets) < 20 else "", markersize=4)
        axes.set_xlabel("trials" + (" (log axis)" if len(known) > MANY else ""))
        axes.set_ylabel(f"validation {label}, %")
        if len(known) > MANY:
            _log_axis(axes)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)

    description = f"One trial: {means[0]:.2f} %; best of {len(known)} trials: {means[-1]:.2f} %."
    caption = f"Budget: expected best validation {label} by number of these trials, drawn at random with replacement"
    caption += " (Dodge et al. 2019), and one standard deviation of it (band)."
    legend = [("expected best", line("accent", 1.8))]
    return Figure("budget", "What more trials bring", description, " ".join([caption, *_caveats(run, known)]), draw, {}, legend)


def _caveats(run: Run, known: Sequence[Trial]) -> list[str]:
    """Sentences on why the curve of budgets may differ from that of a new search."""
    sentences, search = [], run.config.get("search")
    sampler = search.get("sampler") if isinstance(search, dict) else None
    if why := NOT_DRAWN.get(str(sampler), "the sampler may learn"):
        sentences.append(
            f"Trials were not drawn independently ({why}): the curve describes these trials and predicts no other search."
        )
    if stopped := sum(trial.status == "stopped" for trial in known):
        count = "One was stopped early and counts" if stopped == 1 else f"{stopped} were stopped early and count"
        sentences.append(f"{count} with the last value before that: at full length it might be better.")
    if lost := sum(trial.status in ("diverged", "failed") for trial in run.search):
        sentences.append(f"{lost} without a result {'is' if lost == 1 else 'are'} left out.")
    return sentences


def importances(run: Run, importance: Importance) -> Figure | None:
    """Draw the share of every dimension in the explained variance; None without shares."""
    if not importance.shares:
        return None
    names = {dimension.path: dimension.name for dimension in run.space}
    order = sorted(importance.shares.items(), key=lambda pair: pair[1])

    def draw(axes: Any) -> None:
        bars = axes.barh(range(len(order)), [100 * share for _, share in order], color=COLOURS["accent"], alpha=0.85, height=0.6)
        axes.bar_label(bars, [f"{100 * share:.0f} %" for _, share in order], padding=3, color=COLOURS["fg"])
        axes.set_yticks(range(len(order)), [plain(names[path], 24) for path, _ in order])
        axes.set_xlim(0, 115 * order[-1][1])
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["fg"])
        axes.set_xlabel("share of the explained variance, %")

    description = ", ".join(f"{names[path]} {100 * share:.0f} %" for path, share in reversed(order))
    where = "" if importance.epoch is None else f" at epoch {importance.epoch:g}, the last that all of them reached"
    caption = f"Importance: permutation importance of a random forest on {importance.trials} trials{where}; it explains "
    caption += f"{100 * importance.explained:.0f} % of the variance between trials it was not fitted on."
    caption += " With so few trials it is only a hint." if importance.few else ""
    return Figure("importance", "Importance of each dimension", description, caption, draw, {}, height=0.8 + 0.38 * len(order))


def dimension(run: Run, index: int) -> Figure | None:
    """Draw the validation score against one dimension, for trials with a score that have it; None without any."""
    axis = run.space[index]
    spots = [(trial, position(axis, trial.params.get(axis.path))) for trial in run.search if trial.score is not None]
    placed = [(trial, at) for trial, at in spots if at is not None]
    if not placed:
        return None
    tips: dict[str, list[str]] = {}
    category = axis.kind == "category"

    def draw(axes: Any) -> None:
        for status in MARKS:
            some = [(trial, at) for trial, at in placed if trial.status == status]
            if some:
                points = [
                    ((_strip(trial, at) if category else 10**at if axis.kind == "log" else at), trial.score or 0.0)
                    for trial, at in some
                ]
                _mark(axes, points, status, gid=f"status-{status}")
                tips[f"status-{status}"] = [tip(trial, run.space) for trial, _ in some]
        if category:
            _strips(axes, axis, placed)
        elif axis.kind == "log":
            _log_axis(axes)
        axes.set_xlabel(axis.name + (" (log axis)" if axis.kind == "log" else ""))
        axes.set_ylabel(f"validation {run.metric.label}, %")

    without = len(spots) - len(placed)
    caption = f"{axis.name[:1].upper()}{axis.name[1:]}: last validation {run.metric.label} of each trial against it."
    caption += " The bar is the median of complete trials." if category else ""
    caption += f" {without} trials do not have it." if without > 1 else " One trial does not have it." if without else ""
    best = _best(run, [trial for trial, _ in placed])
    description = f"{len(placed)} trials." + (f" The best complete one has {shown(best.params[axis.path])}." if best else "")
    title = f"{run.metric.label[:1].upper()}{run.metric.label[1:]} against {axis.name}"
    return Figure(f"dimension-{index}", title, description, caption, draw, tips, _legend([t for t, _ in placed]))


def tip(trial: Trial, space: Sequence[SearchDimension]) -> str:
    """Text of the tool tip on a trial's mark."""
    status = MARKS[trial.status][3] + (f": {trial.reason}" if trial.status in ("diverged", "failed") and trial.reason else "")
    score = f"{trial.score:.2f} %, " if trial.score is not None else ""
    return f"{trial.name}: {score}{status}; {settings_text(trial.params, space)}"


# Parts of figures ----------------------------------------------------------------------------------------------------------------


def _best(run: Run, trials: Iterable[Trial]) -> Trial | None:
    complete = [trial for trial in trials if trial.status == "complete" and trial.score is not None]
    return min(complete, key=run.loss, default=None)


def _thinned(curve: Sequence[tuple[float, float]], most: int) -> Sequence[tuple[float, float]]:
    """At most `most` evenly spaced points of a curve, the first and the last included."""
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)] if len(curve) > most else curve


def _best_so_far(run: Run) -> list[tuple[float, float]]:
    steps: list[tuple[float, float]] = []
    least = math.inf
    for x, trial in enumerate(run.search):
        if trial.status == "complete" and trial.score is not None and run.loss(trial) < least:
            least = run.loss(trial)
            steps.append((float(x), trial.score))
    return [*steps, (len(run.search) - 0.5, steps[-1][1])] if steps else []


def _mark(axes: Any, points: Sequence[tuple[float, float]], status: str, size: float = 26, gid: str | None = None) -> None:
    colour, marker, filled, _ = MARKS[status]
    face = COLOURS[colour] if filled else "none"
    style = {"linewidths": 0 if filled else 1.2, "alpha": 0.9, "zorder": 3, "gid": gid, "clip_on": False}
    axes.scatter(*zip(*points, strict=True), s=size, marker=marker, facecolors=face, edgecolors=COLOURS[colour], **style)


def line(colour: str, width: float, marker: str = "", style: str = "-") -> Any:
    """Return a line for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=COLOURS[colour], linewidth=width, marker=marker, linestyle=style, markersize=4.5)


def _legend(trials: Iterable[Trial], leave: Sequence[str] = ()) -> list[tuple[str, Any]]:
    from matplotlib.lines import Line2D

    present, entries = {trial.status for trial in trials} - set(leave), []
    for status, (colour, marker, filled, name) in MARKS.items():
        if status in present:
            face = COLOURS[colour] if filled else "none"
            style: dict[str, Any] = {
                "markerfacecolor": face,
                "markeredgecolor": COLOURS[colour],
                "markersize": 5.5,
                "markeredgewidth": 0 if filled else 1.2,
            }
            entries.append((name, Line2D([], [], linestyle="", marker=marker, **style)))
    return entries


def _epochs(axes: Any, trials: Sequence[Trial], label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {label}, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    last = max((epoch for trial in trials for epoch, _ in trial.curve), default=1)
    axes.set_xlim(min(0.8, last - 0.5), last + 0.2)


def _strip(trial: Trial, at: float) -> float:
    """Spread the trials of a category, so that marks do not overlap: the trial's number sets its place in the strip."""
    digits = int(re.sub(r"\D", "", trial.name)[-9:] or 0)
    return at + ((digits * 0.618034) % 1 - 0.5) * 0.44


def _strips(axes: Any, axis: SearchDimension, placed: Sequence[tuple[Trial, float]]) -> None:
    for index in range(len(axis.values)):
        scores = [t.score for t, at in placed if at == index and t.status == "complete" and t.score is not None]
        if scores:
            axes.plot([index - 0.3, index + 0.3], [statistics.median(scores)] * 2, color=COLOURS["fg"], linewidth=1.4, zorder=2)
    names = [plain(value, 14 if len(axis.values) < 5 else 8) for value in axis.values]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="x", visible=False)


def _log_axis(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: (f"{value:.0e}" if value < 1e-3 else f"{value:g}").replace("e-0", "e-"))
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
