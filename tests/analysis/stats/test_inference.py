"""Intervals and tests: against closed forms, scipy, brute force and simulated studies."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.regression import mixed_linear_model
from statsmodels.stats import contingency_tables, multitest

from analysis.stats import inference
from benchmarks.coverage import best_alarms, measured, simulated


def errors(seeds: int, texts: int, seed: int = 0, share: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((seeds, texts)) < share + 0.5 * rng.random(texts) - 0.2).astype(float)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_and_equal_settings_seem_equal(seeds: int) -> None:
    covered, alarms = measured(seeds, texts=300, of_seed=0.15, studies=2000)
    assert 93 <= covered <= 97
    assert alarms <= 5


@pytest.mark.parametrize(("seeds", "settings"), [(3, 3), (3, 8), (5, 6)])
def test_the_best_of_equal_settings_is_seldom_claimed(seeds: int, settings: int) -> None:
    """The setting is named beforehand or chosen as the best; the best of the others is chosen again in every draw."""
    named, least = best_alarms(seeds, texts=200, of_seed=0.15, studies=250, settings=settings)
    assert max(named, least) <= 5


def test_picking_the_best_without_repeating_the_choice_would_be_claimed_too_often() -> None:
    """Why the test above is needed: a plain difference between the best and the worst of eight equal settings is biased."""
    rng, alarms = np.random.default_rng(9), 0
    for _ in range(100):
        hardness = rng.normal(0, 2.5, 200)
        groups = sorted((simulated(rng, 5, hardness, 0.15) for _ in range(8)), key=lambda group: float(group.mean()))
        alarms += (inference.difference(groups[0], groups[-1]).p_value or 1.0) < 0.05
    assert alarms > 15


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


BOARD = np.indices((2, 8)).sum(axis=0) % 2.0  # means of seeds are equal, means of texts too: all is in the rest
AGREED = np.tile([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0], (3, 1))  # seeds that all give the same


@pytest.mark.parametrize(
    ("one", "other", "variance"),
    [
        (BOARD, None, 4 / 7 / 16),  # 16 cells that are 0.5 off, 7 degrees of freedom, a mean of 16
        (BOARD, np.zeros((2, 8)), 4 / 7 / 16),
        (BOARD, 1 - BOARD, 16 / 7 / 16),
        (100 * BOARD, None, 1e4 * 4 / 7 / 16),
        (AGREED, None, 15 / 8 / 7 / 8),  # the choice of texts alone: 8 of them, with squares that sum to 15/8
        (AGREED, np.zeros((3, 8)), 15 / 8 / 7 / 8),
    ],
)
def test_components_below_zero_count_as_zero_and_the_rest_stays(one: np.ndarray, other: np.ndarray | None, variance: float) -> None:
    found = inference.mean(one) if other is None else inference.difference(one, other)
    assert found.variance == pytest.approx(variance)
    assert found.freedom == pytest.approx(7)
    low, high = found.interval or (0.0, 0.0)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 7) * math.sqrt(variance))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.value) / math.sqrt(variance), 7))
    twice = inference.pooled([found, found])
    assert twice.variance == pytest.approx(variance / 2)
    assert twice.part_rest == pytest.approx(found.part_rest / 2)
    assert inference.seeds_to_decide(twice) is None or twice.value


@pytest.mark.parametrize("off", [0.0, 1e-12])
@pytest.mark.parametrize("seeds", [(2, 2), (3, 2)])
def test_a_difference_without_any_spread_is_undecided(off: float, seeds: tuple[int, int]) -> None:
    """If all losses are equal, or differ by rounding only, the uncertainty is unknown."""
    one, other = np.full((seeds[0], 8), 100.0), np.zeros((seeds[1], 8))
    one[0, 0] += off * 100
    found = inference.difference(one, other)
    assert (found.known, found.interval, found.p_value, inference.seeds_to_decide(found)) == (False, None, None, None)
    pooled = inference.pooled([found, inference.difference(BOARD, np.zeros((2, 8)))])
    assert (pooled.interval, pooled.p_value) == (None, None)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (5,)])
def test_no_errors_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        inference.mean(np.zeros(shape))


def test_so_many_seeds_decide() -> None:
    """The predicted number is the smallest whose interval excludes zero, with the same components of the variance."""
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
        freedom = variance**2 / ((per_seed / seeds) ** 2 / (seeds - 1) + texts**2 / 1999)
        return bool(abs(found.value) > stats.t.ppf(0.975, freedom) * math.sqrt(variance))

    assert decides(needed)
    assert not decides(needed - 1)


def test_a_common_effect_of_a_seed_cancels_in_the_difference() -> None:
    """Seeds differ by far more than the settings do: the difference is significant if paired by seed, and not otherwise."""
    rng = np.random.default_rng(5)
    of_seed = np.array([[0.10], [0.20], [0.25], [0.30], [0.40]])
    luck = rng.random((5, 2000))
    one, other = ((luck < of_seed + gap).astype(float) for gap in (0.0, 0.03))
    found = inference.difference(one, other)
    by_seed = stats.ttest_rel(one.mean(axis=1), other.mean(axis=1))
    assert found.p_value is not None
    assert found.p_value < 1e-6
    assert by_seed.pvalue < 1e-3
    apart = inference.difference(one, other[:4])  # not as many seeds: independent draws
    assert apart.p_value is not None
    assert apart.p_value > 0.2
    low, high = inference.bootstrap_interval(one, other, weights=(1, -1)) or (0.0, 0.0)
    assert low < found.value < high < 0


def test_equal_settings_seem_equal_where_they_share_their_seeds() -> None:
    alarms = 0
    for study in range(1000):
        rng = np.random.default_rng((7, study))
        hardness = rng.normal(0, 2.5, 300) + rng.normal(0, 0.5, (5, 1))  # the same seeds move both settings
        one, other = (np.vstack([simulated(rng, 1, each, 0.1) for each in hardness]) for _ in range(2))
        alarms += (inference.difference(one, other).p_value or 1.0) < 0.05
    assert alarms <= 50


def test_no_number_of_seeds_decides_where_the_texts_are_too_few() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((5, 30)) < np.linspace(0, 1, 30)
    found = inference.difference(one, np.roll(one, 7, axis=1) | (np.arange(30) == 3))
    assert abs(found.value) < 1.96 * math.sqrt(found.part_texts - found.part_rest)
    assert inference.seeds_to_decide(found) is None


def test_bootstrap_agrees_with_the_analysis_of_variance() -> None:
    one, other = errors(10, 300, 1), errors(10, 300, 1, share=0.3)
    draws = inference.bootstrap([one, other], draws=3000) @ [1, -1]
    found = inference.difference(one, other)
    assert draws.mean() == pytest.approx(found.value, abs=4 * math.sqrt(found.variance / 3000))
    # It counts the interaction of seed and text three times, the analysis of variance once (Owen 2007, theorem 3).
    assert found.variance < draws.var() < found.variance + 2.5 * found.part_rest


def test_bootstrap_draws_are_weighted_sums_over_all_texts() -> None:
    """Drawing texts of one kind together, in blocks or at once, has the distribution of a plain loop over texts."""
    y, rng = errors(3, 40, 4), np.random.default_rng(1)
    apart = math.sqrt(3 / 2)
    naive = []
    for _ in range(4000):
        texts = rng.integers(0, 40, 40)
        weights = 1 / 3 + apart * (np.bincount(rng.integers(0, 3, 3), minlength=3) / 3 - 1 / 3)
        naive.append(sum(weights[s] * np.mean([y[s, i] for i in texts]) for s in range(3)))
    draws = inference.bootstrap([y], draws=4000)[:, 0]
    assert stats.ks_2samp(draws, np.round(naive, inference.PLACES)).pvalue > 0.01
    assert np.array_equal(draws, inference.bootstrap([y], draws=4000)[:, 0])
    assert draws.mean() == pytest.approx(y.mean(), abs=5 * draws.std() / math.sqrt(4000))


def test_bootstrap_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = np.random.default_rng(0).random((2, 4, 30))  # real numbers: every text is a kind of its own
    whole = inference.bootstrap([one, other], draws=50)
    monkeypatch.setattr(inference, "BLOCK", 100)
    assert inference.bootstrap([one, other], draws=50) == pytest.approx(whole)


def test_bootstrap_interval_is_near_the_analytic_one_for_many_seeds_and_texts() -> None:
    rng = np.random.default_rng(5)
    hardness = rng.normal(0, 2.5, 2000)
    one, other = (simulated(rng, 30, hardness, 0.3) for _ in range(2))
    for found, drawn in (
        (inference.mean(one), inference.bootstrap_interval(one)),
        (inference.difference(one, other), inference.bootstrap_interval(one, other, weights=(1, -1))),
    ):
        assert found.interval is not None
        half = (found.interval[1] - found.interval[0]) / 2
        assert drawn == pytest.approx(found.interval, abs=0.2 * half)
    few = inference.mean(one[:3]).interval or (0.0, 0.0)
    drawn = inference.bootstrap_interval(one[:3]) or (0.0, 1.0)
    assert drawn[1] - drawn[0] < few[1] - few[0]  # percentiles of three seeds do not know the tails
    assert inference.bootstrap_interval(one[:1]) is None
    assert inference.bootstrap_interval(one, other[:1], weights=(1, -1)) is None
    with pytest.raises(ValueError, match="2000 texts and 1999"):
        inference.bootstrap_interval(one, other[:, 1:], weights=(1, -1))


def test_mcnemar_against_the_binomial_sum() -> None:
    one, other = errors(1, 200, 1)[0], errors(1, 200, 2)[0]
    b, c = int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum())
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert inference.mcnemar(one, other) == pytest.approx(min(1.0, 2 * tail))
    assert inference.mcnemar(one, one) == 1.0
    with pytest.raises(ValueError, match="same texts"):
        inference.mcnemar(one, other[1:])


def test_mcnemar_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(2)
    for texts in (5, 30, 400):
        for _ in range(10):
            one, other = rng.random((2, texts)) < rng.random((2, 1))
            table = [[int(((one == a) & (other == b)).sum()) for b in (False, True)] for a in (False, True)]
            assert inference.mcnemar(one, other) == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue)


def test_holm_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 7, 40):
        for _ in range(3):
            p_values = np.round(rng.random(count) ** 3, 2)  # with ties
            assert inference.holm(p_values.tolist()) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_variance_is_that_of_the_mixed_model_of_statsmodels() -> None:
    """Crossed random effects: for balanced data, restricted maximum likelihood equals the analysis of variance."""
    rng = np.random.default_rng(7)
    seeds, texts = 6, 25
    y = 10 + rng.normal(0, 2, (seeds, 1)) + rng.normal(0, 3, (1, texts)) + rng.normal(0, 1, (seeds, texts))
    seed, text = np.indices(y.shape)
    data = pd.DataFrame({"y": y.ravel(), "seed": seed.ravel(), "text": text.ravel(), "all": 1})
    parts = {"seed": "0 + C(seed)", "text": "0 + C(text)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mixed_linear_model.MixedLM.from_formula("y ~ 1", groups="all", vc_formula=parts, re_formula="0", data=data).fit()
    of = dict(zip(sorted(parts), model.vcomp, strict=True)) | {"rest": model.scale}
    found = inference.mean(y)
    assert found.value == pytest.approx(model.params["Intercept"], rel=1e-6)
    assert found.part_rest * seeds * texts == pytest.approx(of["rest"], rel=0.01)
    assert (found.part_seeds - found.part_rest) * seeds == pytest.approx(of["seed"], rel=0.02)
    assert (found.part_texts - found.part_rest) * texts == pytest.approx(of["text"], rel=0.02)
    assert math.sqrt(found.variance) == pytest.approx(model.bse["Intercept"], rel=0.02)


def test_holm_worked_by_hand() -> None:
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert inference.holm([0.9, 0.8]) == [1.0, 1.0]
    assert inference.holm([]) == []


def test_expected_best_against_all_draws() -> None:
    values = [3.0, 1.0, 4.0, 1.5]
    draws = [[min(draw) for draw in itertools.product(values, repeat=n)] for n in range(1, 5)]
    expected, spread = inference.expected_best(values, range(1, 5))
    assert expected == pytest.approx([np.mean(each) for each in draws])
    assert spread == pytest.approx([np.std(each) for each in draws])
    assert [len(each) for each in inference.expected_best([], [])] == [0, 0]
    equal = inference.expected_best([2.0, 2.0], [1, 2])
    assert [each.tolist() for each in equal] == [[2.0, 2.0], [0.0, 0.0]]


def test_expected_best_against_many_searches() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 2, 60)
    drawn = rng.choice(values, (20_000, 25)).min(axis=1)
    (expected,), (spread,) = inference.expected_best(values.tolist(), [25])
    assert expected == pytest.approx(drawn.mean(), abs=5 * spread / math.sqrt(20_000))
    assert spread == pytest.approx(drawn.std(), rel=0.05)
