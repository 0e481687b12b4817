"""Choosing and the two kinds of noise."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis import select
from analysis.load import Run, Trial, load
from analysis.select import Setting
from tests.analysis.records import make


def setting(tests: list[float], examples: int = 200, name: str = "a") -> Setting:
    trials = [
        Trial(f"{name}{i}", "final", error=e, test={"error_rate_percent": e, "examples": examples}) for i, e in enumerate(tests)
    ]
    return Setting(name, name, tuple(trials), 1, False)


def test_the_chosen_one_is_best_on_validation_not_on_test(finished: Path) -> None:
    found = select.settings(load(finished))
    assert [s.rank for s in found] == [1, 2, 3]
    means = [statistics.fmean(s.validation) for s in found]
    assert means == sorted(means)
    assert [s.reference for s in found] == [False, False, True]
    assert all(len(s.test) == 3 for s in found)


def test_the_order_is_by_validation_even_where_test_says_otherwise(tmp_path: Path) -> None:
    def worse_on_test(story: object) -> None:
        for name in ("f00", "f01", "f02"):
            story.write("evaluation", trial=name, split="test", stage_id="other", error_rate_percent=40.0, examples=200)  # type: ignore[attr-defined]

    before = select.settings(load(make(tmp_path / "a")))
    after = select.settings(load(make(tmp_path / "b", edit=worse_on_test)))
    assert [s.key for s in before] == [s.key for s in after]
    assert statistics.fmean(after[0].test) == 40


def test_settings_that_were_replaced_later_are_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path)
    run = load(folder)
    keep = [s for s in run.of("selection")[-1]["settings"] if s["rank"] != 2]
    again = load(make(tmp_path / "again", edit=lambda s: s.write("selection", settings=keep, k=2, seeds=[0, 1, 2])))
    assert len(select.settings(again)) == 2


def test_before_the_selection_finals_stand_in_order_of_validation(tmp_path: Path) -> None:
    run = load(make(tmp_path, part="finals"))
    assert not select.is_settled(run)
    assert len(select.settings(run)) == 3


def test_t_interval_is_students() -> None:
    values = [9.0, 10.0, 11.5]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert select.t_interval(values) == pytest.approx((low, high))
    assert select.t_interval([9.0]) is None
    assert select.t_interval([]) is None
    assert select.t_interval([9.0, 9.0, 9.0]) is None
    assert select.t_interval([0.5, 0.0])[0] == 0  # type: ignore[index]


@pytest.mark.parametrize(("wrong", "examples"), [(0, 200), (1, 200), (17, 200), (200, 200), (1350, 25_000)])
def test_wilson_interval_is_scipys(wrong: int, examples: int) -> None:
    expected = stats.binomtest(wrong, examples).proportion_ci(0.95, method="wilson")
    found = select.wilson(100 * wrong / examples, examples)
    assert found == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


def test_one_seed_has_no_seed_interval() -> None:
    one = setting([9.0])
    assert one.seeds_interval is None
    assert select.sd(one.test) is None
    assert one.examples_interval is not None


def test_predictions_make_the_interval_of_a_difference_narrower(finished: Path, tmp_path: Path) -> None:
    paired, apart = load(finished), load(make(tmp_path, predictions=False))
    widths = []
    for run in (paired, apart):
        found = select.settings(run)
        gap = select.difference(run, found[0], found[-1])
        assert gap is not None
        assert gap.interval is not None
        assert gap.interval[0] < gap.points < gap.interval[1]
        widths.append(gap.interval[1] - gap.interval[0])
    assert widths[0] < 0.7 * widths[1]


def test_intervals_of_differences_cover_what_they_claim() -> None:
    """Two settings, equal in truth, over three seeds and 200 texts each: 95 % of the intervals should cover zero; more may."""
    rng = np.random.default_rng(0)
    run, covered, rounds = Run(Path("/nowhere"), [], [], {}), 0, 400
    for _ in range(rounds):
        settings = []
        for name in "ab":
            rates = np.clip(rng.normal(0.1, 0.01, 3), 0, 1)
            settings.append(setting([float(100 * rng.binomial(200, rate) / 200) for rate in rates], name=name))
        gap = select.difference(run, *settings)
        assert gap is not None
        covered += gap.within_noise
    assert covered / rounds >= 0.94


def test_a_real_difference_is_found() -> None:
    run = Run(Path("/nowhere"), [], [], {})
    gap = select.difference(run, setting([9.0, 9.5, 9.2], 2000), setting([13.0, 13.4, 12.8], 2000, "b"))
    assert gap is not None
    assert not gap.within_noise
    assert gap.points == pytest.approx(-3.8333, abs=1e-3)


def test_without_test_scores_there_is_no_difference() -> None:
    run = Run(Path("/nowhere"), [], [], {})
    assert select.difference(run, setting([]), setting([9.0])) is None
    assert select.against_baseline(run, setting([9.0])) is None


def test_unknown_test_size_gives_no_interval() -> None:
    run = Run(Path("/nowhere"), [], [], {})
    gap = select.difference(run, setting([9.0, 9.1], 0), setting([12.0, 12.3], 0, "b"))
    assert gap is not None
    assert gap.interval is None
    assert gap.within_noise
