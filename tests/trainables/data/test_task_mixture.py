"""Tasks that are trained together: what is removed from them, how often each is drawn, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import reviews, tiny_task, write_csv
from trainables.data.splits import Split, TaskData, load_task
from trainables.data.task_mixture import TaskMixture, load_mixture
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task
from trainables.stages.multitask import drawn_tasks


def of_sizes(*sizes: int) -> TaskMixture:
    splits = [Split(tuple(map(str, range(size))), np.zeros(size, dtype=np.int64)) for size in sizes]
    tasks = [TaskData(str(len(split)), Task(train="t.csv"), ("a", "b"), split, split, split, ()) for split in splits]
    return TaskMixture({data.name: data for data in tasks}, ())


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [("proportional", [1 / 20, 3 / 20, 16 / 20]), ("sqrt", [0.148, 0.257, 0.594]), ("even", [1 / 3, 1 / 3, 1 / 3])],
)
def test_tasks_are_drawn_as_often_as_their_sizes_say(sampling: str, expected: list[float]) -> None:
    probabilities = of_sizes(10, 30, 160).probabilities(sampling)
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)
    drawn = drawn_tasks(probabilities, 20_000, 0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 20_000, probabilities, atol=0.01)


def test_what_a_step_draws_depends_on_seed_and_step_alone() -> None:
    probabilities = of_sizes(10, 30, 160).probabilities("sqrt")
    whole = drawn_tasks(probabilities, 1000, 3)
    assert np.array_equal(drawn_tasks(probabilities, 100, 3), whole[:100])
    assert not np.array_equal(drawn_tasks(probabilities, 1000, 4), whole)


def test_an_epoch_draws_as_many_texts_as_there_are() -> None:
    assert of_sizes(10, 30, 160).steps_per_epoch(24) == 9  # 200 texts


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Task]:
    return {"reviews": tiny_task(tmp_path), "places": tiny_task(tmp_path, "sls_yelp", train=32)}


def test_texts_that_another_task_is_judged_on_are_removed_and_counted(tasks: dict[str, Task], tmp_path: Path) -> None:
    test = write_csv(tmp_path / "shared.csv", [(text.upper() + " !", label) for text, label in reviews(limit=10)])
    tasks["places"] = tasks["places"].model_copy(update={"test": test})
    before = load_task("reviews", tasks["reviews"])
    held_out = {text.casefold().strip() for text, _ in reviews(limit=10)}
    inside = sum(text.casefold().strip() in held_out for text in before.train.texts)
    assert inside > 2
    for names in (["reviews", "places"], ["reviews"]):  # also of a task that is not trained on
        members = load_mixture(names, tasks)
        (kept,) = [data for data in members.tasks.values() if data.name == "reviews"]
        assert not held_out & {text.casefold().strip() for text in kept.train.texts}
        assert len(kept.train) == len(before.train) - inside == len(kept.train.labels)
        told = f"multitask: {inside} of {len(before.train)} training texts of reviews occur in a validation or test split"
        assert members.notices[-1] == f"{told} and were removed"


def test_names_and_their_order_do_not_matter(tasks: dict[str, Task]) -> None:
    renamed = {"z": tasks["reviews"], "a": tasks["places"]}
    found, other = load_mixture(tasks, tasks), load_mixture(["z", "a", "z"], renamed)
    assert found.digests() == other.digests()
    assert list(found.tasks) == list(other.tasks) == sorted(found.tasks)
    assert not any(name in key for key in found.tasks for name in tasks)


def test_a_task_without_training_texts(tasks: dict[str, Task], tmp_path: Path) -> None:
    test = write_csv(tmp_path / "all.csv", reviews(limit=60))
    tasks["places"] = tasks["places"].model_copy(update={"test": test})
    with pytest.raises(ConfigError, match="no training text of reviews is left: all 45 occur"):
        load_mixture(tasks, tasks)


def test_the_same_data_under_two_names(tasks: dict[str, Task]) -> None:
    tasks["films"] = tasks["reviews"]
    with pytest.raises(ConfigError, match="the tasks 'films' and 'reviews' hold the same data"):
        load_mixture(tasks, tasks)
    assert len(load_mixture(["films", "places"], tasks).tasks) == 2


def test_faults_of_all_tasks_at_once(tasks: dict[str, Task], tmp_path: Path) -> None:
    tasks["gone"] = Task(train=str(tmp_path / "gone.csv"))
    with pytest.raises(ConfigError) as error:
        load_mixture(["reviews", "palces"], tasks)
    assert "did you mean 'places'?" in str(error.value)
    assert "gone.csv" in str(error.value)
