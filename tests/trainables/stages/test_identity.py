"""What changes the identity of a stage, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import TINY_BERT, reviews, tiny_recipe, tiny_task, write_csv
from trainables.settings.encoder import Encoder
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune, Multitask
from trainables.stages.identity import nodes, recipe_name
from trainables.stages.inputs import Inputs
from trainables.stages.node import LATER, settings_of
from trainables.store.store import stage_id

OF_CLASSIFIERS = [
    {"learning_rate": 2e-3},
    {"batch_size": 4},
    {"warmup": 0.2},
    {"weight_decay": 0.0},
    {"beta1": 0.8},
    {"beta2": 0.98},
    {"epsilon": 1e-8},
    {"clip_norm": 0.5},
    {"dropout": 0.2},
    {"epochs": 3},
    {"max_length": 20},
    {"truncation": "head"},
    {"head_tokens": 7},
    {"xi": 0.9},
    {"xi_variant": "published"},
    {"pooling": "mean"},
    {"schedule": "cosine"},
]
"""Settings of every stage that trains on labelled texts, each changed."""


def ids(recipe: Recipe) -> list[str]:
    return [node.stage_id for node in nodes(Inputs(recipe))]


def change(recipe: Recipe, stage: int, **fields: Any) -> Recipe:
    stages = list(recipe.stages)
    stages[stage] = type(stages[stage])(**(stages[stage].model_dump() | fields))
    return recipe.model_copy(update={"stages": tuple(stages)})


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (Finetune(), "4d08f8af817335958b916bb7b56d07ab"),
        (Finetune(head_tokens=128), "4d08f8af817335958b916bb7b56d07ab"),
        (Multitask(), "bd15ebe3fa63b98a9a7db27900d8d9fc"),
        (Finetune(max_length=256, head_tokens=64), "876edc8700c431650122d8480117e51a"),
        (Finetune(max_length=256), "876edc8700c431650122d8480117e51a"),
        (Finetune(truncation="head", max_length=64), "158b4d12c1db1fffa5ca5a6d52174223"),
    ],
)
def test_names_of_stages_from_before_the_head_was_a_proportion(stage: Finetune | Multitask, name: str) -> None:
    assert stage_id(stage.kind, {"settings": settings_of(stage)}) == name


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_recipe(tmp_path, pretrain={})


@pytest.mark.parametrize(
    "fields",
    [
        *OF_CLASSIFIERS,
        {"layer_rates": "thirds"},
        {"head_learning_rate": 1e-4},
        {"freeze": 1},
        {"unfreeze_layers": 1},
        {"reinit_layers": 1},
        {"lora_rank": 4},
        {"layers": (0,)},
        {"label_smoothing": 0.1},
        {"class_weights": "balanced"},
        {"train_share": 0.5},
        {"train_examples": 20},
        {"pooling": "bilstm"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_settings_of_finetune_determine_it_and_not_its_parent(recipe: Recipe, fields: dict[str, Any]) -> None:
    before, after = ids(recipe), ids(change(recipe, 1, **fields))
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    "fields",
    [{"learning_rate": 2e-3}, {"schedule_steps": 9}, {"mask_share": 0.2}, {"whole_word": True}, {"seed": 1}, {"max_length": 32}],
    ids=lambda fields: next(iter(fields)),
)
def test_settings_of_pretrain_determine_it_and_all_that_follows(recipe: Recipe, fields: dict[str, Any]) -> None:
    changed = change(recipe, 0, **fields)
    assert not set(ids(recipe)) & set(ids(changed))
    assert nodes(Inputs(recipe))[0].trajectory_id != nodes(Inputs(changed))[0].trajectory_id


def test_steps_are_milestones_of_one_trajectory(recipe: Recipe) -> None:
    further = change(recipe, 0, steps=8)
    assert nodes(Inputs(recipe))[0].trajectory_id == nodes(Inputs(further))[0].trajectory_id
    assert nodes(Inputs(recipe))[0].stage_id != nodes(Inputs(further))[0].stage_id
    assert ids(recipe)[1] != ids(further)[1]
    none = change(recipe, 0, steps=0)
    assert len(ids(none)) == 1
    assert nodes(Inputs(none))[0].parent_id is None


def test_seed_determines_finetune_only(recipe: Recipe) -> None:
    other = recipe.model_copy(update={"seed": 1})
    assert ids(recipe)[0] == ids(other)[0]
    assert ids(recipe)[1] != ids(other)[1]


def test_precision_determines_every_stage_and_must_be_resolved(recipe: Recipe) -> None:
    assert not set(ids(recipe)) & set(ids(recipe.model_copy(update={"precision": "bfloat16"})))
    with pytest.raises(ValueError, match="must be resolved"):
        nodes(Inputs(recipe.model_copy(update={"precision": "auto"})))


def test_names_and_paths_do_not_matter(recipe: Recipe, tmp_path: Path) -> None:
    assert ids(change(recipe, 0, name="dapt")) == ids(recipe)
    assert ids(change(recipe, 1, name="target")) == ids(recipe)
    (tmp_path / "elsewhere").mkdir()
    moved = recipe.model_copy(update={"tasks": {"renamed": tiny_task(tmp_path / "elsewhere")}, "task": "renamed"})
    assert ids(moved) == ids(recipe)


def test_settings_that_are_switched_off_do_not_matter(recipe: Recipe) -> None:
    head = change(recipe, 1, truncation="head")
    assert ids(change(head, 1, head_tokens=9)) == ids(head)
    flat = change(recipe, 1, xi=1.0)
    assert ids(change(flat, 1, xi_variant="published")) == ids(flat)
    thirds = change(recipe, 1, layer_rates="thirds")
    assert ids(change(thirds, 1, xi=0.5)) == ids(thirds) != ids(change(thirds, 1, thirds_factor=3.0))
    assert ids(change(recipe, 1, thirds_factor=3.0)) == ids(change(recipe, 1, combine="max")) == ids(recipe)
    for field, value in {"lstm_width": 4, "attention_width": 5, "attention_hops": 6, "attention_penalty": 0.5}.items():
        assert ids(change(recipe, 1, **{field: value})) == ids(recipe), field
        read = change(recipe, 1, pooling="bilstm")
        assert ids(change(read, 1, **{field: value}))[0] == ids(read)[0]
        assert ids(change(read, 1, **{field: value}))[1] != ids(read)[1], field
    several = change(recipe, 1, layers=(0, 1), combine="mean")
    assert ids(change(several, 1, combine="max")) != ids(several)


def test_settings_of_adapters_matter_where_there_are_some(recipe: Recipe) -> None:
    others: list[dict[str, Any]] = [{"lora_alpha": 8.0}, {"lora_targets": ("query",)}]
    adapted = change(recipe, 1, lora_rank=4)
    for fields in others:
        assert ids(change(recipe, 1, **fields)) == ids(recipe)
        assert ids(change(adapted, 1, **fields))[0] == ids(adapted)[0]
        assert ids(change(adapted, 1, **fields))[1] != ids(adapted)[1]


def test_settings_that_came_later_leave_names_as_they_were() -> None:
    """What they are at their defaults is left out, and nothing else is."""
    defaults = Pretrain().canonical() | Finetune().canonical()
    assert {name: defaults[name] for name in LATER} == LATER
    assert not LATER.keys() & settings_of(Finetune()).keys()
    assert not LATER.keys() & settings_of(Pretrain()).keys()
    assert "schedule" in settings_of(Pretrain(schedule="cosine"))


def test_content_of_the_data_matters_and_its_test_split_does_not(recipe: Recipe, tmp_path: Path) -> None:
    task = recipe.tasks["reviews"]
    (tmp_path / "b").mkdir()
    more = tiny_task(tmp_path / "b", train=61)
    assert not set(ids(recipe)) & set(ids(recipe.model_copy(update={"tasks": {"reviews": more}})))
    test = write_csv(tmp_path / "b" / "other-test.csv", reviews(split="test")[50:80])
    other = task.model_copy(update={"test": test})
    assert ids(recipe.model_copy(update={"tasks": {"reviews": other}})) == ids(recipe)


def test_encoder_matters(recipe: Recipe) -> None:
    wider = Encoder(config=TINY_BERT | {"hidden_size": 48}, vocabulary=400)
    assert not set(ids(recipe)) & set(ids(recipe.model_copy(update={"encoder": wider})))


def test_names_of_recipes(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe_name(recipe) == "BERT-ITPT-FiT"
    assert recipe_name(change(recipe, 0, steps=0)) == "BERT-FiT"
    assert recipe_name(change(change(recipe, 0, steps=0), 1, freeze="encoder", pooling="bilstm")) == "BERT-Feat"
    tasks = {
        "reviews": recipe.tasks["reviews"].model_copy(update={"domain": "sentiment"}),
        "yelp": tiny_task(tmp_path, "sls_yelp", domain="sentiment"),
        "news": tiny_task(tmp_path, "sls_amazon", domain="topic"),
    }
    wide = recipe.model_copy(update={"tasks": tasks})
    assert recipe_name(change(wide, 0, corpus=("reviews", "yelp"))) == "BERT-IDPT-FiT"
    assert recipe_name(change(wide, 0, corpus=("reviews", "yelp", "news"))) == "BERT-CDPT-FiT"
    words = {"within-task": "ITPT", "in-domain": "IDPT", "cross-domain": "CDPT", "more.txt": "CDPT"}
    assert {word: recipe_name(change(wide, 0, corpus=(word,))) for word in words} == {w: f"BERT-{n}-FiT" for w, n in words.items()}


def test_corpora_of_the_same_texts_are_one(recipe: Recipe, tmp_path: Path) -> None:
    assert ids(change(recipe, 0, corpus=("within-task",))) == ids(recipe) == ids(change(recipe, 0, corpus=("cross-domain",)))
    (tmp_path / "more.txt").write_text("one\ntwo\n")
    (tmp_path / "copy.txt").write_text("one\ntwo\n")
    more, copy = (ids(change(recipe, 0, corpus=("reviews", str(tmp_path / name)))) for name in ("more.txt", "copy.txt"))
    assert more == copy
    assert not set(more) & set(ids(recipe))


def test_what_determines_further_pre_training(recipe: Recipe) -> None:
    """Written down, so that a setting that moves the names of stages at its default is seen."""
    known = "learning_rate batch_size warmup weight_decay beta1 beta2 epsilon clip_norm dropout kind schedule_steps max_length"
    assert set(settings_of(recipe.stages[0])) == {*known.split(), "mask_share", "whole_word", "seed"}
    pairs = change(recipe, 0, objective="mlm+nsp")
    assert not set(ids(pairs)) & set(ids(recipe))
    assert ids(change(recipe, 0, language="de")) == ids(recipe)
    assert not set(ids(change(pairs, 0, language="de"))) & set(ids(pairs))


def test_estimates_count_the_work_of_a_stage(recipe: Recipe) -> None:
    pretrain, finetune = nodes(Inputs(recipe))
    assert (pretrain.steps, finetune.steps) == (4, 2 * -(-45 // 8))
    assert nodes(Inputs(change(recipe, 0, steps=8)))[0].tokens_estimate == pytest.approx(2 * pretrain.tokens_estimate, abs=2)
    assert nodes(Inputs(change(recipe, 1, epochs=4)))[1].tokens_estimate == 2 * finetune.tokens_estimate
    assert nodes(Inputs(change(recipe, 1, epochs=4, freeze="encoder")))[1].tokens_estimate == finetune.tokens_estimate / 2, "once"
