"""Put the result of a study into sentences: the verdict, its certainty, the search, missing parts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from analysis.records.run_folder import Run, trained_tokens
from analysis.records.trials import STATUSES
from analysis.results import final_settings
from analysis.results.final_settings import Difference, Finals, FinalSetting
from analysis.stats.inference import ALPHA, p_text
from analysis.text import numbers
from analysis.text.numbers import NARROW, count_text, duration, signed
from analysis.text.plain import plain

# Sentences -----------------------------------------------------------------------------------------------------------------------


def verdict(difference: Difference, other: str) -> str:
    """Return one sentence on the difference between the chosen setting and another, whose name is `other`."""
    sentence = f"{distance(difference, other)}, which is {certainty(difference)}"
    if difference.interval is None:
        return f"{sentence} ({difference.method})"
    bounds = f"95 % interval of the difference {signed(difference.interval[0])} to {signed(difference.interval[1])}"
    p_value = difference.p_value if difference.corrected is None else difference.corrected
    return f"{sentence} ({bounds}, {p_text(p_value)}; {difference.method})"


def distance(difference: Difference, other: str) -> str:
    """Put a difference into words: `3.8 points below the papers' setting`."""
    points = f"{abs(difference.points):.1f}"
    return (
        f"level with {other}" if float(points) == 0 else f"{points} points {'below' if difference.points < 0 else 'above'} {other}"
    )


def certainty(difference: Difference) -> str:
    """Put into words whether a difference may be noise."""
    if difference.p_value is None:
        return "undecided"
    return "within noise" if difference.within_noise else "more than noise"


def named(label: str) -> str:
    """Return a setting's label as used within a sentence."""
    label = plain(label, 60)
    if re.match("papers?'?s? setting|bag of words$", label):
        return f"the {label}"
    return re.sub(r", (.+)$", r" (\1)", label)


def comparisons(finals: Finals) -> list[str]:
    """Return sentences that compare the chosen setting's test score with the reference and the bag of words."""
    return [verdict(gap, named(label)) for label, gap in finals.comparisons]


def facts(finals: Finals) -> list[str]:
    """Return the sentences that explain the table."""
    run, sentences = finals.run, []
    if final_settings.is_settled(run):
        sentences.append(
            f"Chosen on the validation split by mean {run.metric.label} over seeds; the test split was read once, after that."
        )
    if run.sizes:
        sizes = ", ".join(f"{size:,} {split}" for split, size in run.sizes.items())
        counted = [split for split in ("validation", "test") if run.metric.share and run.sizes.get(split)]
        points = [f"one {split} text = {100 / run.sizes[split]:.2g} points" for split in counted]
        sentences.append(f"Texts: {sizes}" + (f"; {', '.join(points)}." if points else "."))
    sentences.append(drawn_test(run))
    if tested := finals.tested:
        several = any(len(scores) > 1 for setting in tested for scores in (setting.validation, setting.test))
        sentences.append(f"{'± is the standard deviation over seeds. ' if several else ''}{intervals(run, tested)}")
        of = sum(gap.p_value is not None for _, gap in finals.comparisons)
        if of > 1:
            sentences.append(f"p values are corrected for {of} comparisons; from {ALPHA:.2g} on a difference is within noise.")
        sentences.append(meaning(run))
    sentences.append(search_summary(run))
    return [sentence for sentence in sentences if sentence]


def drawn_test(run: Run) -> str:
    """Say that the test split was drawn from the training file, and how; empty if the task has a test split of its own."""
    tasks = run.config.get("tasks")
    task = tasks.get(run.config.get("task")) if isinstance(tasks, dict) else None
    share = task.get("test_share") if isinstance(task, dict) else None
    if not isinstance(share, float) or not isinstance(task, dict):
        return ""
    seed = plain(str(task.get("split_seed", 0)), 20)
    return f"The test split is a share of {share:g} of the training texts, drawn by class with seed {seed}."


def intervals(run: Run, settings: Sequence[FinalSetting]) -> str:
    """Return the sentence on how the 95 % intervals are computed."""
    whole = sum(setting.losses is not None for setting in settings)
    both = "an analysis of variance over seeds and test texts" if whole else "the spread over seeds, and texts as independent"
    if 0 < whole < len(settings):
        both += " (without test predictions: the spread over seeds, and texts as independent)"
    texts = "Wilson's" if run.metric.share else "the delta method's"
    sentence = f"95 % intervals of the test {run.metric.label}: {both}, none for one seed"
    return f"{sentence}; over texts alone {texts}, for these seeds only."


def meaning(run: Run) -> str:
    """Define F1, MCC, or the error rate of a task with several labels; empty if no definition is needed."""
    sentence = run.metric.meaning
    if run.several:
        whole = "a text is right only if its set of labels is exactly right; that is what the error counts"
        sentence = f"{sentence}; {whole}" if sentence else whole
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def search_summary(run: Run) -> str:
    """Summarise: `The search: 12 trials of 11 settings (6 complete, 6 stopped early), 340 k tokens of fine-tuning; ... took 8 min.`

    Tokens are those that this run trained on: a repeated trial and one loaded from the store add none.
    """
    if not run.search:
        return ""
    trials, settings = len(run.search), len({trial.setting for trial in run.search if trial.setting})
    sentence = f"The search: {trials} trial{'s' * (trials != 1)}"
    sentence += f" of {settings} different setting{'s' * (settings != 1)}" if 0 < settings < trials else ""
    sentence += f" ({by_status(run)}), {count_text(trained_tokens(run.search), NARROW)} tokens of fine-tuning"
    loaded = sum(trial.source == "loaded" for trial in run.search)
    sentence += f", {loaded} from the store" if loaded else ""
    return sentence + (f"; the whole study took {duration(run.seconds)}." if run.seconds else ".")


def by_status(run: Run) -> str:
    """Count the search's trials by status: `6 complete, 4 stopped early, 1 failed`."""
    counts = Counter(trial.status for trial in run.search)
    names = {"stopped": "stopped early", "running": "not finished"}
    return ", ".join(f"{counts[status]} {names.get(status, status)}" for status in STATUSES if counts[status])


def _failures(run: Run) -> str:
    """Count failures: `1 of 8 trials of the search is complete, 7 failed; 1 of 4 finals failed.`"""
    complete, lost = (sum(trial.status == status for trial in run.search) for status in ("complete", "failed"))
    sentences = [
        f"{complete} of {len(run.search)} trials of the search {'is' if complete == 1 else 'are'} complete, {lost or 'none'} failed"
    ]
    if finals := sum(trial.status == "failed" for trial in run.finals):
        sentences.append(f"{finals} of {len(run.finals)} finals failed")
    return f"{'; '.join(sentences)}. --retry-failed runs them again."


def missing(finals: Finals) -> list[str]:
    """Return the parts that this report still lacks, a sentence each."""
    sentences, run, settings = [], finals.run, finals.settings
    if run.state == "unfinished":
        sentences.append("The study has not finished: these are interim results.")
    elif run.state == "interrupted":
        sentences.append("The study was interrupted: these are interim results. Run the same command again to resume.")
    elif run.state == "stopped":
        reason = plain(run.of("study")[-1].get("reason") or "no reason given", 300)
        sentences.append(
            f"The study was stopped: {reason}. These are interim results. After the repair, run the same command again to resume."
        )
    if any(trial.status == "failed" for trial in run.trials):
        sentences.append(_failures(run))
    if not run.search and not run.finals:
        sentences.append("No trial has begun.")
    elif run.search and not any(trial.status == "complete" for trial in run.search):
        reasons = sorted({trial.reason for trial in run.search if trial.reason and trial.status in ("failed", "diverged")})
        sentences.append("No trial of the search is complete." + (f" Reasons given: {'; '.join(reasons[:3])}." if reasons else ""))
    if run.trials and not settings:
        sentences.append("No final is complete, so no setting is chosen and the test split has not been read.")
    elif settings and not final_settings.is_settled(run):
        sentences.append("Some finals are missing, so no setting is chosen yet.")
    if settings and any(not trial.test for setting in settings for trial in setting.trials):
        sentences.append("Test scores of some finals are missing.")
    sentences += [
        f"{plain(setting.label, 60)}: the test predictions give another score than the records." for setting in _torn(settings)
    ]
    if settings and max(len(setting.validation) for setting in settings) == 1:
        sentences.append("One seed only: the spread over seeds is unknown.")
    if run.rows and not run.baseline:
        sentences.append("There is no bag of words to compare with.")
    if run.problems:
        few = "; ".join(plain(problem, 120) for problem in run.problems[:5]) + ("; …" if len(run.problems) > 5 else "")
        sentences.append(f"{len(run.problems)} line(s) of the records could not be used ({few}).")
    return sentences


def _torn(finals: Sequence[FinalSetting]) -> list[FinalSetting]:
    """Settings whose test predictions do not match their records."""
    means = [(setting, numbers.mean(setting.test), setting.estimate) for setting in finals if setting.losses is not None]
    return [
        s for s, mean, estimate in means if mean is not None and estimate and abs(s.metric.turned(estimate.value) - mean) > 0.01
    ]
