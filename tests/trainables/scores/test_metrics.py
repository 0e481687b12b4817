"""Scores against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from trainables.scores.metrics import scores


@pytest.mark.filterwarnings("ignore:A single label")
@given(
    st.integers(2, 6).flatmap(
        lambda k: st.tuples(st.just(k), st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1))
    )
)
def test_scores_are_those_of_scikit_learn(case: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = case
    labels, predictions = np.array(pairs, dtype=np.int64).T
    found = scores(labels, predictions, classes)
    assert found["error_rate_percent"] == pytest.approx(100 * (1 - accuracy_score(labels, predictions)))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))
    assert found["micro_f1"] == pytest.approx(f1_score(labels, predictions, average="micro", zero_division=0))
    assert found["mcc"] == pytest.approx(matthews_corrcoef(labels, predictions))
    assert found["examples"] == len(pairs)


def test_a_class_that_is_never_predicted_counts() -> None:
    labels, predictions = np.array([0, 0, 0, 1, 2]), np.zeros(5, dtype=int)
    found = scores(labels, predictions, 4)  # class 3 occurs nowhere, and does not count
    assert found["macro_f1"] == pytest.approx((2 * 3 / 8) / 3)
    assert found["error_rate_percent"] == 40
    assert {type(value) for value in found.values()} == {float, int}  # plain numbers: they are written as JSON


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [([], [], "0 labels"), ([0], [0, 1], "1 labels, 2 predictions"), ([0], [2], "outside 0..1"), ([0], [-1], "outside 0..1")],
)
def test_nonsense_is_refused(labels: list[int], predictions: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores(np.array(labels, dtype=int), np.array(predictions, dtype=int), 2)
