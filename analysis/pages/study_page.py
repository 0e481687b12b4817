"""Write the report of a study from its records: tables, figures, the page. The same records give the same bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from analysis.figures import study_figures
from analysis.figures.svg import COLOURS, Figure
from analysis.pages import details, output
from analysis.pages.details import ComparedDetails, Details
from analysis.records.metric import BESIDE
from analysis.records.run_folder import Run, load, settings_text
from analysis.records.trials import Trial
from analysis.results import cost, final_settings, sharing, sides
from analysis.results.final_settings import Difference, Finals, FinalSetting
from analysis.results.origin import origin
from analysis.stats import labels
from analysis.stats.importance import Importance, importance
from analysis.tables import csv_export, forms, result_table, sentences, study_ledger
from analysis.text import numbers
from analysis.text.plain import plain, shown

TEMPLATES = Path(__file__).parents[1] / "templates"


def read(run: str | Path) -> output.Report:
    """Return the report of a run folder, before it is written. Raises FileNotFoundError if there is no run."""
    records = load(run)
    shares = importance(records.search, records.space)
    finals = Finals(records)
    drawn, comparison = draw(finals, shares), compared_details(finals)
    ledger = study_ledger.ledger(finals)
    table, lacking, headline_and_sentence = study_ledger.layout(finals, ledger), sentences.missing(finals), answer(finals)
    files: output.Files = {
        "html": {"report.html": lambda: page(finals, shares, drawn, comparison)},
        "md": {"table.md": lambda: result_table.markdown(finals)},
        "tex": {"table.tex": lambda: result_table.latex(finals)},
        "csv": {
            "cells.csv": lambda: forms.csv(ledger, table),
            "results.csv": lambda: csv_export.results_csv(records),
            "trials.csv": lambda: csv_export.trials_csv(records),
            "tasks.csv": lambda: csv_export.tasks_csv(records),
        }
        | details.csv_files(("setting", "setting_label", "seeds"), cache(partial(setting_details, finals))),
        "json": {"report.json": lambda: forms.as_json(ledger, table, (), headline_and_sentence, lacking)},
        "txt": {"table.txt": lambda: result_table.result_text(finals)},
        "": {"provenance.csv": lambda: forms.provenance_csv(ledger)} | output.figure_files(_all(drawn, comparison)),
    }
    return output.Report(ledger, table, *headline_and_sentence, lacking, files)


def figures(records: Run) -> list[Figure]:
    """Return the figures of the report of a study."""
    finals = Finals(records)
    return _all(draw(finals, importance(records.search, records.space)), compared_details(finals))


def _all(drawn: Mapping[str, Figure], comparison: ComparedDetails | None) -> list[Figure]:
    return [*drawn.values(), *(comparison.figures.values() if comparison else ())]


def draw(finals: Finals, shares: Importance) -> dict[str, Figure]:
    """Return {name: figure} of all figures that the records have data for."""
    run = finals.run
    figures = [study_figures.result(finals), study_figures.curves(run), study_figures.finals(finals), study_figures.history(run)]
    figures += [study_figures.budget(run), study_figures.importances(run, shares)]
    figures += [study_figures.dimension(run, index) for index in range(len(run.space))]
    return {figure.name: figure for figure in figures if figure is not None}


def compared_details(finals: Finals) -> ComparedDetails | None:
    """Compare the chosen setting, or the best so far, with the reference and the bag of words; None without its predictions."""
    run, tested = finals.run, finals.tested
    compared = [sides.of_setting(run, setting) for setting in tested if setting is tested[0] or setting.reference]
    return details.compare_details("", "chosen", compared, sides.of_baseline(run))


def setting_details(finals: Finals) -> list[tuple[dict[str, Any], Details]]:
    """Return (columns that identify it, its details) of every final setting with a test score."""
    return [
        (
            {"setting": setting.key, "setting_label": setting.label, "seeds": len(setting.test)},
            details.details_of(sides.of_setting(finals.run, setting)),
        )
        for setting in finals.tested
    ]


def page(finals: Finals, shares: Importance, drawn: Mapping[str, Figure], comparison: ComparedDetails | None = None) -> str:
    """Format the report as one HTML page without external files."""
    run = finals.run
    headline, sentence = answer(finals)
    return render(
        "report.html",
        run=run,
        headline=headline,
        sentence=sentence,
        chosen_settings=chosen_settings(finals),
        tiles=tiles(finals),
        lines=result_table.lines(finals),
        head=result_table.head(run),
        facts=sentences.facts(finals),
        missing=sentences.missing(finals),
        figures=drawn,
        inline=inline(drawn) | inline({figure.name: figure for figure in comparison.figures.values()} if comparison else {}),
        importance=shares,
        dimensions=[f"dimension-{index}" for index in range(len(run.space)) if f"dimension-{index}" in drawn],
        detail=comparison,
        score_heads=details.SCORES,
        score_facts=details.facts(comparison.sides if comparison else ()),
        number=numbers.number,
        spread=numbers.spread,
        by_task=labels.by_task(run),
        metrics=BESIDE,
        tree=sharing.tree(run),
        saved=sharing.saved(run),
        cost=cost.of_study(run),
        cost_head=cost.HEAD,
        trials=[_trial_row(run, trial) for trial in _ordered(run)],
        origin=origin(run).lines,
        notices=notices(run),
        count=partial(numbers.count_text, gap=numbers.NARROW),
    )


def inline(drawn: Mapping[str, Figure]) -> dict[str, Any]:
    """Return {name: markup of the figure}; it needs no escaping, since we draw it and escape its texts."""
    from markupsafe import Markup

    return {name: Markup(figure.inline) for name, figure in drawn.items()}


def render(template: str, **values: Any) -> str:
    """Render a template with the common style and script, and a content security policy that forbids network access."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        **values,
        colours=COLOURS,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def answer(finals: Finals) -> tuple[str, str]:
    """Return (headline, the answer in one sentence)."""
    run, ranked = finals.run, finals.settings
    task = plain(run.config.get("task") or next((task for (task,) in run.distinct("task") if task), ""), 60)
    where = f"On {task}, " if task else ""
    if not ranked or not ranked[0].test:
        return _no_answer(run, where, ranked)
    best = ranked[0]
    score = numbers.mean(best.test) or 0.0
    seeds = f"{len(best.test)} seeds" if len(best.test) > 1 else "one seed"
    settled = final_settings.is_settled(run)
    headline = f"{score:.1f} % test {run.metric.label} with the {'chosen' if settled else 'best'} setting"
    bounds = [f"{numbers.interval(best.interval)} over {seeds} and the test texts"] if best.interval else []
    if best.texts_interval:
        alone = " alone" if bounds else ""
        bounds.append(f"{numbers.interval(best.texts_interval)} over the {best.examples:,} test texts{alone}")
    interval = f"95 % interval {', '.join(bounds)}" if bounds else "no interval"
    interval += "; one seed, whose spread is unknown" if len(best.test) == 1 else ""
    if run.metric.higher:
        result = f"reaches a test {run.metric.label} of {score:.2f} % ({interval})"
    else:
        result = f"errs on {score:.2f} % of the test texts ({interval})"
    return headline, f"{where}{sentences.named(best.label)} {result}{_versus(finals)}."


def _versus(finals: Finals) -> str:
    """`: 0.8 points below the papers' setting, within noise, and 11.0 points below ...`; empty without a comparison."""
    gaps = finals.comparisons
    parts = [sentences.distance(gap, sentences.named(label)) for label, gap in gaps]
    certain = [sentences.certainty(gap) for _, gap in gaps]
    if len(parts) == 2 and certain[0] == certain[1]:
        return f": {' and '.join(parts)}, both {certain[0]}"
    return ": " + ", and ".join(f"{part}, {sure}" for part, sure in zip(parts, certain, strict=True)) if parts else ""


def chosen_settings(finals: Finals) -> str:
    """Return the hyperparameters of the chosen setting, or of the best so far, in one line; empty without a test score."""
    ranked = finals.settings
    return settings_text(ranked[0].trials[0].params, finals.run.space) if ranked and ranked[0].test else ""


def _no_answer(run: Run, where: str, ranked: Sequence[FinalSetting]) -> tuple[str, str]:
    """(headline, sentence) before there is a test score."""
    if ranked:
        best = ranked[0]
        name, score = sentences.named(best.label), f"{numbers.spread(best.validation)} % validation {run.metric.label}"
        leader = f"{name} ({settings_text(best.trials[0].params, run.space)})"
        return "No test result yet", f"{where}{leader} leads with {score}; the test split has not been read."
    complete = [trial for trial in run.search if trial.status == "complete" and trial.score is not None]
    best_trial = min(complete, key=run.loss, default=None)
    if best_trial is None:
        tally = f" ({len(run.search)} begun: {sentences.by_status(run)})" if run.search else ""
        return "No result yet", f"{where}no trial has a result yet{tally}."
    leader = f"the best of {len(complete)} complete trials is {best_trial.name} ({settings_text(best_trial.params, run.space)})"
    score = f"{best_trial.score:.2f} % validation {run.metric.label}"
    return "No test result yet", f"{where}{leader} with {score}; finals have not been run."


@dataclass(frozen=True)
class Tile:
    """A number at the top of the page."""

    name: str
    value: str
    unit: str
    note: str


def tiles(finals: Finals) -> list[Tile]:
    """Return the numbers at the top of the page: test score, differences, the training saved by sharing."""
    run, ranked = finals.run, finals.settings
    entries: list[Tile] = []
    if ranked and ranked[0].test:
        best = ranked[0]
        note = f"95 %: {numbers.interval(best.interval)} over {len(best.test)} seeds and texts" if best.interval else ""
        note = note or ("one seed" if len(best.test) == 1 else f"{len(best.test)} seeds")
        note += f"\n95 %: {numbers.interval(best.texts_interval)} over texts alone"
        entries.append(Tile(f"test {run.metric.label}", f"{numbers.mean(best.test) or 0.0:.2f}", "%", note))
        entries += [_gap_tile(f"against {sentences.named(label)}", gap) for label, gap in finals.comparisons]
    total = sharing.saved(run)
    if total is not None:
        shared, unshared = (numbers.count_text(tokens, numbers.NARROW) for tokens in (total.shared, total.unshared))
        note = f"{shared} tokens instead of {unshared}"
        entries.append(Tile("training spared by sharing", f"{100 * total.share:.0f}", "%", note))
    return entries


def _gap_tile(name: str, gap: Difference) -> Tile:
    if gap.interval is None:
        return Tile(name, numbers.signed(gap.points), "points", gap.method)
    bounds = f"95 %: {numbers.signed(gap.interval[0])} to {numbers.signed(gap.interval[1])}"
    return Tile(name, numbers.signed(gap.points), "points", f"{sentences.certainty(gap)}\n{bounds}")


def _ordered(run: Run) -> list[Trial]:
    """All trials, best on validation first; those without a score last."""
    return sorted(run.trials, key=run.loss)


def _trial_row(run: Run, trial: Trial) -> dict[str, Any]:
    """One row of the table of trials; a cell is (text, value to sort by)."""
    test = run.metric.score(trial.test) if trial.test else None
    epochs = trial.curve[-1][0] if trial.curve else 0
    return {
        "name": trial.name,
        "part": plain(trial.label, 40) if trial.phase == "final" else "search",
        "status": trial.status,
        "state": study_figures.MARKS[trial.status][3],
        "reason": trial.reason if trial.status in ("diverged", "failed") else "",
        "params": [_cell(trial.params.get(dimension.path)) for dimension in run.space],
        "scores": [(numbers.number(trial.score), trial.score), (numbers.number(test), test)],
        "effort": [
            (numbers.DASH if trial.seed is None else str(trial.seed), trial.seed),
            (f"{epochs:g}", epochs),
            (numbers.count_text(trial.tokens, numbers.NARROW), trial.tokens),
            (numbers.duration(trial.seconds), trial.seconds),
        ],
    }


def _cell(value: Any) -> tuple[str, Any]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return shown(value), value
    return (shown(value), shown(value)) if value is not None else (numbers.DASH, None)


def notices(run: Run) -> list[str]:
    """Return the notices of the study without repetitions."""
    return list(dict.fromkeys(plain(row["text"], 500) for row in run.of("notice")))
