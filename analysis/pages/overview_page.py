"""Several runs in one report: what each asked and found, all their cells in one table, and the way to each run's own report."""

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
from analysis.text.tex import Column, table, tex

COMPARE = "study compare RUN_A RUN_B weighs two runs, setting by setting: paired over the test texts, a verdict for each."


@dataclass(frozen=True)
class Entry:
    """One run of several."""

    name: str
    """Folder of its own report."""
    report: output.Report

    @property
    def kind(self) -> str:
        """study or ablation, and of the latter its scale."""
        ledger = self.report.ledger
        return ledger.kind if ledger.kind == "study" else f"{ledger.kind}, scale {ledger.scale}"

    @property
    def state(self) -> str:
        """Whether it has finished."""
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
    """Where its page tells which runs made it."""


@dataclass(frozen=True)
class Matrix:
    """Settings that several runs have, side by side."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def files(entries: Sequence[Entry], lost: Sequence[str]) -> output.Files:
    """All forms of the report of these runs; `lost` says which folders could not be used."""
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
    """Every cell of every run."""
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
    """Settings that at least two runs have, by task and run; None where there is none."""
    found: dict[str, dict[tuple[str, str, str], str]] = {}
    for entry in entries:
        for cell in entry.report.ledger.cells:
            key = (entry.report.ledger.known_name(cell.task), entry.name, cell.metric.label)
            found.setdefault(cell.label, {}).setdefault(key, ours(cell))
    shared = {label: cells for label, cells in found.items() if len({run for _, run, _ in cells}) > 1}
    keys = sorted({key for cells in shared.values() for key in cells}, key=lambda key: key[0])  # stable: runs in their order
    if not keys:
        return None
    order = {entry.name: place for place, entry in enumerate(entries)}
    keys.sort(key=lambda key: (key[0], order[key[1]], key[2]))
    head = tuple(f"{', '.join(dict.fromkeys((task, run)))} ({metric} %)" for task, run, metric in keys)
    return Matrix(head, tuple((label, tuple(cells.get(key, "") for key in keys)) for label, cells in shared.items()))


def headline(entries: Sequence[Entry]) -> str:
    """`2 studies, 1 ablation`."""
    counts = [(kind, sum(e.report.ledger.kind == kind for e in entries)) for kind in ("study", "ablation")]
    plural = {"study": "studies", "ablation": "ablations"}
    return ", ".join(f"{count} {kind if count == 1 else plural[kind]}" for kind, count in counts if count)


def sentence(entries: Sequence[Entry]) -> str:
    """How many cells have a number, and of which tasks."""
    cells = [cell for entry in entries for cell in entry.report.ledger.cells]
    tasks = list(dict.fromkeys(e.report.ledger.known_name(c.task) for e in entries for c in e.report.ledger.cells))
    done, open_ = sum(cell.mean is not None for cell in cells), sum(not e.report.ledger.finished for e in entries)
    few = ", ".join(tasks[:6]) + (f" and {len(tasks) - 6} more" if len(tasks) > 6 else "")
    said = f"{done} of {len(cells)} cells have a number" + (f", on {few}." if tasks else ".")
    return said + (f" {open_} of {len(entries)} runs {'has' if open_ == 1 else 'have'} not finished." if open_ else "")


def notes(entries: Sequence[Entry]) -> list[str]:
    """What one must know to read the tables."""
    cells = [cell for entry in entries for cell in entry.report.ledger.cells]
    intervals = "; 95 % over seeds and texts" if any(cell.interval for cell in cells) else ""
    said = [f"Ours: test score in percent, {over_seeds(any(cell.sd is not None for cell in cells))}{intervals}."]
    if any(cell.published for cell in cells):
        said.append(
            "Published numbers are of the papers' own data, encoders and sizes; ours stand beside them, not in their place."
        )
    if statistics := [e.name for e in entries if not e.report.ledger.cells and e.report.ledger.about.get("statistics")]:
        said.append(f"Statistics of texts are in the report of {', '.join(statistics)} alone.")
    if matrix(entries) and any(entry.report.ledger.kind == "study" for entry in entries):
        said.append("best 1, best 2 and so on are what each study chose: the label is the same, the setting is the study's own.")
    return [*said, COMPARE]


# Forms ---------------------------------------------------------------------------------------------------------------------------

HEAD = ("run", "task", "setting", "metric", "ours", "95 %", "paper")


def page(entries: Sequence[Entry], lost: Sequence[str]) -> str:
    """As one HTML page, with links to the page of each run."""
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
    """For a GitHub comment."""
    parts = [f"# {md(headline(entries))}", md(sentence(entries))]
    parts.append("\n".join(f"- **{md(e.name)}** ({md(e.kind)}, {e.state}): {md(_said(e))}" for e in entries))
    if found := matrix(entries):
        body = [[md(label), *map(md, cells)] for label, cells in found.rows]
        parts.append(_md_table(["", *map(md, found.head)], body, 1))
    parts.append(_md_table(list(HEAD), [list(map(md, _texts(row))) for row in rows(entries)], 4))
    parts.append("\n".join(f"- {md(each)}" for each in [*notes(entries), *lost]))
    return "\n\n".join(parts) + "\n"


def _said(entry: Entry) -> str:
    return " ".join([f"{entry.report.headline.rstrip('.')}. {entry.report.sentence}", *entry.report.missing])


def _texts(row: Row) -> list[str]:
    return [row.run, row.task, row.setting, row.metric, row.ours, row.interval, row.paper or DASH]


def _md_table(head: Sequence[str], body: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def latex(entries: Sequence[Entry], lost: Sequence[str]) -> str:
    """The table of all cells."""
    found = rows(entries)
    columns = [Column(name, [[tex(_texts(row)[i])] for row in found], align="l" if i < 4 else "r") for i, name in enumerate(HEAD)]
    said = [*notes(entries), *(f"{entry.name}: {text}" for entry in entries for text in entry.report.missing), *lost]
    comments = [f"{entry.name}: {entry.report.headline}" for entry in entries]
    labels = [row.setting for row in found]
    return table(
        labels, [columns[i] for i in (0, 1, 3, 4, 5, 6)], [f"{headline(entries)}.", sentence(entries)], said, comments, "setting"
    )


def cells(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Every cell as plain data."""
    return [{"run": e.name} | cell for e in entries for cell in forms.cells(e.report.ledger, e.report.grid)]


def csv(entries: Sequence[Entry]) -> str:
    """Tidy: one row a cell."""
    return csv_text(("run", *forms.COLUMNS), cells(entries))


def provenance_csv(entries: Sequence[Entry]) -> str:
    """One row for each cell and seed of each run."""
    made = [
        {"run": e.name} | row for e in entries for cell in e.report.ledger.cells for row in forms.provenance(e.report.ledger, cell)
    ]
    return csv_text(("run", *forms.PROVENANCE), made)


def as_json(entries: Sequence[Entry], lost: Sequence[str]) -> str:
    """Everything as plain data; provenance is in the runs' own."""
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
    """For a terminal, at most 80 columns: run after run, its answer and its cells."""
    found = rows(entries)
    parts = [wrapped(plain(f"{headline(entries)}. {sentence(entries)}"))]
    for entry in entries:
        said = "\n".join([wrapped(plain(f"{entry.name} ({entry.kind}, {entry.state})")), wrapped(plain(_said(entry)))])
        mine = [row for row in found if row.run == entry.name]
        lines = [[plain(row.setting, 26), plain(row.task, 20), plain(row.ours, 18), plain(row.paper or DASH, 8)] for row in mine]
        metrics = " or ".join(dict.fromkeys(row.metric for row in mine))
        parts += [said, *([aligned([["", "task", plain(metrics, 18), "paper"], *lines])] if lines else [])]
    parts.append("\n".join(wrapped(plain(each)) for each in [*notes(entries), *lost]))
    return "\n\n".join(parts) + "\n"
