"""How uncertain a test split makes a score, against bootstrap and jackknife."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.predictions import Array, Predictions, read
from study.metric import METRICS
from tests.analysis.measured import keep, scores


def draw(several: bool, n: int = 300, classes: int = 4) -> tuple[Array, Array]:
    """Labels with rare ones among them, and predictions that are mostly right."""
    rng = np.random.default_rng(7)
    if several:
        has = rng.random((n, classes)) < np.array([0.5, 0.3, 0.1, 0.04])[:classes]
        return has, has ^ (rng.random(has.shape) < 0.12)
    has = rng.choice(classes, n, p=[0.55, 0.25, 0.15, 0.05])
    return has, np.where(rng.random(n) < 0.25, rng.integers(0, classes, n), has)


CASES = [(name, several) for name in METRICS for several in (False, True)]
CASES = [case for case in CASES if case not in (("subset_accuracy", False), ("accuracy", True), ("mcc", True))]


@pytest.mark.parametrize(("name", "several"), CASES)
def test_influence_is_what_leaving_a_text_out_does(name: str, several: bool) -> None:
    """The influence function is the limit of the jackknife: up to a constant n - 1 times the change without the text."""
    has, given = draw(several)
    names = list("abcd")
    found = Predictions(np.arange(len(has)), has, given, 4).influence(METRICS[name])
    whole = METRICS[name].score(scores(has, given, names))
    assert whole is not None
    jackknife = np.array(
        [
            (len(has) - 1) * (whole - (METRICS[name].score(scores(np.delete(has, i, 0), np.delete(given, i, 0), names)) or 0))
            for i in range(len(has))
        ]
    )
    sign = -1 if name == "error_rate" else 1  # a wrong text is worth less: the variance is the same
    assert sign * (found - found.mean()) == pytest.approx(jackknife - jackknife.mean(), rel=0.08, abs=1.0)


@pytest.mark.parametrize(("name", "several"), [("macro_f1", False), ("macro_f1", True), ("micro_f1", True), ("mcc", False)])
def test_its_variance_is_the_bootstraps(name: str, several: bool) -> None:
    has, given = draw(several, 800)
    moved = Predictions(np.arange(len(has)), has, given, 4).influence(METRICS[name])
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(has), len(has)) for _ in range(400)]
    spread = np.std([METRICS[name].score(scores(has[each], given[each], list("abcd"))) for each in drawn])
    assert np.sqrt(moved.var(ddof=1) / len(moved)) == pytest.approx(spread, rel=0.12)


@pytest.mark.parametrize("several", [False, True])
def test_predictions_are_read_in_the_order_of_the_texts(tmp_path: Path, several: bool) -> None:
    has, given = draw(several)
    keep(tmp_path, "f00", has, given)
    found = read(tmp_path / "predictions" / "f00-test.parquet", 6)
    assert found is not None
    assert found.several == several
    assert found.classes == 6
    assert np.array_equal(found.has if not several else found.has[:, :4], has)
    assert np.array_equal(found.given if not several else found.given[:, :4], given)
    right, have, got = found.counts()
    assert [each[4:].tolist() for each in (right, have, got)] == [[0, 0]] * 3


@pytest.mark.parametrize("metric", ["error_rate", "macro_f1", "micro_f1", "mcc"])
def test_one_class_alone_moves_nothing(metric: str) -> None:
    same = np.zeros(5, dtype=int)
    assert np.ptp(Predictions(np.arange(5), same, same, 1).influence(METRICS[metric])) == 0


def test_nobody_has_a_label() -> None:
    none = np.zeros((5, 3), dtype=bool)
    for metric in ("micro_f1", "macro_f1"):
        assert Predictions(np.arange(5), none, none, 3).influence(METRICS[metric]).tolist() == [0.0] * 5
