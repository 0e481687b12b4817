"""The report of an ablation: tables beside the published ones, verdicts on the claims, figures, provenance. From records alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from analysis.figures.paper_figures import figures
from analysis.pages import details, output
from analysis.pages.details import Detail, Told
from analysis.pages.study_page import Tile, inline, render
from analysis.results import claims, cost, sides
from analysis.results.claims import KINDS, Verdict, verdicts
from analysis.results.ledger import Cell, Ledger
from analysis.results.read_ablation import ledger
from analysis.tables import forms
from analysis.tables.forms import tally
from analysis.tables.published_layout import LEVEL, Grid, grid, missing
from analysis.text.numbers import DASH, NARROW, count, duration, interval, number, spread, wrapped
from analysis.text.plain import plain

REFUSED = 20
"""Files of predictions that the page says could not be used."""


def read(run_folder: Path) -> output.Report:
    """The report of an ablation's run folder, before it is written.

    Raises ValueError for a file that is no ablation, FileNotFoundError without one.
    """
    found = ledger(run_folder)
    table, judged, drawn = grid(found), verdicts(found), figures(found)
    told, close = cache(partial(tell, found)), look(found)  # page and csv files alone need what is told of every cell
    said, lacking = answer(found, judged), missing(found)
    every = [*drawn, *(figure for each in close for figure in each.figures.values())]
    files: output.Files = {
        "html": {"report.html": lambda: page(found, table, judged, drawn, told(), close)},
        "md": {"table.md": lambda: forms.markdown(found, table, judged)},
        "tex": {"table.tex": lambda: forms.latex(found, table, judged)},
        "csv": {"cells.csv": lambda: forms.csv(found, table)}
        | details.csv_files(("task", "row", "column", "seeds"), lambda: [(_about(cell), each) for cell, each in told()]),
        "json": {"report.json": lambda: forms.as_json(found, table, judged, said, lacking)},
        "txt": {"table.txt": lambda: forms.text(found, table, judged)},
        "": {"provenance.csv": lambda: forms.provenance_csv(found)}
        | {f"figures/{figure.name}.svg": partial(str, figure.svg) for figure in every},
    }
    return output.Report(found, table, *said, lacking, files)


def text(run_folder: Path) -> str:
    """Verdicts and table for a terminal. Raises as `read` does."""
    found = ledger(run_folder)
    return forms.text(found, grid(found), verdicts(found))


def tell(found: Ledger) -> list[tuple[Cell, Told]]:
    """Classes, lengths and calibration of every cell that has a number."""
    return [(cell, details.told(sides.of_cell(found, cell))) for cell in found.cells if cell.finished]


def look(found: Ledger) -> list[Detail]:
    """Of every task two settings side by side."""
    made = []
    for place, task in enumerate(found.tasks):
        pair = [sides.of_cell(found, cell) for cell in claims.sides(found, task)]
        made.append(details.detail(found.task_name(task), str(place), pair))
    return [each for each in made if each is not None]


def _about(cell: Cell) -> dict[str, Any]:
    return {"task": cell.task, "row": cell.row, "column": cell.column or None, "seeds": len(cell.finished)}


def cost_text(found: Ledger) -> str:
    """What an ablation has cost, for a terminal; empty before anything has trained."""
    made = spent(found)
    if made is None:
        return ""
    _, _, tokens, time, *_ = made.total.cells
    said = [f"Trained here on {tokens} tokens in {time} of training, runs at the same time added up.", *made.sharing, *made.energy]
    return "\n".join(map(wrapped, said)).replace(NARROW, " ")


def spent(found: Ledger) -> cost.Cost | None:
    """What an ablation has cost; None before anything has trained."""
    return cost.together(found.accounts, [run.trial for cell in found.cells for run in cell.runs], "every cell and seed")


def page(
    found: Ledger,
    table: Grid,
    judged: Sequence[Verdict],
    drawn: Sequence[Any],
    told: Sequence[tuple[Cell, Told]],
    close: Sequence[Detail],
) -> str:
    """The report as one HTML page that asks for nothing else."""
    anchors = {(cell.task, cell.setting): f"cell-{index}" for index, cell in enumerate(found.cells)}
    headline, sentence = answer(found, judged)
    some = next((forms.again(cell, run) for cell in found.cells for run in cell.finished), None)
    return render(
        "ablation.html",
        ledger=found,
        grid=table,
        headline=headline,
        sentence=sentence,
        tiles=tiles(found, judged),
        missing=missing(found),
        verdicts=[{"kind": v.kind, "says": v.says, "because": _because(v)} for v in judged],
        kinds=KINDS,
        level=LEVEL,
        anchors=anchors,
        figures=drawn,
        inline=inline({figure.name: figure for figure in [*drawn, *(f for each in close for f in each.figures.values())]}),
        errors=close,
        calibrated=told if any(each.calibration for _, each in told) else (),
        refused=[f"{found.task_name(cell.task)}, {cell.label}: {text}" for cell, each in told for text in each.problems][:REFUSED],
        score_heads=details.SCORES,
        score_facts=details.facts(each for _, each in told),
        number=number,
        spread=spread,
        cost=spent(found),
        cost_head=cost.HEAD,
        details=[_detail(found, cell) for cell in found.cells],
        runs=list(itertools.chain.from_iterable(_runs(found, cell, anchors) for cell in found.cells)),
        commands=[
            (forms.command(found), "the same again; what the store holds is not computed again"),
            ("study report RUN", "this report from the run folder RUN"),
            *([(some, "one number again; each has its own line in provenance.csv")] if some else []),
        ],
        versions=sorted(found.versions.items()),
    )


def answer(found: Ledger, judged: Sequence[Verdict]) -> tuple[str, str]:
    """(what came out, what was asked and how sure the answer is)."""
    done = sum(bool(cell.finished) for cell in found.cells)
    settings, tasks = len({cell.setting for cell in found.cells}), len(found.tasks)
    seeds = max((cell.wanted for cell in found.cells), default=0)
    parts = [f"{settings} settings", f"{tasks} task{'s' * (tasks != 1)}", f"{seeds} seed{'s' * (seeds != 1)}"]
    asked = f"{found.title.rstrip('.')}: {' x '.join(parts)} at scale {found.scale}"
    asked += f", beside {found.source}." if found.source else "."
    if done < len(found.cells):
        asked += f" {done} of {len(found.cells)} cells have a number."
    if judged:
        headline = tally(judged) if found.scale == "paper" else f"at scale {found.scale}: {tally(judged)}"
        headline = headline[:1].upper() + headline[1:]
        asked += " Differences are paired over test texts and seeds."
    elif found.about.get("statistics"):
        return found.title, f"Statistics of {len(found.statistics)} data sets at scale {found.scale}, beside {found.source}."
    else:
        headline = _leader(found) or (f"{done} of {len(found.cells)} cells have a number" if done else "No result yet")
    return headline, asked


def _leader(found: Ledger) -> str:
    """The best setting, where there is one task and one best."""
    cells = [cell for cell in found.cells if cell.mean is not None]
    if len(found.tasks) != 1 or not cells:
        return ""
    order = sorted(cells, key=lambda cell: cell.metric.turned(cell.mean or 0.0))
    if len(order) > 1 and order[0].mean == order[1].mean:
        return ""
    return f"{order[0].label} leads with {order[0].mean:.2f} % {order[0].metric.label}"


def tiles(found: Ledger, judged: Sequence[Verdict]) -> list[Tile]:
    """Numbers that stand out at the top."""
    made = [
        Tile(KINDS[kind], str(sum(v.kind == kind for v in judged)), f"of {len(judged)}", "claims")
        for kind in KINDS
        if any(v.kind == kind for v in judged)
    ]
    done = sum(bool(cell.finished) for cell in found.cells)
    seeds = [len(cell.finished) for cell in found.cells if cell.finished]
    spread = f"{min(seeds)} to {max(seeds)} seeds each" if seeds and min(seeds) < max(seeds) else ""
    spread = spread or (f"{seeds[0]} seed{'s' * (seeds[0] != 1)} each" if seeds else "")
    if found.cells:
        made.append(Tile("cells with a number", str(done), f"of {len(found.cells)}", spread))
    return made


def _because(found: Verdict) -> str:
    """The verdict's words without its name, which stands before them."""
    return found.text.removeprefix(f"{KINDS[found.kind]}: ")


def _detail(found: Ledger, cell: Cell) -> dict[str, Any]:
    bounds, drawn = interval(cell.interval, 2), interval(cell.bootstrap, 2)
    texts = f"{cell.estimate.texts:,}" if cell.estimate else DASH
    trials = [run.trial for run in cell.runs]
    effort = (
        [count(sum(trial.tokens for trial in trials)), duration(sum(trial.seconds for trial in trials))] if trials else [DASH] * 2
    )
    seeds = f"{len(cell.finished)} of {cell.wanted}"
    return {
        "label": cell.label,
        "task": found.task_name(cell.task),
        "state": cell.state,
        "numbers": [number(cell.mean), number(cell.sd), bounds, drawn, seeds, texts, *effort],
    }


def _runs(found: Ledger, cell: Cell, anchors: dict[tuple[str, int], str]) -> list[dict[str, Any]]:
    """Rows of the table of provenance; the first of a cell is what its number links to."""
    rows = []
    for place, run in enumerate(cell.runs):
        stages = [plain(stage, 80) for stage in run.trial.stage_ids]
        rows.append(
            {
                "anchor": anchors[cell.task, cell.setting] if place == 0 else "",
                "label": cell.label,
                "task": found.task_name(cell.task),
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
