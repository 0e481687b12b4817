"""What a result says in sentences: the verdict, how certain it is, what is missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from analysis.records.run_folder import Run, trained_tokens
from analysis.records.trials import STATUSES
from analysis.results import final_settings
from analysis.results.final_settings import Difference, Finals, Setting
from analysis.stats.inference import ALPHA, p_text
from analysis.text import numbers
from analysis.text.numbers import count, duration, signed
from analysis.text.plain import plain

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


def comparisons(finals: Finals) -> list[str]:
    """How the chosen setting's test score compares with the reference and with the bag of words."""
    return [verdict(gap, named(label)) for label, gap in finals.comparisons]


def facts(finals: Finals) -> list[str]:
    """What one must know to read the table, a sentence each."""
    run, said = finals.run, []
    if final_settings.is_settled(run):
        said.append(
            f"Chosen on the validation split by mean {run.metric.label} over seeds; the test split was read once, after that."
        )
    if run.sizes:
        sizes = ", ".join(f"{size:,} {split}" for split, size in run.sizes.items())
        counted = [split for split in ("validation", "test") if run.metric.share and run.sizes.get(split)]
        points = [f"one {split} text = {100 / run.sizes[split]:.2g} points" for split in counted]
        said.append(f"Texts: {sizes}" + (f"; {', '.join(points)}." if points else "."))
    if found := finals.tested:
        several = any(len(scores) > 1 for setting in found for scores in (setting.validation, setting.test))
        said.append(f"{'± is the standard deviation over seeds. ' if several else ''}{intervals(run, found)}")
        of = sum(gap.p_value is not None for _, gap in finals.comparisons)
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
    said = run.metric.meaning
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


def missing(finals: Finals) -> list[str]:
    """What a finished report would hold and this one does not, a sentence each."""
    said, run, settings = [], finals.run, finals.settings
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
    if run.trials and not settings:
        said.append("No final is complete, so no setting is chosen and the test split has not been read.")
    elif settings and not final_settings.is_settled(run):
        said.append("The finals are not all there, so no setting is chosen yet.")
    if settings and any(not trial.test for setting in settings for trial in setting.trials):
        said.append("Test scores of some finals are missing.")
    said += [f"{plain(setting.label, 60)}: the test predictions say another score than the records." for setting in _torn(settings)]
    if settings and max(len(setting.validation) for setting in settings) == 1:
        said.append("One seed only: the spread over seeds is unknown.")
    if run.rows and not run.baseline:
        said.append("There is no bag of words to compare with.")
    if run.problems:
        few = "; ".join(plain(problem, 120) for problem in run.problems[:5]) + ("; …" if len(run.problems) > 5 else "")
        said.append(f"{len(run.problems)} line(s) of the records could not be used ({few}).")
    return said


def _torn(finals: Sequence[Setting]) -> list[Setting]:
    """Settings whose test predictions do not belong to their records."""
    means = [(setting, numbers.mean(setting.test), setting.estimate) for setting in finals if setting.losses is not None]
    return [s for s, mean, found in means if mean is not None and found and abs(s.metric.turned(found.value) - mean) > 0.01]
