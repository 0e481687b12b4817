"""Comparison of two runs: settings are paired if their test texts are the same, and not compared otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.records import record
from analysis.records.run_folder import load
from analysis.results import compare
from analysis.results.final_settings import NO_SPREAD, Finals
from analysis.results.read_ablation import ledger
from analysis.stats import inference
from analysis.tables.published_layout import layout
from analysis.tables.sentences import comparisons, facts
from tests.analysis.ablations import TABLE2, TEXTS, build, table2_outcomes, wrong
from tests.analysis.made_records import make
from tests.analysis.measured import make as measured


def outcomes(*counts: int, row: str = "head-only") -> dict[tuple[str, str], list[Any]]:
    return {("imdb", row): [wrong(count, seed) for seed, count in enumerate(counts)]}


def test_a_better_run_is_seen(tmp_path: Path) -> None:
    one = build(tmp_path / "a", TABLE2, outcomes(80, 76, 84))
    other = build(tmp_path / "b", TABLE2, outcomes(40, 44, 36))
    ((pair,), said) = compare.compare(one, other)
    assert (pair.key, pair.verdict) == (("imdb", "head-only"), "B better")
    matrices = [100.0 * np.stack([wrong(c, s) for s, c in enumerate(each)]) for each in ((40, 44, 36), (80, 76, 84))]
    assert pair.estimate == inference.difference(*matrices)
    assert said == []
    text = compare.text(one, other)
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[1:3] == ["imdb", "head-only  20.00 ± 1.00 (3)  10.00 ± 1.00 (3)  −13.89 to −6.11  B better"]
    assert compare.compare(other, one)[0][0].verdict == "A better"
    assert json.loads(compare.as_json(one, other))["pairs"][0]["verdict"] == "B better"


def test_settings_of_one_run_only_are_listed_and_comparisons_corrected(tmp_path: Path) -> None:
    one = build(tmp_path / "a", TABLE2, table2_outcomes())
    other = build(tmp_path / "b", TABLE2, {key: value for key, value in table2_outcomes().items() if key != ("imdb", "tail-only")})
    pairs, said = compare.compare(one, other)
    assert [pair.key[1] for pair in pairs if pair.key[0] == "imdb"] == ["head-only", "head+tail"]
    assert {pair.verdict for pair in pairs} == {"undecided"}
    assert "only A has imdb: tail-only" in said
    single = next(pair for pair in pairs if pair.key[0] == "sls_yelp")  # one seed each
    assert single.corrected is None
    assert "McNemar's p = 1" in single.why


def test_other_texts_are_not_compared(tmp_path: Path) -> None:
    one = build(tmp_path / "a", TABLE2, outcomes(40, 44))
    other = build(tmp_path / "b", TABLE2, outcomes(40, 44), labels=np.zeros(TEXTS, dtype=int))
    shorter = build(tmp_path / "c", TABLE2, {("imdb", "head-only"): [wrong(40, texts=300), wrong(41, 1, texts=300)]})
    without = build(tmp_path / "d", TABLE2, outcomes(40, 44), predictions=False)
    for folder, why in ((other, "number or labels differ"), (shorter, "number or labels differ"), (without, "no test predictions")):
        ((pair,), _) = compare.compare(one, folder)
        assert (pair.verdict, pair.estimate, pair.corrected) == ("–", None, None)
        assert why in pair.why


INPUTS = {"tasks.t.train": "1", "tasks.t.test": "2", "encoder.weights": "3"}


@pytest.mark.parametrize("ablation", [False, True])
@pytest.mark.parametrize(
    ("mine", "theirs", "paired", "note"),
    [
        (INPUTS, INPUTS, True, ""),
        (INPUTS, None, True, ""),
        (INPUTS, INPUTS | {"tasks.t.test": "9"}, False, "tasks.t.test"),
        (INPUTS, INPUTS | {"tasks.t.train": "9", "encoder.weights": "9"}, True, "encoder.weights, tasks.t.train"),
        (INPUTS, INPUTS | {"corpus news.txt": "4"}, True, "corpus news.txt"),
    ],
)
def test_only_equal_test_splits_are_paired(
    tmp_path: Path, mine: dict[str, str], theirs: dict[str, str] | None, paired: bool, note: str, ablation: bool
) -> None:
    has, folders = np.arange(8) % 2, []
    about = {"tasks": {"t": {}}, "settings": [{"row": "it"}], "seeds": 2, "studies": [{"folder": "s", "task": "t"}]}
    for name, read in (("a", mine), ("b", theirs)):
        folder = measured(tmp_path / name / "s", list("xy"), has, {"it": [has, 1 - has]}, "error_rate")
        path = folder / "records.jsonl"
        path.write_text(path.read_text().replace('"split":"test"', '"split":"test","task":"t"'))
        if read:
            records = record.Records(path, "measured")
            records.append("inputs", inputs={key: {"digest": value} for key, value in read.items()})
        (folder.parent / "ablation.yaml").write_text(json.dumps(about))
        folders.append(folder.parent if ablation else folder)
    ((pair,), said) = compare.compare(*folders)
    assert (pair.estimate is not None, "the test splits differ" in pair.why) == (paired, not paired)
    assert said == ([f"not the same in A and B: {note}"] if note else [])
    assert not note or note in " ".join(compare.text(*folders).split())


@pytest.mark.parametrize(("seeds", "shown"), [(1, False), (2, True)])
def test_a_spread_is_explained_where_there_is_one(tmp_path: Path, seeds: int, shown: bool) -> None:
    has = np.arange(8) % 2
    one = measured(tmp_path / "a", list("xy"), has, {"it": [has, 1 - has][:seeds]}, "error_rate")
    for text in (compare.text(one, one), " ".join(facts(Finals(load(one))))):
        assert ("standard deviation" in " ".join(text.split())) == shown


def test_a_difference_without_spread_is_undecided(tmp_path: Path) -> None:
    has = np.arange(8) % 2
    one = measured(tmp_path / "a", list("xy"), has, {"it": [1 - has] * 2}, "error_rate", baseline=has)
    other = measured(tmp_path / "b", list("xy"), has, {"it": [has] * 2}, "error_rate")
    ((pair,), _) = compare.compare(one, other)
    assert (pair.verdict, pair.why) == ("undecided", NO_SPREAD)
    (said,) = comparisons(Finals(load(one)))
    assert said.endswith(f"which is undecided ({NO_SPREAD})")


def test_two_studies(tmp_path: Path, finished: Path) -> None:
    again = make(tmp_path / "run")
    pairs, _ = compare.compare(finished, again)
    assert len(pairs) == 3
    assert {pair.key[0] for pair in pairs} == {"sls_imdb"}
    assert {pair.verdict for pair in pairs} == {"undecided"}
    assert all(pair.estimate is not None and pair.estimate.value == 0 for pair in pairs)


def test_where_labels_differ_the_chosen_ones_are_compared(tmp_path: Path) -> None:
    one = build(tmp_path / "a", TABLE2, outcomes(40, 44))
    other = build(tmp_path / "b", TABLE2 | {"settings": [{"row": "another"}]}, outcomes(60, 64, row="another"))
    ((pair,), _) = compare.compare(one, other)
    assert pair.verdict == "A better"


def test_nothing_in_common_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = build(tmp_path / "a", TABLE2, outcomes(40, 44))
    nothing = build(tmp_path / "b", TABLE2, {})
    assert main(["compare", str(one), str(nothing)]) == 2
    assert "have no task in common" in capsys.readouterr().err
    assert main(["compare", str(one), str(tmp_path / "none")]) == 2
    assert main(["compare", str(one), str(one)]) == 0
    assert "undecided" in capsys.readouterr().out


def test_studies_are_compared_by_their_own_metric(tmp_path: Path) -> None:
    from tests.analysis.made_records import Story

    def by_f1(story: Story) -> None:
        path = story.folder / "records.jsonl"
        path.write_text(path.read_text().replace('"event":"plan"', '"event":"plan","metric":"macro_f1"'))

    one, other = (make(tmp_path / name, edit=by_f1) for name in "ab")
    pairs, _ = compare.compare(one, other)
    assert {pair.one.metric.name for pair in pairs} == {"macro_f1"}
    assert all(70 < score < 100 for pair in pairs for score in pair.one.scores)
    assert "macro-F1 %" in " ".join(compare.text(one, other).split())


@pytest.mark.parametrize("metric", ["mcc", "subset_accuracy"])
def test_every_metric_has_a_number_and_an_interval(tmp_path: Path, metric: str) -> None:
    rng = np.random.default_rng(5)
    has = rng.random((300, 3)) < 0.4 if metric == "subset_accuracy" else rng.integers(0, 2, 300)

    def seeds(share: float) -> list[Any]:
        drawn = [rng.random(has.shape) < share for _ in range(3)]
        return [np.where(wrong, 1 - has, has).astype(has.dtype) for wrong in drawn]

    one, other = (
        measured(tmp_path / name / "s", list("abc"), has, {"it": seeds(p)}, metric) for name, p in (("a", 0.3), ("b", 0.1))
    )
    ((pair,), said) = compare.compare(one, other)
    assert said == []
    assert (pair.one.metric.name, pair.verdict) == (metric, "B better")
    assert pair.estimate is not None
    assert pair.estimate.value == pytest.approx(np.mean(pair.one.scores) - np.mean(pair.other.scores), abs=1e-4)
    assert f"Test {pair.one.metric.label} %:" in " ".join(compare.text(one, other).split())

    about = {"tasks": {"t": {}}, "settings": [{"row": "it"}], "seeds": 3, "studies": [{"folder": "s", "task": "t"}]}
    (one.parent / "ablation.yaml").write_text(json.dumps(about))
    found = ledger(one.parent)
    (cell,) = found.cells
    assert found.problems == []
    assert cell.scores == pytest.approx(pair.one.scores)
    assert cell.interval is not None
    assert cell.interval[0] < np.mean(pair.one.scores) < cell.interval[1]
    assert f"Test {cell.metric.label} %, ours" in " ".join(layout(found).caption)
