"""Trials as generators: retried in place, ended with a reason, handed out part by part."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from study.cluster.trial import TrialActor, persistent, resources
from study.cluster.tune_adapters import InTurn
from study.cluster.work import Ended, Placement, Work, ended, here
from study.definition.study_file import load_study
from tests.helpers import tiny_recipe
from tests.study.tiny import tiny_study
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.store.store import Store, StoreError
from trainables.training.loop import Diverged

Rows = Generator[dict[str, Any], None, None]


class Flaky:
    """Rows 1 to 4 with one failure before row `at`; a new start yields the earlier rows again, as a resume from the store does."""

    def __init__(self, *errors: BaseException, at: int = 3) -> None:
        self.errors, self.at, self.starts = list(errors), at, 0

    def __call__(self) -> Rows:
        self.starts += 1
        for step in range(1, 5):
            if step == self.at and self.errors:
                raise self.errors.pop(0)
            yield {"stage_id": "x", "split": "validation", "step": step}


def test_a_failure_is_retried_and_no_row_comes_twice() -> None:
    flaky = Flaky(OSError("disk on fire"))
    rows = list(persistent(flaky, retries=1))
    assert [(row["step"], row["attempt"]) for row in rows] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    assert flaky.starts == 2


def test_after_the_last_retry_the_reason_is_one_line() -> None:
    flaky = Flaky(ValueError("first"), ValueError("long story\nthe last line"))
    with pytest.raises(Ended) as caught:
        list(persistent(flaky, retries=1))
    assert (caught.value.status, caught.value.reason) == ("failed", "ValueError: the last line")
    assert "Traceback" in caught.value.details


@pytest.mark.parametrize(
    ("error", "status"), [(Diverged(3, float("nan")), "diverged"), (ConfigError(["no such column"]), "failed")]
)
def test_what_would_only_happen_again_is_not_retried(error: Exception, status: str) -> None:
    flaky = Flaky(error)
    with pytest.raises(Ended) as caught:
        list(persistent(flaky, retries=3))
    assert (caught.value.status, flaky.starts) == (status, 1)


def test_closing_the_generator_closes_what_runs() -> None:
    closed = []

    def begin() -> Rows:
        try:
            while True:
                yield {"step": len(closed)}
        finally:
            closed.append(True)

    rows = persistent(begin, retries=1)
    next(rows)
    rows.close()
    assert closed == [True]


@pytest.mark.parametrize("failure", [StoreError(["the disk is full"]), OSError("connection lost"), ValueError("of a test")])
def test_a_failure_while_closing_restarts_nothing(failure: Exception) -> None:
    starts = []

    def begin() -> Rows:
        starts.append(True)
        try:
            yield {"step": 1}
            yield {"step": 2}
        finally:
            raise failure

    rows = persistent(begin, retries=3, patience_s=60)
    next(rows)
    with pytest.raises(type(failure), match=str(failure)):
        rows.close()
    assert starts == [True]


def test_an_ended_stays_what_it_is() -> None:
    end = Ended("diverged", "why")
    assert ended(end) is end


def test_rows_of_a_real_recipe_computed_here(tmp_path: Path) -> None:
    work = Work("t000", tiny_recipe(tmp_path), str(tmp_path / "store"), Execution(threads=1))
    rows = list(here(work))
    assert [row["epoch"] for row in rows] == [1, 2]
    assert Store(work.store).get(rows[-1]["stage_id"]) is not None


def placement(**changes: Any) -> Placement:
    return Placement(**({"workers": 1, "cpus": 1, "gpus": 0, "under_train": False, "storage": ""} | changes))


def test_the_driver_of_a_nested_trial_takes_no_cpu() -> None:
    assert resources(placement()).required_resources == {"CPU": 1}
    assert "CPU" not in resources(placement(under_train=True, workers=2)).required_resources


class Listed:
    """A search that hands out names and hears which ended."""

    def __init__(self, *names: str) -> None:
        self.left, self.heard = list(names), list[str]()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        return {"trial": self.left.pop(0)} if self.left else "FINISHED"

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.heard.append(trial_id)


def test_each_part_waits_for_the_one_before() -> None:
    asked = []

    def part(name: str, count: int) -> Any:
        def give() -> list[dict[str, Any]]:
            asked.append(name)
            return [{"trial": f"{name}{i}"} for i in range(count)]

        return give

    search = Listed("t0", "t1")
    turns = InTurn(search, [part("final", 3), part("none", 0), part("test", 1)], concurrent=2)
    assert [turns.suggest("a"), turns.suggest("b")] == [{"trial": "t0"}, {"trial": "t1"}]
    assert turns.suggest("c") is None, "finals wait for the search's last trials"
    turns.on_trial_complete("a")
    assert (turns.suggest("c"), asked) == (None, [])
    turns.on_trial_complete("b")
    assert [turns.suggest("c"), turns.suggest("d"), turns.suggest("e")] == [{"trial": "final0"}, {"trial": "final1"}, None]
    turns.on_trial_complete("c")
    assert turns.suggest("e") == {"trial": "final2"}
    for name in ("d", "e"):
        assert asked == ["final"]
        turns.on_trial_complete(name)
    assert turns.suggest("f") == {"trial": "test0"}
    assert turns.suggest("g") is None
    turns.on_trial_complete("f")
    assert turns.suggest("g") == "FINISHED"
    assert search.heard == list("abcdef")


def test_a_trial_whose_process_died_is_handed_out_again_but_not_for_ever() -> None:
    search = Listed("t0", "t1")
    turns = InTurn(search, [lambda: [{"trial": "f0"}]], concurrent=2, deaths=2)
    assert turns.suggest("a") == {"trial": "t0"}
    turns.on_trial_complete("a", error=True)
    assert turns.is_restarted("t0")
    assert search.heard == [], "the search need not know"
    assert turns.suggest("b") == {"trial": "t0"}
    assert not turns.is_restarted("t0")
    assert turns.suggest("c") == {"trial": "t1"}
    turns.on_trial_complete("b", error=True)
    turns.on_trial_complete("c")
    assert search.heard == ["c"]
    assert turns.suggest("d") == {"trial": "t0"}, "a trial whose process died is restarted before any new one"
    turns.on_trial_complete("d", error=True)
    assert not turns.is_restarted("t0")
    assert search.heard == ["c", "a"], "the search hears of it under the name that it gave"
    assert turns.suggest("e") == {"trial": "f0"}


def test_a_stored_result_without_the_metric_fails_the_trial(tmp_path: Path) -> None:
    data = tiny_study(tmp_path)
    data["tasks"]["reviews"]["metric"] = "roc_auc"
    actor = TrialActor.__new__(TrialActor)
    placement = Placement(workers=1, cpus=1, gpus=0, under_train=False, storage=str(tmp_path))
    config = {"trial": "t000", "params": {"pretrain.steps": 0, "finetune.learning_rate": 1e-3}, "seed": 0}
    actor.setup(config, load_study(data), str(tmp_path / "store"), placement, Execution())
    row = {"stage_name": "finetune", "stage_id": "0123456789abcdef", "split": "validation", "epoch": 1.0, "error_rate_percent": 9.0}
    actor._rows = iter([row])
    result = actor.step()
    assert result["status"] == "failed"
    assert result["reason"].startswith(
        "the stored result lacks the metric roc_auc: an earlier version computed it; use another --store"
    )
    actor._rows = iter([row | {"roc_auc": 0.75}])
    assert actor.step() | {"rows": []} == {"status": "running", "done": False, "epoch": 1.0, "objective_percent": 25.0, "rows": []}
