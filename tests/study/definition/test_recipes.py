"""Recipes by name: what the papers say, what may be written over it, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from study.cli import cli
from study.definition import recipes
from study.definition.models import Study
from study.definition.study_file import load_study
from study.planning.check import check
from study.planning.plan import trajectories
from tests.helpers import TINY_BERT, reviews, tiny_task
from trainables.settings.errors import ConfigError

NAMES = tuple(recipes.RECIPES)
TEXTS = {"domain.txt": "sls_yelp", "another-domain.txt": "sls_amazon", "collection.txt": "sls_yelp"}


def data(folder: Path, recipe: Any, **changes: Any) -> dict[str, Any]:
    """A study of two tasks of a domain and one of another, with a recipe as a study file gives it."""
    tasks = {
        "reviews": tiny_task(folder, domain="sentiment"),
        "places": tiny_task(folder, "sls_yelp", train=32, domain="sentiment"),
        "things": tiny_task(folder, "sls_amazon", train=32, domain="goods"),
    }
    for file, name in TEXTS.items():
        (folder / file).write_text("\n".join(text for text, _ in reviews(name, limit=40)), encoding="utf-8")
    return {
        "name": "tiny",
        "tasks": {name: task.canonical() for name, task in tasks.items()},
        "task": "reviews",
        "encoder": {"config": TINY_BERT | {"max_position_embeddings": 512}, "vocabulary": 400},
        "recipe": recipe,
        "precision": "float32",
    } | changes


def write(folder: Path, recipe: Any, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(data(folder, recipe, **changes)), encoding="utf-8")
    return path


def line(name: str) -> Any:
    """What the documents say to write for a recipe."""
    return yaml.safe_load(recipes._line(name))["recipe"]


def load(folder: Path, recipe: Any, *overrides: str, **changes: Any) -> Study:
    return load_study(write(folder, recipe, **changes), overrides)


def faults(folder: Path, recipe: Any, *overrides: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, recipe, *overrides, **changes)
    return "\n".join(caught.value.faults)


ADAM = {"epsilon": 1e-6, "beta1": 0.9, "beta2": 0.98, "weight_decay": 0.01, "warmup": 0.06, "schedule": "linear"}
MLM = ADAM | {"objective": "mlm", "max_length": 512, "mask_share": 0.15, "whole_word": False}
DAPT = MLM | {"name": "dapt", "steps": 12_500, "schedule_steps": 12_500, "batch_size": 2048, "learning_rate": 5e-4, "select": "all"}
TAPT = MLM | {"name": "tapt", "epochs": 100, "batch_size": 256, "learning_rate": 1e-4, "select": "all"}
SELECTED = TAPT | {"epochs": None, "steps": 1100, "schedule_steps": 1100, "neighbours": 50, "embeddings": "tfidf"}
CLASSIFIER = ADAM | {
    "learning_rate": 2e-5,
    "batch_size": 16,
    "epochs": 10,
    "dropout": 0.1,
    "max_length": 512,
    "truncation": "head",
    "xi": 1.0,
    "pooling": "pooled",
    "head": "linear",
    "layers": (-1,),
}
SUN = {
    "learning_rate": 2e-5,
    "batch_size": 24,
    "epochs": 4,
    "warmup": 0.1,
    "beta1": 0.9,
    "beta2": 0.999,
    "dropout": 0.1,
    "max_length": 512,
    "weight_decay": 0.01,
    "truncation": "head+tail",
    "head_tokens": None,  # 128 of 510
    "xi": 0.95,
}
FURTHER = {
    "objective": "mlm+nsp",
    "steps": 100_000,
    "schedule_steps": 100_000,
    "batch_size": 32,
    "max_length": 128,
    "learning_rate": 5e-5,
    "warmup": 0.1,
    "mask_share": 0.15,
}
EXPECTED: dict[str, list[dict[str, Any]]] = {
    "BERT-FiT": [SUN],
    "BERT-ITPT-FiT": [FURTHER | {"corpus": ("within-task",)}, SUN],
    "BERT-IDPT-FiT": [FURTHER | {"corpus": ("in-domain",)}, SUN],
    "BERT-CDPT-FiT": [FURTHER | {"corpus": ("cross-domain",)}, SUN],
    "BERT-CDPT-MFiT-FiT": [
        FURTHER | {"corpus": ("cross-domain",)},
        {"kind": "multitask", "tasks": (), "sampling": "proportional", "learning_rate": 2e-5, "batch_size": 24},
        SUN | {"learning_rate": 1e-5},
    ],
    "BERT-Feat": [{"freeze": "encoder", "pooling": "bilstm"}],
    "RoBERTa-FiT": [CLASSIFIER],
    "DAPT": [DAPT, CLASSIFIER],
    "not-DAPT": [DAPT, CLASSIFIER],
    "TAPT": [TAPT | {"corpus": ("within-task",)}, CLASSIFIER],
    "DAPT+TAPT": [DAPT, TAPT | {"corpus": ("within-task",)}, CLASSIFIER],
    "curated-TAPT": [TAPT, CLASSIFIER],
    "kNN-TAPT": [SELECTED | {"select": "nearest"}, CLASSIFIER],
    "RAND-TAPT": [SELECTED | {"select": "random"}, CLASSIFIER],
}
"""The papers' settings, from their text and tables."""


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_papers(tmp_path: Path, name: str) -> None:
    study = load(tmp_path, line(name))
    assert [{key: getattr(stage, key) for key in wanted} for stage, wanted in zip(study.recipe, EXPECTED[name], strict=True)] == (
        EXPECTED[name]
    )
    assert study.recipe[-1].kind == "finetune"


@pytest.mark.parametrize("name", NAMES)
def test_named_recipe_is_kept_written_out(tmp_path: Path, name: str) -> None:
    study = load(tmp_path, line(name), "budget.trials=3")
    (tmp_path / "kept.yaml").write_text(study.to_yaml(), encoding="utf-8")
    assert isinstance(yaml.safe_load(study.to_yaml())["recipe"], list)
    again = load_study(tmp_path / "kept.yaml")
    assert again == study
    assert again.digest() == study.digest()
    check(study)


def test_own_settings_in_one_line(tmp_path: Path) -> None:
    study = load(tmp_path, {"DAPT+TAPT": {"dapt.corpus": ["domain.txt"], "finetune.epochs": 3, "tapt.epochs": 7.5}})
    dapt, tapt, finetune = study.recipe
    assert (dapt.corpus, finetune.epochs, tapt.epochs) == ((str(tmp_path / "domain.txt"),), 3, 7.5)  # type: ignore[union-attr]
    assert finetune.batch_size == 16
    assert load(tmp_path, {"TAPT": None}).recipe == load(tmp_path, "TAPT").recipe


def test_table_is_not_changed_by_its_use(tmp_path: Path) -> None:
    load(tmp_path, {"TAPT": {"tapt.epochs": 1, "finetune.epochs": 1}}, "recipe.tapt.learning_rate=1e-3")
    assert load(tmp_path, "TAPT").recipe[0].epochs == 100  # type: ignore[union-attr]


def test_overrides_and_space_see_the_stages(tmp_path: Path) -> None:
    given = {"DAPT": {"dapt.corpus": ["domain.txt"]}}
    study = load(tmp_path, given, "recipe.dapt.steps=10", "recipe.finetune.epochs=1", space={"dapt.steps": {"choice": [0, 10, 20]}})
    assert [node.steps for each in trajectories(study) for node in each.nodes] == [10, 20]
    assert study.recipe[-1].epochs == 1  # type: ignore[union-attr]


def test_override_of_the_recipe_itself(tmp_path: Path) -> None:
    study = load(tmp_path, "BERT-FiT", "recipe=DAPT", "recipe.dapt.corpus=[domain.txt]", "recipe.dapt.steps=10")
    assert [stage.name for stage in study.recipe] == ["dapt", "finetune"]
    assert study.recipe[0].steps == 10  # type: ignore[union-attr]
    study = load(tmp_path, [{"finetune": {}}], "recipe={TAPT: {tapt.epochs: 2}}")
    assert study.recipe[0].epochs == 2  # type: ignore[union-attr]
    assert load(tmp_path, line("DAPT"), "recipe=[{finetune: {epochs: 2}}]").recipe[0].epochs == 2  # type: ignore[union-attr]
    assert "did you mean 'dapt'" in faults(tmp_path, "BERT-FiT", "recipe=DAPT", "recipe.dap.steps=1")


@pytest.mark.parametrize("name", [name for name in NAMES if recipes.RECIPES[name].needs])
def test_texts_that_only_the_user_has(tmp_path: Path, name: str) -> None:
    """Refused with the line to write, which then is accepted; a corpus that the space chooses is one too."""
    found = faults(tmp_path, name)
    (stage,) = recipes.RECIPES[name].needs
    assert f"recipe: {name} is" in found
    written = found.split("`")[1]
    assert yaml.safe_load(written) == {"recipe": line(name)}
    load(tmp_path, yaml.safe_load(written)["recipe"])
    load(tmp_path, name, f"recipe.{stage}.corpus=[domain.txt]")
    load(tmp_path, name, space={f"{stage}.corpus": {"choice": [["domain.txt"], ["another-domain.txt"]]}})


UNSET = {"tapt.steps": 100_000, "tapt.schedule_steps": 100_000}


@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        ("DATP", "recipe: no recipe is called 'DATP'; did you mean 'DAPT'?"),
        ("bert-itpt-fit", "no recipe is called 'bert-itpt-fit'; did you mean"),
        ({"tapt": {}}, "no recipe is called 'tapt'"),
        ({"finetune": {"epochs": 3}}, "no recipe is called 'finetune'; stages must be in a list: recipe: [{finetune: ...}]"),
        ({"DAPT": {}, "TAPT": {}}, "it should be one name, or a list of pretrain, multitask, marks, finetune"),
        ({}, "it should be one name"),
        ({"TAPT": 3}, "recipe.TAPT: 3 given; it should be settings by their paths, such as {finetune.learning_rate: 3e-5}"),
        ({"TAPT": {"tpat.epochs": 3}}, "recipe.TAPT.tpat.epochs: a path is <stage>.<field>; did you mean 'tapt.epochs'?"),
        ({"TAPT": {"epochs": 3}}, "recipe.TAPT.epochs: a path is <stage>.<field>"),
        ({"TAPT": {"tapt.epoch": 3}}, "recipe.TAPT.tapt.epoch: unknown field; did you mean 'epochs'?"),
        ({"TAPT": {"tapt.name": "x"}}, "recipe.TAPT.tapt.name: unknown field"),
        ({"TAPT": {"tapt.epochs": "many"}}, "epochs: 'many' given"),
        ({"TAPT": {"tapt.steps": 10}}, "steps is 10, but epochs, 100, replaces it; to use steps, set epochs: null"),
        ({"kNN-TAPT": {"tapt.corpus": ["within-task"]}}, "select is nearest, but the corpus has only the target's own texts"),
        ({"kNN-TAPT": {"tapt.corpus": ["domain.txt"], "tapt.epochs": 3} | UNSET}, "give steps and schedule_steps"),
        (3, "recipe: 3 given"),
    ],
    ids=str,
)
def test_faults(tmp_path: Path, recipe: Any, fault: str) -> None:
    assert fault in faults(tmp_path, recipe)


def test_faults_come_with_all_others(tmp_path: Path) -> None:
    found = faults(tmp_path, "DATP", budget={"trials": 0}, task="review")
    assert "did you mean 'DAPT'?" in found
    assert "budget.trials: 0" in found
    assert "did you mean 'reviews'?" in found


@pytest.mark.parametrize(
    ("space", "fault"),
    [
        ({"tapt.steps": {"choice": [1, 2]}}, "steps is 1, but epochs, 100, replaces it"),
        ({"tapt.select": {"choice": ["all", "nearest"]}}, "tapt.select nearest"),
        ({"tapt.epochs": {"choice": [50, 100]}, "tapt.neighbours": {"choice": [0, 50]}}, "neighbours: 0 given"),
    ],
)
def test_faults_of_the_space(tmp_path: Path, space: dict[str, Any], fault: str) -> None:
    assert fault in faults(tmp_path, "TAPT", space=space)


def test_values_of_epochs_are_trajectories(tmp_path: Path) -> None:
    study = load(tmp_path, "TAPT", space={"tapt.epochs": {"choice": [1, 2.5]}, "tapt.batch_size": {"choice": [8]}})
    assert sorted(each.milestones for each in trajectories(study)) == [(6,), (15,)]


def test_data_that_leave_nothing_to_select_from(tmp_path: Path) -> None:
    """Found before compute, also where the corpus is the target by another name; what a condition excludes is no fault."""
    study = load(tmp_path, {"kNN-TAPT": {"tapt.corpus": ["reviews"]}})
    with pytest.raises(ConfigError, match="nothing to select from"):
        check(study)
    space = {
        "tapt.select": {"choice": ["all", "nearest"]},
        "tapt.corpus": {"choice": [["places"]], "when": {"tapt.select": "nearest"}},
    }
    free = {"tapt.epochs": None, "tapt.corpus": ["reviews"]}
    assert any("50 given, but there are" in notice for notice in check(load(tmp_path, {"TAPT": free}, space=space)))


def test_documents_list_them_all() -> None:
    shown = CliRunner().invoke(cli, ["recipes"], standalone_mode=False).output
    assert all(f"{name}: " in shown for name in NAMES)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(f"\n## {name}\n" in recipes.document() for name in NAMES)
