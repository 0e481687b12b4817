"""Write a ledger's table and verdicts as text for a terminal, Markdown, LaTeX, tidy CSV and JSON; provenance as CSV."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from analysis.results.claims import KINDS, Verdict, plain_verdict
from analysis.results.ledger import Cell, Ledger, SeedRun
from analysis.tables.published_layout import LEVEL, CellText, TableLayout, missing
from analysis.text.numbers import WIDTH, aligned, md, wrapped
from analysis.text.plain import plain
from analysis.text.plain_data import csv_text, json_text
from analysis.text.tex import TexColumn, table, tex

BEST = "*"
"""Marks the best in forms without bold type."""


def text(ledger: Ledger, layout: TableLayout, verdicts: Sequence[Verdict]) -> str:
    """Format for a terminal: verdicts, the table in as many parts as 80 columns need, caption, notes, missing results."""
    parts = ["\n".join(wrapped(plain(f"{v.says}: {v.text}")) for v in verdicts)]
    parts += _parts(layout)
    caption = " ".join(layout.caption).replace("Best in bold", f"{BEST} best")
    parts.append("\n".join(map(wrapped, [caption, *layout.notes, *missing(ledger)])))
    return "\n\n".join(part for part in parts if part) + "\n"


def _parts(layout: TableLayout) -> list[str]:
    """The table, split between columns if it is wider than the terminal."""
    labels = [plain(row, 34) for row, _ in layout.rows]
    columns = [
        [plain(head, 40), *(_plain_cell(row[i], layout.has_paper) for _, row in layout.rows)] for i, head in enumerate(layout.head)
    ]
    room = WIDTH - max([len(label) for label in labels], default=0)
    parts: list[list[list[str]]] = []
    left = 0
    for column in columns:
        width = 2 + max(map(len, column))
        if not parts or width > left:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= width
    return [aligned([[label, *row] for label, row in zip(["", *labels], zip(*part, strict=True), strict=True)]) for part in parts]


def _plain_cell(shown: CellText, has_paper: bool) -> str:
    mark = {"best": BEST, "level": LEVEL}.get(shown.mark, " ")
    ours = f"{mark}{shown.ours}" if shown.ours else ""
    return f"{ours} | {shown.paper or '–'}" if has_paper and shown.state != "none" else ours


def markdown(ledger: Ledger, layout: TableLayout, verdicts: Sequence[Verdict]) -> str:
    """Format as Markdown, such as for a GitHub comment."""
    parts = [f"# {md(ledger.name)}: {md(ledger.title)}"]
    if verdicts:
        parts.append("\n".join(f"- **{md(v.says)}**: {md(v.text)}" for v in verdicts))
    rows = [["", *map(md, layout.head)], ["---", *["---:"] * len(layout.head)]]
    for label, row in layout.rows:
        rows.append([md(label), *(_md_cell(shown, layout.has_paper) for shown in row)])
    parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    parts.append(md(" ".join(layout.caption)))
    notes = [*layout.notes, *missing(ledger)]
    parts += ["\n".join(f"- {md(text)}" for text in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _md_cell(shown: CellText, has_paper: bool) -> str:
    ours = f"**{md(shown.ours)}**" if shown.mark == "best" else md(shown.ours) + (f" {LEVEL}" if shown.mark == "level" else "")
    return rf"{ours} \| {md(shown.paper or '–')}" if has_paper and shown.state != "none" else ours


def latex(ledger: Ledger, layout: TableLayout, verdicts: Sequence[Verdict]) -> str:
    """Format as LaTeX for `\\input` in a document that loads booktabs and graphicx; published numbers have their own columns."""
    pair = layout.has_paper
    under = ("ours", "paper") if pair else ("",)
    columns = [TexColumn(name, [_tex_cells(row[i], pair) for _, row in layout.rows], under) for i, name in enumerate(layout.head)]
    labels = [label for label, _ in layout.rows]
    return table(labels, columns, layout.caption, [*layout.notes, *missing(ledger)], [f"{v.says}: {v.text}" for v in verdicts])


def _tex_cells(shown: CellText, pair: bool) -> list[str]:
    ours = tex(shown.ours)
    ours = rf"\textbf{{{ours}}}" if shown.mark == "best" else ours + (tex(LEVEL) if shown.mark == "level" else "")
    return [ours, tex(shown.paper) or ("--" if shown.state != "none" else "")] if pair else [ours]


COLUMNS = (
    *(
        "kind",
        "name",
        "scale",
        "paper",
        "table",
        "task",
        "row",
        "column",
        "metric",
        "state",
        "mean",
        "sd",
        "interval_low",
        "interval_high",
        "bootstrap_low",
        "bootstrap_high",
    ),
    *("seeds", "seeds_wanted", "diverged", "failed", "test_texts", "mark", "published", "published_text", "published_sd"),
    *("published_metric", "published_source", "studies", "trials", "stage_ids"),
)


def csv(ledger: Ledger, layout: TableLayout) -> str:
    """Format as tidy CSV: one row a cell."""
    return csv_text(COLUMNS, cells(ledger, layout))


def cells(ledger: Ledger, layout: TableLayout) -> list[dict[str, Any]]:
    """Return every cell as plain data."""
    marks = {id(shown.cell): shown.mark for _, row in layout.rows for shown in row}
    common: dict[str, Any] = {"kind": ledger.kind, "name": ledger.name, "scale": _scale(ledger)}
    if ledger.definition.get("statistics"):
        shown = [(row, column, cell) for row, cells in layout.rows for column, cell in zip(layout.head, cells, strict=True)]
        return [common | {"row": r, "column": c, "mean": cell.ours, "published_text": cell.paper or None} for r, c, cell in shown]
    rows = []
    for cell in ledger.cells:
        printed, bounds, drawn = cell.published, cell.interval, cell.bootstrap
        rows.append(
            common
            | {
                "paper": printed.paper if printed else None,
                "table": printed.table if printed else None,
                "task": cell.task,
                "row": cell.row,
                "column": cell.column or None,
                "metric": f"{cell.metric.label} %",
                "state": cell.state,
                "mean": cell.mean,
                "sd": cell.sd,
                "interval_low": bounds[0] if bounds else None,
                "interval_high": bounds[1] if bounds else None,
                "bootstrap_low": drawn[0] if drawn else None,
                "bootstrap_high": drawn[1] if drawn else None,
                "seeds": len(cell.finished),
                "seeds_wanted": cell.wanted,
                "diverged": cell.lost("diverged"),
                "failed": cell.lost("failed"),
                "test_texts": cell.estimate.texts if cell.estimate else None,
                "mark": marks.get(id(cell)) or None,
                "published": printed.percent if printed else None,
                "published_text": printed.text if printed else None,
                "published_sd": printed.sd if printed else None,
                "published_metric": printed.metric if printed else None,
                "published_source": printed.source if printed else None,
                "studies": sorted({run.study for run in cell.runs}),
                "trials": [run.trial.name for run in cell.runs],
                "stage_ids": list(dict.fromkeys(stage for run in cell.runs for stage in run.trial.stage_ids)),
            }
        )
    return rows


def _scale(ledger: Ledger) -> str | None:
    return ledger.scale if ledger.kind == "ablation" else None


def as_json(
    ledger: Ledger,
    layout: TableLayout,
    verdicts: Sequence[Verdict],
    answer: tuple[str, str] = ("", ""),
    lacking: Sequence[str] = (),
) -> str:
    """Format everything as JSON; `answer` is (headline, sentence), `lacking` the sentences on missing results."""
    data = {
        "kind": ledger.kind,
        "name": ledger.name,
        "title": ledger.title,
        "answer": {"headline": answer[0], "sentence": answer[1]},
        "scale": _scale(ledger),
        "changes": ledger.changes,
        "source": ledger.source,
        "finished": ledger.finished,
        "claims": [plain_verdict(verdict) for verdict in verdicts],
        "cells": cells(ledger, layout),
        "caption": list(layout.caption),
        "notes": list(layout.notes),
        "missing": list(lacking),
        "provenance": [row for cell in ledger.cells for row in provenance(ledger, cell)],
    }
    return json_text(data)


PROVENANCE = (
    *("task", "row", "column", "seed", "score", "status", "reason", "study", "trial", "stage_ids", "tokens", "seconds", "source"),
    *("records", "predictions", "command", "again"),
)


def provenance_csv(ledger: Ledger) -> str:
    """Format as CSV the origin of every number, one row for each cell and seed; cells without a run are included."""
    return csv_text(PROVENANCE, [row for cell in ledger.cells for row in provenance(ledger, cell)])


def provenance(ledger: Ledger, cell: Cell) -> list[dict[str, Any]]:
    """Return the origin of a cell's numbers, one row for each seed."""
    place = {"task": cell.task, "row": cell.row, "column": cell.column or None}
    if not cell.runs:
        return [place | {"status": "missing", "command": command(ledger)}]
    return [place | _of_run(ledger, run) | {"again": again(cell, run)} for run in cell.runs]


def _of_run(ledger: Ledger, run: SeedRun) -> dict[str, Any]:
    trial, study = run.trial, PurePosixPath(run.study)
    return {
        "seed": trial.seed,
        "score": run.score,
        "status": trial.status,
        "reason": trial.reason or None,
        "study": run.study,
        "trial": trial.name,
        "stage_ids": list(trial.stage_ids),
        "tokens": trial.tokens,
        "seconds": trial.seconds,
        "source": trial.source or None,
        "records": str(study / "records.jsonl"),
        "predictions": str(study / "predictions" / f"{trial.name}-test.parquet") if trial.test else None,
        "command": command(ledger),
    }


def command(ledger: Ledger) -> str:
    """Command that ran, or resumes, the ablation. A command in `ablation.yaml` is used unchanged."""
    own = plain(ledger.definition.get("command") or "", 500)
    return own or f"study reproduce {shlex.quote(ledger.name)} --scale {shlex.quote(ledger.scale)}"


def again(cell: Cell, run: SeedRun) -> str | None:
    """Command that recomputes one number and compares; None for a run without a number."""
    if not run.finished or run.trial.seed is None:
        return None
    return f"study trace RUN {shlex.quote(cell.label)} --task {shlex.quote(cell.task)} --seed {run.trial.seed}"


def tally(verdicts: Sequence[Verdict]) -> str:
    """Count verdicts in words: `2 claims supported, 1 undecided at this size`."""
    counts = [(kind, sum(v.kind == kind for v in verdicts)) for kind in KINDS]
    there = [(kind, count) for kind, count in counts if count]
    parts = [f"{count} {KINDS[kind]}" for kind, count in there]
    if parts:
        first, _, rest = parts[0].partition(" ")
        parts[0] = f"{first} claim{'s' * (first != '1')} {rest}"
    return ", ".join(parts)
