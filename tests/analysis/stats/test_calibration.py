"""Calibration against plain loops and scikit-learn, on ordinary and degenerate predictions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from analysis.records import predictions
from analysis.records.predictions import Array, Predictions
from analysis.stats.calibration import BINS, Calibration, calibration, equal_mass, scaled


def softmax(n: int, classes: int, seed: int = 0, sharp: float = 2.0) -> tuple[Predictions, Array]:
    """Return random probabilities, and labels that correlate with them."""
    rng = np.random.default_rng(seed)
    logits = sharp * rng.normal(size=(n, classes))
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    has = np.where(rng.random(n) < 0.7, logits.argmax(axis=1), rng.integers(0, classes, n))
    return Predictions(has, found.argmax(axis=1), classes), found


def sigmoid(n: int, labels: int, seed: int = 0) -> tuple[Predictions, Array]:
    rng = np.random.default_rng(seed)
    found = rng.random((n, labels))
    has = rng.random((n, labels)) < found**1.5
    return Predictions(has, found >= 0.4, labels), found


def naive_ece(confidence: Array, right: Array, edges: Array) -> float:
    """Guo et al. 2017, equations 3 and 5, text by text."""
    total = 0.0
    for m, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True) if (low < c <= high) or (m == 0 and c <= low)]
        if inside:
            total += len(inside) / len(confidence) * abs(np.mean([r for _, r in inside]) - np.mean([c for c, _ in inside]))
    return 100 * total


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("n", [1, 7, 400])
def test_scores_equal_plain_loops_and_scikit_learn(classes: int, n: int) -> None:
    seeds = [softmax(n, classes, seed) for seed in range(3)]
    found = calibration(*zip(*seeds, strict=True))
    assert (found.texts, found.several) == (n, False)
    for i, (each, p) in enumerate(seeds):
        confidence, right = p.max(axis=1), (each.has == p.argmax(axis=1)).astype(float)
        assert found.ece[i] == pytest.approx(naive_ece(confidence, right, np.linspace(0, 1, BINS + 1)))
        assert found.ece_equal_mass[i] == pytest.approx(naive_ece(confidence, right, equal_mass(confidence)))
        assert found.confidence[i] == pytest.approx(100 * confidence.mean())
        assert found.right[i] == pytest.approx(100 * right.mean())
        assert found.log_loss[i] == pytest.approx(log_loss(each.has, p, labels=range(classes)))
        naive = np.mean([sum((p[t, k] - (each.has[t] == k)) ** 2 for k in range(classes)) for t in range(n)])
        assert found.brier[i] == pytest.approx(naive)
        if classes == 2:
            assert found.brier[i] == pytest.approx(2 * brier_score_loss(each.has, p[:, 1], pos_label=1))


def test_decisions_of_several_labels_equal_scikit_learn() -> None:
    each, p = sigmoid(300, 4)
    found = calibration([each], [p])
    has, said = each.has.ravel(), p.ravel()
    assert found.several
    assert found.brier[0] == pytest.approx(brier_score_loss(has, said))
    assert found.log_loss[0] == pytest.approx(log_loss(has, said))
    assert found.ece[0] == pytest.approx(naive_ece(said, has.astype(float), np.linspace(0, 1, BINS + 1)))
    right, confidence = calibration_curve(has, said, n_bins=BINS)
    assert [b.right for b in found.bins] == pytest.approx(right)
    assert [b.confidence for b in found.bins] == pytest.approx(confidence)
    assert sum(b.texts for b in found.bins) == pytest.approx(1200)


def test_the_diagram_is_that_of_all_seeds_together() -> None:
    seeds = [softmax(200, 2, seed) for seed in range(3)]
    found = calibration(*zip(*seeds, strict=True))
    confidence = np.concatenate([p.max(axis=1) for _, p in seeds])
    right = np.concatenate([each.right for each, _ in seeds])
    share, mean = calibration_curve(right, confidence, n_bins=BINS)
    assert [b.right for b in found.bins] == pytest.approx(share)
    assert [b.confidence for b in found.bins] == pytest.approx(mean)
    assert sum(b.texts for b in found.bins) == pytest.approx(200)
    assert all(b.low < b.confidence <= b.high for b in found.bins)


def one(has: list[int], p: list[list[float]]) -> Calibration:
    probabilities = np.array(p)
    return calibration([Predictions(np.array(has), probabilities.argmax(axis=1), probabilities.shape[1])], [probabilities])


def test_degenerate_predictions() -> None:
    sure = one([0, 1, 1], [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert (sure.ece, sure.ece_equal_mass, sure.by_chance, sure.brier, sure.log_loss) == ((0,), (0,), (0,), (0,), (0,))
    assert [(b.low, b.high, b.right) for b in sure.bins] == [(pytest.approx(14 / 15), 1.0, 1.0)]
    assert math.copysign(1, sure.log_loss[0]) == 1
    wrong = one([1, 0], [[1.0, 0.0], [0.0, 1.0]])
    assert (wrong.ece, wrong.brier) == ((100,), (2,))
    assert wrong.log_loss == (pytest.approx(-math.log(1e-12)),), "not infinite"
    alone = one([0], [[0.8, 0.2]])
    assert alone.ece == (pytest.approx(20),)
    single = one([0, 0, 0], [[1.0], [1.0], [1.0]])
    assert (single.ece, single.brier) == ((0,), (0,))
    never = calibration([Predictions(np.zeros((2, 2), bool), np.zeros((2, 2), bool), 2)], [np.zeros((2, 2))])
    assert (never.ece, never.brier, never.log_loss, never.right) == ((0,), (0,), (0,), (0,))
    with pytest.raises(ValueError, match="no seeds"):
        calibration([], [])


@pytest.mark.parametrize(("n", "sharp"), [(60, 1.0), (300, 3.0), (300, 12.0)])
def test_by_chance_is_the_expected_error_of_perfect_probabilities(n: int, sharp: float) -> None:
    _, p = softmax(n, 3, sharp=sharp)
    rng, drawn = np.random.default_rng(5), []
    for _ in range(400):
        has = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=2)
        drawn.append(calibration([Predictions(has, p.argmax(axis=1), 3)], [p]))
    assert drawn[0].by_chance[0] == pytest.approx(np.mean([each.ece[0] for each in drawn]), rel=0.12)


# Files ---------------------------------------------------------------------------------------------------------------------------


def write(folder: Path, p: object, index: list[int] | None = None, label: list[int] | None = None) -> Predictions:
    (folder / "predictions").mkdir()
    columns = {"index": index or [0, 1], "label": label or [0, 1], "prediction": [0, 1]}
    columns |= {} if p is None else {"probabilities": p}
    pq.write_table(pa.table(columns), folder / "predictions" / "f00-test.parquet")
    return predictions.of_trial(folder, "f00")


def test_probabilities_are_in_the_order_of_the_texts(tmp_path: Path) -> None:
    found = write(tmp_path, [[0.25, 0.75], [1.0, 0.0]], index=[1, 0])
    read = predictions.probabilities(tmp_path, "f00", found)
    assert read is not None
    assert read.tolist() == [[1.0, 0.0], [0.25, 0.75]]


def test_files_without_probabilities(tmp_path: Path) -> None:
    assert predictions.probabilities(tmp_path, "f00", write(tmp_path, None)) is None


@pytest.mark.parametrize(
    ("p", "why"),
    [
        ([[math.nan, 1.0], [0.5, 0.5]], "no numbers from 0 to 1"),
        ([[None, 1.0], [0.5, 0.5]], "no numbers from 0 to 1"),
        ([[math.inf, 1.0], [0.5, 0.5]], "no numbers from 0 to 1"),
        ([[1.5, -0.5], [0.5, 0.5]], "no numbers from 0 to 1"),
        ([[0.3, 0.3], [0.5, 0.5]], "do not add up to 1"),
        ([[1.0], [1.0]], "of 1 classes only"),
        ([[1.0], [0.5, 0.5]], "reshape"),
        (["a", "b"], "flatten"),
        ([0.5, 0.5], "flatten"),
        ([None, None], ""),
    ],
)
def test_unusable_probabilities_are_refused_with_the_reason(tmp_path: Path, p: object, why: str) -> None:
    found = write(tmp_path, p)
    with pytest.raises(ValueError, match=f"^f00-test.parquet: .*{why}"):
        predictions.probabilities(tmp_path, "f00", found)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_scaled_probabilities_are_those_of_divided_logits(temperature: float) -> None:
    logits = 3 * np.random.default_rng(4).normal(size=(50, 5))
    of_one = scipy.special.softmax(logits, axis=1).astype(np.float32)
    np.testing.assert_allclose(scaled(of_one, temperature, False), scipy.special.softmax(logits / temperature, axis=1), atol=1e-6)
    of_several = scipy.special.expit(logits).astype(np.float32)
    np.testing.assert_allclose(scaled(of_several, temperature, True), scipy.special.expit(logits / temperature), atol=1e-5)
    certain = np.array([[0.0, 1.0], [1.0, 0.0]])
    for several in (False, True):
        np.testing.assert_array_equal(scaled(certain, temperature, several), certain)
