"""The final settings: which one is chosen, on validation, and what the test split says of it and of the others.

Two things make a test score uncertain: the seed, and which texts happen to be in the test split. Both intervals are given, each by
its name; a difference of two settings takes both into account.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.load import Run, Trial
from analysis.predictions import Array
from study.metric import ERROR_RATE, Metric
from study.record import BAG_OF_WORDS

LEVEL = 0.95
Interval = tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """One setting of the finals over its seeds. Scores, by the run's metric, and intervals are in percent."""

    key: str
    label: str
    trials: tuple[Trial, ...]
    rank: int
    """By mean validation error; 1 is the chosen one, where all finals are there."""
    reference: bool
    """Whether it is the study's reference, the papers' setting."""
    metric: Metric = ERROR_RATE
    text_variance: Part | None = None
    """For a metric that is no share: variance of the mean test score over texts; None where predictions are not kept."""

    @property
    def validation(self) -> list[float]:
        """Validation score of each seed."""
        return [trial.score for trial in self.trials if trial.score is not None]

    @property
    def test(self) -> list[float]:
        """Test score of each seed that has one."""
        return [score for trial in self.trials if trial.test and (score := self.metric.score(trial.test)) is not None]

    @property
    def examples(self) -> int | None:
        """Size of the test split."""
        return next((trial.test["examples"] for trial in self.trials if trial.test and trial.test.get("examples")), None)

    @property
    def variance(self) -> Part | None:
        """Of the mean test score, as far as it comes from the choice of test texts; None where it is not known."""
        return _share_variance(self.test, self.examples) if self.metric.share else self.text_variance

    @property
    def seeds_interval(self) -> Interval | None:
        """t interval of the test score over seeds; None for fewer than two or equal ones."""
        return t_interval(self.test, least=self.metric.least)

    @property
    def examples_interval(self) -> Interval | None:
        """Interval of the mean test score over the texts of the test split: Wilson's, for other scores than shares Student's."""
        if not self.test:
            return None
        if self.metric.share:
            return wilson(statistics.fmean(self.test), self.examples) if self.examples else None
        if self.variance is None:
            return None
        low, high = _welch(statistics.fmean(self.test), [self.variance])
        return max(self.metric.least, low), min(100.0, high)

    @property
    def tokens(self) -> int:
        """Pieces trained on in fine-tuning, all seeds."""
        return sum(trial.tokens for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Training time, all seeds."""
        return sum(trial.seconds for trial in self.trials)


@dataclass(frozen=True)
class Difference:
    """Test score of one setting less that of another, in points of percent."""

    points: float
    interval: Interval | None
    """None where what the choice of test texts does is unknown."""
    method: str

    @property
    def within_noise(self) -> bool:
        """Whether the interval covers zero, or there is none."""
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]


def settings(run: Run) -> list[Setting]:
    """Final settings, best on validation first. Only seeds that are complete count."""
    chosen: list[Any] = next((row["settings"] for row in reversed(run.of("selection"))), [])
    selected = [each for each in chosen if isinstance(each, dict) and each.get("setting")]
    labels = {trial.setting: trial.label for trial in run.finals} | {each["setting"]: str(each.get("label")) for each in selected}
    wanted = [each["setting"] for each in selected] or list(labels)
    groups = {key: [t for t in run.finals if t.setting == key and t.status == "complete"] for key in wanted}
    groups = {key: trials for key, trials in groups.items() if any(trial.score is not None for trial in trials)}
    ranks = {each["setting"]: each["rank"] for each in selected if isinstance(each.get("rank"), int)}
    order = sorted(groups, key=lambda key: (ranks.get(key, len(groups) + 1), _mean_loss(run, groups[key]), wanted.index(key)))
    return [_setting(run, key, labels[key], groups[key], rank) for rank, key in enumerate(order, 1)]


def _setting(run: Run, key: str, label: str, trials: Sequence[Trial], rank: int) -> Setting:
    made = Setting(key, label or key, tuple(trials), rank, is_reference(run, label), run.metric)
    moved = None if run.metric.share else run.influence([trial.name for trial in trials if trial.test])
    return made if moved is None else replace(made, text_variance=_text_variance(moved[1]))


def is_reference(run: Run, label: str) -> bool:
    """Whether a label says that the setting is the one to compare with."""
    final = run.config.get("final")
    name = final.get("label_of_first") if isinstance(final, dict) else None
    return name in label if isinstance(name, str) and name else bool(re.search(r"papers?'?s? setting|\bdefault\b", label))


def is_settled(run: Run) -> bool:
    """Whether the study has chosen: until then the order of the finals is provisional."""
    return bool(run.of("selection"))


def _mean_loss(run: Run, trials: Sequence[Trial]) -> float:
    return statistics.fmean(run.loss(trial) for trial in trials if trial.score is not None)


def mean(values: Sequence[float]) -> float | None:
    """Mean; None of nothing."""
    return statistics.fmean(values) if values else None


def sd(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], level: float = LEVEL, least: float = 0.0) -> Interval | None:
    """Student's interval of a mean score in percent, kept within what is possible.

    None for fewer than two values, and for equal ones: no width at all would claim a certainty that nobody has.
    """
    if len(values) < 2 or len(set(values)) == 1:
        return None
    half = _t(len(values) - 1, level) * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return max(least, middle - half), min(100.0, middle + half)


def wilson(error: float, examples: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of an error rate in percent over so many examples (Wilson 1927)."""
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = error / 100, z * z / examples
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def difference(run: Run, one: Setting, other: Setting) -> Difference | None:
    """Test score of `one` less that of `other`; None unless both have test scores."""
    if not one.test or not other.test:
        return None
    points = statistics.fmean(one.test) - statistics.fmean(other.test)
    names = [[trial.name for trial in setting.trials if trial.test] for setting in (one, other)]
    seeds = _seed_parts(one) + _seed_parts(other)
    return _difference(points, _paired_variance(run, *names), [one.variance, other.variance], seeds, len(seeds) == 2)


def against_baseline(run: Run, one: Setting) -> Difference | None:
    """Test score of `one` less that of the bag of words, which has no seed; None unless both have test scores."""
    row = run.baseline.get("test", {})
    score = run.metric.score(row)
    if score is None or not one.test:
        return None
    points, examples = statistics.fmean(one.test) - score, row.get("examples")
    tested = [trial.name for trial in one.trials if trial.test]
    own = _share_variance([score], examples) if run.metric.share else None
    seeds = _seed_parts(one)
    return _difference(points, _paired_variance(run, tested, [BAG_OF_WORDS]), [one.variance, own], seeds, bool(seeds))


def baseline_interval(run: Run) -> Interval | None:
    """Interval of the bag of words' test score over the texts of the test split."""
    row = run.baseline.get("test", {})
    return _setting(run, "", "", [Trial(BAG_OF_WORDS, "baseline", test=row)], 0).examples_interval if row else None


Part = tuple[float, int]
"""(variance of a mean, its degrees of freedom)"""


def _difference(
    points: float, paired: Part | None, apart: Sequence[Part | None], seeds: Sequence[Part], spread: bool
) -> Difference:
    """A difference with its interval, from the variance over texts, of the pairs or else of each side, and over seeds."""
    parts = [paired] if paired else [part for part in apart if part]
    if not paired and len(parts) < len(apart):
        return Difference(points, None, "what the choice of test texts does to it is unknown")
    how = "paired over test texts" if paired else "test texts taken as independent"
    said = "with the spread over seeds" if spread else "without the spread over seeds: one seed"
    return Difference(points, _welch(points, [*parts, *seeds]), f"{how}, {said}")


def _share_variance(scores: Sequence[float], examples: int | None) -> Part | None:
    """Variance of a share of texts (points squared) that comes from their choice; Laplace's estimate, never zero."""
    if not examples or not scores:
        return None
    share = (statistics.fmean(scores) / 100 * examples + 1) / (examples + 2)
    return 1e4 * share * (1 - share) / examples, max(1, examples - 1)


def _text_variance(moved: Array) -> Part | None:
    """Variance of a mean over texts; None where all are alike: no width at all would claim a certainty that nobody has."""
    variance = float(moved.var(ddof=1)) / len(moved)
    return (variance, len(moved) - 1) if variance else None


def _paired_variance(run: Run, one: Sequence[str], other: Sequence[str]) -> Part | None:
    """The same for a difference of two on the same texts; None without the predictions of all their trials."""
    found = [run.influence(names) for names in (one, other)]
    if found[0] is None or found[1] is None or found[0][0] != found[1][0]:
        return None
    moved = found[0][1] - found[1][1]
    return float(moved.var(ddof=1)) / len(moved), len(moved) - 1


def _seed_parts(setting: Setting) -> list[Part]:
    """Variance of a setting's mean that comes from its seeds; nothing for one seed, whose spread is unknown."""
    count = len(setting.test)
    return [(statistics.variance(setting.test) / count, count - 1)] if count > 1 else []


def _welch(points: float, parts: Sequence[Part]) -> Interval:
    """Interval of a sum of independent errors with Welch's and Satterthwaite's degrees of freedom.

    The spread over seeds holds a little of the texts' (seed by text) once more, so that the interval errs on the wide side.
    """
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return points, points
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    half = _t(freedom, LEVEL) * math.sqrt(total)
    return points - half, points + half


def _t(freedom: float, level: float) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + level / 2, freedom))
