"""Scores against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, matthews_corrcoef, roc_auc_score

from trainables.scores.metrics import ranking_scores, scores


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


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
def test_ranking_scores_are_those_of_scikit_learn(several: bool, classes: int) -> None:
    rng = np.random.default_rng(classes)
    likely = rng.dirichlet(np.ones(classes), 90).round(1).astype(np.float32)  # many are equal
    has = rng.random((90, classes)) < 0.3 if several else rng.integers(0, classes, 90)
    columns = has if several else np.eye(classes, dtype=int)[has]
    if not several and classes == 2:  # of the second class alone
        columns, ranked = columns[:, 1], likely[:, 1]
    else:
        ranked = likely
    assert ranking_scores(has, likely) == pytest.approx(
        {"roc_auc": roc_auc_score(columns, ranked), "average_precision": average_precision_score(columns, ranked)}
    )


def test_classes_of_all_texts_or_of_none_are_not_ranked() -> None:
    has, likely = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0]]), np.array([[0.9, 0.5, 0.1], [0.2, 0.4, 0.2], [0.1, 0.3, 0.3]])
    assert ranking_scores(has, likely) == {"roc_auc": 1.0, "average_precision": 1.0}  # of the first label alone
    assert ranking_scores(np.zeros(3, dtype=int), likely) == {"roc_auc": 0.5, "average_precision": 0.0}
