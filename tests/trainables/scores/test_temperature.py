"""The temperature against statsmodels: it is the inverse of the coefficient of a logistic regression on the logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.special
from statsmodels.discrete.conditional_models import ConditionalLogit
from statsmodels.discrete.discrete_model import Logit

from trainables.scores import predictions, temperature

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_one_label_per_text(true: float) -> None:
    logits = 4 * RNG.normal(size=(400, 5))
    labels = np.array([RNG.choice(5, p=p) for p in scipy.special.softmax(logits / true, axis=1)])
    found = temperature.fit(labels, scipy.special.softmax(logits, axis=1).astype(np.float32))
    chosen = (labels[:, None] == np.arange(5)).astype(int).ravel()
    reference = ConditionalLogit(chosen, logits.reshape(-1, 1), groups=np.repeat(np.arange(400), 5)).fit(disp=False)
    assert found == pytest.approx(1 / reference.params[0], rel=1e-3)
    assert found == pytest.approx(true, rel=0.3)


@pytest.mark.parametrize("true", [0.5, 3.0])
def test_several_labels_per_text(true: float) -> None:
    logits = 3 * RNG.normal(size=(300, 4))
    labels = (RNG.random(logits.shape) < scipy.special.expit(logits / true)).astype(np.int64)
    found = temperature.fit(labels, scipy.special.expit(logits).astype(np.float32))
    assert found == pytest.approx(1 / Logit(labels.ravel(), logits.ravel()).fit(disp=False).params[0], rel=1e-3)


def test_without_errors_nothing_is_scaled_and_the_range_is_bounded() -> None:
    p = np.array([[0.6, 0.4], [0.3, 0.7]], dtype=np.float32)
    assert temperature.fit(np.array([0, 1]), p) == 1.0
    assert temperature.fit(np.array([[1, 0], [0, 1]]), p) == 1.0
    assert temperature.fit(np.array([1, 0]), p) == temperature.MOST, "all wrong"
    assert "the temperature is 10, the end of its range (0.1 to 10)" in (temperature.doubt(temperature.MOST) or "")
    assert temperature.doubt(temperature.LEAST)
    assert temperature.doubt(1.0) is None
    certain = np.array([[1.0, 0.0]] * 9 + [[0.0, 1.0]], dtype=np.float32)
    for labels in (np.zeros(10, dtype=np.int64), np.array([[1, 0]] * 10)):
        assert 1 < temperature.fit(labels, certain) <= temperature.MOST, "sure and wrong once"


@pytest.mark.parametrize("labels", [np.array([2, 0]), np.array([[0, 1, 1], [0, 0, 0]])])
def test_predictions_are_read_as_written(labels: np.ndarray, tmp_path: Path) -> None:
    probabilities = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], dtype=np.float32)
    read = predictions.read(predictions.write(tmp_path / "x.parquet", labels, labels, probabilities))
    np.testing.assert_array_equal(read[0], labels)
    np.testing.assert_array_equal(read[1], probabilities)
