"""Write the result of a study as a table for a terminal, Markdown and LaTeX; every form escapes labels, since users write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.records.metric import BESIDE, Metric
from analysis.records.run_folder import Run, load, settings_text
from analysis.results import final_settings
from analysis.results.final_settings import Finals, FinalSetting
from analysis.tables.sentences import comparisons, facts, missing
from analysis.text.numbers import DASH, NARROW, WIDTH, aligned, count_text, duration, interval, md, number, spread, wrapped
from analysis.text.plain import plain
from analysis.text.tex import TexColumn, table, tex


@dataclass(frozen=True)
class ResultRow:
    """One line of the result table, as text; a dash where a value does not exist, such as the seeds of a bag of words."""

    label: str
    settings: str
    validation: str
    test: str
    seeds: str
    over_both: str
    over_texts: str
    trials: str
    tokens: str
    time: str
    also: tuple[str, ...]
    """Test scores by other metrics."""
    chosen: bool = False
    kind: str = ""
    """chosen, reference, baseline or empty."""


def head(run: Run) -> ResultRow:
    """Return the heads of the columns. Intervals are of the test score by the run's metric."""
    return ResultRow(
        "setting",
        "what differs",
        f"validation {run.metric.label}{NARROW}%",
        f"test {run.metric.label}{NARROW}%",
        "seeds",
        "95 % over seeds and texts",
        "95 % over texts alone",
        "trials",
        "tokens",
        "time",
        tuple(f"test {metric.label}{NARROW}%" for metric in others(run)),
    )


def others(run: Run) -> list[Metric]:
    """Metrics of the test scores beside the run's own: those of error, macro- and micro-F1 that use another field."""
    return [metric for metric in BESIDE if metric.field != run.metric.field]


def lines(finals: Finals) -> list[ResultRow]:
    """Return the lines of the result table: final settings, best on validation first, then the bag of words."""
    return [_setting_line(finals.run, setting) for setting in finals.settings] + _baseline_line(finals)


def _setting_line(run: Run, setting: FinalSetting) -> ResultRow:
    chosen = setting.rank == 1 and final_settings.is_settled(run)
    return ResultRow(
        label=plain(setting.label, 60),
        settings=settings_text(setting.trials[0].params, run.space),
        validation=spread(setting.validation),
        test=spread(setting.test),
        seeds=_seeds(setting),
        over_both=interval(setting.interval),
        over_texts=interval(setting.texts_interval),
        trials=str(len(setting.trials)),
        tokens=count_text(setting.tokens, NARROW),
        time=duration(setting.seconds),
        also=tuple(spread(setting.test_by(metric)) for metric in others(run)),
        chosen=chosen,
        kind="chosen" if chosen else "reference" if setting.reference else "",
    )


def _seeds(setting: FinalSetting) -> str:
    """Number of seeds, `2 of 3` if the test score is the mean of some of them only."""
    tested, count = len(setting.test), len(setting.validation)
    return str(count) if tested in (0, count) else f"{tested} of {count}"


def _baseline_line(finals: Finals) -> list[ResultRow]:
    run = finals.run
    if not run.baseline:
        return []
    test = run.baseline.get("test", {})
    strength = next((row["c"] for row in run.baseline.values() if row.get("c") is not None), None)
    texts = next((row["train_examples"] for row in run.baseline.values() if row.get("train_examples") is not None), None)
    looks_at = next((f" of {row['words']}" for row in run.baseline.values() if row.get("words") not in (None, "words")), "")
    seconds = max((row["seconds"] for row in run.baseline.values() if row.get("seconds") is not None), default=None)
    return [
        ResultRow(
            label="bag of words",
            settings=f"TF-IDF{looks_at}, logistic regression"
            + (f", C {strength:g}" if strength is not None else "")
            + (f", from {texts:,} labelled texts" if texts is not None else ""),
            validation=number(run.metric.score(run.baseline.get("validation", {}))),
            test=number(run.metric.score(test)),
            seeds=DASH,
            over_both=DASH,
            over_texts=interval(finals.baseline_interval),
            trials=DASH,
            tokens=DASH,
            time=duration(seconds) if seconds is not None else DASH,
            also=tuple(number(metric.score(test)) for metric in others(run)),
            kind="baseline",
        )
    ]


# Forms ---------------------------------------------------------------------------------------------------------------------------


def result_text(finals: Finals | str | Path) -> str:
    """Format the result for a terminal, at most 80 columns. Also takes the run's folder."""
    finals = finals if isinstance(finals, Finals) else Finals(load(finals))
    run, table_lines = finals.run, lines(finals)
    parts = []
    if table_lines:
        columns = {
            "validation": "validation %",
            "test": "test %",
            "over_both": "95 %",
            "over_texts": "texts alone",
            "seeds": "seeds",
        }
        cells = [list(columns.values()), *([getattr(line, column) for column in columns] for line in table_lines)]
        room = WIDTH - 2 - sum(2 + max(len(row[i]) for row in cells) for i in range(len(columns)))
        labels = ["setting", *(plain(line.label, max(room, 4)) for line in table_lines)]
        marks = ["  ", *("* " if line.chosen else "  " for line in table_lines)]
        table = aligned([[mark + label, *row] for mark, label, row in zip(marks, labels, cells, strict=True)])
        parts += [f"{run.metric.label} in percent{', more is better' if run.metric.higher else ''}\n{table}"]
        parts += ["\n".join(wrapped(f"{plain(line.label)}: {line.settings}") for line in table_lines if line.kind != "baseline")]
        parts += ["\n".join(wrapped(text) for text in _also(run, table_lines))]
    compared = comparisons(finals)
    if compared:
        parts.append(
            "\n".join(wrapped(f"{'* chosen' if final_settings.is_settled(run) else 'best so far'}: {text}.") for text in compared)
        )
    parts.append("\n".join(wrapped(text) for text in [*facts(finals), *missing(finals)]))
    return "\n\n".join(part for part in parts if part).replace(NARROW, " ") + "\n"


def _also(run: Run, table_lines: Sequence[ResultRow]) -> list[str]:
    """Other test scores, a line per setting: `best 1 on test: macro-F1 81.20 ± 0.31 %, micro-F1 82.35 ± 0.40 %`."""
    names = [metric.label for metric in others(run)]
    scores = [
        (line, [(name, value) for name, value in zip(names, line.also, strict=True) if value != DASH]) for line in table_lines
    ]
    return [f"{line.label} on test: {', '.join(f'{name} {value} %' for name, value in pairs)}" for line, pairs in scores if pairs]


COLUMNS = ("label", "settings", "validation", "test", "also", "seeds", "over_both", "over_texts", "trials", "tokens", "time")


def markdown(finals: Finals) -> str:
    """Format the table as Markdown with its facts below."""
    run, table_lines = finals.run, lines(finals)
    parts = [f"# {md(run.name)}"]
    if table_lines:
        heads = _cells(head(run), COLUMNS)
        rows = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
        for line in table_lines:
            label = f"**{md(line.label)}** (chosen)" if line.chosen else md(line.label)
            rows.append([label, *map(md, _cells(line, COLUMNS[1:]))])
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    compared = [f"The {'chosen' if final_settings.is_settled(run) else 'best'} setting is {text}." for text in comparisons(finals)]
    parts += ["\n".join(f"- {md(text)}" for text in [*compared, *facts(finals), *missing(finals)])]
    return "\n\n".join(parts) + "\n"


def _cells(line: ResultRow, columns: Sequence[str]) -> list[str]:
    """Texts of these columns; `also` gives several."""
    values = [getattr(line, column) for column in columns]
    return [cell for value in values for cell in (value if isinstance(value, tuple) else (value,))]


def latex(finals: Finals) -> str:
    """Format the table as LaTeX; `\\input` it in a document that loads booktabs."""
    run, table_lines = finals.run, lines(finals)
    names = [column for column in COLUMNS if column not in ("label", "settings", "trials")]
    rows = [list(map(tex, _cells(line, names))) for line in table_lines]
    columns = [TexColumn(name, [[row[i]] for row in rows]) for i, name in enumerate(_cells(head(run), names))]
    notes = [f"{line.label}: {line.settings}." for line in table_lines if line.kind != "baseline"]
    notes += [f"The {'chosen' if final_settings.is_settled(run) else 'best'} setting is {text}." for text in comparisons(finals)]
    labels = [line.label for line in table_lines]
    notes, chosen = [*notes, *facts(finals), *missing(finals)], [place for place, line in enumerate(table_lines) if line.chosen]
    return table(labels, columns, [f"{run.name}."], notes, corner=head(run).label, strong=chosen)
