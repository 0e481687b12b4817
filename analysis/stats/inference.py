"""What can be said of a mean error over seeds and test texts, and of the difference of two.

A score has two sources of noise: the seed, and which texts happen to be in the test split. Every seed is tested on the same texts,
so the two are crossed. With seeds s and texts i the error is y(s, i) = mean + seed(s) + text(i) + rest(s, i), and the variance of
the mean over S seeds and N texts is var(seed)/S + var(text)/N + var(rest)/(S N): a two-way random-effects analysis of variance
(Searle, Casella and McCulloch 1992, chapter 4). Its mean squares estimate the sum without bias, and Satterthwaite's (1946) degrees
of freedom make the t interval honest for three seeds, where a bootstrap over seeds is too narrow by construction (Owen 2007).
`benchmarks/coverage.py` measures how often the intervals cover what they should.

A difference is paired over the texts, and where all settings have as many seeds also seed by seed, in order: the analysis is that
of the differences. A seed gives all settings the same order of texts, new head, dropout and, of few labelled texts, the same ones,
so that what a lucky seed does to both drops out. Where seeds have nothing in common it costs degrees of freedom and stays honest.

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
"""Weights of texts that a bootstrap holds at a time: 32 MB."""
PLACES = 9
"""Of products of matrices, which end in other bits on another processor; a draw must not."""
ROUNDING = 1e-6
"""Share of a value below which its spread is nothing but rounding: losses are kept in single precision."""
MOST_SEEDS = 1000
"""More seeds than these nobody will run: a difference that needs them is one that seeds do not decide."""


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, with what its uncertainty is made of."""

    value: float
    seeds: int
    """Of the setting with the fewest."""
    texts: int
    part_seeds: float
    """Variance that more seeds would lessen; 0 for one seed, where it is unknown."""
    part_texts: float
    """Variance that more test texts would lessen."""
    part_rest: float
    """What the two parts above both hold, of seed and text together."""
    freedom: float
    """Degrees of freedom of the variance; 0 where it is unknown."""

    @property
    def variance(self) -> float:
        """Of the value, over draws of seeds and of texts: components that come out below 0 count as 0."""
        return max(self.part_seeds + self.part_texts - self.part_rest, self.part_seeds, self.part_texts, self.part_rest)

    @property
    def known(self) -> bool:
        """Whether the uncertainty is known: not for one seed, nor where a value other than 0 shows no spread but rounding."""
        return bool(self.freedom) and (self.value == 0 or math.sqrt(self.variance) > ROUNDING * abs(self.value))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the level LEVEL; None where the uncertainty is not `known`: no interval is invented."""
        if not self.known:
            return None
        half = _t(0.5 + LEVEL / 2, self.freedom) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    @property
    def p_value(self) -> float | None:
        """Of the value being zero, two-sided; None where the uncertainty is not `known`."""
        if not self.known:
            return None
        if self.variance == 0:
            return 1.0
        from scipy.stats import t

        return float(2 * t.sf(abs(self.value) / math.sqrt(self.variance), self.freedom))


def mean(errors: Array) -> Estimate:
    """Mean of errors [seeds, texts]. Raises ValueError for no seeds or no texts."""
    return _estimate([_filled(errors)], [1.0])


def difference(one: Array, other: Array) -> Estimate:
    """Mean of `one` [seeds, texts] less that of `other` [seeds, texts], paired over texts, and over seeds where both have as many.

    Raises ValueError for no seeds, no texts, and another number of texts.
    """
    return _estimate(_alike([one, other]), [1.0, -1.0])


def contrast(groups: Sequence[Array], weights: Sequence[float]) -> Estimate:
    """Weighted sum of the means of errors [seeds, texts] on the same texts: `difference` is that of two with weights 1 and -1.

    Raises ValueError for no seeds, no texts, and another number of texts.
    """
    return _estimate(_alike(groups), weights)


def pooled(found: Sequence[Estimate]) -> Estimate:
    """Mean of estimates from different texts, each with the same weight. Raises ValueError for none."""
    if not found:
        raise ValueError("nothing to pool")
    if len(found) == 1:
        return found[0]
    parts = ("part_seeds", "part_texts")  # of none less than its rest, so that the rest of all is that of each
    of_seeds, of_texts = (sum(max(getattr(each, name), each.part_rest) for each in found) / len(found) ** 2 for name in parts)
    spread = sum(each.variance**2 / each.freedom for each in found if each.freedom)
    total = sum(each.variance for each in found)
    rest = of_seeds + of_texts - total / len(found) ** 2  # so that the variance is that of the sum
    freedom = total**2 / spread if spread else float(min(each.freedom for each in found))
    known = all(each.known for each in found)
    value, seeds = sum(each.value for each in found) / len(found), min(each.seeds for each in found)
    return Estimate(value, seeds, sum(each.texts for each in found), of_seeds, of_texts, rest, freedom if known else 0.0)


def against_best(one: Array, others: Sequence[Array], draws: int = 1000, seed: int = 0) -> Estimate:
    """Mean of `one` [seeds, texts] less that of the best of `others`, each [seeds, texts] on the same texts.

    The best of several looks better than it is. How much is seen in bootstrap draws in each of which the best is chosen anew: their
    shift is taken off the value, their spread is the variance, unless that of the plain difference is larger.
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
        raise ValueError(f"{' texts and '.join(map(str, texts))}: what is paired needs the same texts")
    return groups


def _estimate(groups: Sequence[Array], signs: Sequence[float]) -> Estimate:
    """Of a weighted sum of means of errors [seeds, texts] on the same texts."""
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
    found = Estimate(value, seeds, texts, sum(v for v, _ in of_seeds), part_texts, sum(v for v, _ in rests), 1.0)
    spread = sum(variance**2 / freedom for variance, freedom in squares)
    freedom = found.variance**2 / spread if spread else float(texts - 1)
    return Estimate(**(vars(found) | {"freedom": max(1.0, freedom)}))


def _rest(errors: Array) -> tuple[float, int]:
    """(variance of the mean [seeds, texts] that comes from seed and text together, its degrees of freedom)."""
    seeds, texts = errors.shape
    rest = errors - errors.mean(axis=1, keepdims=True) - errors.mean(axis=0, keepdims=True) + errors.mean()
    freedom = (seeds - 1) * (texts - 1)
    return float((rest**2).sum()) / freedom / (seeds * texts), freedom


def seeds_to_decide(found: Estimate) -> int | None:
    """How many seeds of each setting would put zero outside the interval, if the difference stays what it is.

    None where none would: the test texts alone leave it open, or the difference is zero, or its uncertainty is unknown.
    """
    if found.value == 0 or not found.known:
        return None
    rest_of_seed = max(0.0, found.part_seeds - found.part_rest) * found.seeds  # variances of a single seed
    rest_of_both = found.part_rest * found.seeds
    texts = max(0.0, found.part_texts - found.part_rest)
    for seeds in range(2, MOST_SEEDS + 1):
        variance = texts + (rest_of_seed + rest_of_both) / seeds
        freedom = variance**2 / (((rest_of_seed + rest_of_both) / seeds) ** 2 / (seeds - 1) + texts**2 / (found.texts - 1))
        if _t(0.5 + LEVEL / 2, max(1.0, freedom)) * math.sqrt(variance) < abs(found.value):
            return seeds
    return None


def bootstrap(groups: Sequence[Array], draws: int = 2000, seed: int = 0) -> Array:
    """Bootstrap draws [draws, settings] of means of errors [seeds, texts] over both together (the pigeonhole bootstrap, Owen 2007).

    Every draw takes the texts anew, the same for all settings and seeds, and the seeds anew, the same for all settings where each
    has as many, else of each its own. Texts on
    which all seeds of all settings do alike are one kind, and how often a kind is drawn is multinomial: the same draws, sooner. The
    spread over few seeds comes out too small by (n - 1)/n, which the draws are corrected for: each setting's weights of seeds are
    drawn apart by the root of n/(n - 1). Raises ValueError for no seeds, no texts, and another number of texts.
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
    found, block = [], max(1, BLOCK // len(counts))
    for start in range(0, draws, block):
        mine = of_seeds[start : start + block]
        of_texts = rng.multinomial(total, counts / total, len(mine)) / total
        found.append(np.add.reduceat((of_texts @ kinds.T) * mine, np.cumsum([0, *sizes[:-1]]), axis=1))
    return np.round(np.concatenate(found), PLACES)


def bootstrap_interval(
    *groups: Array, weights: Sequence[float] = (1.0,), draws: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of a mean error [seeds, texts], or with weights (1, -1) of the difference of two on the same texts.

    None for a single seed. Where texts matter most it is wider than `Estimate`'s, since it counts what seed and text share three
    times; where seeds do, percentiles of few of them do not know the tails, and it is too narrow (`benchmarks/coverage.py`).
    """
    if min(map(len, groups)) < 2:
        return None
    low, high = np.quantile(bootstrap(groups, draws, seed) @ np.asarray(weights), (0.5 - LEVEL / 2, 0.5 + LEVEL / 2))
    return round(float(low), 6), round(float(high), 6)  # sums of products end in other bits on another processor


def mcnemar(one: Array, other: Array) -> float:
    """Exact p value of McNemar's (1947) test for 0/1 errors [texts] of two runs on the same texts."""
    from scipy.stats import binomtest

    one, other = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    if one.shape != other.shape:
        raise ValueError(f"{one.shape} errors and {other.shape}: the test needs the same texts")
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(only_one, only_one + only_other).pvalue) if only_one + only_other else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for there being several (Holm 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def expected_best(errors: Sequence[float], budgets: Sequence[int]) -> tuple[Array, Array]:
    """(expected smallest validation error of n random trials, its standard deviation), for each n of `budgets`.

    Dodge et al. 2019, section 3.1: n are drawn with replacement from these, each with the same chance. `errors` are those of trials
    drawn independently; under a sampler that learns, or early stopping, it is a description only.
    """
    ordered = np.sort(np.asarray(errors, dtype=float))
    at_least = (len(ordered) - np.arange(len(ordered) + 1)) / max(1, len(ordered))  # share of trials that are no better
    none_better = at_least ** np.asarray(budgets, dtype=float)[:, None]
    chance = none_better[:, :-1] - none_better[:, 1:]  # [budgets, trials], that the smallest of n is this one
    expected = np.round(chance @ ordered, PLACES)
    return expected, np.sqrt((chance * (ordered - expected[:, None]) ** 2).sum(axis=1))


def p_text(value: float | None) -> str:
    """`p = 0.032`, `p < 0.0001`."""
    return "p unknown" if value is None else "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _t(share: float, freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(share, freedom))
