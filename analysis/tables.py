"""The result as tables: for a terminal, Markdown, LaTeX, CSV. Labels are a user's text: each form escapes them in its own way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import select
from analysis.inference import ALPHA, p_text
from analysis.load import STATUSES, Run, load, plain, settings_text, trained_tokens
from analysis.select import Difference, Interval, Setting
from analysis.tex import Column, table, tex
from study.metric import METRICS, Metric

DASH = "–"
NARROW = "\N{NO-BREAK SPACE}"
"""Between a number and its unit; plain text has an ordinary space there."""
WIDTH = 80
"""Columns of a terminal."""


@dataclass(frozen=True)
class Line:
    """One line of the result table, as text. A dash stands for what does not exist, such as the seeds of a bag of words."""

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
    """chosen, reference, baseline or nothing special."""


def head(run: Run) -> Line:
    """Heads of the columns. The intervals are of the test score by the run's metric."""
    return Line(
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
    """What test scores are given by beside the run's metric: of error, macro- and micro-F1 those that are another thing."""
    return [METRICS[name] for name in ("error_rate", "macro_f1", "micro_f1") if METRICS[name].field != run.metric.field]


def lines(run: Run) -> list[Line]:
    """The result table: final settings, best on validation first, then the bag of words."""
    return [_setting_line(run, setting) for setting in select.settings(run)] + _baseline_line(run)


def _setting_line(run: Run, setting: Setting) -> Line:
    chosen = setting.rank == 1 and select.is_settled(run)
    return Line(
        label=plain(setting.label, 60),
        settings=settings_text(setting.trials[0].params, run.space),
        validation=spread(setting.validation),
        test=spread(setting.test),
        seeds=_seeds(setting),
        over_both=interval(setting.interval),
        over_texts=interval(setting.texts_interval),
        trials=str(len(setting.trials)),
        tokens=count(setting.tokens),
        time=duration(setting.seconds),
        also=tuple(spread(_scores(setting, metric)) for metric in others(run)),
        chosen=chosen,
        kind="chosen" if chosen else "reference" if setting.reference else "",
    )


def _scores(setting: Setting, metric: Metric) -> list[float]:
    return [score for trial in setting.trials if trial.test and (score := metric.score(trial.test)) is not None]


def _seeds(setting: Setting) -> str:
    """Number of seeds; where some have no test scores, of how many the test score is the mean."""
    tested, count = len(setting.test), len(setting.validation)
    return str(count) if tested in (0, count) else f"{tested} of {count}"


def _baseline_line(run: Run) -> list[Line]:
    if not run.baseline:
        return []
    test = run.baseline.get("test", {})
    strength = next((row["c"] for row in run.baseline.values() if row.get("c") is not None), None)
    texts = next((row["train_examples"] for row in run.baseline.values() if row.get("train_examples") is not None), None)
    looks_at = next((f" of {row['words']}" for row in run.baseline.values() if row.get("words") not in (None, "words")), "")
    seconds = max((row["seconds"] for row in run.baseline.values() if row.get("seconds") is not None), default=None)
    return [
        Line(
            label="bag of words",
            settings=f"TF-IDF{looks_at}, logistic regression"
            + (f", C {strength:g}" if strength is not None else "")
            + (f", from {texts:,} labelled texts" if texts is not None else ""),
            validation=number(run.metric.score(run.baseline.get("validation", {}))),
            test=number(run.metric.score(test)),
            seeds=DASH,
            over_both=DASH,
            over_texts=interval(select.baseline_interval(run)),
            trials=DASH,
            tokens=DASH,
            time=duration(seconds) if seconds is not None else DASH,
            also=tuple(number(metric.score(test)) for metric in others(run)),
            kind="baseline",
        )
    ]


# Numbers as text -----------------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash."""
    return DASH if value is None else f"{value:.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """`9.62 ± 0.36`: mean and standard deviation over seeds; without the latter for one seed."""
    deviation = select.sd(values)
    return number(select.mean(values)) + (f" ± {deviation:.2f}" if deviation is not None else "")


def over_seeds(several: bool) -> str:
    """What `9.62 ± 0.36 (3)` shows, or `9.62 (1)` where no setting has `several` seeds."""
    shown = "mean ± standard deviation over seeds" if several else "one seed each, whose spread is unknown"
    return f"{shown} (number of seeds)"


def interval(found: Interval | None, digits: int = 1) -> str:
    """`8.4–10.1`, or a dash."""
    return DASH if found is None else f"{found[0]:.{digits}f}–{found[1]:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, zero without one."""
    text = f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text[1:] if float(f"{value:.{digits}f}") == 0 else text


def count(value: float) -> str:
    """`1.2 M`, `52 k`, `812`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.0f}{NARROW}{unit}" if scaled >= 100 else f"{scaled:.3g}{NARROW}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 10 s`, `2 h 05 min`."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f}{NARROW}s"
    if whole < 60:
        return f"{whole}{NARROW}s"
    if whole < 3600:
        return f"{whole // 60}{NARROW}min {whole % 60:02d}{NARROW}s"
    return f"{whole // 3600}{NARROW}h {whole % 3600 // 60:02d}{NARROW}min"


# Sentences -----------------------------------------------------------------------------------------------------------------------


def verdict(found: Difference, other: str) -> str:
    """One sentence on a difference of the chosen setting to another; `other` is the other one's name."""
    said = f"{distance(found, other)}, which is {certainty(found)}"
    if found.interval is None:
        return f"{said} ({found.method})"
    bounds = f"95 % interval of the difference {signed(found.interval[0])} to {signed(found.interval[1])}"
    return f"{said} ({bounds}, {p_text(found.p_value if found.corrected is None else found.corrected)}; {found.method})"


def distance(found: Difference, other: str) -> str:
    """`3.8 points below the papers' setting`."""
    points = f"{abs(found.points):.1f}"
    return f"level with {other}" if float(points) == 0 else f"{points} points {'below' if found.points < 0 else 'above'} {other}"


def certainty(found: Difference) -> str:
    """Whether a difference may be nothing but noise."""
    if found.p_value is None:
        return "undecided"
    return "within noise" if found.within_noise else "more than noise"


def named(label: str) -> str:
    """A setting's label in a sentence."""
    label = plain(label, 60)
    if re.match("papers?'?s? setting|bag of words$", label):
        return f"the {label}"
    return re.sub(r", (.+)$", r" (\1)", label)


def comparisons(run: Run) -> list[str]:
    """How the chosen setting's test score compares with the reference and with the bag of words."""
    return [verdict(gap, named(label)) for label, gap in select.comparisons(run)]


def facts(run: Run) -> list[str]:
    """What one must know to read the table, a sentence each."""
    said = []
    if select.is_settled(run):
        said.append(
            f"Chosen on the validation split by mean {run.metric.label} over seeds; the test split was read once, after that."
        )
    if run.sizes:
        sizes = ", ".join(f"{size:,} {split}" for split, size in run.sizes.items())
        counted = [split for split in ("validation", "test") if run.metric.share and run.sizes.get(split)]
        points = [f"one {split} text = {100 / run.sizes[split]:.2g} points" for split in counted]
        said.append(f"Texts: {sizes}" + (f"; {', '.join(points)}." if points else "."))
    if found := [setting for setting in select.settings(run) if setting.test]:
        several = any(len(scores) > 1 for setting in found for scores in (setting.validation, setting.test))
        said.append(f"{'± is the standard deviation over seeds. ' if several else ''}{intervals(run, found)}")
        of = sum(gap.p_value is not None for _, gap in select.comparisons(run))
        if of > 1:
            said.append(f"p values are corrected for {of} comparisons; from {ALPHA:.2g} on a difference is within noise.")
        said.append(meaning(run))
    said.append(search_summary(run))
    return [sentence for sentence in said if sentence]


def intervals(run: Run, found: Sequence[Setting]) -> str:
    """What the 95 % intervals are made of."""
    whole = sum(setting.losses is not None for setting in found)
    both = "an analysis of variance over seeds and test texts" if whole else "the spread over seeds, and texts as independent"
    if 0 < whole < len(found):
        both += " (without test predictions: the spread over seeds, and texts as independent)"
    texts = "Wilson's" if run.metric.share else "the delta method's"
    said = f"95 % intervals of the test {run.metric.label}: {both}, none for one seed"
    return f"{said}; over texts alone {texts}, for these seeds only."


def meaning(run: Run) -> str:
    """What F1, or the error rate of a task with several labels, is here; empty where it is plain."""
    parts = {
        "macro_f1": "macro-F1 is the mean of the F1 of each class, large or small",
        "micro_f1": "micro-F1 is over all decisions together",
        "mcc": "MCC is Matthews' correlation coefficient times 100",
    }
    said = parts.get(run.metric.name, "")
    if run.several:
        whole = "a text is right only if its set of labels is exactly right; that is what the error counts"
        said = f"{said}; {whole}" if said else whole
    return f"{said[:1].upper()}{said[1:]}." if said else ""


def search_summary(run: Run) -> str:
    """`The search: 12 trials of 11 settings (6 complete, 6 stopped early), 340 k tokens of fine-tuning; ... took 8 min 30 s.`

    Tokens are those that this run trained on: a trial that repeats another, or that the store held, adds none.
    """
    if not run.search:
        return ""
    trials, settings = len(run.search), len({trial.setting for trial in run.search if trial.setting})
    said = f"The search: {trials} trial{'s' * (trials != 1)}"
    said += f" of {settings} different setting{'s' * (settings != 1)}" if 0 < settings < trials else ""
    said += f" ({by_status(run)}), {count(trained_tokens(run.search))} tokens of fine-tuning"
    loaded = sum(trial.source == "loaded" for trial in run.search)
    said += f", {loaded} from the store" if loaded else ""
    return said + (f"; the whole study took {duration(run.seconds)}." if run.seconds else ".")


def by_status(run: Run) -> str:
    """`6 complete, 4 stopped early, 1 failed`, of the search."""
    counts = Counter(trial.status for trial in run.search)
    names = {"stopped": "stopped early", "running": "not finished"}
    return ", ".join(f"{counts[status]} {names.get(status, status)}" for status in STATUSES if counts[status])


def _failures(run: Run) -> str:
    """`1 of 8 trials of the search is complete, 7 failed; 1 of 4 finals failed.`"""
    complete, lost = (sum(trial.status == status for trial in run.search) for status in ("complete", "failed"))
    said = [
        f"{complete} of {len(run.search)} trials of the search {'is' if complete == 1 else 'are'} complete, {lost or 'none'} failed"
    ]
    if finals := sum(trial.status == "failed" for trial in run.finals):
        said.append(f"{finals} of {len(run.finals)} finals failed")
    return f"{'; '.join(said)}. --retry-failed begins them again."


def missing(run: Run) -> list[str]:
    """What a finished report would hold and this one does not, a sentence each."""
    said, finals = [], select.settings(run)
    if run.state == "unfinished":
        said.append("The study has not finished: this is how it stands.")
    elif run.state == "interrupted":
        said.append("The study was interrupted: this is how it stands. The same command goes on.")
    elif run.state == "stopped":
        reason = plain(run.of("study")[-1].get("reason") or "no reason given", 300)
        said.append(f"The study was stopped: {reason}. This is how it stands; once that is mended the same command goes on.")
    if any(trial.status == "failed" for trial in run.trials):
        said.append(_failures(run))
    if not run.search and not run.finals:
        said.append("No trial has begun.")
    elif run.search and not any(trial.status == "complete" for trial in run.search):
        reasons = sorted({trial.reason for trial in run.search if trial.reason and trial.status in ("failed", "diverged")})
        said.append("No trial of the search is complete." + (f" Reasons given: {'; '.join(reasons[:3])}." if reasons else ""))
    if run.trials and not finals:
        said.append("No final is complete, so no setting is chosen and the test split has not been read.")
    elif finals and not select.is_settled(run):
        said.append("The finals are not all there, so no setting is chosen yet.")
    if finals and any(not trial.test for setting in finals for trial in setting.trials):
        said.append("Test scores of some finals are missing.")
    said += [f"{plain(setting.label, 60)}: the test predictions say another score than the records." for setting in _torn(finals)]
    if finals and max(len(setting.validation) for setting in finals) == 1:
        said.append("One seed only: the spread over seeds is unknown.")
    if run.rows and not run.baseline:
        said.append("There is no bag of words to compare with.")
    if run.problems:
        few = "; ".join(plain(problem, 120) for problem in run.problems[:5]) + ("; …" if len(run.problems) > 5 else "")
        said.append(f"{len(run.problems)} line(s) of the records could not be used ({few}).")
    return said


def _torn(finals: Sequence[Setting]) -> list[Setting]:
    """Settings whose test predictions do not belong to their records."""
    means = [(setting, select.mean(setting.test), setting.estimate) for setting in finals if setting.losses is not None]
    return [s for s, mean, found in means if mean is not None and found and abs(s.metric.turned(found.value) - mean) > 0.01]


# Forms ---------------------------------------------------------------------------------------------------------------------------


def result_text(run: Run | str | Path) -> str:
    """The final table for a terminal, at most 80 columns. Also takes the run's folder."""
    run = run if isinstance(run, Run) else load(run)
    found = lines(run)
    parts = []
    if found:
        columns = {
            "validation": "validation %",
            "test": "test %",
            "over_both": "95 %",
            "over_texts": "texts alone",
            "seeds": "seeds",
        }
        cells = [list(columns.values()), *([getattr(line, column) for column in columns] for line in found)]
        room = WIDTH - 2 - sum(2 + max(len(row[i]) for row in cells) for i in range(len(columns)))
        labels = ["setting", *(plain(line.label, max(room, 4)) for line in found)]
        marks = ["  ", *("* " if line.chosen else "  " for line in found)]
        table = aligned([[mark + label, *row] for mark, label, row in zip(marks, labels, cells, strict=True)])
        parts += [f"{run.metric.label} in percent{', more is better' if run.metric.higher else ''}\n{table}"]
        parts += ["\n".join(wrapped(f"{plain(line.label)}: {line.settings}") for line in found if line.kind != "baseline")]
        parts += ["\n".join(wrapped(text) for text in _also(run, found))]
    said = comparisons(run)
    if said:
        parts.append("\n".join(wrapped(f"{'* chosen' if select.is_settled(run) else 'best so far'}: {text}.") for text in said))
    parts.append("\n".join(wrapped(text) for text in [*facts(run), *missing(run)]))
    return "\n\n".join(part for part in parts if part).replace(NARROW, " ") + "\n"


def _also(run: Run, found: Sequence[Line]) -> list[str]:
    """`best 1 on test: macro-F1 81.20 ± 0.31 %, micro-F1 82.35 ± 0.40 %`, a line per setting."""
    names = [metric.label for metric in others(run)]
    each = [(line, [(name, value) for name, value in zip(names, line.also, strict=True) if value != DASH]) for line in found]
    return [f"{line.label} on test: {', '.join(f'{name} {value} %' for name, value in told)}" for line, told in each if told]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows = [
        [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in rows)


def wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=True, break_on_hyphens=False)


COLUMNS = ("label", "settings", "validation", "test", "also", "seeds", "over_both", "over_texts", "trials", "tokens", "time")


def markdown(run: Run) -> str:
    """The table as Markdown with its facts below."""
    found = lines(run)
    parts = [f"# {md(run.name)}"]
    if found:
        heads = _cells(head(run), COLUMNS)
        rows = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
        for line in found:
            label = f"**{md(line.label)}** (chosen)" if line.chosen else md(line.label)
            rows.append([label, *map(md, _cells(line, COLUMNS[1:]))])
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    said = [f"The {'chosen' if select.is_settled(run) else 'best'} setting is {text}." for text in comparisons(run)]
    parts += ["\n".join(f"- {md(text)}" for text in [*said, *facts(run), *missing(run)])]
    return "\n\n".join(parts) + "\n"


def _cells(line: Line, columns: Sequence[str]) -> list[str]:
    """Texts of these columns, `also` as the several that it is."""
    found = [getattr(line, column) for column in columns]
    return [cell for each in found for cell in (each if isinstance(each, tuple) else (each,))]


def md(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", plain(text))


def latex(run: Run) -> str:
    """The table as LaTeX with booktabs; `\\input` it inside a document that loads booktabs."""
    found = lines(run)
    names = [column for column in COLUMNS if column not in ("label", "settings", "trials")]
    rows = [list(map(tex, _cells(line, names))) for line in found]
    columns = [Column(name, [[row[i]] for row in rows]) for i, name in enumerate(_cells(head(run), names))]
    notes = [f"{line.label}: {line.settings}." for line in found if line.kind != "baseline"]
    notes += [f"The {'chosen' if select.is_settled(run) else 'best'} setting is {text}." for text in comparisons(run)]
    labels = [line.label for line in found]
    said, chosen = [*notes, *facts(run), *missing(run)], [place for place, line in enumerate(found) if line.chosen]
    return table(labels, columns, [f"{run.name}."], said, corner=head(run).label, strong=chosen)
