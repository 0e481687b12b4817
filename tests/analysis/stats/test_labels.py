"""Scores by class and label of the finals, and the metric of a task from the records to the page."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from analysis.pages import reports, study_page
from analysis.records import record
from analysis.records.predictions import Array
from analysis.records.run_folder import load
from analysis.results import final_settings, sides
from analysis.results.final_settings import Finals
from analysis.tables import csv_export, result_table
from analysis.text import numbers
from tests.analysis.measured import make
from tests.analysis.pages.test_study_page import Outline, text_of

NASTY = ["=1+1", "<b>bold</b>", "a_b&c"]


def several(n: int = 120, labels: int = 3, seed: int = 0, wrong: float = 0.15) -> tuple[Array, list[Array]]:
    """Return (labels [n, labels], predictions of three seeds)."""
    has = np.random.default_rng(1).random((n, labels)) < 0.35
    rng = np.random.default_rng(seed + 10)
    return has, [has ^ (rng.random(has.shape) < wrong) for _ in range(3)]


def single(n: int = 150, classes: int = 3, seed: int = 0, wrong: float = 0.2) -> tuple[Array, list[Array]]:
    """Return (classes [n], predictions of three seeds)."""
    has = np.random.default_rng(1).integers(0, classes, n)
    rng = np.random.default_rng(seed + 10)
    return has, [np.where(rng.random(n) < wrong, rng.integers(0, classes, n), has) for _ in range(3)]


@pytest.mark.parametrize("kind", [several, single])
def test_each_label_is_as_scikit_learn_has_it(tmp_path: Path, kind: object) -> None:
    has, seeds = kind()  # type: ignore[operator]
    run = load(make(tmp_path, ["a", "b", "c"], has, {"best 1": seeds}, "macro_f1", baseline=seeds[0]))
    found = sides.of_setting(run, final_settings.settings(run)[0]).labels
    expected = np.array([precision_recall_fscore_support(has, given, zero_division=0) for given in seeds])  # [seeds, 4, labels]
    assert [each.name for each in found] == ["a", "b", "c"]
    for i, each in enumerate(found):
        assert each.texts == expected[0, 3, i]
        assert list(each.f1) == pytest.approx(100 * expected[:, 2, i])
        assert each.baseline == pytest.approx(100 * expected[0, 2, i])
        assert each.predicted == pytest.approx(np.mean([(given[:, i] if has.ndim > 1 else given == i).sum() for given in seeds]))
        assert each.threshold == (0.25 if has.ndim > 1 else None)
    mean = [np.mean([expected[:, 2, i] for i in range(3)])]
    assert 100 * mean[0] == pytest.approx(numbers.mean(final_settings.settings(run)[0].test))


def test_confusions_are_those_of_the_matrix_largest_first(tmp_path: Path) -> None:
    has, seeds = single(classes=4)
    names = ["north", "south", "east", "west"]
    run = load(make(tmp_path, names, has, {"best 1": seeds}, "error_rate"))
    found = sides.of_setting(run, final_settings.settings(run)[0]).confusions
    matrix = np.mean([confusion_matrix(has, given) for given in seeds], axis=0)
    np.fill_diagonal(matrix, 0)
    assert {(each.name, each.instead): each.texts for each in found} == {
        (names[i], names[j]): pytest.approx(matrix[i, j]) for i, j in zip(*np.nonzero(matrix), strict=True)
    }
    assert [each.texts for each in found] == sorted((each.texts for each in found), reverse=True)
    assert found[0].share == pytest.approx(100 * found[0].texts / (has == names.index(found[0].name)).sum())


def test_a_thousand_classes_are_bounded_on_the_page_and_whole_in_csv(tmp_path: Path) -> None:
    has = np.concatenate([np.arange(1000), np.full(30, 7)])
    given = np.roll(has, 1)
    folder = make(tmp_path / "run", [f"class {i}" for i in range(1000)], has, {"best 1": [given]}, "macro_f1")
    text = text_of(folder, tmp_path / "out")
    assert "The 20 most frequent of 1000" in text
    assert "class 7 31" in text
    assert re.search(r"The 20 largest of 1\d\d\d;", text)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "labels.csv").read_text())))
    assert len(rows) == 1000
    assert len((tmp_path / "out" / "report.html").read_text()) < 400_000


def test_the_metric_decides_which_setting_is_best(tmp_path: Path) -> None:
    """To predict only the most frequent class is best by error, but not by macro-F1."""
    has = np.array([0] * 90 + [1] * 10)
    common, fair = np.zeros(100, dtype=int), np.where(np.arange(100) < 15, 1, has)
    both = {"common": [common, common], "fair": [fair, fair]}
    found = {}
    for metric in ("error_rate", "accuracy", "macro_f1", "mcc", None):
        run = load(make(tmp_path / str(metric), ["no", "yes"], has, both, metric))
        found[metric] = [setting.label for setting in final_settings.settings(run)]
        headline, sentence = study_page.answer(Finals(run))
        label = run.metric.label
        assert f"% test {label} with the best setting" in headline
        assert sentence.startswith(
            "common errs on 10.00 %" if label == "error" else f"{found[metric][0]} reaches a test {label} of "
        )
    assert found == {
        "error_rate": ["common", "fair"],
        "accuracy": ["common", "fair"],
        "macro_f1": ["fair", "common"],
        "mcc": ["fair", "common"],
        None: ["common", "fair"],  # records from before tasks had a metric
    }


@pytest.mark.parametrize(("metric", "better"), [("micro_f1", max), ("error_rate", min), ("subset_accuracy", max)])
def test_figures_and_trials_go_by_the_metric(tmp_path: Path, metric: str, better: object) -> None:
    has, good = several(wrong=0.1)
    _, bad = several(wrong=0.3, seed=5)
    folder = make(tmp_path / "run", ["a", "b", "c"], has, {"bad": bad, "good": good}, metric, baseline=bad[0])
    run = load(folder)
    scores = [trial.score for trial in run.search]
    best = better(scores)  # type: ignore[operator]
    assert scores.index(best) == 1
    drawn = study_page.draw(Finals(run), study_page.Importance({}, 0))
    assert f"validation {run.metric.label}, %" in drawn["history"].svg
    assert f"test {run.metric.label}, %" in drawn["result"].svg
    assert f"to {best:.2f} %" in drawn["history"].description
    assert study_page._ordered(run)[0].label == "good"
    text = result_table.result_text(Finals(run))
    assert text.splitlines()[0].startswith(run.metric.label)
    assert "macro-F1" in text
    assert "micro-F1" in text
    assert max(map(len, text.splitlines())) <= 80
    page = study_page.page(Finals(run), study_page.Importance({}, 0), {})
    assert f'aria-sort="{"ascending" if better is min else "descending"}"' in page


def test_differences_of_f1_are_paired_and_cover_the_truth(tmp_path: Path) -> None:
    has, good = several(n=400, wrong=0.1)
    _, bad = several(n=400, wrong=0.25, seed=5)
    settings = {"good": good, "papers' setting": bad}
    run = load(make(tmp_path / "kept", ["a", "b", "c"], has, settings, "macro_f1", baseline=bad[0]))
    first, other = final_settings.settings(run)
    gap = final_settings.difference(first, other)
    assert gap is not None
    assert gap.points > 5
    assert not gap.within_noise
    assert gap.method.startswith("paired over test texts")
    low, high = first.interval or (0, 0)
    assert low < numbers.mean(first.test) < high < low + 12  # type: ignore[operator]
    baseline = final_settings.against_baseline(run, first)
    assert baseline is not None
    assert baseline.method.startswith("paired")
    assert not baseline.within_noise
    assert final_settings.baseline_interval(run) is not None
    assert "threshold" in text_of(tmp_path / "kept", tmp_path / "out")
    # Without predictions the uncertainty from the texts is unknown, and the page says so.
    run = load(make(tmp_path / "lost", ["a", "b", "c"], has, settings, "macro_f1", baseline=bad[0], predictions=False))
    first, other = final_settings.settings(run)
    assert first.texts_interval is None
    assert final_settings.baseline_interval(run) is None
    gap = final_settings.difference(first, other)
    assert gap is not None
    assert (gap.interval, gap.within_noise) == (None, True)
    assert sides.of_setting(run, first).labels == []
    assert "threshold" not in text_of(tmp_path / "lost", tmp_path / "out")


def test_predictions_of_other_texts_are_not_paired(tmp_path: Path) -> None:
    has, seeds = several()
    folder = make(tmp_path, ["a", "b", "c"], has, {"one": seeds, "two": seeds[::-1]}, "micro_f1")
    (folder / "predictions" / "f01-test.parquet").write_bytes(b"PAR1 nothing")
    run = load(folder)
    first, other = sorted(final_settings.settings(run), key=lambda setting: setting.label)
    assert first.texts_interval is None
    assert other.texts_interval is not None
    assert sides.of_setting(run, first).labels == []


@pytest.mark.parametrize("kind", [several, single])
def test_names_of_labels_stay_text(tmp_path: Path, kind: object) -> None:
    has, seeds = kind()  # type: ignore[operator]
    folder = make(tmp_path / "run", NASTY, has, {"best 1": seeds}, "micro_f1", baseline=seeds[0])
    records = record.Records(folder / "records.jsonl")
    scores = {"error_rate_percent": 12.5, "macro_f1": 0.75, "micro_f1": 0.875, "loss": 0.4, "examples": 40}
    records.append(
        "stage", stage_id="ab", status="loaded", kind="multitask", name="multitask", steps=3, by_task=dict.fromkeys(NASTY, scores)
    )
    page = reports.write([folder]).page.read_text(encoding="utf-8")
    Outline(page)
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    for name in ("labels.csv", "tasks.csv"):
        text = (folder / "report" / name).read_text()
        assert "'=1+1" in text
        assert not re.search("(^|,)=1", text, flags=re.MULTILINE)


def test_each_task_of_a_stage_on_several(tmp_path: Path) -> None:
    has, seeds = several()
    folder = make(tmp_path / "run", ["a", "b", "c"], has, {"best 1": seeds}, "micro_f1")
    scores = {"error_rate_percent": 12.5, "macro_f1": 0.75, "micro_f1": 0.875, "loss": 0.4, "examples": 40}
    by_task = {"films": scores, "shops": scores | {"macro_f1": 0.5, "loss": None, "f1_by_label": {"x": 1.0}}}
    records = record.Records(folder / "records.jsonl")
    records.append("stage", stage_id="ab", status="computed", kind="multitask", name="together", steps=3, by_task=by_task)
    text = text_of(folder, tmp_path / "out")
    assert "films together 40 12.50 75.00 87.50 0.400" in text
    assert "shops together 40 12.50 50.00 87.50 –" in text
    rows = list(csv.DictReader(io.StringIO(csv_export.tasks_csv(load(folder)))))
    assert [(row["task"], row["macro_f1"]) for row in rows] == [("films", "0.75"), ("shops", "0.5")]


def test_error_and_both_f1_are_in_every_csv(tmp_path: Path) -> None:
    has, seeds = several()
    run = load(make(tmp_path, ["a", "b", "c"], has, {"best 1": seeds}, "macro_f1"))
    final = next(row for row in csv.DictReader(io.StringIO(csv_export.trials_csv(run))) if row["trial"] == "f00")
    test = run.finals[0].test
    assert test is not None
    assert final["metric"] == "macro_f1"
    assert float(final["test_percent"]) == pytest.approx(100 * test["macro_f1"])
    assert float(final["test_error_rate_percent"]) == pytest.approx(test["error_rate_percent"], rel=1e-7)
    assert float(final["test_micro_f1"]) == pytest.approx(test["micro_f1"], rel=1e-7)
