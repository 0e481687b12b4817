"""Write the report of an ablation from its records: tables beside the published ones, verdicts on claims, figures, provenance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from analysis.figures.paper_figures import figures
from analysis.pages import details, output
from analysis.pages.details import ComparedDetails, Details
from analysis.pages.study_page import Tile, inline, render
from analysis.results import claims, cost, sides
from analysis.results.claims import KINDS, Verdict, verdicts
from analysis.results.ledger import Cell, Ledger
from analysis.results.origin import merged
from analysis.results.read_ablation import ledger
from analysis.tables import forms
from analysis.tables.forms import tally
from analysis.tables.published_layout import LEVEL, TableLayout, layout, missing
from analysis.text.numbers import DASH, NARROW, count_text, duration, interval, number, spread, wrapped
from analysis.text.plain import plain

REFUSED = 20
"""Largest number of unusable files of predictions that the page lists."""


def read(run_folder: Path) -> output.Report:
    """Return the report of an ablation's run folder, before it is written.

    Raises ValueError for a damaged `ablation.yaml`, FileNotFoundError without one.
    """
    result = ledger(run_folder)
    table, judged, drawn = layout(result), verdicts(result), figures(result)
    described = cache(partial(cell_details, result))  # slow, and only the page and the csv files need it
    comparisons, gaps = compared_details(result), missing(result)
    headline_and_sentence = answer(result, judged)
    all_figures = [*drawn, *(figure for comparison in comparisons for figure in comparison.figures.values())]
    files: output.Files = {
        "html": {"report.html": lambda: page(result, table, judged, drawn, described(), comparisons)},
        "md": {"table.md": lambda: forms.markdown(result, table, judged)},
        "tex": {"table.tex": lambda: forms.latex(result, table, judged)},
        "csv": {"cells.csv": lambda: forms.csv(result, table)}
        | details.csv_files(
            ("task", "row", "column", "seeds"), lambda: [(_row_key(cell), setting) for cell, setting in described()]
        ),
        "json": {"report.json": lambda: forms.as_json(result, table, judged, headline_and_sentence, gaps)},
        "txt": {"table.txt": lambda: forms.text(result, table, judged)},
        "": {"provenance.csv": lambda: forms.provenance_csv(result)} | output.figure_files(all_figures),
    }
    return output.Report(result, table, *headline_and_sentence, gaps, files)


def text(run_folder: Path) -> str:
    """Format verdicts and table for a terminal. Raises as `read` does."""
    result = ledger(run_folder)
    return forms.text(result, layout(result), verdicts(result))


def cell_details(ledger: Ledger) -> list[tuple[Cell, Details]]:
    """Return (cell, its details) of every cell that has a number."""
    return [(cell, details.details_of(sides.of_cell(ledger, cell))) for cell in ledger.cells if cell.finished]


def compared_details(ledger: Ledger) -> list[ComparedDetails]:
    """Return a comparison of two settings for every task."""
    comparisons = []
    for place, task in enumerate(ledger.tasks):
        pair = [sides.of_cell(ledger, cell) for cell in claims.sides(ledger, task)]
        comparisons.append(details.compare_details(ledger.task_name(task), str(place), pair))
    return [comparison for comparison in comparisons if comparison is not None]


def _row_key(cell: Cell) -> dict[str, Any]:
    return {"task": cell.task, "row": cell.row, "column": cell.column or None, "seeds": len(cell.finished)}


def cost_text(ledger: Ledger) -> str:
    """Format the cost of an ablation for a terminal; empty before anything has trained."""
    total = spent(ledger)
    if total is None:
        return ""
    _, _, tokens, time, *_ = total.total.cells
    sentences = [
        f"Trained here on {tokens} tokens in {time} of training, summed over parallel runs.",
        *total.sharing,
        *total.energy,
    ]
    return "\n".join(map(wrapped, sentences)).replace(NARROW, " ")


def spent(ledger: Ledger) -> cost.Cost | None:
    """Return the cost of an ablation; None before anything has trained."""
    return cost.together(ledger.accounts, [run.trial for cell in ledger.cells for run in cell.runs], "every cell and seed")


def page(
    ledger: Ledger,
    table: TableLayout,
    judged: Sequence[Verdict],
    drawn: Sequence[Any],
    details_by_cell: Sequence[tuple[Cell, Details]],
    comparisons: Sequence[ComparedDetails],
) -> str:
    """Format the report as one HTML page without external files."""
    anchors = {(cell.task, cell.setting): f"cell-{index}" for index, cell in enumerate(ledger.cells)}
    headline, sentence = answer(ledger, judged)
    example = next((forms.again(cell, run) for cell in ledger.cells for run in cell.finished), None)
    return render(
        "ablation.html",
        ledger=ledger,
        layout=table,
        headline=headline,
        sentence=sentence,
        tiles=tiles(ledger, judged),
        missing=missing(ledger),
        verdicts=[{"kind": v.kind, "says": v.says, "because": v.text.removeprefix(f"{KINDS[v.kind]}: ")} for v in judged],
        kinds=KINDS,
        level=LEVEL,
        anchors=anchors,
        figures=drawn,
        inline=inline({figure.name: figure for figure in [*drawn, *(f for c in comparisons for f in c.figures.values())]}),
        errors=comparisons,
        calibrated=details_by_cell if any(setting.calibration for _, setting in details_by_cell) else (),
        refused=[
            f"{ledger.task_name(cell.task)}, {cell.label}: {text}" for cell, setting in details_by_cell for text in setting.problems
        ][:REFUSED],
        score_heads=details.SCORES,
        score_facts=details.facts(setting for _, setting in details_by_cell),
        number=number,
        spread=spread,
        cost=spent(ledger),
        cost_head=cost.HEAD,
        details=[_detail(ledger, cell) for cell in ledger.cells],
        runs=list(itertools.chain.from_iterable(_runs(ledger, cell, anchors) for cell in ledger.cells)),
        commands=[
            (forms.command(ledger), "the same run; results in the store are reused"),
            ("study report RUN", "this report from the run folder RUN"),
            *([(example, "recomputes one number; provenance.csv has the command for every number")] if example else []),
            ("study export RUN --trial CELL", "the model of a cell, its best seed on validation, as a folder"),
        ],
        origin=merged(ledger.origins).lines,
    )


def answer(ledger: Ledger, judged: Sequence[Verdict]) -> tuple[str, str]:
    """Return (the result as a headline, a sentence on the question and the certainty)."""
    done = sum(bool(cell.finished) for cell in ledger.cells)
    settings, tasks = len({cell.setting for cell in ledger.cells}), len(ledger.tasks)
    seeds = max((cell.wanted for cell in ledger.cells), default=0)
    parts = [f"{settings} settings", f"{tasks} task{'s' * (tasks != 1)}", f"{seeds} seed{'s' * (seeds != 1)}"]
    sentence = f"{ledger.title.rstrip('.')}: {' x '.join(parts)} at scale {ledger.scale}"
    sentence += f", beside {ledger.source}." if ledger.source else "."
    if done < len(ledger.cells):
        sentence += f" {done} of {len(ledger.cells)} cells have a number."
    if judged:
        headline = tally(judged) if ledger.scale == "paper" else f"at scale {ledger.scale}: {tally(judged)}"
        headline = headline[:1].upper() + headline[1:]
        sentence += " Differences are paired over test texts and seeds."
    elif ledger.definition.get("statistics"):
        return ledger.title, f"Statistics of {len(ledger.statistics)} data sets at scale {ledger.scale}, beside {ledger.source}."
    else:
        headline = _leader(ledger) or (f"{done} of {len(ledger.cells)} cells have a number" if done else "No result yet")
    return headline, sentence


def _leader(ledger: Ledger) -> str:
    """Text on the best setting; empty for several tasks or a tie."""
    cells = [cell for cell in ledger.cells if cell.mean is not None]
    if len(ledger.tasks) != 1 or not cells:
        return ""
    order = sorted(cells, key=lambda cell: cell.metric.turned(cell.mean or 0.0))
    if len(order) > 1 and order[0].mean == order[1].mean:
        return ""
    return f"{order[0].label} leads with {order[0].mean:.2f} % {order[0].metric.label}"


def tiles(ledger: Ledger, judged: Sequence[Verdict]) -> list[Tile]:
    """Return the numbers shown at the top of the page."""
    shown = [
        Tile(KINDS[kind], str(sum(v.kind == kind for v in judged)), f"of {len(judged)}", "claims")
        for kind in KINDS
        if any(v.kind == kind for v in judged)
    ]
    done = sum(bool(cell.finished) for cell in ledger.cells)
    seeds = [len(cell.finished) for cell in ledger.cells if cell.finished]
    spread = f"{min(seeds)} to {max(seeds)} seeds each" if seeds and min(seeds) < max(seeds) else ""
    spread = spread or (f"{seeds[0]} seed{'s' * (seeds[0] != 1)} each" if seeds else "")
    if ledger.cells:
        shown.append(Tile("cells with a number", str(done), f"of {len(ledger.cells)}", spread))
    return shown


def _detail(ledger: Ledger, cell: Cell) -> dict[str, Any]:
    bounds, drawn = interval(cell.interval, 2), interval(cell.bootstrap, 2)
    texts = f"{cell.estimate.texts:,}" if cell.estimate else DASH
    trials = [run.trial for run in cell.runs]
    effort = (
        [count_text(sum(trial.tokens for trial in trials), NARROW), duration(sum(trial.seconds for trial in trials))]
        if trials
        else [DASH] * 2
    )
    seeds = f"{len(cell.finished)} of {cell.wanted}"
    return {
        "label": cell.label,
        "task": ledger.task_name(cell.task),
        "state": cell.state,
        "numbers": [number(cell.mean), number(cell.sd), bounds, drawn, seeds, texts, *effort],
    }


def _runs(ledger: Ledger, cell: Cell, anchors: dict[tuple[str, int], str]) -> list[dict[str, Any]]:
    """Rows of the table of provenance; a number in the table links to the first row of its cell."""
    rows = []
    for place, run in enumerate(cell.runs):
        stages = [plain(stage, 80) for stage in run.trial.stage_ids]
        rows.append(
            {
                "anchor": anchors[cell.task, cell.setting] if place == 0 else "",
                "label": cell.label,
                "task": ledger.task_name(cell.task),
                "seed": run.trial.seed,
                "score": run.score,
                "shown": number(run.score),
                "status": run.trial.status,
                "reason": run.trial.reason if run.trial.status in ("diverged", "failed") else "",
                "study": plain(run.study, 60),
                "trial": plain(run.trial.name, 20),
                "stage": stages[-1][:12] if stages else DASH,
                "stages": ", ".join(stages),
            }
        )
    return rows
