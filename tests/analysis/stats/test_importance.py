"""Importance of the dimensions: known cases, and the reason if there is no result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.records.run_folder import load
from analysis.records.trials import SearchDimension, Trial
from analysis.stats.importance import FEWEST, encode, importance
from tests.analysis.made_records import make

SPACE = [
    SearchDimension("a", "a", "log"),
    SearchDimension("b", "b", "linear"),
    SearchDimension("kind", "kind", "category", ("x", "y")),
    SearchDimension("only_y", "only y", "linear", conditional=True),
]


def trials(count: int, error: str, status: str = "complete") -> list[Trial]:
    """Trials whose error is a function of one dimension."""
    rng, made = np.random.default_rng(1), []
    for n in range(count):
        params: dict[str, object] = {"a": float(10 ** rng.uniform(-5, -3)), "b": float(rng.uniform(0, 1)), "kind": "xy"[n % 2]}
        if params["kind"] == "y":
            params["only_y"] = float(rng.uniform(0, 1))
        value = {
            "a": 10 + 3 * (np.log10(params["a"]) + 4),  # type: ignore[arg-type]
            "kind": 10.0 + 4 * (params["kind"] == "y"),
            "only_y": 10.0 + 8 * (params.get("only_y", 0.5) - 0.5),  # type: ignore[operator]
            "noise": float(rng.normal(10, 1)),
            "equal": 10.0,
        }[error]
        made.append(Trial(f"t{n:03d}", "search", params, status=status, curve=[(1.0, 50.0), (2.0, float(value))]))
    return made


@pytest.mark.parametrize("matters", ["a", "kind", "only_y"])
def test_the_dimension_that_matters_comes_first(matters: str) -> None:
    found = importance(trials(60, matters), SPACE)
    assert found.shares[matters] > 0.7
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.explained > 0.5


def test_noise_is_called_noise() -> None:
    found = importance(trials(60, "noise"), SPACE)
    assert not found.shares
    assert "No dimension stands out" in found.why


def test_equal_scores_are_reported() -> None:
    found = importance(trials(20, "equal"), SPACE)
    assert not found.shares
    assert "same score on validation" in found.why


def test_too_few_trials_are_reported() -> None:
    found = importance(trials(FEWEST - 1, "a"), SPACE)
    assert not found.shares
    assert f"Too few validated trials: {FEWEST - 1}" in found.why
    assert importance(trials(20, "a"), SPACE).few
    assert not importance(trials(60, "a"), SPACE).few


def test_trials_are_compared_where_all_of_them_were() -> None:
    stopped, complete = trials(40, "kind", status="stopped"), trials(20, "kind")
    for trial in complete:  # what they came to later is another matter
        trial.curve += [(3.0, 1.0)]
    found = importance(stopped + complete, SPACE)
    assert (found.trials, found.epoch) == (60, 2.0)
    assert found.shares["kind"] > 0.7
    assert importance(stopped, SPACE).epoch is None
    assert importance(stopped + trials(9, "a", status="failed"), SPACE).trials == 40


def test_a_dimension_that_a_trial_lacks_carries_no_news_of_its_condition() -> None:
    features, active = encode(trials(10, "a"), SPACE)
    assert list(active[:, 3]) == [n % 2 == 1 for n in range(10)]
    assert len(set(features[~active[:, 3], 3])) == 1
    assert set(features[:, 2]) == {0, 1}


def test_the_same_trials_give_the_same_numbers(finished: Path) -> None:
    run = load(finished)
    assert importance(run.search, run.space) == importance(run.search, run.space)


def test_no_space_no_answer(tmp_path: Path) -> None:
    assert not importance(load(make(tmp_path, part="search")).search, []).shares
