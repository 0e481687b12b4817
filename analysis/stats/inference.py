"""Intervals and tests for a mean error over seeds and test texts, and for the difference of two.

A score has two sources of noise: the seed, and the sample of texts in the test split. Every seed is tested on the same texts, so
the two are crossed. With seeds s and texts i the error is y(s, i) = mean + seed(s) + text(i) + rest(s, i), and the variance of the
mean over S seeds and N texts is var(seed)/S + var(text)/N + var(rest)/(S N): a two-way random-effects analysis of variance (Searle,
Casella and McCulloch 1992, chapter 4). Its mean squares estimate the sum without bias, and Satterthwaite's (1946) degrees of
freedom give the t interval its nominal coverage for three seeds, where a bootstrap over seeds is too narrow by construction (Owen
2007). `benchmarks/coverage.py` measures the coverage of the intervals.

A difference is paired over the texts and, if all settings have equally many seeds, also seed by seed, in order: the analysis is
that of the differences. A seed fixes the order of texts, the new head, dropout and the choice of few labelled texts for all
settings, so that its common effect cancels. If seeds have no common effect, pairing costs degrees of freedom but the coverage stays
right.

All functions take errors per text in any unit, 0/1 for right and wrong; means and intervals are in the same unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LEVEL = 0.95
ALPHA = 1 - LEVEL
BLOCK = 4_000_000
"""Weights of texts that a bootstrap holds in memory at a time: 32 MB."""
PLACES = 9
"""Decimal places kept of matrix products, so that a draw is the same on every processor."""
ROUNDING = 1e-6
"""A spread below this share of the value counts as rounding: losses are kept in single precision."""
MOST_SEEDS = 1000
"""Limit of `seeds_to_decide`: a difference that needs more seeds counts as undecidable by seeds."""


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, with the components of its variance."""

    value: float
    seeds: int
    """Number of seeds of the setting with the fewest."""
    texts: int
    part_seeds: float
    """Variance that more seeds would reduce; 0 for one seed, where it is unknown."""
    part_texts: float
    """Variance that more test texts would reduce."""
    part_rest: float
    """Variance of the interaction of seed and text, which both parts above contain."""
    freedom: float
    """Degrees of freedom of the variance; 0 if unknown."""

    @property
    def variance(self) -> float:
        """Variance of the value over samples of seeds and of texts; components estimated below 0 count as 0."""
        return max(self.part_seeds + self.part_texts - self.part_rest, self.part_seeds, self.part_texts, self.part_rest)

    @property
    def known(self) -> bool:
        """Whether the uncertainty is known: not for one seed, nor if a value other than 0 has no spread beyond rounding."""
        return bool(self.freedom) and (self.value == 0 or math.sqrt(self.variance) > ROUNDING * abs(self.value))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Confidence interval of level LEVEL; None unless the uncertainty is `known`."""
        if not self.known:
            return None
        half = _t(0.5 + LEVEL / 2, self.freedom) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    @property
    def p_value(self) -> float | None:
        """Two-sided p value of the value being zero; None unless the uncertainty is `known`."""
        if not self.known:
            return None
        if self.variance == 0:
            return 1.0
        from scipy.stats import t

        return float(2 * t.sf(abs(self.value) / math.sqrt(self.variance), self.freedom))


def mean(errors: Array) -> Estimate:
    """Estimate the mean of errors [seeds, texts]. Raises ValueError without seeds or texts."""
    return _estimate([_filled(errors)], [1.0])


def difference(one: Array, other: Array) -> Estimate:
    """Estimate the mean of `one` minus that of `other`, both [seeds, texts], paired over texts, and over equally many seeds.

    Raises ValueError without seeds or texts, or for different numbers of texts.
    """
    return _estimate(_alike([one, other]), [1.0, -1.0])


def contrast(groups: Sequence[Array], weights: Sequence[float]) -> Estimate:
    """Estimate a weighted sum of means of errors [seeds, texts] on the same texts; `difference` has weights 1 and -1.

    Raises ValueError without seeds or texts, or for different numbers of texts.
    """
    return _estimate(_alike(groups), weights)


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Average estimates from different texts with equal weights. Raises ValueError without estimates."""
    if not estimates:
        raise ValueError("nothing to pool")
    if len(estimates) == 1:
        return estimates[0]
    parts = ("part_seeds", "part_texts")  # at least `part_rest` in every estimate, so that the rests add up
    of_seeds, of_texts = (
        sum(max(getattr(estimate, name), estimate.part_rest) for estimate in estimates) / len(estimates) ** 2 for name in parts
    )
    spread = sum(estimate.variance**2 / estimate.freedom for estimate in estimates if estimate.freedom)
    total = sum(estimate.variance for estimate in estimates)
    rest = of_seeds + of_texts - total / len(estimates) ** 2  # makes `variance` that of the mean
    freedom = total**2 / spread if spread else float(min(estimate.freedom for estimate in estimates))
    known = all(estimate.known for estimate in estimates)
    value, seeds = sum(estimate.value for estimate in estimates) / len(estimates), min(estimate.seeds for estimate in estimates)
    return Estimate(
        value, seeds, sum(estimate.texts for estimate in estimates), of_seeds, of_texts, rest, freedom if known else 0.0
    )


def against_best(one: Array, others: Sequence[Array], draws: int = 1000, seed: int = 0) -> Estimate:
    """Estimate the mean of `one` minus that of the best of `others`, all [seeds, texts] on the same texts.

    The best of several looks better than it is. Bootstrap draws that choose the best again show by how much: their bias is
    subtracted from the value, and their variance is used unless that of the plain difference is larger.
    """
    one, others = _filled(one), [_filled(other) for other in others]
    best = min(others, key=lambda other: float(other.mean()))
    plain = difference(one, best)
    if len(others) == 1 or not plain.freedom:
        return plain
    means = bootstrap([one, *others], draws, seed)
    drawn = means[:, 0] - means[:, 1:].min(axis=1)
    value = 2 * plain.value - float(drawn.mean())
    scale = max(1.0, float(drawn.var(ddof=1)) / plain.variance) if plain.variance else 1.0
    parts = {name: scale * getattr(plain, name) for name in ("part_seeds", "part_texts", "part_rest")}
    return Estimate(value, min(map(len, (one, *others))), plain.texts, **parts, freedom=plain.freedom)


def _filled(errors: Array) -> Array:
    errors = np.asarray(errors, dtype=float)
    if errors.ndim != 2 or not errors.size:
        raise ValueError(f"errors of shape {errors.shape}, where [seeds, texts] are needed")
    return errors


def _alike(groups: Sequence[Array]) -> list[Array]:
    groups = [_filled(group) for group in groups]
    texts = list(dict.fromkeys(group.shape[1] for group in groups))
    if len(texts) > 1:
        raise ValueError(f"{' texts and '.join(map(str, texts))} texts: a paired comparison needs the same texts")
    return groups


def _estimate(groups: Sequence[Array], signs: Sequence[float]) -> Estimate:
    """Estimate a weighted sum of means of errors [seeds, texts] on the same texts."""
    if len({len(group) for group in groups}) == 1:  # seed by seed
        groups, signs = [reduce(np.add, (sign * group for sign, group in zip(signs, groups, strict=True)))], [1.0]
    texts, seeds = groups[0].shape[1], min(len(group) for group in groups)
    by_text = sum(sign * group.mean(axis=0) for group, sign in zip(groups, signs, strict=True))  # [texts]
    value = float(np.mean(by_text))
    part_texts = float(np.var(by_text, ddof=1)) / texts if texts > 1 else 0.0
    if seeds < 2 or texts < 2:
        return Estimate(value, seeds, texts, 0.0, part_texts, 0.0, 0.0)
    of_seeds = [
        (sign**2 * float(np.var(group.mean(axis=1), ddof=1)) / len(group), len(group) - 1)
        for group, sign in zip(groups, signs, strict=True)
    ]
    rests = [(sign**2 * v, freedom) for sign, (v, freedom) in zip(signs, map(_rest, groups), strict=True)]
    squares = [*of_seeds, (part_texts, texts - 1), *rests]
    estimate = Estimate(value, seeds, texts, sum(v for v, _ in of_seeds), part_texts, sum(v for v, _ in rests), 1.0)
    spread = sum(variance**2 / freedom for variance, freedom in squares)
    freedom = estimate.variance**2 / spread if spread else float(texts - 1)
    return Estimate(**(vars(estimate) | {"freedom": max(1.0, freedom)}))


def _rest(errors: Array) -> tuple[float, int]:
    """(variance of the mean of errors [seeds, texts] from the interaction of seed and text, its degrees of freedom)."""
    seeds, texts = errors.shape
    rest = errors - errors.mean(axis=1, keepdims=True) - errors.mean(axis=0, keepdims=True) + errors.mean()
    freedom = (seeds - 1) * (texts - 1)
    return float((rest**2).sum()) / freedom / (seeds * texts), freedom


def seeds_to_decide(estimate: Estimate) -> int | None:
    """Return the number of seeds per setting that would put zero outside the interval, for an unchanged difference.

    None if no number would: the texts alone leave too much uncertainty, the difference is zero, or its uncertainty is unknown.
    """
    if estimate.value == 0 or not estimate.known:
        return None
    rest_of_seed = max(0.0, estimate.part_seeds - estimate.part_rest) * estimate.seeds  # variances of a single seed
    rest_of_both = estimate.part_rest * estimate.seeds
    texts = max(0.0, estimate.part_texts - estimate.part_rest)
    for seeds in range(2, MOST_SEEDS + 1):
        variance = texts + (rest_of_seed + rest_of_both) / seeds
        freedom = variance**2 / (((rest_of_seed + rest_of_both) / seeds) ** 2 / (seeds - 1) + texts**2 / (estimate.texts - 1))
        if _t(0.5 + LEVEL / 2, max(1.0, freedom)) * math.sqrt(variance) < abs(estimate.value):
            return seeds
    return None


def bootstrap(groups: Sequence[Array], draws: int = 2000, seed: int = 0) -> Array:
    """Return bootstrap draws [draws, settings] of means of errors [seeds, texts] over both (the pigeonhole bootstrap, Owen 2007).

    Every draw resamples the texts, the same for all settings and seeds, and the seeds, the same for all settings if they have
    equally many. Texts with equal errors in all seeds of all settings form one kind, and the count of a kind is multinomial: the
    same distribution, faster. The variance over n seeds comes out too small by (n - 1)/n; the weights of seeds are spread by the
    root of n/(n - 1) to correct for that. Raises ValueError without seeds or texts, or for different numbers of texts.
    """
    groups = _alike(groups)
    rng, sizes = np.random.default_rng(seed), [len(group) for group in groups]
    kinds, counts = np.unique(np.concatenate(groups), axis=1, return_counts=True)  # [seeds, kinds], [kinds]
    weights: list[Array] = []
    for size in sizes:
        drawn = rng.multinomial(size, np.full(size, 1 / size), draws) / size
        weights.append(1 / size + math.sqrt(size / max(1, size - 1)) * (drawn - 1 / size))
        if len(set(sizes)) == 1:  # the same seeds of all settings
            weights *= len(sizes)
            break
    of_seeds, total = np.concatenate(weights, axis=1), int(counts.sum())
    means, block = [], max(1, BLOCK // len(counts))
    for start in range(0, draws, block):
        mine = of_seeds[start : start + block]
        of_texts = rng.multinomial(total, counts / total, len(mine)) / total
        means.append(np.add.reduceat((of_texts @ kinds.T) * mine, np.cumsum([0, *sizes[:-1]]), axis=1))
    return np.round(np.concatenate(means), PLACES)


def bootstrap_interval(
    *groups: Array, weights: Sequence[float] = (1.0,), draws: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile interval of a mean error [seeds, texts], or with weights (1, -1) of a difference on the same texts.

    None for a single seed. If texts dominate the variance, it is wider than `Estimate.interval`, since it counts the interaction of
    seed and text three times; if seeds dominate, it is too narrow, since few seeds show no tails (`benchmarks/coverage.py`).
    """
    if min(map(len, groups)) < 2:
        return None
    low, high = np.quantile(bootstrap(groups, draws, seed) @ np.asarray(weights), (0.5 - LEVEL / 2, 0.5 + LEVEL / 2))
    return round(float(low), 6), round(float(high), 6)  # the last bits differ between processors


def mcnemar(one: Array, other: Array) -> float:
    """Return the exact p value of McNemar's (1947) test for 0/1 errors [texts] of two runs on the same texts."""
    from scipy.stats import binomtest

    one, other = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    if one.shape != other.shape:
        raise ValueError(f"{one.shape} errors and {other.shape}: the test needs the same texts")
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(only_one, only_one + only_other).pvalue) if only_one + only_other else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple tests (Holm 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def expected_best(errors: Sequence[float], budgets: Sequence[int]) -> tuple[Array, Array]:
    """Return (expected smallest validation error of n random trials, its standard deviation), for every n of `budgets`.

    Dodge et al. 2019, section 3.1: n trials are drawn with replacement, all with the same probability. `errors` must come from
    independent trials; with an adaptive sampler or early stopping the result is descriptive only.
    """
    ordered = np.sort(np.asarray(errors, dtype=float))
    at_least = (len(ordered) - np.arange(len(ordered) + 1)) / max(1, len(ordered))  # share of trials that are not better
    none_better = at_least ** np.asarray(budgets, dtype=float)[:, None]
    chance = none_better[:, :-1] - none_better[:, 1:]  # [budgets, trials], that the smallest of n is this one
    expected = np.round(chance @ ordered, PLACES)
    return expected, np.sqrt((chance * (ordered - expected[:, None]) ** 2).sum(axis=1))


def p_text(value: float | None) -> str:
    """Format a p value: `p = 0.032`, `p < 0.0001`."""
    return "p unknown" if value is None else "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _t(share: float, freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(share, freedom))
