"""Represent the finals of a study as a ledger, as for an ablation, so that all forms can write both."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.records.record_fields import BAG_OF_WORDS
from analysis.records.run_folder import Run
from analysis.records.trials import Trial
from analysis.results import final_settings
from analysis.results.final_settings import Finals
from analysis.results.ledger import Cell, Ledger, SeedRun
from analysis.results.read_ablation import settle
from analysis.tables import sentences
from analysis.tables.published_layout import CellText, TableLayout, ours
from analysis.text.plain import plain

COMMAND = "study run RUN"
"""Command that resumes a study, or shows that it is finished."""


def ledger(finals: Finals) -> Ledger:
    """Return a ledger with a cell for each final setting, best on validation first, and one for the bag of words."""
    run = finals.run
    fields = {"name": run.name, "command": COMMAND}
    problems = [plain(problem, 160) for problem in run.problems]
    result = Ledger(fields, [], problems, kind="study", finished=run.state == "finished")
    task = task_name(run)
    for index, (key, label) in enumerate(_settings(finals)):
        trials = [trial for trial in run.finals if trial.setting == key]
        cell = Cell(label, "", task, index, run.metric, max(_seeds(run), len(trials)))
        cell.runs = [SeedRun(".", trial, run.metric.score(trial.test) if trial.test else None) for trial in trials]
        settle(result, cell, run.folder)
        result.cells.append(cell)
        result.params[task, index] = trials[0].params
    if "test" in run.baseline:
        row = run.baseline["test"]
        trial = Trial(BAG_OF_WORDS, "baseline", label="bag of words", status="complete", test=row)
        trial.seconds = row.get("seconds") or 0.0
        runs = [SeedRun(".", trial, run.metric.score(row))]
        result.cells.append(Cell("bag of words", "", task, len(result.cells), run.metric, 1, runs))
    return result


def task_name(run: Run) -> str:
    """Name of the task whose test split is read."""
    tested = next((task for task, split in run.distinct("task", "split") if task and split == "test"), None)
    return plain(tested or run.config.get("task") or "the task", 60)


def _settings(finals: Finals) -> list[tuple[str, str]]:
    """(setting, label) of all finals: those with a number in their order, then those without."""
    ranked = {setting.key: plain(setting.label) for setting in finals.settings}
    return list((ranked | {t.setting: t.label or t.setting for t in finals.run.finals if t.setting not in ranked}).items())


def _seeds(run: Run) -> int:
    final = run.config.get("final")
    seeds = final.get("seeds") if isinstance(final, dict) else None
    return seeds if isinstance(seeds, int) else 1


def layout(finals: Finals, ledger: Ledger) -> TableLayout:
    """Return the ledger as a table in which the chosen setting is marked, which is not always the best on test."""
    run, chosen = finals.run, final_settings.is_settled(finals.run)
    rows = [
        (c.label, (CellText(ours(c), "", "chosen" if chosen and i == 0 else "", c.state, c),)) for i, c in enumerate(ledger.cells)
    ]
    notes: Sequence[str] = [f"The {'chosen' if chosen else 'best'} setting is {text}." for text in sentences.comparisons(finals)]
    return TableLayout((f"test {run.metric.label} %",), tuple(rows), tuple(sentences.facts(finals)), tuple(notes))
