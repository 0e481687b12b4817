"""Choice of the final setting, and the noise from seeds and from test texts."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.records.run_folder import Run, load
from analysis.records.trials import Trial
from analysis.results import final_settings
from analysis.results.claims import verdicts
from analysis.results.compare import compare
from analysis.results.final_settings import Finals, FinalSetting
from analysis.results.read_ablation import ledger
from analysis.stats import inference
from analysis.tables import result_table, sentences
from analysis.text import numbers
from tests.analysis.made_records import make
from tests.analysis.measured import keep
from tests.analysis.measured import make as measured


def setting(tests: list[float], examples: int = 200, name: str = "a") -> FinalSetting:
    trials = [
        Trial(f"{name}{i}", "final", error=e, test={"error_rate_percent": e, "examples": examples}) for i, e in enumerate(tests)
    ]
    return FinalSetting(name, name, tuple(trials), 1, False)


def test_the_chosen_one_is_best_on_validation_not_on_test(finished: Path) -> None:
    found = final_settings.settings(load(finished))
    assert [s.rank for s in found] == [1, 2, 3]
    means = [statistics.fmean(s.validation) for s in found]
    assert means == sorted(means)
    assert [s.reference for s in found] == [False, False, True]
    assert all(len(s.test) == 3 for s in found)


def test_the_order_is_by_validation_even_if_test_scores_disagree(tmp_path: Path) -> None:
    def worse_on_test(story: object) -> None:
        for name in ("f00", "f01", "f02"):
            story.write("evaluation", trial=name, split="test", stage_id="other", error_rate_percent=40.0, examples=200)  # type: ignore[attr-defined]

    before = final_settings.settings(load(make(tmp_path / "a")))
    after = final_settings.settings(load(make(tmp_path / "b", edit=worse_on_test)))
    assert [s.key for s in before] == [s.key for s in after]
    assert statistics.fmean(after[0].test) == 40


def test_settings_that_were_replaced_later_are_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path)
    run = load(folder)
    keep = [s for s in run.of("selection")[-1]["settings"] if s["rank"] != 2]
    again = load(make(tmp_path / "again", edit=lambda s: s.write("selection", settings=keep, k=2, seeds=[0, 1, 2])))
    assert len(final_settings.settings(again)) == 2


def test_before_the_selection_finals_stand_in_order_of_validation(tmp_path: Path) -> None:
    run = load(make(tmp_path, part="finals"))
    assert not final_settings.is_settled(run)
    assert len(final_settings.settings(run)) == 3


@pytest.mark.parametrize(("wrong", "examples"), [(0, 200), (1, 200), (17, 200), (200, 200), (1350, 25_000)])
def test_wilson_interval_is_scipys(wrong: int, examples: int) -> None:
    expected = stats.binomtest(wrong, examples).proportion_ci(0.95, method="wilson")
    found = final_settings.wilson(100 * wrong / examples, examples)
    assert found == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


def test_one_seed_gets_no_interval_but_that_of_these_texts(tmp_path: Path) -> None:
    one, other = setting([9.0]), setting([19.0], name="b")
    assert (one.interval, numbers.sd(one.test)) == (None, None)
    assert one.texts_interval == final_settings.wilson(9.0, 200)
    gap = final_settings.difference(one, other)
    assert gap == final_settings.Difference(-10.0, None, final_settings.ONE_SEED)
    assert gap.within_noise
    run = load(make(tmp_path, seeds=1))
    first = final_settings.settings(run)[0]
    assert (first.interval, first.losses is None) == (None, False)
    gaps = dict(Finals(run).comparisons)
    assert {(each.interval, each.p_value, each.corrected) for each in gaps.values()} == {(None, None, None)}
    assert "of these two runs McNemar's p " in gaps["papers' setting"].method


def test_an_interval_without_predictions_adds_the_variances() -> None:
    one = setting([9.0, 10.0, 11.5])
    share = (0.10166666 * 200 + 1) / 202
    of_texts, of_seeds = 1e4 * share * (1 - share) / 200, np.var([9.0, 10.0, 11.5], ddof=1) / 3
    freedom = (of_texts + of_seeds) ** 2 / (of_texts**2 / 199 + of_seeds**2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(of_texts + of_seeds)
    assert one.interval == pytest.approx((10.1666667 - half, 10.1666667 + half))
    assert setting([0.5, 0.0]).interval[0] == 0  # type: ignore[index]
    assert setting([9.0, 9.0, 9.0]).interval is not None  # the texts alone make it uncertain


def test_predictions_make_the_interval_of_a_difference_narrower(finished: Path, tmp_path: Path) -> None:
    paired, apart = load(finished), load(make(tmp_path, predictions=False))
    widths = []
    for run in (paired, apart):
        found = final_settings.settings(run)
        gap = final_settings.difference(found[0], found[-1])
        assert gap is not None
        assert gap.interval is not None
        assert gap.interval[0] < gap.points < gap.interval[1]
        widths.append(gap.interval[1] - gap.interval[0])
    assert widths[0] < 0.7 * widths[1]


def test_intervals_of_differences_have_their_nominal_coverage() -> None:
    """Two settings with equal expected errors, three seeds, 200 texts: at least 95 % of the intervals should cover zero."""
    rng = np.random.default_rng(0)
    covered, rounds = 0, 400
    for _ in range(rounds):
        settings = []
        for name in "ab":
            rates = np.clip(rng.normal(0.1, 0.01, 3), 0, 1)
            settings.append(setting([float(100 * rng.binomial(200, rate) / 200) for rate in rates], name=name))
        gap = final_settings.difference(*settings)
        assert gap is not None
        covered += gap.within_noise
    assert covered / rounds >= 0.94


def test_a_real_difference_is_significant() -> None:
    gap = final_settings.difference(setting([9.0, 9.5, 9.2], 2000), setting([13.0, 13.4, 12.8], 2000, "b"))
    assert gap is not None
    assert not gap.within_noise
    assert gap.points == pytest.approx(-3.8333, abs=1e-3)


def test_without_test_scores_there_is_no_difference() -> None:
    run = Run(Path("/nowhere"), [], [], {})
    assert final_settings.difference(setting([]), setting([9.0])) is None
    assert final_settings.against_baseline(run, setting([9.0])) is None


def test_unknown_test_size_gives_no_interval() -> None:
    gap = final_settings.difference(setting([9.0, 9.1], 0), setting([12.0, 12.3], 0, "b"))
    assert gap is not None
    assert gap.interval is None
    assert gap.within_noise
    assert gap.method == final_settings.UNKNOWN


def test_the_bag_of_words_has_no_seed_and_its_losses_are_fixed_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    has = rng.integers(0, 3, 300)
    seeds = [np.where(rng.random(300) < 0.1, 0, has) for _ in range(3)]
    bag = np.where(rng.random(300) < 0.4, 1, has)
    run = load(measured(tmp_path, list("abc"), has, {"it": seeds}, "error_rate", baseline=bag))
    ((label, gap),) = Finals(run).comparisons
    apart = 100.0 * (np.stack(seeds) != has) - 100.0 * (bag != has)
    assert (label, gap.interval) == ("bag of words", inference.mean(apart).interval)
    assert gap.points == pytest.approx(apart.mean())
    assert gap.corrected == gap.p_value == inference.mean(apart).p_value


def test_p_values_of_the_table_are_corrected_for_each_other(finished: Path) -> None:
    gaps = Finals(load(finished)).comparisons
    assert [label for label, _ in gaps] == ["papers' setting", "bag of words"]
    assert gaps[1][1].p_value is not None  # the made-up bag of words has no predictions: independent texts
    assert gaps[1][1].method.startswith("test texts taken as independent")
    assert [gap.corrected for _, gap in gaps] == inference.holm([gap.p_value for _, gap in gaps if gap.p_value is not None])


@pytest.mark.parametrize("metric", ["error_rate", "macro_f1", "mcc"])
def test_one_statistics_for_study_ablation_and_comparison(tmp_path: Path, metric: str) -> None:
    """The same finals on the page of a study, as an ablation with a claim, and as two runs side by side."""
    rng = np.random.default_rng(1)
    has, names = rng.integers(0, 3, 240), ["a", "b", "c", "none has it"]

    def seeds(share: float) -> list[np.ndarray]:
        hard = rng.random(240) < share
        return [np.where(hard & (rng.random(240) < 0.8), rng.integers(0, 3, 240), has) for _ in range(3)]

    better, worse = seeds(0.2), seeds(0.32)
    study = load(measured(tmp_path / "it" / "s", names, has, {"mine": better, "default": worse}, metric))
    mine, default = final_settings.settings(study)
    ((label, gap),) = Finals(study).comparisons
    assert (mine.label, label) == ("mine", "default")
    assert gap.interval is not None

    about = {"tasks": {"t": {}}, "settings": [{"row": "mine"}, {"row": "default"}], "seeds": 3}
    about |= {"studies": [{"folder": "s", "task": "t"}], "claims": [{"better": {"row": "mine"}, "worse": {"row": "default"}}]}
    (tmp_path / "it" / "ablation.yaml").write_text(json.dumps(about))
    found = ledger(tmp_path / "it")
    assert [cell.interval for cell in found.cells] == [mine.interval, default.interval]
    (verdict,) = verdicts(found)
    assert verdict.estimate is not None

    sides = [measured(tmp_path / key, names, has, {"x": runs}, metric) for key, runs in (("A", worse), ("B", better))]
    ((pair,), _) = compare(*sides)
    assert pair.estimate == verdict.estimate
    way = -1 if study.metric.higher else 1
    assert gap.interval == tuple(sorted(way * bound for bound in pair.estimate.interval or ()))
    assert gap.p_value == pair.p_value == verdict.p_value
    decided = not gap.within_noise
    assert decided == (pair.verdict == "B better") == (verdict.kind == "supported")
    assert numbers.interval(mine.interval) in result_table.result_text(Finals(study))


def test_predictions_of_another_run_are_noticed(finished: Path, tmp_path: Path) -> None:
    folder = make(tmp_path)
    for name in ("f00", "f01", "f02"):
        keep(folder, name, np.zeros(200, dtype=int), np.zeros(200, dtype=int))
    said = "the test predictions give another score than the records."
    assert sum(said in text for text in sentences.missing(Finals(load(folder)))) == 1
    assert not [text for text in sentences.missing(Finals(load(finished))) if said in text]
