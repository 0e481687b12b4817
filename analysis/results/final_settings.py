"""The final settings of a study: rank them on validation, and compare their test scores with intervals and p values.

A test score is uncertain for two reasons: the seed, and the sample of test texts. `inference.py` covers both if the test
predictions of all seeds are stored, here as in ablations and comparisons of runs. If predictions are missing, the texts of two
settings count as independent, and intervals are rather too wide than too narrow.
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

UNKNOWN = "its uncertainty from the choice of test texts is unknown"
ONE_SEED = "one seed: its spread is unknown"
NO_SPREAD = "equal on every text with every seed, so that its uncertainty is unknown"


@dataclass(frozen=True, eq=False)
class FinalSetting:
    """One setting of the finals over its seeds. Scores are by the run's metric; scores and intervals are in percent."""

    key: str
    label: str
    trials: tuple[Trial, ...]
    rank: int
    """Rank by mean validation error, from 1; the first is the chosen setting once all finals have ended."""
    reference: bool
    """Whether it is the study's reference, the papers' setting."""
    metric: Metric = ERROR_RATE
    losses: Array | None = None
    """Losses [seeds, texts] in percent; None unless the predictions of all seeds are stored."""
    texts: str = ""
    """Digest of the test texts; without losses the reason why there are none."""

    @property
    def validation(self) -> list[float]:
        """Validation score of each seed."""
        return [trial.score for trial in self.trials if trial.score is not None]

    @property
    def test(self) -> list[float]:
        """Test score of each seed that has one."""
        return self.test_by(self.metric)

    def test_by(self, metric: Metric) -> list[float]:
        """Test score by another metric of each seed that has one."""
        return [score for trial in self.trials if trial.test and (score := metric.score(trial.test)) is not None]

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
        """Interval of the mean test score over seeds and texts; None for one seed, or if predictions are needed and missing."""
        return as_scores(self.estimate.interval if self.estimate else None, self.metric)

    @property
    def texts_interval(self) -> Interval | None:
        """Interval of the mean test score of these seeds over texts alone: Wilson's for a share, else Student's."""
        return _over_texts(self.metric, self.test, self.examples, self.estimate if self.losses is not None else None)

    @property
    def tokens(self) -> int:
        """Pieces trained on in fine-tuning, sum over seeds."""
        return sum(trial.tokens for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Training time, sum over seeds."""
        return sum(trial.seconds for trial in self.trials)


@dataclass(frozen=True)
class Difference:
    """Test score of one setting minus that of another, in percentage points."""

    points: float
    interval: Interval | None
    """None for one seed, or if the uncertainty from the choice of test texts is unknown."""
    method: str
    p_value: float | None = None
    corrected: float | None = None
    """p value after Holm's correction over all comparisons of the table."""

    @property
    def within_noise(self) -> bool:
        """Whether noise may explain it; True if that is unknown."""
        p_value = self.p_value if self.corrected is None else self.corrected
        return p_value is None or p_value >= ALPHA


@dataclass(frozen=True, eq=False)
class Finals:
    """The results of a run's finals, each computed once for the whole report."""

    run: Run

    @cached_property
    def settings(self) -> list[FinalSetting]:
        """The final settings, best on validation first."""
        return settings(self.run)

    @cached_property
    def comparisons(self) -> list[tuple[str, Difference]]:
        """(label, difference) of the chosen setting from the reference and from the bag of words."""
        return comparisons(self.run, self.settings)

    @cached_property
    def baseline_interval(self) -> Interval | None:
        """Interval of the bag of words' test score over the test texts."""
        return baseline_interval(self.run)

    @property
    def tested(self) -> list[FinalSetting]:
        """The final settings that have a test score."""
        return [setting for setting in self.settings if setting.test]


def settings(run: Run) -> list[FinalSetting]:
    """Return the final settings, best on validation first. Only completed seeds count."""
    chosen: list[Any] = next((row["settings"] for row in reversed(run.of("selection"))), [])
    selected = [entry for entry in chosen if isinstance(entry, dict) and entry.get("setting")]
    labels = {trial.setting: trial.label for trial in run.finals}
    labels |= {entry["setting"]: str(entry.get("label")) for entry in selected}
    wanted = [entry["setting"] for entry in selected] or list(labels)
    groups = {key: [t for t in run.finals if t.setting == key and t.status == "complete"] for key in wanted}
    groups = {key: trials for key, trials in groups.items() if any(trial.score is not None for trial in trials)}
    ranks = {entry["setting"]: entry["rank"] for entry in selected if isinstance(entry.get("rank"), int)}
    order = sorted(groups, key=lambda key: (ranks.get(key, len(groups) + 1), _mean_loss(run, groups[key]), wanted.index(key)))
    return [_setting(run, key, labels[key], groups[key], rank) for rank, key in enumerate(order, 1)]


def _setting(run: Run, key: str, label: str, trials: Sequence[Trial], rank: int) -> FinalSetting:
    losses, texts = run.losses([trial.name for trial in trials if trial.test])
    return FinalSetting(key, label or key, tuple(trials), rank, is_reference(run, label), run.metric, losses, texts)


def is_reference(run: Run, label: str) -> bool:
    """Whether a label marks the setting as the reference to compare with."""
    final = run.config.get("final")
    name = final.get("label_of_first") if isinstance(final, dict) else None
    return name in label if isinstance(name, str) and name else bool(re.search(r"papers?'?s? setting|\bdefault\b", label))


def is_settled(run: Run) -> bool:
    """Whether the study has chosen a setting; until then the order of the finals is provisional."""
    return bool(run.of("selection"))


def _mean_loss(run: Run, trials: Sequence[Trial]) -> float:
    return statistics.fmean(run.loss(trial) for trial in trials if trial.score is not None)


def wilson(error: float, examples: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval (Wilson 1927) of an error rate in percent over `examples` texts."""
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = error / 100, z * z / examples
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def difference(one: FinalSetting, other: FinalSetting) -> Difference | None:
    """Return the test score of `one` minus that of `other`; None unless both have test scores."""
    if not one.test or not other.test:
        return None
    points = statistics.fmean(one.test) - statistics.fmean(other.test)
    if one.losses is not None and other.losses is not None and one.texts == other.texts:
        return _difference(points, one.metric, *paired(one.metric, one.losses, other.losses))
    sides = [(setting.test, setting.examples) for setting in (one, other)]
    return _independent(points, one.metric, sides, [one.test, other.test])


def against_baseline(run: Run, one: FinalSetting) -> Difference | None:
    """Return the test score of `one` minus that of the bag of words, which has no seed; None unless both have test scores."""
    row = run.baseline.get("test", {})
    score = run.metric.score(row)
    if score is None or not one.test:
        return None
    points = statistics.fmean(one.test) - score
    losses, texts = run.losses([BAG_OF_WORDS])
    if one.losses is not None and losses is not None and one.texts == texts:
        return _difference(points, run.metric, *paired(run.metric, one.losses, losses, seeded=False))
    return _independent(points, run.metric, [(one.test, one.examples), ([score], row.get("examples"))], [one.test])


def comparisons(run: Run, ranked: Sequence[FinalSetting]) -> list[tuple[str, Difference]]:
    """Return (label, difference) of the first setting, the chosen one, from the reference and from the bag of words.

    The p values are corrected for the number of comparisons.
    """
    if not ranked:
        return []
    gaps = [(other.label, difference(ranked[0], other)) for other in ranked[1:] if other.reference]
    gaps.append(("bag of words", against_baseline(run, ranked[0])))
    known = [(label, gap) for label, gap in gaps if gap is not None]
    corrected = iter(inference.holm([gap.p_value for _, gap in known if gap.p_value is not None]))
    return [(label, gap if gap.p_value is None else replace(gap, corrected=next(corrected))) for label, gap in known]


def paired(metric: Metric, one: Array, other: Array, seeded: bool = True) -> tuple[Estimate, str]:
    """Return (estimate of the loss of `one` minus that of `other`, the method); both are [seeds, texts] on the same texts.

    `seeded` is False if the other has no seed: its losses are then fixed numbers, and only the seeds of `one` vary.
    """
    estimate = inference.difference(one, other) if seeded else inference.mean(np.asarray(one, float) - other)
    if estimate.known:
        return estimate, "paired over test texts and seeds"
    if estimate.freedom:
        return estimate, NO_SPREAD
    if len(one) == len(other) == 1 and metric.share:
        p_value = inference.mcnemar(one[0] > 0, other[0] > 0)
        return estimate, f"one seed each, whose spread is unknown; of these two runs McNemar's {p_text(p_value)}"
    return estimate, ONE_SEED


def baseline_interval(run: Run) -> Interval | None:
    """Return the interval of the bag of words' test score over the test texts."""
    row = run.baseline.get("test", {})
    score, losses = run.metric.score(row), run.losses([BAG_OF_WORDS])[0]
    estimate = None if losses is None else inference.mean(losses)
    return None if score is None else _over_texts(run.metric, [score], row.get("examples"), estimate)


def _difference(points: float, metric: Metric, estimate: Estimate, method: str) -> Difference:
    """`points` with the interval and p value of an estimated loss."""
    sign = -1 if metric.higher else 1
    low, high = sorted(sign * bound for bound in estimate.interval or (math.nan, math.nan))
    return Difference(points, (low, high) if estimate.interval else None, method, estimate.p_value)


def _over_texts(metric: Metric, scores: Sequence[float], examples: int | None, estimate: Estimate | None) -> Interval | None:
    """Interval of the mean of these scores over texts alone; None if it is unknown."""
    if not scores:
        return None
    if metric.share:
        return wilson(statistics.fmean(scores), examples) if examples else None
    if estimate is None:
        return None
    alone = replace(estimate, part_seeds=0.0, part_rest=0.0, freedom=max(1, estimate.texts - 1))
    return as_scores(alone.interval, metric)


# Without predictions -------------------------------------------------------------------------------------------------------------

TestScores = tuple[Sequence[float], int | None]
"""(test scores of a setting, number of test texts)"""


def _independent(points: float, metric: Metric, sides: Sequence[TestScores], seeded: Sequence[Sequence[float]]) -> Difference:
    """The difference of two settings whose errors on the texts are taken as independent."""
    estimate = _apart(metric, metric.turned(points) - metric.turned(0.0), sides, seeded)
    if estimate is None:
        return Difference(points, None, UNKNOWN)
    method = "test texts taken as independent, since not all predictions are stored" if estimate.freedom else ONE_SEED
    return _difference(points, metric, estimate, method)


def _apart(metric: Metric, value: float, sides: Sequence[TestScores], seeded: Sequence[Sequence[float]]) -> Estimate | None:
    """Estimate a mean loss, or a difference of two, from scores alone; None if the variance over texts is unknown.

    Variances over seeds and over texts are added, with Satterthwaite's degrees of freedom. The variance over seeds includes a
    part of that over texts (their interaction), so that the interval is rather too wide than too narrow.
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
    """(variance of a share of texts over samples of texts, in points squared; its degrees of freedom).

    The share is Laplace's estimate, so that the variance is never zero.
    """
    share = (statistics.fmean(scores) / 100 * examples + 1) / (examples + 2)
    return 1e4 * share * (1 - share) / examples, max(1, examples - 1)
