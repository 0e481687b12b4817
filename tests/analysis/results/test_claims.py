"""Verdicts: right if the truth is known, none without data, seldom wrong under the null hypothesis; their wording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.records.metric import ERROR_RATE, METRICS, Metric
from analysis.records.trials import Trial
from analysis.results.claims import Verdict, points, verdicts
from analysis.results.ledger import Cell, Ledger, SeedRun
from analysis.stats import inference
from benchmarks.coverage import simulated
from tests.analysis.ablations import wrong


def cell(row: str, losses: Any, column: str = "", task: str = "t", texts: str = "same", metric: Metric = ERROR_RATE) -> Cell:
    """Return a cell with losses 0/1 [seeds, texts]."""
    values = None if losses is None else 100.0 * np.asarray(losses, dtype=float)
    runs = [] if values is None else [run(seed, "complete", float(each.mean())) for seed, each in enumerate(values)]
    return Cell(row, column, task, 0, metric, len(runs) or 3, runs, losses=values, texts=texts)


def run(seed: int, status: str, score: float | None = None) -> SeedRun:
    return SeedRun("s", Trial(f"f{seed:02d}", "final", status=status, seed=seed), score)


def judged(cells: Sequence[Cell], *claims: dict[str, Any], tasks: dict[str, Any] | None = None) -> list[Verdict]:
    about = {"claims": list(claims), "tasks": tasks or {each.task: {} for each in cells}}
    return verdicts(Ledger(about, list(cells), []))


def seeds(*counts: int) -> np.ndarray:
    return np.stack([wrong(count, seed) for seed, count in enumerate(counts)])


A_BEATS_B = {"says": "a beats b", "better": {"row": "a"}, "worse": {"row": "b"}}


def test_supported_and_contradicted() -> None:
    cells = [cell("a", seeds(40, 44, 36)), cell("b", seeds(80, 76, 84))]
    for_it, against_it = judged(cells, A_BEATS_B, {"says": "b beats a", "better": {"row": "b"}, "worse": {"row": "a"}})
    assert (for_it.kind, against_it.kind) == ("supported", "contradicted")
    assert for_it.estimate is not None
    assert for_it.estimate == inference.difference(100.0 * seeds(40, 44, 36), 100.0 * seeds(80, 76, 84))
    assert for_it.text.startswith("supported: a has 10.00 points of error less than b (95 % interval −13.89 to −6.11, p = 0.00032 ")
    assert "after correction for 2 claims; 3 seeds, 400 test texts of t)" in for_it.text
    assert against_it.text.startswith("contradicted: b has 10.00 points of error more than a (95 % interval +6.11 to +13.89")


def test_undecided_verdicts_state_how_many_seeds_would_decide() -> None:
    (found,) = judged([cell("a", seeds(40, 44, 36)), cell("b", seeds(42, 40, 44))], A_BEATS_B)
    assert found.kind == "undecided"
    assert found.estimate is not None
    assert found.needed == inference.seeds_to_decide(found.estimate)
    assert f"About {found.needed} seeds of each would decide it" in found.text
    assert "correction" not in found.text  # a single claim needs none


def test_where_texts_are_too_few_more_seeds_are_not_the_answer() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((5, 30)) < np.linspace(0, 1, 30)
    (found,) = judged([cell("a", one), cell("b", np.roll(one, 7, axis=1) | (np.arange(30) == 3))], A_BEATS_B)
    assert found.needed is None
    assert "No number of seeds would decide it: more test texts are needed." in found.text


def test_all_settings_equal() -> None:
    same = seeds(40, 44, 36)
    found, best = judged(
        [cell("a", same), cell("b", same), cell("c", same)], A_BEATS_B, {"says": "a is best", "best": {"row": "a"}}
    )
    assert (found.kind, best.kind) == ("undecided", "undecided")
    assert "a has as many points of error as b" in found.text
    assert "There is no difference that seeds could decide." in found.text


def test_one_seed_gets_no_interval_and_no_verdict() -> None:
    a, b = seeds(20), seeds(90)
    (found,) = judged([cell("a", a), cell("b", b)], A_BEATS_B)
    assert (found.kind, found.p_value, found.corrected) == ("undecided", None, None)
    assert "in one seed only, so that its spread is unknown" in found.text
    assert f"p {'< 0.0001' if inference.mcnemar(a[0], b[0]) < 1e-4 else '='}" in found.text
    assert "interval" not in found.text


def test_missing_settings_are_named() -> None:
    none, unknown = judged(
        [cell("a", seeds(40, 44)), cell("b", None)], A_BEATS_B, {"says": "x", "better": {"row": "a"}, "worse": {"row": "nope"}}
    )
    assert (none.kind, unknown.kind) == ("open", "open")
    assert none.text == "not yet decided: nothing to compare yet. Excluded: t, b: missing."
    assert "nope: no such setting" in unknown.text


def test_divergence_of_all_seeds_is_weighed_as_such() -> None:
    lost = Cell("b", "", "t", 1, ERROR_RATE, 3, [run(seed, "diverged") for seed in range(3)])
    (three,) = judged([cell("a", seeds(40, 44, 36)), lost], A_BEATS_B)
    assert three.kind == "undecided"
    assert three.corrected == pytest.approx(stats.fisher_exact([[0, 3], [3, 0]]).pvalue)
    assert "a diverged in 0 of 3 seeds, b in 3 of 3 (Fisher's exact test, p = 0.1)" in three.text
    five = Cell("b", "", "t", 1, ERROR_RATE, 5, [run(seed, "diverged") for seed in range(5)])
    (decided,) = judged([cell("a", seeds(40, 44, 36, 40, 40)), five], A_BEATS_B)
    assert decided.kind == "supported"
    (other_way,) = judged([cell("b", seeds(40, 44, 36, 40, 40)), Cell("a", "", "t", 1, ERROR_RATE, 5, five.runs)], A_BEATS_B)
    assert other_way.kind == "contradicted"


def test_diverged_seeds_beside_finished_ones_are_reported_as_left_out() -> None:
    some = cell("b", seeds(80, 76))
    some.runs.append(run(2, "diverged"))
    some.wanted = 3
    (found,) = judged([cell("a", seeds(40, 44, 36)), some], A_BEATS_B)
    assert found.kind == "supported"
    assert "Excluded: t, b: 1 diverged of 3 seeds left out." in found.text


def test_tasks_are_pooled_and_shown_apart() -> None:
    a, b = seeds(40, 44, 36), seeds(80, 76, 84)
    c, d = seeds(50, 44, 47)[:, :300], seeds(52, 46, 50)[:, :300]
    cells = [cell("a", a), cell("b", b), cell("a", c, task="u", texts="u"), cell("b", d, task="u", texts="u")]
    (found,) = judged(cells, A_BEATS_B)
    parts = [inference.difference(100.0 * a, 100.0 * b), inference.difference(100.0 * c, 100.0 * d)]
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx((parts[0].value + parts[1].value) / 2)
    assert found.estimate.variance == pytest.approx((parts[0].variance + parts[1].variance) / 4)
    assert found.estimate.texts == 700
    assert "700 test texts of 2 tasks" in found.text
    assert "By task: t −10.00" in found.text
    (only,) = judged(cells, A_BEATS_B | {"tasks": ["v"]}, tasks={"t": {}, "u": {"stands_for": "v"}})
    assert [each.task for each in only.tasks] == ["u"]


def test_a_column_is_compared_row_by_row() -> None:
    """`xi < 1 beats 1`: rows are learning rates with different mean errors; rows that lack one side are left out."""
    cells = [cell("r1", seeds(40, 44, 36), "xi=0.95"), cell("r1", seeds(60, 64, 56), "xi=1.00")]
    cells += [
        cell("r2", seeds(90, 94, 86), "xi=0.95"),
        cell("r2", seeds(110, 114, 106), "xi=1.00"),
        cell("r3", seeds(20, 20), "xi=1.00"),
    ]
    claim = {"says": "decay helps", "better": {"column": "xi=0.95"}, "worse": {"column": "xi=1.00"}}
    (found,) = judged(cells, claim)
    assert found.kind == "supported"
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(-5.0)
    assert found.text.startswith("supported: xi=0.95 has 5.00 points of error less than xi=1.00")


def test_other_texts_are_not_paired() -> None:
    (found,) = judged([cell("a", seeds(40, 44)), cell("b", seeds(80, 76), texts="others")], A_BEATS_B)
    assert found.kind == "open"
    assert "not tested on the same texts" in found.text


def test_more_is_better_if_the_metric_is_a_score() -> None:
    assert points(-1.5, ERROR_RATE) == "1.50 points of error less"
    assert points(-1.5, METRICS["macro_f1"]) == "1.50 points of macro-F1 more"
    assert points(1.5, METRICS["accuracy"]) == "1.50 points of accuracy less"
    assert points(0.001, ERROR_RATE) == "as many points of error"


def test_best_of_all() -> None:
    cells = [cell("a", seeds(40, 44, 36)), cell("b", seeds(80, 76, 84)), cell("c", seeds(90, 96, 94))]
    claim = {"says": "a is best", "best": {"row": "a"}}
    best, not_best = judged(cells, claim, {"says": "b is best", "best": {"row": "b"}})
    assert (best.kind, not_best.kind) == ("supported", "contradicted")
    assert "than the best of the others" in best.text


def null_study(rng: np.random.Generator, settings: int, texts: int = 200) -> list[Cell]:
    """Settings that are all the same, over three seeds."""
    hardness = rng.normal(0, 2.5, texts)
    return [cell(f"s{i}", simulated(rng, 3, hardness, 0.15)) for i in range(settings)]


def test_verdicts_are_seldom_wrong_where_nothing_differs() -> None:
    """A table with three claims, none true: the share of tables with any verdict is at most 5 %, of 400 by chance at most 7.5 %."""
    rng = np.random.default_rng(11)
    pairs = [{"better": {"row": one}, "worse": {"row": other}} for one, other in (("s0", "s1"), ("s2", "s1"), ("s3", "s0"))]
    alarms = sum(any(v.kind != "undecided" for v in judged(null_study(rng, 4), *pairs)) for _ in range(400))
    assert alarms / 400 <= stats.binom.ppf(0.99, 400, 0.05) / 400


def test_the_best_of_several_equal_ones_is_not_taken_for_better() -> None:
    """The best of five equal settings looks better than a sixth; repeating the choice in every draw removes that bias."""
    rng = np.random.default_rng(12)
    plain, honest, alarms = [], [], 0
    for _ in range(40):
        groups = [each.losses for each in null_study(rng, 6, texts=100) if each.losses is not None]
        best = min(groups[1:], key=lambda group: float(group.mean()))
        found = inference.against_best(groups[0], groups[1:], draws=120)
        plain.append(inference.difference(groups[0], best).value)
        honest.append(found.value)
        alarms += (found.p_value or 1.0) < 0.05
    error = np.std(plain, ddof=1) / np.sqrt(40)
    assert np.mean(plain) > 3 * error
    assert abs(np.mean(honest)) < np.mean(plain) / 3
    assert alarms <= stats.binom.ppf(0.99, 40, 0.05)
