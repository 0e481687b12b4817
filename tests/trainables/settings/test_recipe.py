"""Settings: every fault at once, near misses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import tiny_recipe
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.plain_yaml import parse_yaml
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.settings.task import Task
from trainables.settings.validate import validate

GOOD = """
tasks: {reviews: {train: train.csv}}
task: reviews
encoder: {hub: google-bert/bert-base-uncased}
stages: [{kind: finetune}]
"""


def faults(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        validate(Recipe, parse_yaml(text))
    return str(error.value)


def test_papers_defaults() -> None:
    finetune = validate(Recipe, parse_yaml(GOOD)).stages[0]
    assert isinstance(finetune, Finetune)
    expected = {"batch_size": 24, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01, "warmup": 0.1, "dropout": 0.1, "epochs": 4}
    expected |= {"max_length": 512, "learning_rate": 2e-5, "xi": 0.95, "truncation": "head+tail", "head_tokens": 128}
    assert {name: getattr(finetune, name) for name in expected} == expected
    pretrain = Pretrain()
    assert (pretrain.learning_rate, pretrain.batch_size, pretrain.max_length, pretrain.mask_share) == (5e-5, 32, 128, 0.15)


def test_every_fault_at_once_with_path_value_and_near_miss() -> None:
    message = faults(
        """
        tasks: {reviews: {train: x.csv, tset: y.csv}, empty: {}}
        task: reviews
        encoder: {package: somewhere}
        stages: [{kind: pretrain, steps: "5"}, {kind: finetune, learning_rte: 2e-5, xi: 1.5, truncation: haed+tail}]
        precision: float
        seed: 1.5
        """
    )
    for line in (
        "tasks.reviews.tset: unknown field; did you mean 'test'?",
        "tasks.empty: a task needs exactly one of train, folder, hub; given: none",
        "encoder: package 'somewhere' needs `folder`",
        "stages.0.pretrain.steps: '5' given; it should be a valid integer",
        "stages.1.finetune.learning_rte: unknown field; did you mean 'learning_rate'?",
        "stages.1.finetune.xi: 1.5 given; it should be less than or equal to 1",
        "stages.1.finetune.truncation: 'haed+tail' is not one of head, tail, head+tail, hier-mean, hier-max, hier-attention;",
        "precision: 'float' is not one of float32, tf32, bfloat16, float16, auto",
        "seed: 1.5 given; it should be a valid integer",
    ):
        assert line in message


def test_cross_checks() -> None:
    assert "task 'review' is not among tasks; did you mean 'reviews'?" in faults(GOOD.replace("task: reviews", "task: review"))
    assert "the last stage must be finetune" in faults(GOOD.replace("kind: finetune", "kind: pretrain"))
    short = faults(GOOD.replace("kind: finetune", "kind: finetune, max_length: 64, head_tokens: 128"))
    assert "head_tokens is 128, but max_length 64 leaves 62 pieces" in short
    assert "at most 61" in short
    assert "steps is 9" in faults(GOOD.replace("[{kind", "[{kind: pretrain, steps: 9, schedule_steps: 8}, {kind"))
    assert "two stages are named 'finetune'" in faults(GOOD.replace("[{kind", "[{kind: pretrain, name: finetune}, {kind"))
    assert "exactly one of hub, folder" in faults(GOOD.replace("hub: google", "folder: here, hub: google"))


@pytest.mark.parametrize("value", [".nan", ".inf", "0", "-1", "true", "[1]", "null"])
def test_learning_rate_must_be_a_positive_finite_number(value: str) -> None:
    assert "learning_rate" in faults(GOOD.replace("kind: finetune", f"kind: finetune, learning_rate: {value}"))


def test_round_trip_and_hash(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, pretrain={})
    again = validate(Recipe, recipe.canonical())
    assert again == recipe
    assert hash(again.encoder) == hash(recipe.encoder)
    assert hash(again.stages) == hash(recipe.stages)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_every_field_states_its_meaning() -> None:
    for model in (Task, Encoder, Pretrain, Finetune, Recipe):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no description"
