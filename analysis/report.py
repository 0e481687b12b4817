"""All that is made of a run's records, in one folder: tables, figures, the page. The same records give the same bytes."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import export, figures, labels, select, sharing, tables
from analysis.importance import Importance, importance
from analysis.load import Run, Trial, load, plain, settings_text, shown
from analysis.select import Difference, Setting
from analysis.svg import COLOURS, Figure
from study.metric import METRICS

TEMPLATES = Path(__file__).parent / "templates"


def write(run: str | Path, out: str | Path | None = None) -> Path:
    """Make the report of a run folder, by default into its `report/`. Returns the page.

    Raises FileNotFoundError where there is no run, OSError where the folder cannot be written.
    """
    found = load(run)
    folder = Path(out) if out is not None else Path(run) / "report"
    matter = importance(found.search, found.space)
    drawn = draw(found, matter)
    texts: dict[str, str | Iterable[str]] = {"report.html": page(found, matter, drawn), "trials.csv": export.trials_csv(found)}
    texts |= {"labels.csv": export.labels_csv(found), "confusions.csv": export.confusions_csv(found)}
    texts |= {"tasks.csv": export.tasks_csv(found)}
    texts |= {"table.txt": tables.result_text(found), "table.md": tables.markdown(found), "table.tex": tables.latex(found)}
    texts |= {f"figures/{figure.name}.svg": figure.svg for figure in drawn.values()}
    texts["results.csv"] = export.results_csv(found)  # the largest comes last
    for name, text in texts.items():
        replace(folder / name, text)
    for old in (folder / "figures").glob("*.svg"):
        if f"figures/{old.name}" not in texts:
            old.unlink()  # of an earlier state of the run: a reader would take it for this one's
    return folder / "report.html"


def draw(run: Run, matter: Importance) -> dict[str, Figure]:
    """All figures that the records are good for, by name."""
    made = [figures.result(run), figures.curves(run), figures.finals(run), figures.history(run)]
    made += [figures.budget(run), figures.importances(run, matter)]
    made += [figures.dimension(run, index) for index in range(len(run.space))]
    return {figure.name: figure for figure in made if figure is not None}


def page(run: Run, matter: Importance, drawn: Mapping[str, Figure]) -> str:
    """The report as one HTML page that asks for nothing else."""
    headline, sentence = answer(run)
    best = [setting for setting in select.settings(run)[:1] if setting.test]
    every = labels.of_setting(run, best[0]) if best else []
    shown, mixed = labels.shown(every), labels.confusions(run, best[0]) if best else []
    return render(
        "report.html",
        run=run,
        headline=headline,
        sentence=sentence,
        chosen_settings=chosen_settings(run),
        tiles=tiles(run),
        lines=tables.lines(run),
        head=tables.head(run),
        facts=tables.facts(run),
        missing=tables.missing(run),
        figures=drawn,
        inline=inline(drawn),
        importance=matter,
        dimensions=[f"dimension-{index}" for index in range(len(run.space)) if f"dimension-{index}" in drawn],
        labels=shown,
        all_labels=len(every),
        confusions=mixed[: labels.MOST],
        all_confusions=len(mixed),
        number=tables.number,
        spread=tables.spread,
        by_task=labels.by_task(run),
        metrics=[METRICS[name] for name in ("error_rate", "macro_f1", "micro_f1")],
        tree=sharing.tree(run),
        saved=sharing.saved(run),
        trials=[_trial_row(run, trial) for trial in _ordered(run)],
        versions=versions(run),
        notices=notices(run),
        count=tables.count,
    )


def inline(drawn: Mapping[str, Figure]) -> dict[str, Any]:
    """Figures as markup of the page: our own drawing, whose texts are escaped."""
    from markupsafe import Markup

    return {name: Markup(figure.inline) for name, figure in drawn.items()}


def render(template: str, **values: Any) -> str:
    """A page of that template, with the style and the script that all pages share, and a policy that lets it ask for nothing."""
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


def answer(run: Run) -> tuple[str, str]:
    """(headline, the answer in one sentence)."""
    task = plain(run.config.get("task") or next((task for (task,) in run.distinct("task") if task), ""), 60)
    where = f"On {task}, " if task else ""
    found = select.settings(run)
    if not found or not found[0].test:
        return _no_answer(run, where, found)
    best = found[0]
    score = select.mean(best.test) or 0.0
    seeds = f"{len(best.test)} seeds" if len(best.test) > 1 else "one seed"
    settled = select.is_settled(run)
    headline = f"{score:.1f} % test {run.metric.label} with the {'chosen' if settled else 'best'} setting"
    bounds = [f"{tables.interval(best.interval)} over {seeds} and the test texts"] if best.interval else []
    if best.texts_interval:
        alone = " alone" if bounds else ""
        bounds.append(f"{tables.interval(best.texts_interval)} over the {best.examples:,} test texts{alone}")
    interval = f"95 % interval {', '.join(bounds)}" if bounds else "no interval"
    interval += "; one seed, whose spread is unknown" if len(best.test) == 1 else ""
    said = f"{where}{tables.named(best.label)} "
    if run.metric.higher:
        said += f"reaches a test {run.metric.label} of {score:.2f} % ({interval})"
    else:
        said += f"errs on {score:.2f} % of the test texts ({interval})"
    return headline, said + _versus(run) + "."


def _versus(run: Run) -> str:
    """`: 0.8 points below the papers' setting, within noise, and 11.0 points below ...`; empty with nothing to compare."""
    gaps = select.comparisons(run)
    parts = [tables.distance(gap, tables.named(label)) for label, gap in gaps]
    certain = [tables.certainty(gap) for _, gap in gaps]
    if len(parts) == 2 and certain[0] == certain[1]:
        return f": {' and '.join(parts)}, both {certain[0]}"
    return ": " + ", and ".join(f"{part}, {sure}" for part, sure in zip(parts, certain, strict=True)) if parts else ""


def chosen_settings(run: Run) -> str:
    """The settings of the chosen one, or of the best so far, in one line."""
    found = select.settings(run)
    return settings_text(found[0].trials[0].params, run.space) if found and found[0].test else ""


def _no_answer(run: Run, where: str, found: list[Setting]) -> tuple[str, str]:
    if found:
        best = found[0]
        name, score = tables.named(best.label), f"{tables.spread(best.validation)} % validation {run.metric.label}"
        said = f"{where}{name} ({settings_text(best.trials[0].params, run.space)}) leads with {score}"
        return "No test result yet", f"{said}; the test split has not been read."
    complete = [trial for trial in run.search if trial.status == "complete" and trial.score is not None]
    best_trial = min(complete, key=run.loss, default=None)
    if best_trial is None:
        return "No result yet", f"{where}no trial has come to a result{_tally(run)}."
    said = (
        f"{where}the best of {len(complete)} complete trials is {best_trial.name} ({settings_text(best_trial.params, run.space)})"
    )
    return "No test result yet", f"{said} with {best_trial.score:.2f} % validation {run.metric.label}; finals have not been run."


def _tally(run: Run) -> str:
    return f" ({len(run.search)} begun: {tables.by_status(run)})" if run.search else ""


@dataclass(frozen=True)
class Tile:
    """A number that stands out at the top."""

    name: str
    value: str
    unit: str
    note: str


def tiles(run: Run) -> list[Tile]:
    """Test score, differences, what sharing saved."""
    made: list[Tile] = []
    found = select.settings(run)
    if found and found[0].test:
        best = found[0]
        note = f"95 %: {tables.interval(best.interval)} over {len(best.test)} seeds and texts" if best.interval else ""
        note = note or ("one seed" if len(best.test) == 1 else f"{len(best.test)} seeds")
        note += f"\n95 %: {tables.interval(best.texts_interval)} over texts alone"
        made.append(Tile(f"test {run.metric.label}", f"{select.mean(best.test) or 0.0:.2f}", "%", note))
        made += [_gap_tile(f"against {tables.named(label)}", gap) for label, gap in select.comparisons(run)]
    total = sharing.saved(run)
    if total is not None:
        note = f"{tables.count(total.shared)} tokens instead of {tables.count(total.unshared)}"
        made.append(Tile("training spared by sharing", f"{100 * total.share:.0f}", "%", note))
    return made


def _gap_tile(name: str, gap: Difference) -> Tile:
    if gap.interval is None:
        return Tile(name, tables.signed(gap.points), "points", gap.method)
    bounds = f"95 %: {tables.signed(gap.interval[0])} to {tables.signed(gap.interval[1])}"
    return Tile(name, tables.signed(gap.points), "points", f"{tables.certainty(gap)}\n{bounds}")


def _ordered(run: Run) -> list[Trial]:
    """Best on validation first; those without a value last."""
    return sorted(run.trials, key=run.loss)


def _trial_row(run: Run, trial: Trial) -> dict[str, Any]:
    """Cells of the table of trials: (text, value to sort by)."""
    test = run.metric.score(trial.test) if trial.test else None
    epochs = trial.curve[-1][0] if trial.curve else 0
    return {
        "name": trial.name,
        "part": plain(trial.label, 40) if trial.phase == "final" else "search",
        "status": trial.status,
        "state": figures.MARKS[trial.status][3],
        "reason": trial.reason if trial.status in ("diverged", "failed") else "",
        "params": [_cell(trial.params.get(dimension.path)) for dimension in run.space],
        "scores": [(tables.number(trial.score), trial.score), (tables.number(test), test)],
        "effort": [
            (tables.DASH if trial.seed is None else str(trial.seed), trial.seed),
            (f"{epochs:g}", epochs),
            (tables.count(trial.tokens), trial.tokens),
            (tables.duration(trial.seconds), trial.seconds),
        ],
    }


def _cell(value: Any) -> tuple[str, Any]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return shown(value), value
    return (shown(value), shown(value)) if value is not None else (tables.DASH, None)


def versions(run: Run) -> list[tuple[str, str]]:
    """(what, which) of everything that made the results; several where sessions differ."""
    found: dict[str, list[str]] = {}
    for row in run.of("study"):
        about = {**(row.get("versions") or {}), "commit": _short_commit(row.get("commit")), "device": row.get("device")}
        about["study digest"] = row.get("config_digest")
        for name, value in about.items():
            if value and plain(value) not in found.setdefault(plain(name), []):
                found[plain(name)].append(plain(value, 80))
    devices, precisions = (sorted({plain(value) for (value,) in run.distinct(name) if value}) for name in ("device", "precision"))
    found["device"] = devices or found.get("device", [])
    found["precision"] = precisions
    return [(name, ", then ".join(values)) for name, values in found.items() if values]


def _short_commit(commit: str | None) -> str | None:
    return commit and commit[:12] + ("+ (with changes)" if commit.endswith("+") else "")


def notices(run: Run) -> list[str]:
    """What the study had to say, each once."""
    return list(dict.fromkeys(plain(row["text"], 500) for row in run.of("notice")))


def replace(path: Path, text: str | Iterable[str]) -> None:
    """Write a file, from a text or from its parts, so that a reader sees the old one or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(aside, "w", encoding="utf-8", newline="\n") as file:
        file.writelines([text] if isinstance(text, str) else text)
    aside.replace(path)
