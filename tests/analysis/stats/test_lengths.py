"""Errors by length: bins, errors and intervals against plain computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.records.predictions import Predictions
from analysis.stats import inference, lengths


@given(st.lists(st.integers(0, 60), min_size=1, max_size=300))
def test_bins_part_the_texts_in_the_order_of_their_lengths(given_: list[int]) -> None:
    pieces = np.array(given_)
    bins = lengths.bins(pieces)
    assert 1 <= len(bins) <= lengths.BINS
    assert np.array_equal(sum(part.texts.astype(int) for part in bins), np.ones(len(pieces)))
    for part in bins:
        assert pieces[part.texts].min() == part.low
        assert pieces[part.texts].max() == part.high
    assert all(one.high < other.low for one, other in itertools.pairwise(bins)), "texts of one length stay together"


def test_bins_are_quantiles() -> None:
    pieces = np.random.default_rng(0).permutation(100)
    assert [(part.low, part.high, int(part.texts.sum())) for part in lengths.bins(pieces)] == [
        (0, 19, 20), (20, 39, 20), (40, 59, 20), (60, 79, 20), (80, 99, 20)
    ]  # fmt: skip
    assert len(lengths.bins(np.arange(29))) == 2, "fewer bins rather than bins of few texts"
    assert [(part.low, part.high) for part in lengths.bins(np.full(500, 7))] == [(7, 7)]
    assert len(lengths.bins(np.array([3]))) == 1
    assert [int(part.texts.sum()) for part in lengths.bins(np.array([5] * 90 + [9] * 10))] == [90, 10]


def test_errors_count_texts_without_exactly_their_labels() -> None:
    pieces, has = np.arange(40), np.zeros(40, dtype=int)
    seeds = [Predictions(has, (np.random.default_rng(seed).random(40) < 0.3).astype(int), 2) for seed in range(3)]
    others = [Predictions(has, has, 2)] * 2
    for part in lengths.bins(pieces):
        inside = [i for i in range(40) if part.low <= pieces[i] <= part.high]
        wrong = np.array([[100.0 * (seed.predicted[i] != seed.has[i]) for i in inside] for seed in seeds])
        found = lengths.error(seeds, part)
        expected = inference.mean(wrong)
        assert found.value == pytest.approx(expected.value)
        assert found.interval == pytest.approx(expected.interval)
        gap = lengths.gap(seeds, others, part)
        assert gap.interval == pytest.approx(inference.difference(wrong, np.zeros((2, len(inside)))).interval)
    several = Predictions(np.array([[1, 0], [1, 1]], bool), np.array([[1, 0], [1, 0]], bool), 2)
    assert lengths.errors([several]).tolist() == [[0.0, 100.0]], "one of two labels is not just what it has"


def test_no_interval_is_invented() -> None:
    has = np.zeros(20, dtype=int)
    (part,) = lengths.bins(np.full(20, 4))
    right = lengths.error([Predictions(has, has, 2)] * 3, part)
    assert (right.value, lengths.interval(right, 0.0)) == (0, None), "all right in three seeds is no certainty"
    some = (np.arange(20) < 5).astype(int)
    assert lengths.interval(lengths.error([Predictions(has, some, 2)], part), 0.0) is None, "one seed"
    seeds = [Predictions(has, np.roll(some, shift), 2) for shift in (0, 9)]
    bounds = lengths.interval(lengths.error(seeds, part), 0.0)
    assert bounds is not None
    assert 0 <= bounds[0] < 25 < bounds[1] <= 100
