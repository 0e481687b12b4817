"""The metric of a task: its definitions, its use in the search, and its part in the identity of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.records.metric import ERROR_RATE, METRICS, SCORES, objective, of_run
from analysis.records.predictions import MOVES
from study.definition.models import EarlyStopping
from study.definition.study_file import load_study
from study.search.early_stopping import Stopping
from study.search.history import Past, history
from study.search.search import Search
from tests.study.tiny import tiny_study
from trainables.data.known_tasks import KNOWN, TABLE, instructions
from trainables.scores import metrics as trained
from trainables.scores.evaluate import measure, measure_labels
from trainables.settings.errors import ConfigError
from trainables.settings.task import METRICS as NAMED
from trainables.settings.task import Task
from trainables.settings.validate import validate


def test_the_tables_of_the_layers_agree() -> None:
    """What a task may name is what tables show, of fields that training measures and whose influence on a score is known."""
    assert {name: metric.field for name, metric in METRICS.items()} == {name: m.field for name, m in NAMED.items()}
    assert set(MOVES) == set(SCORES) == {metric.field for metric in METRICS.values()}
    labels = np.array([[0, 1], [1, 1]])
    measured = {
        "not_single": set(measure(labels.astype(float), labels[0])),
        "not_several": set(measure_labels(labels.astype(float), labels, "ab", [0.5, 0.5])),
    }
    for kind, fields in measured.items():
        assert {metric.field for metric in NAMED.values() if not getattr(metric, kind)} <= fields, kind
    assert set(SCORES) == set.union(*measured.values()) - {"examples", "f1_by_label", "thresholds"}
    assert all(f"`{name}`" in (Task.model_fields["metric"].description or "") for name in NAMED)


def test_the_table_holds_each_metric_under_its_name() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())
    assert all(len(metric.short) <= 8 for metric in METRICS.values())  # of a column of the live table


def test_scores_and_losses_are_in_percent() -> None:
    labels, given = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    row = trained.scores(labels, given, 3) | {"roc_auc": 0.75, "average_precision": 0.5, "loss": 0.25}
    assert {name: metric.score(row) for name, metric in METRICS.items()} == pytest.approx(
        {
            "error_rate": 40.0,
            "accuracy": 60.0,
            "subset_accuracy": 60.0,
            "macro_f1": 100 * row["macro_f1"],
            "micro_f1": 60.0,
            "mcc": 100 * row["mcc"],
            "roc_auc": 75.0,
            "average_precision": 50.0,
            "log_loss": 25.0,
        }
    )
    for metric in METRICS.values():
        loss, score = metric.loss(row), metric.score(row)
        assert loss is not None
        assert score is not None
        assert metric.turned(loss) == pytest.approx(score)
        assert metric.turned(score) == pytest.approx(loss)
        better = metric.loss(trained.scores(labels, labels, 3) | {"roc_auc": 1.0, "average_precision": 1.0, "loss": 0.0})
        assert better is not None
        assert better < loss
    assert METRICS["mcc"].loss({"macro_f1": 1.0}) is None


def test_the_default_follows_the_kind_of_task() -> None:
    assert Task(train="a").measured_by == "error_rate"
    assert Task(train="a", multi_label=True).measured_by == "micro_f1"
    assert Task(train="a", multi_label=True, metric="macro_f1").measured_by == "macro_f1"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metric": "subset_accuracy"}, "with one label per text it is accuracy"),
        ({"metric": "accuracy", "multi_label": True}, "multi_label tasks have subset_accuracy"),
        ({"metric": "mcc", "multi_label": True}, "metric mcc is for one label per text"),
        ({"metric": "macro-f1"}, "macro_f1"),
    ],
)
def test_a_metric_of_another_kind_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(Task, {"train": "a.csv", **settings})


def test_known_tasks_have_the_metric_of_their_paper() -> None:
    assert (KNOWN["imdb"].metric, KNOWN["mr"].metric) == ("error_rate", "accuracy")
    assert "metric: micro_f1}}`" in instructions("chemprot")
    assert "metric: macro_f1}}`" in instructions("sciie")
    assert "metric" not in instructions("sogou")
    assert TABLE["ag_news"].metric == "error_rate"


def made(tmp_path: Path, **task: Any) -> Any:
    data = tiny_study(tmp_path)
    data["tasks"]["reviews"] |= task
    return load_study(data)


ROWS = (("t000", 30.0, 0.4), ("t001", 35.0, 0.6), ("t002", 32.0, 0.5))
"""(trial, error, macro-F1): the one that errs least has the worst F1."""


def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, error, f1 in ROWS:
        about = {"trial": name, "phase": "search"}
        found.append({"event": "trial", **about, "params": {"pretrain.steps": 0}, "status": "started"})
        found.append(
            {
                "event": "evaluation",
                **about,
                "stage_name": "finetune",
                "split": "validation",
                "epoch": 1.0,
                "error_rate_percent": error,
                "macro_f1": f1,
            }
        )
    return found


@pytest.mark.parametrize(("metric", "best"), [(None, 0), ("macro_f1", 1), ("accuracy", 0)])
def test_search_and_early_stopping_go_by_it(tmp_path: Path, metric: str | None, best: int) -> None:
    study = made(tmp_path, metric=metric)
    past = history(study, rows())
    losses = [each.intermediate[1] for each in past]
    assert losses == pytest.approx([e for _, e, _ in ROWS] if metric != "macro_f1" else [100 - 100 * f for _, _, f in ROWS])
    search = Search(
        study, [Past(p.number, p.params | {"finetune.learning_rate": 1e-3}, "complete", p.intermediate[1]) for p in past]
    )
    assert search.optuna.best_trial.number == best
    stopping = Stopping(EarlyStopping(grace_epochs=1, reduction=3))
    stopped = [stopping.report(number, 1, losses[number]) for number in (best, *({0, 1, 2} - {best}))]
    assert stopped == [False, True, True]


def test_it_makes_another_study_only_where_it_steers(tmp_path: Path) -> None:
    plain, same, shown, other = (made(tmp_path, metric=name) for name in (None, "error_rate", "accuracy", "macro_f1"))
    assert plain.digest() == same.digest() == shown.digest()
    assert plain.differences(other) == ['tasks.reviews.metric: "error_rate" here, "macro_f1" there']


def test_the_metric_of_a_task_other_than_the_target_is_not_in_the_identity(tmp_path: Path) -> None:
    def two(metric: str) -> Any:
        data = tiny_study(tmp_path)
        data["tasks"]["more"] = data["tasks"]["reviews"] | {"metric": metric}
        data["recipe"][0]["pretrain"]["corpus"] = ["reviews", "more"]
        return load_study(data)

    assert two("mcc").digest() == two("macro_f1").digest()


def test_old_records_are_of_the_error_rate() -> None:
    assert of_run([{"event": "plan", "trials": 3}]) == ERROR_RATE
    assert of_run([]) == ERROR_RATE
    assert of_run([{"event": "plan", "metric": "mcc"}, {"event": "plan", "metric": "macro_f1"}]) == METRICS["macro_f1"]
    assert of_run([{"event": "plan", "metric": "of a newer version"}]) == ERROR_RATE
    assert objective({"error_rate_percent": 9.5}) == 9.5
    assert objective({"error_rate_percent": 9.5, "metric": "mcc", "objective_percent": 40.0}) == 40.0
    assert objective({"error_rate_percent": 9.5, "metric": "mcc"}) is None
