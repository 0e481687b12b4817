"""Scores and losses of texts against scikit-learn; their variance against bootstrap and jackknife."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.records.metric import METRICS
from analysis.records.predictions import Array, Predictions, of_trial, read, stacked
from tests.analysis.measured import keep, of_probabilities, scores
from trainables.scores.metrics import label_scores
from trainables.scores.metrics import scores as trained_scores


def draw(several: bool, n: int = 300, classes: int = 4) -> tuple[Array, Array]:
    """Labels with rare ones among them, and predictions that are mostly right."""
    rng = np.random.default_rng(7)
    if several:
        has = rng.random((n, classes)) < np.array([0.5, 0.3, 0.1, 0.04])[:classes]
        return has, has ^ (rng.random(has.shape) < 0.12)
    has = rng.choice(classes, n, p=[0.55, 0.25, 0.15, 0.05])
    return has, np.where(rng.random(n) < 0.25, rng.integers(0, classes, n), has)


def likely(has: Array, classes: int = 4) -> Array:
    """Probabilities [n, classes] of these labels, mostly right; every third is rounded, so that some are equal."""
    rng = np.random.default_rng(8)
    noise = rng.normal(size=(len(has), classes))
    if has.ndim > 1:
        values = 1 / (1 + np.exp(-(2.0 * has - 1 + noise)))
    else:
        values = np.exp(1.5 * np.eye(classes)[has] + noise)
    values[::3] = np.clip(np.round(values[::3], 1), 0.05, 0.95)
    return np.asarray(values if has.ndim > 1 else values / values.sum(axis=1, keepdims=True))


CASES = [(name, several) for name in METRICS for several in (False, True)]
CASES = [case for case in CASES if case not in (("subset_accuracy", False), ("accuracy", True), ("mcc", True))]


def of(has: Array, given: Array, likely: Array, classes: int = 4) -> Predictions:
    return Predictions(has, given, classes, probabilities=likely)


def measured(name: str, has: Array, given: Array, likely: Array) -> float:
    """The score that the records of this test lead to, by scikit-learn."""
    score = METRICS[name].score(scores(has, given, list("abcdef")[: likely.shape[1]], likely))
    assert score is not None
    return score


def counted(name: str, has: Array, given: Array) -> float:
    """The score of predicted classes as training computes it, which is much faster than scikit-learn."""
    row = label_scores(has, given) if has.ndim > 1 else trained_scores(has, given, 4)
    return METRICS[name].score(row) or 0.0


@pytest.mark.parametrize(("name", "several"), CASES)
def test_the_mean_of_the_losses_is_the_score(name: str, several: bool) -> None:
    has, given = draw(several)
    found, metric = of(has, given, likely(has)), METRICS[name]
    expected = measured(name, has, given, likely(has))
    assert found.score(metric) == pytest.approx(expected)
    losses = found.losses(metric)
    assert losses.mean() == pytest.approx(metric.turned(expected))
    if metric.share:
        assert losses.tolist() == [100.0 * bool(np.any(wrong)) for wrong in has != given]


def test_labels_without_texts_count_in_the_mean_of_several() -> None:
    has, given = draw(True)
    wide = [np.hstack([each, np.zeros((len(each), 2), dtype=bool)]) for each in (has, given)]
    for name in ("macro_f1", "micro_f1"):
        expected = METRICS[name].score(scores(*wide, list("abcdef")))
        assert Predictions(*wide, 6).losses(METRICS[name]).mean() == pytest.approx(100 - (expected or 0))


COUNTED = [case for case in CASES if not METRICS[case[0]].of_probabilities]
RANKED = [case for case in CASES if METRICS[case[0]].of_probabilities]


@pytest.mark.parametrize(("name", "several"), COUNTED)
def test_losses_agree_with_the_jackknife(name: str, several: bool) -> None:
    """Less their mean they are the influence function, the limit of the jackknife: n - 1 times the change without the text."""
    has, given = draw(several)
    losses = -Predictions(has, given, 4).losses(METRICS[name])
    left_out = np.array([counted(name, np.delete(has, i, 0), np.delete(given, i, 0)) for i in range(len(has))])
    jackknife = (len(has) - 1) * (counted(name, has, given) - left_out)
    sign = -1 if name == "error_rate" else 1  # a wrong text is worth less: the variance is the same
    assert sign * (losses - losses.mean()) == pytest.approx(jackknife - jackknife.mean(), rel=0.08, abs=1.0)


@pytest.mark.parametrize(("name", "several"), RANKED)
def test_losses_are_the_derivatives_of_the_weighted_score(name: str, several: bool) -> None:
    """The influence function is the derivative of the score by the weight of a text, times the number of texts."""
    has, step = draw(several, 120)[0], 1e-5
    likely_ = likely(has)

    def weighted(weights: Array) -> float:
        return of_probabilities(has if several else np.eye(4)[has], likely_, has, weights)[METRICS[name].field]

    alike = np.ones(len(has))
    moved = [(weighted(alike + step * one) - weighted(alike - step * one)) / (2 * step) for one in np.eye(len(has))[::12]]
    losses = of(has, has, likely_).losses(METRICS[name])
    sign = -1 if METRICS[name].higher else 1
    assert (losses - losses.mean())[::12] == pytest.approx(sign * 100 * len(has) * np.array(moved), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(("name", "several"), [("macro_f1", False), ("macro_f1", True), ("micro_f1", True), ("mcc", False)])
def test_its_variance_is_the_bootstraps(name: str, several: bool) -> None:
    has, given = draw(several, 800)
    moved = Predictions(has, given, 4).losses(METRICS[name])
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(has), len(has)) for _ in range(400)]
    spread = np.std([counted(name, has[each], given[each]) for each in drawn])
    assert np.sqrt(moved.var(ddof=1) / len(moved)) == pytest.approx(spread, rel=0.12)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
def test_of_two_classes_the_second_is_ranked(name: str) -> None:
    has = draw(False)[0] % 2
    two = likely(has, 2)
    assert of(has, has, two, 2).score(METRICS[name]) == pytest.approx(measured(name, has, has, two))
    assert of(has, has, two, 2).losses(METRICS[name]).mean() == pytest.approx(100 - measured(name, has, has, two))


def test_metrics_of_probabilities_need_them(tmp_path: Path) -> None:
    has, given = draw(False)
    keep(tmp_path, "f00", has, given)
    assert of_trial(tmp_path, "f00", 4, METRICS["macro_f1"]).probabilities is None
    with pytest.raises(ValueError, match=r"f00-test\.parquet: no probabilities are stored, and ROC AUC is computed from them"):
        of_trial(tmp_path, "f00", 4, METRICS["roc_auc"])
    keep(tmp_path, "f01", has, given, likely(has))
    read_again = of_trial(tmp_path, "f01", 4, METRICS["roc_auc"])
    assert read_again.score(METRICS["roc_auc"]) == pytest.approx(measured("roc_auc", has, given, likely(has)), abs=0.02)


@pytest.mark.parametrize("several", [False, True])
def test_predictions_are_read_in_the_order_of_the_texts(tmp_path: Path, several: bool) -> None:
    has, given = draw(several)
    keep(tmp_path, "f00", has, given)
    found = of_trial(tmp_path, "f00", 6)
    assert found.several == several
    assert found.classes == 6
    assert np.array_equal(found.has if not several else found.has[:, :4], has)
    assert np.array_equal(found.predicted if not several else found.predicted[:, :4], given)
    right, have, got = found.counts()
    assert [each[4:].tolist() for each in (right, have, got)] == [[0, 0]] * 3


@pytest.mark.parametrize("metric", ["error_rate", "macro_f1", "micro_f1", "mcc"])
def test_one_class_alone_moves_nothing(metric: str) -> None:
    same = np.zeros(5, dtype=int)
    assert np.ptp(Predictions(same, same, 1).losses(METRICS[metric])) == 0


def test_no_text_has_a_label() -> None:
    none = np.zeros((5, 3), dtype=bool)
    for metric in ("micro_f1", "macro_f1"):
        assert Predictions(none, none, 3).losses(METRICS[metric]).tolist() == [100.0] * 5
    for metric, loss in (("roc_auc", 50.0), ("average_precision", 100.0)):
        assert of(none, none, np.full((5, 3), 0.5), 3).losses(METRICS[metric]).tolist() == [loss] * 5


def write(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_texts_come_in_their_order(tmp_path: Path) -> None:
    error = METRICS["error_rate"]
    found = read(write(tmp_path / "p.parquet", index=[2, 0, 1], label=[5, 3, 4], prediction=[5, 0, 4]))
    assert found.has.tolist() == [3, 4, 5]
    assert found.losses(error).tolist() == [100, 0, 0]
    same = read(write(tmp_path / "q.parquet", index=[0, 1, 2], label=[3, 4, 5], prediction=[0, 0, 0]))
    losses, texts = stacked([found, same], error)
    assert losses is not None
    assert losses.tolist() == [[100, 0, 0], [100, 100, 100]]
    assert texts == found.digest
    other = read(write(tmp_path / "r.parquet", index=[0, 1], label=[3, 4], prediction=[3, 4]))
    assert stacked([found, other], error) == (None, "")


def test_lists_of_labels_are_as_wide_as_their_probabilities(tmp_path: Path) -> None:
    columns = {"label": [[0], [], [0, 2]], "prediction": [[0], [1], [2]], "probabilities": [[0.5] * 4] * 3}
    found = read(write(tmp_path / "p.parquet", index=[0, 1, 2], **columns))
    assert found.has.astype(int).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert found.predicted.astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.parquet")
    (tmp_path / "p.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ValueError, match=r"p\.parquet"):
        read(tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="numbered from 0"):
        read(write(tmp_path / "q.parquet", index=[1, 2], label=[0, 0], prediction=[0, 0]))
    odd: list[dict[str, list[object]]] = [
        {"label": [0, 0]},
        {"label": [0, -1], "prediction": [0, 0]},
        {"label": [0, None], "prediction": [0, 0]},
        {"label": ["a", "b"], "prediction": ["a", "a"]},
        {"label": [[0], None], "prediction": [[0], [0]]},
        {"label": [[0], [1]], "prediction": [0, 1]},
        {"label": [[0], [1]], "prediction": [[0], [-1]]},
    ]
    for columns in odd:
        with pytest.raises(ValueError, match=r"r\.parquet"):
            read(write(tmp_path / "r.parquet", index=[0, 1], **columns))
    with pytest.raises(ValueError, match="not the name of a trial"):
        of_trial(tmp_path, "../predictions/r")
