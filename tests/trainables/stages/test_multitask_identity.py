"""What changes the identity of a stage on several tasks, what does not, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import multitask_recipe, reviews, three_classes, tiny_encoder, tiny_task, write_csv
from tests.trainables.resume import ONE_THREAD
from tests.trainables.stages.test_identity import OF_CLASSIFIERS, change, ids
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.settings.errors import ConfigError
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Multitask
from trainables.settings.validate import validate
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store


@pytest.mark.parametrize(
    "fields",
    [
        *OF_CLASSIFIERS,
        {"tasks": ("reviews",)},
        {"sampling": "sqrt"},
        {"seed": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_settings_determine_it_and_what_follows(tmp_path: Path, fields: dict[str, Any]) -> None:
    recipe = multitask_recipe(tmp_path)
    assert not set(ids(recipe)) & set(ids(change(recipe, 0, **fields)))


def test_every_setting_is_among_those_tested() -> None:
    mark = next(mark for mark in test_settings_determine_it_and_what_follows.pytestmark if mark.name == "parametrize")
    tested = {name for fields in mark.args[1] for name in fields}
    assert tested == set(Multitask.model_fields) - {"name", "kind"}


def test_what_does_not_determine_it(tmp_path: Path) -> None:
    """Names of tasks and stage, the target, the trial's seed, tasks that are there beside it, what another setting switches off."""
    recipe = multitask_recipe(tmp_path)
    train_wordpiece([text for text, _ in reviews(limit=60)], 400).save_pretrained(tmp_path / "tokenizer")
    encoder = tiny_encoder().model_copy(update={"tokenizer": str(tmp_path / "tokenizer")})
    recipe = recipe.model_copy(update={"encoder": encoder})
    first = ids(recipe)[0]
    renamed = {"a": recipe.tasks["places"], "z": recipe.tasks["reviews"]}  # the other way round in every order
    others = [
        recipe.model_copy(update={"tasks": renamed, "task": "z"}),
        recipe.model_copy(update={"task": "places"}),
        recipe.model_copy(update={"seed": 5}),
        change(recipe, 0, name="together"),
        change(recipe, 0, tasks=("places", "reviews")),
        change(recipe, 1, learning_rate=1e-4),
        change(
            recipe.model_copy(update={"tasks": {**recipe.tasks, "thirds": three_classes(tmp_path)}}), 0, tasks=("places", "reviews")
        ),
    ]
    assert [ids(other)[0] for other in others] == [first] * len(others)
    flat, head = change(recipe, 0, xi=1.0), change(recipe, 0, truncation="head")
    assert ids(change(flat, 0, xi_variant="published")) == ids(flat)
    assert ids(change(head, 0, head_tokens=9)) == ids(head)


def test_data_determine_it(tmp_path: Path) -> None:
    recipe = multitask_recipe(tmp_path)
    (tmp_path / "b").mkdir()
    found = {ids(recipe)[0]}
    for changes in ({"train": 33}, {"train": 32, "validation_share": 0.5}):
        tasks = {**recipe.tasks, "places": tiny_task(tmp_path / "b", "sls_yelp", **changes)}
        found.add(ids(recipe.model_copy(update={"tasks": tasks}))[0])
    assert len(found) == 3
    other = write_csv(tmp_path / "b" / "other-test.csv", reviews("sls_yelp", "test")[50:80])
    tasks = {**recipe.tasks, "places": recipe.tasks["places"].model_copy(update={"test": other})}
    assert ids(recipe.model_copy(update={"tasks": tasks})) == ids(recipe)


def test_estimates_count_the_work(tmp_path: Path) -> None:
    recipe = multitask_recipe(tmp_path)
    node = nodes(Inputs(recipe))[0]
    assert (node.steps, node.trajectory_id) == (18, node.stage_id)
    assert nodes(Inputs(change(recipe, 0, epochs=4)))[0].tokens_estimate == pytest.approx(2 * node.tokens_estimate, abs=2)
    row = next(runner.run(change(recipe, 0, epochs=1), Store(str(tmp_path / "store")), ONE_THREAD))
    assert row["tokens"] == pytest.approx(node.tokens_estimate / 2, rel=0.35)


def test_tasks_that_are_not_there(tmp_path: Path) -> None:
    data = multitask_recipe(tmp_path).canonical()
    data["stages"][0]["tasks"] = ["reviews", "palces"]
    with pytest.raises(ConfigError, match="'palces' is not among tasks; did you mean 'places'"):
        validate(Recipe, data)


def test_head_tokens_beyond_the_budget(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="head_tokens must be at most 21"):
        multitask_recipe(tmp_path, {"head_tokens": 22})
