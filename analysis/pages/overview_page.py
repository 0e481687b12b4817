"""Write one report over several runs: the answer of every run, a table of all cells, and links to the runs' own reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from analysis.pages import output
from analysis.pages.study_page import render
from analysis.results.ledger import Cell
from analysis.tables import forms
from analysis.tables.published_layout import ours
from analysis.text.numbers import DASH, aligned, interval, md, over_seeds, wrapped
from analysis.text.plain import plain
from analysis.text.plain_data import csv_text, json_text
from analysis.text.tex import TexColumn, table, tex

COMPARE = "study compare RUN_A RUN_B compares two runs setting by setting, paired over the test texts, with verdicts."


@dataclass(frozen=True)
class Entry:
    """One of several runs."""

    name: str
    """Name of the folder with its own report."""
    report: output.Report

    @property
    def kind(self) -> str:
        """`study`, or `ablation` with its scale."""
        ledger = self.report.ledger
        return ledger.kind if ledger.kind == "study" else f"{ledger.kind}, scale {ledger.scale}"

    @property
    def state(self) -> str:
        """`finished` or `unfinished`."""
        return "finished" if self.report.ledger.finished else "unfinished"


@dataclass(frozen=True)
class Row:
    """One cell of one run, as text."""

    run: str
    task: str
    setting: str
    metric: str
    ours: str
    interval: str
    paper: str
    cell: Cell
    link: str
    """Link to its provenance on the run's page; empty without runs."""


@dataclass(frozen=True)
class Matrix:
    """Table of the settings that several runs have."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def files(entries: Sequence[Entry], lost: Sequence[str]) -> output.Files:
    """Return the report of these runs in all forms; `lost` holds sentences on folders that could not be used."""
    return {
        "html": {"report.html": lambda: page(entries, lost)},
        "md": {"table.md": lambda: markdown(entries, lost)},
        "tex": {"table.tex": lambda: latex(entries, lost)},
        "csv": {"cells.csv": lambda: csv(entries)},
        "json": {"report.json": lambda: as_json(entries, lost)},
        "txt": {"table.txt": lambda: text(entries, lost)},
        "": {"provenance.csv": lambda: provenance_csv(entries)},
    }


def rows(entries: Sequence[Entry]) -> list[Row]:
    """Return every cell of every run."""
    return [_row(entry, index, cell) for entry in entries for index, cell in enumerate(entry.report.ledger.cells)]


def _row(entry: Entry, index: int, cell: Cell) -> Row:
    ledger = entry.report.ledger
    bounds = interval(cell.interval, 2)
    paper = cell.published.shown if cell.published else ""
    first = cell.runs[0].trial if cell.runs else None
    anchor = "result" if first is None or first.phase == "baseline" else f"trial-{first.name}"
    anchor = f"cell-{index}" if ledger.kind == "ablation" else anchor
    link = f"{quote(entry.name)}/report.html#{quote(anchor)}" if cell.runs else ""
    return Row(entry.name, ledger.task_name(cell.task), cell.label, f"{cell.metric.label} %", ours(cell), bounds, paper, cell, link)


def matrix(entries: Sequence[Entry]) -> Matrix | None:
    """Return the settings that at least two runs have, by task and run; None without any."""
    by_label: dict[str, dict[tuple[str, str, str], str]] = {}
    for entry in entries:
        for cell in entry.report.ledger.cells:
            key = (entry.report.ledger.known_name(cell.task), entry.name, cell.metric.label)
            by_label.setdefault(cell.label, {}).setdefault(key, ours(cell))
    shared = {label: cells for label, cells in by_label.items() if len({run for _, run, _ in cells}) > 1}
    keys = sorted({key for cells in shared.values() for key in cells}, key=lambda key: key[0])  # stable: runs in their order
    if not keys:
        return None
    order = {entry.name: place for place, entry in enumerate(entries)}
    keys.sort(key=lambda key: (key[0], order[key[1]], key[2]))
    head = tuple(f"{', '.join(dict.fromkeys((task, run)))} ({metric} %)" for task, run, metric in keys)
    return Matrix(head, tuple((label, tuple(cells.get(key, "") for key in keys)) for label, cells in shared.items()))


def headline(entries: Sequence[Entry]) -> str:
    """Count the runs: `2 studies, 1 ablation`."""
    counts = [(kind, sum(e.report.ledger.kind == kind for e in entries)) for kind in ("study", "ablation")]
    plural = {"study": "studies", "ablation": "ablations"}
    return ", ".join(f"{count} {kind if count == 1 else plural[kind]}" for kind, count in counts if count)


def sentence(entries: Sequence[Entry]) -> str:
    """Return sentences on the number of cells with a number and unfinished runs."""
    cells = [cell for entry in entries for cell in entry.report.ledger.cells]
    tasks = list(dict.fromkeys(e.report.ledger.known_name(c.task) for e in entries for c in e.report.ledger.cells))
    done, open_ = sum(cell.mean is not None for cell in cells), sum(not e.report.ledger.finished for e in entries)
    few = ", ".join(tasks[:6]) + (f" and {len(tasks) - 6} more" if len(tasks) > 6 else "")
    text = f"{done} of {len(cells)} cells have a number" + (f", on {few}." if tasks else ".")
    return text + (f" {open_} of {len(entries)} runs {'has' if open_ == 1 else 'have'} not finished." if open_ else "")


def notes(entries: Sequence[Entry]) -> list[str]:
    """Return the sentences that explain the tables."""
    cells = [cell for entry in entries for cell in entry.report.ledger.cells]
    intervals = "; 95 % over seeds and texts" if any(cell.interval for cell in cells) else ""
    sentences = [f"Ours: test score in percent, {over_seeds(any(cell.sd is not None for cell in cells))}{intervals}."]
    if any(cell.published for cell in cells):
        sentences.append(
            "Published numbers are of the papers' own data, encoders and sizes; ours are shown beside them and do not replace them."
        )
    if statistics := [e.name for e in entries if not e.report.ledger.cells and e.report.ledger.definition.get("statistics")]:
        sentences.append(f"Statistics of texts are only in the report of {', '.join(statistics)}.")
    if matrix(entries) and any(entry.report.ledger.kind == "study" for entry in entries):
        sentences.append(
            "best 1, best 2 and so on are settings that each study chose: the labels are the same, the settings may differ."
        )
    return [*sentences, COMPARE]


# Forms ---------------------------------------------------------------------------------------------------------------------------

HEAD = ("run", "task", "setting", "metric", "ours", "95 %", "paper")


def page(entries: Sequence[Entry], lost: Sequence[str]) -> str:
    """Format the report as one HTML page, with links to the pages of the runs."""
    return render(
        "overview.html",
        headline=headline(entries),
        sentence=sentence(entries),
        entries=entries,
        links={entry.name: f"{quote(entry.name)}/report.html" for entry in entries},
        lost=lost,
        rows=rows(entries),
        matrix=matrix(entries),
        notes=notes(entries),
    )


def markdown(entries: Sequence[Entry], lost: Sequence[str]) -> str:
    """Format the report as Markdown, such as for a GitHub comment."""
    parts = [f"# {md(headline(entries))}", md(sentence(entries))]
    parts.append("\n".join(f"- **{md(e.name)}** ({md(e.kind)}, {e.state}): {md(_summary(e))}" for e in entries))
    if shared := matrix(entries):
        body = [[md(label), *map(md, cells)] for label, cells in shared.rows]
        parts.append(_md_table(["", *map(md, shared.head)], body, 1))
    parts.append(_md_table(list(HEAD), [list(map(md, _texts(row))) for row in rows(entries)], 4))
    parts.append("\n".join(f"- {md(note)}" for note in [*notes(entries), *lost]))
    return "\n\n".join(parts) + "\n"


def _summary(entry: Entry) -> str:
    return " ".join([f"{entry.report.headline.rstrip('.')}. {entry.report.sentence}", *entry.report.missing])


def _texts(row: Row) -> list[str]:
    return [row.run, row.task, row.setting, row.metric, row.ours, row.interval, row.paper or DASH]


def _md_table(head: Sequence[str], body: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def latex(entries: Sequence[Entry], lost: Sequence[str]) -> str:
    """Format the table of all cells as LaTeX."""
    all_rows = rows(entries)
    columns = [
        TexColumn(name, [[tex(_texts(row)[i])] for row in all_rows], align="l" if i < 4 else "r") for i, name in enumerate(HEAD)
    ]
    remarks = [*notes(entries), *(f"{entry.name}: {text}" for entry in entries for text in entry.report.missing), *lost]
    comments = [f"{entry.name}: {entry.report.headline}" for entry in entries]
    labels = [row.setting for row in all_rows]
    return table(
        labels, [columns[i] for i in (0, 1, 3, 4, 5, 6)], [f"{headline(entries)}.", sentence(entries)], remarks, comments, "setting"
    )


def cells(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return every cell as plain data."""
    return [{"run": e.name} | cell for e in entries for cell in forms.cells(e.report.ledger, e.report.layout)]


def csv(entries: Sequence[Entry]) -> str:
    """Format as tidy CSV: one row a cell."""
    return csv_text(("run", *forms.COLUMNS), cells(entries))


def provenance_csv(entries: Sequence[Entry]) -> str:
    """Format as CSV the origin of every number: one row for every run, cell and seed."""
    table_rows = [
        {"run": e.name} | row for e in entries for cell in e.report.ledger.cells for row in forms.provenance(e.report.ledger, cell)
    ]
    return csv_text(("run", *forms.PROVENANCE), table_rows)


def as_json(entries: Sequence[Entry], lost: Sequence[str]) -> str:
    """Format everything as JSON; provenance is in the runs' own files."""
    data = {
        "runs": [
            {
                "run": e.name,
                "kind": e.report.ledger.kind,
                "name": e.report.ledger.name,
                "finished": e.report.ledger.finished,
                "answer": {"headline": e.report.headline, "sentence": e.report.sentence},
                "missing": list(e.report.missing),
            }
            for e in entries
        ],
        "cells": cells(entries),
        "notes": notes(entries),
        "missing": list(lost),
    }
    return json_text(data)


def text(entries: Sequence[Entry], lost: Sequence[str]) -> str:
    """Format for a terminal, at most 80 columns: the answer and the cells of every run."""
    all_rows = rows(entries)
    parts = [wrapped(plain(f"{headline(entries)}. {sentence(entries)}"))]
    for entry in entries:
        answer = "\n".join([wrapped(plain(f"{entry.name} ({entry.kind}, {entry.state})")), wrapped(plain(_summary(entry)))])
        mine = [row for row in all_rows if row.run == entry.name]
        lines = [[plain(row.setting, 26), plain(row.task, 20), plain(row.ours, 18), plain(row.paper or DASH, 8)] for row in mine]
        metrics = " or ".join(dict.fromkeys(row.metric for row in mine))
        parts += [answer, *([aligned([["", "task", plain(metrics, 18), "paper"], *lines])] if lines else [])]
    parts.append("\n".join(wrapped(plain(note)) for note in [*notes(entries), *lost]))
    return "\n\n".join(parts) + "\n"
