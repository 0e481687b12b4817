"""The final settings: which one is chosen, on validation, and what the test split says of it and of the others.

Two things make a test score uncertain: the seed, and which texts happen to be in the test split. With the test predictions of all
seeds `inference.py` takes both into account, here as in ablations and comparisons of runs. Where predictions are missing the
texts of two settings count as independent, which errs on the wide side.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from analysis.records.metric import ERROR_RATE, Metric
from analysis.records.predictions import Array, as_scores
from analysis.records.record_fields import BAG_OF_WORDS
from analysis.records.run_folder import Run
from analysis.records.trials import Trial
from analysis.stats import inference
from analysis.stats.inference import ALPHA, LEVEL, Estimate, p_text
from analysis.text.numbers import Interval

UNKNOWN = "what the choice of test texts does to it is unknown"
ONE_SEED = "one seed: its spread is unknown"
NO_SPREAD = "the same on every text with every seed, which does not tell how far it is by chance"


@dataclass(frozen=True, eq=False)
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
    losses: Array | None = None
    """Loss of every seed and test text in percent, [seeds, texts]; None without the predictions of all."""
    texts: str = ""
    """Digest of the test texts; without losses why there are none."""

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

    @cached_property
    def estimate(self) -> Estimate | None:
        """Mean loss with its uncertainty over seeds and texts; None without test scores."""
        if not self.test:
            return None
        if self.losses is not None:
            return inference.mean(self.losses)
        return _apart(self.metric, self.metric.turned(statistics.fmean(self.test)), [(self.test, self.examples)], [self.test])

    @property
    def interval(self) -> Interval | None:
        """Of the mean test score, over seeds and texts; None for one seed, and where predictions are needed and missing."""
        return as_scores(self.estimate.interval if self.estimate else None, self.metric)

    @property
    def texts_interval(self) -> Interval | None:
        """Of the mean test score of these very seeds, over texts alone: Wilson's, for other scores than shares Student's."""
        return _over_texts(self.metric, self.test, self.examples, self.estimate if self.losses is not None else None)

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
    """None for one seed, and where what the choice of test texts does is unknown."""
    method: str
    p_value: float | None = None
    corrected: float | None = None
    """p value after Holm's correction over all comparisons of the table."""

    @property
    def within_noise(self) -> bool:
        """Whether it may be nothing but noise; also where that is not known."""
        p_value = self.p_value if self.corrected is None else self.corrected
        return p_value is None or p_value >= ALPHA


@dataclass(frozen=True, eq=False)
class Finals:
    """A run with what its finals have come to: reckoned once, for all that a report says of it."""

    run: Run

    @cached_property
    def settings(self) -> list[Setting]:
        """The final settings, best on validation first."""
        return settings(self.run)

    @cached_property
    def comparisons(self) -> list[tuple[str, Difference]]:
        """How the chosen setting compares with the reference and the bag of words."""
        return comparisons(self.run, self.settings)

    @cached_property
    def baseline_interval(self) -> Interval | None:
        """Of the bag of words' test score."""
        return baseline_interval(self.run)

    @property
    def tested(self) -> list[Setting]:
        """The final settings that have a test score."""
        return [setting for setting in self.settings if setting.test]


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
    losses, texts = run.losses([trial.name for trial in trials if trial.test])
    return Setting(key, label or key, tuple(trials), rank, is_reference(run, label), run.metric, losses, texts)


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


def wilson(error: float, examples: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of an error rate in percent over so many examples (Wilson 1927)."""
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = error / 100, z * z / examples
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def difference(one: Setting, other: Setting) -> Difference | None:
    """Test score of `one` less that of `other`; None unless both have test scores."""
    if not one.test or not other.test:
        return None
    points = statistics.fmean(one.test) - statistics.fmean(other.test)
    if one.losses is not None and other.losses is not None and one.texts == other.texts:
        return _difference(points, one.metric, *paired(one.metric, one.losses, other.losses))
    sides, seeded = [(each.test, each.examples) for each in (one, other)], [one.test, other.test]
    return _independent(points, one.metric, sides, seeded)


def against_baseline(run: Run, one: Setting) -> Difference | None:
    """Test score of `one` less that of the bag of words, which has no seed; None unless both have test scores."""
    row = run.baseline.get("test", {})
    score = run.metric.score(row)
    if score is None or not one.test:
        return None
    points = statistics.fmean(one.test) - score
    losses, texts = run.losses([BAG_OF_WORDS])
    if one.losses is not None and losses is not None and one.texts == texts:
        return _difference(points, run.metric, *paired(run.metric, one.losses, losses, seeded=False))
    return _independent(points, run.metric, [(one.test, one.examples), ([score], row.get("examples"))], [one.test])


def comparisons(run: Run, found: Sequence[Setting]) -> list[tuple[str, Difference]]:
    """(label, test score of the first of these settings, the chosen one, less that of it) for the reference and the bag of words,
    corrected for both."""
    if not found:
        return []
    gaps = [(other.label, difference(found[0], other)) for other in found[1:] if other.reference]
    gaps.append(("bag of words", against_baseline(run, found[0])))
    known = [(label, gap) for label, gap in gaps if gap is not None]
    corrected = iter(inference.holm([gap.p_value for _, gap in known if gap.p_value is not None]))
    return [(label, gap if gap.p_value is None else replace(gap, corrected=next(corrected))) for label, gap in known]


def paired(metric: Metric, one: Array, other: Array, seeded: bool = True) -> tuple[Estimate, str]:
    """(loss of `one` [seeds, texts] less that of `other` [seeds, texts] on the same texts, how they are compared).

    Where the other has no seed its losses are fixed numbers, and what is estimated is the mean of the differences.
    """
    found = inference.difference(one, other) if seeded else inference.mean(np.asarray(one, float) - other)
    if found.known:
        return found, "paired over test texts and seeds"
    if found.freedom:
        return found, NO_SPREAD
    if len(one) == len(other) == 1 and metric.share:
        p_value = inference.mcnemar(one[0] > 0, other[0] > 0)
        return found, f"one seed each, whose spread is unknown; of these two runs McNemar's {p_text(p_value)}"
    return found, ONE_SEED


def baseline_interval(run: Run) -> Interval | None:
    """Interval of the bag of words' test score over the texts of the test split."""
    row = run.baseline.get("test", {})
    score, losses = run.metric.score(row), run.losses([BAG_OF_WORDS])[0]
    estimate = None if losses is None else inference.mean(losses)
    return None if score is None else _over_texts(run.metric, [score], row.get("examples"), estimate)


def _difference(points: float, metric: Metric, found: Estimate, method: str) -> Difference:
    way = -1 if metric.higher else 1
    low, high = sorted(way * bound for bound in found.interval or (math.nan, math.nan))
    return Difference(points, (low, high) if found.interval else None, method, found.p_value)


def _over_texts(metric: Metric, scores: Sequence[float], examples: int | None, found: Estimate | None) -> Interval | None:
    if not scores:
        return None
    if metric.share:
        return wilson(statistics.fmean(scores), examples) if examples else None
    if found is None:
        return None
    alone = replace(found, part_seeds=0.0, part_rest=0.0, freedom=max(1, found.texts - 1))
    return as_scores(alone.interval, metric)


# Without predictions -------------------------------------------------------------------------------------------------------------

Side = tuple[Sequence[float], int | None]
"""Test scores of a setting, and of how many texts."""


def _independent(points: float, metric: Metric, sides: Sequence[Side], seeded: Sequence[Sequence[float]]) -> Difference:
    """A difference of two whose errors on the texts are taken as independent."""
    found = _apart(metric, metric.turned(points) - metric.turned(0.0), sides, seeded)
    if found is None:
        return Difference(points, None, UNKNOWN)
    method = "test texts taken as independent, since not all predictions are there" if found.freedom else ONE_SEED
    return _difference(points, metric, found, method)


def _apart(metric: Metric, value: float, sides: Sequence[Side], seeded: Sequence[Sequence[float]]) -> Estimate | None:
    """A mean loss, or the difference of two, from scores alone; None where nothing is known of the texts.

    Variances over seeds and over texts are added, with Satterthwaite's degrees of freedom. The spread over seeds holds a
    little of the texts' (seed by text) once more, so that the interval errs on the wide side.
    """
    parts = [_share_variance(scores, examples) for scores, examples in sides if metric.share and examples]
    if len(parts) < len(sides):
        return None
    texts, seeds = min(examples or 0 for _, examples in sides), min(map(len, seeded))
    of_texts = sum(variance for variance, _ in parts)
    if seeds < 2:
        return Estimate(value, seeds, texts, 0.0, of_texts, 0.0, 0.0)
    spread = [(statistics.variance(scores) / len(scores), len(scores) - 1) for scores in seeded]
    of_seeds = sum(variance for variance, _ in spread)
    freedom = (of_seeds + of_texts) ** 2 / sum(variance**2 / degrees for variance, degrees in [*parts, *spread])
    return Estimate(value, seeds, texts, of_seeds, of_texts, 0.0, freedom)


def _share_variance(scores: Sequence[float], examples: int) -> tuple[float, int]:
    """(variance of a share of texts in points squared that comes from their choice, its degrees of freedom).

    Laplace's estimate, which is never zero.
    """
    share = (statistics.fmean(scores) / 100 * examples + 1) / (examples + 2)
    return 1e4 * share * (1 - share) / examples, max(1, examples - 1)
