"""The final settings: which one is chosen, on validation, and what the test split says of it and of the others.

Two things make a test error uncertain: the seed, and which texts happen to be in the test split. Both intervals are given, each by
its name; a difference of two settings takes both into account.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.load import Run, Trial

LEVEL = 0.95
Interval = tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """One setting of the finals over its seeds. Errors and intervals are in percent."""

    key: str
    label: str
    trials: tuple[Trial, ...]
    rank: int
    """By mean validation error; 1 is the chosen one, where all finals are there."""
    reference: bool
    """Whether it is the study's reference, the papers' setting."""

    @property
    def validation(self) -> list[float]:
        """Validation error of each seed."""
        return [trial.error for trial in self.trials if trial.error is not None]

    @property
    def test(self) -> list[float]:
        """Test error of each seed that has one."""
        return [trial.test["error_rate_percent"] for trial in self.trials if trial.test]

    @property
    def examples(self) -> int | None:
        """Size of the test split."""
        return next((trial.test["examples"] for trial in self.trials if trial.test and trial.test.get("examples")), None)

    @property
    def seeds_interval(self) -> Interval | None:
        """t interval of the test error over seeds; None for fewer than two or equal ones."""
        return t_interval(self.test)

    @property
    def examples_interval(self) -> Interval | None:
        """Wilson interval of the mean test error over the texts of the test split."""
        return wilson(statistics.fmean(self.test), self.examples) if self.test and self.examples else None

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
    """Test error of one setting less that of another, in points of percent."""

    points: float
    interval: Interval | None
    """None where the number of test texts is unknown."""
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
    groups = {key: trials for key, trials in groups.items() if any(trial.error is not None for trial in trials)}
    ranks = {each["setting"]: each["rank"] for each in selected if isinstance(each.get("rank"), int)}
    order = sorted(groups, key=lambda key: (ranks.get(key, len(groups) + 1), _mean_validation(groups[key]), wanted.index(key)))
    return [
        Setting(key, labels[key] or key, tuple(groups[key]), rank, is_reference(run, labels[key]))
        for rank, key in enumerate(order, 1)
    ]


def is_reference(run: Run, label: str) -> bool:
    """Whether a label says that the setting is the one to compare with."""
    final = run.config.get("final")
    name = final.get("label_of_first") if isinstance(final, dict) else None
    return name in label if isinstance(name, str) and name else bool(re.search(r"papers?'?s? setting|\bdefault\b", label))


def is_settled(run: Run) -> bool:
    """Whether the study has chosen: until then the order of the finals is provisional."""
    return bool(run.of("selection"))


def _mean_validation(trials: Sequence[Trial]) -> float:
    return statistics.fmean(trial.error for trial in trials if trial.error is not None)


def mean(values: Sequence[float]) -> float | None:
    """Mean; None of nothing."""
    return statistics.fmean(values) if values else None


def sd(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Student's interval of a mean error in percent, kept within 0 to 100.

    None for fewer than two values, and for equal ones: no width at all would claim a certainty that nobody has.
    """
    if len(values) < 2 or len(set(values)) == 1:
        return None
    half = _t(len(values) - 1, level) * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.fmean(values)
    return max(0.0, middle - half), min(100.0, middle + half)


def wilson(error: float, examples: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of an error rate in percent over so many examples (Wilson 1927)."""
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = error / 100, z * z / examples
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def difference(run: Run, one: Setting, other: Setting) -> Difference | None:
    """Test error of `one` less that of `other`; None unless both have test scores."""
    if not one.test or not other.test:
        return None
    points = statistics.fmean(one.test) - statistics.fmean(other.test)
    paired = _paired_variance(run, one, other)
    variances = [paired] if paired else [_example_variance(s.test, s.examples) for s in (one, other)]
    if any(variance is None for variance in variances):
        return Difference(points, None, "the number of test texts is unknown")
    parts = [part for part in variances if part] + _seed_parts(one) + _seed_parts(other)
    how = "paired over test texts" if paired else "test texts of the two taken as independent"
    seeds = "with the spread over seeds" if len(one.test) > 1 and len(other.test) > 1 else "without the spread over seeds: one seed"
    return Difference(points, _welch(points, parts), f"{how}, {seeds}")


def against_baseline(run: Run, one: Setting) -> Difference | None:
    """Test error of `one` less that of the bag of words, which has no seed; None unless both have test scores."""
    row = run.baseline.get("test")
    if row is None or row.get("error_rate_percent") is None or not one.test:
        return None
    points = statistics.fmean(one.test) - row["error_rate_percent"]
    variances = [_example_variance(one.test, one.examples), _example_variance([row["error_rate_percent"]], row.get("examples"))]
    if any(variance is None for variance in variances):
        return Difference(points, None, "the number of test texts is unknown")
    seeds = "with the spread over seeds" if len(one.test) > 1 else "without the spread over seeds: one seed"
    return Difference(
        points, _welch(points, [v for v in variances if v] + _seed_parts(one)), f"test texts taken as independent, {seeds}"
    )


Part = tuple[float, int]
"""(variance of a mean, its degrees of freedom)"""


def _example_variance(errors: Sequence[float], examples: int | None) -> Part | None:
    """Variance of an error rate (points squared) that comes from the choice of test texts; Laplace's estimate, never zero."""
    if not examples:
        return None
    share = (statistics.fmean(errors) / 100 * examples + 1) / (examples + 2)
    return 1e4 * share * (1 - share) / examples, max(1, examples - 1)


def _paired_variance(run: Run, one: Setting, other: Setting) -> Part | None:
    """The same for a difference of two settings on the same texts; None without the predictions of all their seeds."""
    wrong = []
    for setting in (one, other):
        found = [run.errors_by_example(trial.name) for trial in setting.trials if trial.test]
        if not found or any(each is None or each.keys() != (found[0] or {}).keys() for each in found):
            return None
        wrong.append([each for each in found if each])
    indices = wrong[0][0].keys() if wrong[0] else ()
    if len(indices) < 2 or not wrong[1] or wrong[1][0].keys() != indices:
        return None
    shares = [[statistics.fmean(seed[i] for seed in seeds) for i in indices] for seeds in wrong]
    variance = statistics.variance(100 * (a - b) for a, b in zip(*shares, strict=True)) / len(indices)
    return variance, len(indices) - 1


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
