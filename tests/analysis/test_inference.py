"""Intervals and tests: against closed forms, scipy, brute force and simulated studies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis import inference
from benchmarks.coverage import measured


def errors(seeds: int, texts: int, seed: int = 0, share: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((seeds, texts)) < share + 0.5 * rng.random(texts) - 0.2).astype(float)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_and_equal_settings_seem_equal(seeds: int) -> None:
    covered, alarms = measured(seeds, texts=300, of_seed=0.15, studies=2000)
    assert 93 <= covered <= 97
    assert alarms <= 5


def test_variance_parts_against_a_two_way_analysis_of_variance() -> None:
    y = errors(4, 50)
    found = inference.mean(y)
    seeds, texts = y.shape
    # Mean squares written out cell by cell.
    total = y.mean()
    of_seed = texts * sum((y[s].mean() - total) ** 2 for s in range(seeds)) / (seeds - 1)
    of_text = seeds * sum((y[:, i].mean() - total) ** 2 for i in range(texts)) / (texts - 1)
    cells = itertools.product(range(seeds), range(texts))
    rest = sum((y[s, i] - y[s].mean() - y[:, i].mean() + total) ** 2 for s, i in cells) / ((seeds - 1) * (texts - 1))
    assert found.value == pytest.approx(total)
    parts = np.array([found.part_seeds, found.part_texts, found.part_rest]) * seeds * texts
    assert parts == pytest.approx([of_seed, of_text, rest])


def test_where_texts_all_alike_it_is_the_t_interval_over_seeds() -> None:
    y = np.repeat([[0.1], [0.2], [0.4]], 500, axis=1)  # no text differs: only seeds do
    expected = stats.ttest_1samp([0.1, 0.2, 0.4], 0).confidence_interval(0.95)
    assert inference.mean(y).interval == pytest.approx(tuple(expected))


def test_a_difference_is_paired_over_texts() -> None:
    one = errors(5, 400)
    other = one.copy()
    other[:, :40] = 1 - other[:, :40]
    apart, shuffled = inference.difference(one, other), inference.difference(one, np.random.default_rng(0).permutation(other.T).T)
    assert apart.value == pytest.approx(one.mean() - other.mean())
    assert apart.part_texts < shuffled.part_texts / 2
    assert inference.difference(other, one).value == -apart.value
    with pytest.raises(ValueError, match="400 texts and 399"):
        inference.difference(one, other[:, 1:])


def test_one_seed_gets_no_interval() -> None:
    found = inference.mean(errors(1, 100))
    assert (found.interval, found.p_value, inference.seeds_to_decide(found)) == (None, None, None)
    assert inference.difference(errors(1, 100), errors(5, 100, 1)).interval is None


def test_equal_settings() -> None:
    y = errors(3, 100)
    found = inference.difference(y, y)
    assert (found.value, found.p_value) == (0.0, 1.0)
    same = inference.mean(np.zeros((3, 100)))
    assert (same.value, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert inference.seeds_to_decide(found) is None


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (5,)])
def test_no_errors_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        inference.mean(np.zeros(shape))


def test_so_many_seeds_decide() -> None:
    """The number that is foretold is the first whose interval leaves zero out, when the parts of the variance stay."""
    rng = np.random.default_rng(3)
    hard = rng.random(2000) < 0.1
    one = hard ^ (rng.random((3, 2000)) < np.array([[0.02], [0.035], [0.05]]))
    other = hard ^ (rng.random((3, 2000)) < np.array([[0.05], [0.06], [0.075]]))
    found = inference.difference(one, other)
    needed = inference.seeds_to_decide(found)
    assert found.interval is not None
    assert found.interval[0] < 0 < found.interval[1]
    assert needed is not None
    assert needed > 3
    per_seed = found.part_seeds * 3
    texts = found.part_texts - found.part_rest

    def decides(seeds: int) -> bool:
        variance = texts + per_seed / seeds
        freedom = variance**2 / ((per_seed / seeds) ** 2 / (2 * (seeds - 1)) + texts**2 / 1999)
        return bool(abs(found.value) > stats.t.ppf(0.975, freedom) * math.sqrt(variance))

    assert decides(needed)
    assert not decides(needed - 1)


def test_no_number_of_seeds_decides_where_the_texts_are_too_few() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((5, 30)) < np.linspace(0, 1, 30)
    found = inference.difference(one, np.roll(one, 7, axis=1) | (np.arange(30) == 3))
    assert abs(found.value) < 1.96 * math.sqrt(found.part_texts - found.part_rest)
    assert inference.seeds_to_decide(found) is None


def test_bootstrap_agrees_with_the_analysis_of_variance() -> None:
    one, other = errors(10, 300, 1), errors(10, 300, 1, share=0.3)
    both, signs = np.concatenate([one, other]), np.repeat([1.0, -1.0], 10)
    draws = inference.bootstrap(lambda seeds, texts: (seeds * signs) @ both @ texts, [10, 10], 300, draws=3000)
    found = inference.difference(one, other)
    assert draws.mean() == pytest.approx(found.value, abs=4 * math.sqrt(found.variance / 3000))
    # It counts what seed and text share three times where the analysis of variance does once (Owen 2007, theorem 3).
    assert found.variance < draws.var() < found.variance + 2.5 * found.part_rest


def test_mcnemar_against_the_binomial_sum() -> None:
    one, other = errors(1, 200, 1)[0], errors(1, 200, 2)[0]
    b, c = int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum())
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert inference.mcnemar(one, other) == pytest.approx(min(1.0, 2 * tail))
    assert inference.mcnemar(one, one) == 1.0
    with pytest.raises(ValueError, match="same texts"):
        inference.mcnemar(one, other[1:])


def test_holm_worked_by_hand() -> None:
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert inference.holm([0.9, 0.8]) == [1.0, 1.0]
    assert inference.holm([]) == []


def test_expected_best_against_all_draws() -> None:
    values = [3.0, 1.0, 4.0, 1.5]
    expected = [np.mean([min(draw) for draw in itertools.product(values, repeat=n)]) for n in range(1, 5)]
    assert inference.expected_best(values) == pytest.approx(expected)
    assert len(inference.expected_best([])) == 0
