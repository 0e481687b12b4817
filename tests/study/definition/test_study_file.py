"""Study files: what is right loads, dumps and loads back equal; everything wrong is told at once, with place and near miss."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.definition import space as spaces
from study.definition.models import MAY_CHANGE, Study
from study.definition.reference import document
from study.definition.study_file import load_study
from tests.helpers import TINY_BERT
from trainables.settings.errors import ConfigError
from trainables.settings.stages import Multitask

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "study" / "configs").glob("*.yaml"))

STUDY: dict[str, Any] = {
    "name": "tiny",
    "tasks": {"mine": {"train": "train.csv", "test": "test.csv"}, "other": {"train": "other.csv"}, "unused": {"train": "no.csv"}},
    "task": "mine",
    "encoder": {"config": TINY_BERT, "vocabulary": 400},
    "recipe": [
        {"pretrain": {"corpus": ["mine", "other"], "schedule_steps": 8, "steps": 0, "max_length": 24}},
        {"finetune": {"max_length": 24, "epochs": 3}},
    ],
    "space": {
        "finetune.learning_rate": {"log_uniform": [1e-5, 2e-4]},
        "finetune.xi": {"uniform": [0.8, 1.0]},
        "finetune.truncation": {"choice": ["head", "tail", "head+tail"]},
        "finetune.head_tokens": {"int": [2, 20], "when": {"finetune.truncation": "head+tail"}},
        "pretrain.steps": {"choice": [0, 4, 8]},
    },
    "search": {"first": [{"finetune.learning_rate": 2e-5, "finetune.head_tokens": 6}]},
    "budget": {"trials": 6},
}
GIVEN: dict[str, Any] = {"sampler": "given", "first": [{"finetune.xi": 1}, {"finetune.xi": 0.9}]}
CHOICES_ONLY = {"finetune.truncation": {"choice": ["head", "tail"]}, "pretrain.steps": {"choice": [0, 4, 8]}}


def changed(**changes: Any) -> dict[str, Any]:
    """The study with changes; a dotted name's `__` stands for one level, and None takes the field out."""
    data = copy.deepcopy(STUDY)
    for name, value in changes.items():
        *parents, last = name.split("__")
        at = data
        for parent in parents:
            at = at.setdefault(parent, {})
        if value is None:
            del at[last]
        else:
            at[last] = value
    return data


def faults(data: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_study(data, overrides)
    return list(caught.value.faults)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_studies_load_and_dump(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    (tmp_path / "study.yaml").write_text(study.to_yaml(), encoding="utf-8")
    assert load_study(tmp_path / "study.yaml") == study
    assert study.recipe_for(study.first_points()[0], 0).stages[-1].kind == "finetune"


def test_shipped_studies_are_there() -> None:
    assert "quickstart" in [path.stem for path in CONFIGS]


def test_dump_holds_every_default_and_survives_numberlike_text(tmp_path: Path) -> None:
    study = load_study(changed(tasks__mine={"train": "train.csv", "test": "test.csv", "labels": ["1e5", "2e-5", "yes", "null"]}))
    text = study.to_yaml()
    data = yaml.safe_load(text)
    assert set(data) == set(Study.model_fields)
    assert data["search"]["startup_trials"] == 10
    assert data["tasks"]["mine"]["validation_share"] == 0.1
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    again = load_study(tmp_path / "study.yaml")
    assert again == study
    assert again.tasks["mine"].labels == ("1e5", "2e-5", "yes", "null")


def test_papers_defaults() -> None:
    stage = load_study(changed(recipe=None, space=None, search=None)).recipe_for({}, 0).stages[0].canonical()
    expected = {
        "learning_rate": 2e-5,
        "batch_size": 24,
        "epochs": 4,
        "max_length": 512,
        "xi": 0.95,
        "head_tokens": 128,
        "warmup": 0.1,
    }
    assert {name: stage[name] for name in expected} == expected
    assert (stage["beta1"], stage["beta2"], stage["weight_decay"], stage["dropout"]) == (0.9, 0.999, 0.01, 0.1)


def test_every_fault_at_once() -> None:
    data = changed(
        serch={},
        budget={"trials": 0, "hours": -1},
        search={"sampler": "tep", "seed": "x"},
        resources={"workers": 2, "execution": "actor"},
        task="mien",
    )
    data["recipe"][1]["finetune"]["epochs"] = "four"
    data["space"]["finetune.dropot"] = {"uniform": [0, 0.5]}
    text = "\n".join(faults(data, "budget"))
    for part in (
        "serch: unknown field; did you mean 'search'?",
        "budget.trials: 0 given; it should be greater than or equal to 1",
        "budget.hours: -1",
        "search.sampler: 'tep' is not one of tpe, random, grid, given; did you mean 'tpe'?",
        "search.seed: 'x' given",
        "resources: execution actor runs one worker, but workers is 2",
        "task: 'mien' is not among tasks; did you mean 'mine'?",
        "recipe.1.finetune.epochs: 'four' given",
        "space.finetune.dropot: stage 'finetune' has no field 'dropot'; did you mean 'dropout'?",
        "--set budget: expected path=value",
    ):
        assert part in text, f"{part}\nnot in\n{text}"


@pytest.mark.parametrize(
    ("dimension", "fault"),
    [
        ({"uniform": [0.3, 0.1]}, "uniform: the lower bound 0.3 must be below the upper bound 0.1"),
        ({"uniform": [0.1, 0.1]}, "must be below"),
        ({"log_uniform": [0, 0.5]}, "bounds on a logarithmic scale must be above 0"),
        ({"uniform": [0, 0.5], "choice": [0.1]}, "exactly one of log_uniform, uniform, int, choice; given: uniform, choice"),
        ({}, "exactly one of log_uniform, uniform, int, choice; given: none"),
        ({"choice": []}, "choice: no value given"),
        ({"choice": [0.1, 0.2, 0.1]}, "choice: 0.1 is given twice"),
        ({"uniform": [0, 1.5]}, "1.5 given; it should be less than 1"),
        ({"choice": [0.1, "none"]}, "'none' given; it should be a valid number"),
        ({"uniform": [0, 0.5], "step": 2}, "log and step belong to int dimensions only"),
        ({"uniform": [0, 0.5], "wen": {}}, "unknown field; did you mean 'when'?"),
        ({"loguniform": [1e-3, 0.5]}, "unknown field; did you mean 'log_uniform'?"),
        ({"uniform": "0 to 1"}, "'0 to 1' given"),
    ],
)
def test_faulty_dimensions(dimension: Any, fault: str) -> None:
    data = changed()
    data["space"]["finetune.dropout"] = dimension
    found = faults(data)
    assert all(line.startswith("space.finetune.dropout") for line in found), found
    assert any(fault in line for line in found), found


@pytest.mark.parametrize(
    ("path", "dimension", "fault"),
    [
        ("finetun.xi", {"uniform": [0.8, 0.9]}, "did you mean 'finetune.xi'?"),
        ("finetune.frobnicate", {"uniform": [0.8, 0.9]}, "stage 'finetune' has no field 'frobnicate'"),
        (
            "warmup",
            {"uniform": [0.8, 0.9]},
            "a path is <stage name>.<field>, and no stage of the recipe is called 'warmup'; did you mean",
        ),
        ("finetune.name", {"choice": ["a"]}, "space.finetune.name"),
        ("finetune.epochs", {"uniform": [1, 4]}, "takes whole numbers only; use int: [1, 4]"),
        ("finetune.pooling", {"choice": ["cls", "men"]}, "'men' is not one of pooled, cls, mean, bilstm; did you mean 'mean'?"),
        ("finetune.batch_size", {"int": [8, 30], "step": 8}, "no whole number of steps of 8 above 8; the last value is 24"),
        ("pretrain.corpus", {"choice": [["mine"], ["mine", "othr"]]}, "'othr' is not among tasks; did you mean 'other'?"),
    ],
)
def test_faulty_places(path: str, dimension: Any, fault: str) -> None:
    data = changed()
    data["space"][path] = dimension
    found = faults(data)
    assert any(fault in line and path in line for line in found), found


@pytest.mark.parametrize(
    ("when", "fault"),
    [
        ({"finetune.truncatio": "head"}, "stage 'finetune' has no field 'truncatio'; did you mean 'truncation'?"),
        (
            {"finetune.truncation": "headtail"},
            "headtail never occurs: the dimension gives one of head, tail, head+tail; did you mean",
        ),
        ({"finetune.xi": 1}, "is a range; a condition needs a choice or int dimension, or a fixed field"),
        ({"finetune.pooling": "mean"}, "never holds: finetune.pooling is fixed at pooled"),
        ({"finetune.head_tokens": 4}, "a dimension cannot depend on itself"),
    ],
)
def test_faulty_conditions(when: Any, fault: str) -> None:
    data = changed()
    data["space"]["finetune.head_tokens"]["when"] = when
    assert any(fault in line and line.startswith("space.finetune.head_tokens.when") for line in faults(data))


def test_conditions_in_a_circle() -> None:
    data = changed(search=None)
    data["space"]["finetune.truncation"]["when"] = {"pretrain.steps": 4}
    data["space"]["pretrain.steps"]["when"] = {"finetune.truncation": "head"}
    assert any("are circular" in line for line in faults(data))


def test_combinations_that_a_stage_refuses() -> None:
    data = changed()
    data["space"]["finetune.head_tokens"]["int"] = [2, 30]
    data["space"]["pretrain.steps"]["choice"] = [0, 8, 9]
    found = faults(data)
    assert any("finetune.truncation head+tail, finetune.head_tokens 30: head_tokens is 30" in line for line in found), found
    assert any("pretrain.steps 9: steps is 9, but schedule_steps" in line for line in found), found
    data["space"]["finetune.head_tokens"]["int"] = [2, 21]  # the budget of 22 less one from the end
    data["space"]["pretrain.steps"]["choice"] = [0, 8]
    load_study(data)
    data["space"]["finetune.max_length"] = {"choice": [16, 24]}
    assert any("finetune.max_length 16" in line and "head_tokens 21" in line for line in faults(data))
    data = changed(space={"finetune.pooling": {"choice": ["cls", "bilstm"]}}, search=None)
    data["recipe"][1]["finetune"]["truncation"] = "hier-mean"
    (fault,) = faults(data)
    assert fault.startswith(
        "space: finetune.pooling bilstm: pooling bilstm reads all pieces of a text in a row, but truncation hier-m"
    )
    data["space"]["finetune.truncation"] = {"choice": ["head", "tail"]}
    load_study(data)
    data = changed(space=None, search=None)
    data["recipe"][1]["finetune"]["head_tokens"] = 128
    (fault,) = faults(data)
    assert fault.startswith("recipe.finetune: head_tokens is 128, but max_length 24 leaves 22 pieces")


@pytest.mark.parametrize(
    ("point", "fault"),
    [
        ({"finetune.learning_rate": 1.0}, "search.first.0.finetune.learning_rate: 1.0 is outside the space: from 1e-05 to 0.0002"),
        ({"finetune.learning_rat": 2e-5}, "is no dimension of the space; did you mean 'finetune.learning_rate'?"),
        ({"finetune.epochs": 3}, "is no dimension of the space; it is fixed in the recipe"),
        ({"finetune.truncation": "head", "finetune.head_tokens": 4}, "applies only when finetune.truncation is head+tail"),
        ({"finetune.truncation": "head", "pretrain.steps": 5}, "5 is outside the space: one of 0, 4, 8"),
    ],
)
def test_faulty_first_points(point: Any, fault: str) -> None:
    found = faults(changed(search={"first": [point]}))
    assert len(found) == 1, found
    assert fault in found[0]


def test_a_fixed_value_outside_the_space_is_told_where_a_point_needs_it() -> None:
    data = changed(search={"first": [{"finetune.truncation": "head+tail"}]})
    data["recipe"][1]["finetune"]["head_tokens"] = 21
    (fault,) = faults(data)
    assert "finetune.head_tokens is missing, and its fixed value 21 is outside the space" in fault


def test_first_points_take_fixed_values_for_what_they_leave_out() -> None:
    assert load_study(STUDY).first_points() == [
        {
            "finetune.learning_rate": 2e-5,
            "finetune.truncation": "head+tail",
            "finetune.xi": 0.95,
            "pretrain.steps": 0,
            "finetune.head_tokens": 6,
        }
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"final": {"top_k": 7}}, "final.top_k: 7 given, but budget.trials allows no more than 6"),
        ({"final": {"top_k": 0}}, "final.top_k: 0 given"),
        ({"final": {"seeds": 0}}, "final.seeds: 0 given"),
        (
            {"final": {"label_of_first": "a"}, "search": {}},
            "final.label_of_first: 'a' labels the first of search.first",
        ),
        ({"search": {"sampler": "grid"}}, "grid needs choice and int dimensions only, but space.finetune.xi is a range"),
        (
            {"search": {"early_stopping": "asah"}},
            "search.early_stopping.kind: 'asah' is not one of asha, none",
        ),
        ({"search": {"early_stopping": {"reduction": 1}}}, "search.early_stopping.reduction: 1 given"),
        ({"search": {"sampler": "given"}}, "search.first: empty, but the sampler given needs points there"),
        ({"search": {"first": [], "labels": ["a"]}}, "search.labels: they name listed points, but the sampler is tpe; use given"),
        ({"search": GIVEN | {"labels": ["a"]}}, "search.labels: 1 given for 2 points of search.first"),
        ({"search": GIVEN | {"labels": ["a", "a"]}}, "search.labels: 'a' is given twice"),
        (
            {"space": {}, "recipe": [{"finetune": {}}], "search": GIVEN | {"first": [{}, {"finetune.xi": 0.95}]}},
            "search.first.1: the same settings as search.first.0",
        ),
        (
            {"space": {}, "search": GIVEN | {"first": [{"finetune.xii": 1}]}},
            "search.first.0.finetune.xii: stage 'finetune' has no field 'xii'; did you mean 'xi'?",
        ),
        ({"space": {}, "search": GIVEN | {"first": [{"finetune.xi": 2}]}}, "search.first.0.finetune.xi: 2 given"),
        (
            {"space": {}, "search": GIVEN | {"first": [{"finetune.head_tokens": 30}]}},
            "search.first.0: finetune: head_tokens is 30, but max_length 24 leaves 22 pieces",
        ),
        ({"resources": {"gpus": 1.5}}, "above 1 only whole GPUs"),
        ({"resources": {"gpus": 0.5, "workers": 2}}, "gpus is 0.5 and workers is 2: the workers of a trial cannot share a GPU"),
        (
            {"recipe": [{"pretain": {}}, {"finetune": {"epochs": 0}}]},
            "no kind of stage is called 'pretain'; did you mean 'pretrain'?",
        ),
        ({"recipe": [{"pretain": {}}, {"finetune": {"epochs": 0}}]}, "recipe.1.finetune.epochs: 0 given"),
        ({"recipe": [{"pretrain": {}}]}, "recipe: the last stage must be finetune"),
        ({"recipe": [{"finetune": {}}, {"finetune": {}}]}, "recipe: two stages are named 'finetune'"),
        ({"recipe": [{"finetune": {"name": "a.b"}}]}, "must not be empty or hold a dot"),
        (
            {"recipe": [{"pretrain": {"corpus": ["othre"]}}, {"finetune": {}}]},
            "recipe.0.pretrain.corpus: 'othre' is not among",
        ),
        (
            {"recipe": [{"multitask": {"tasks": ["mine", "othre"]}}, {"finetune": {}}]},
            "recipe.0.multitask.tasks: 'othre' is not among tasks; did you mean 'other'?",
        ),
        (
            {"recipe": [{"multitask": {"sampling": "evn"}}, {"finetune": {}}]},
            "one of proportional, sqrt, even; did you mean 'even'?",
        ),
        ({"recipe": [{"multitask": {}}]}, "recipe: the last stage must be finetune"),
        ({"recipe": {"finetune": {}}}, "recipe: "),
        ({"tasks": ["sls_imbd"], "task": "sls_imdb"}, "tasks.sls_imbd: no known task has this name; did you mean 'sls_imdb'?"),
        ({"tasks": {"mine": {"train": "a.csv", "hub": "b"}}}, "tasks.mine: a task needs exactly one of train, folder, hub"),
        ({"encoder": {"hub": "a", "folder": "b"}}, "encoder: an encoder needs exactly one of hub, folder"),
        ({"encoder": None}, "encoder: missing"),
        ({"precision": "float8"}, "precision: 'float8' is not one of float32, tf32, bfloat16, float16, auto"),
    ],
)
def test_faults_by_section(changes: dict[str, Any], fault: str) -> None:
    found = faults(changed(**changes))
    assert any(fault in line for line in found), found


def test_given_points_make_their_own_space() -> None:
    """Only they must be valid, not what else the space could give: 20 head pieces are too many for 16."""
    points = [{"finetune.max_length": 16, "finetune.head_tokens": 4}, {"finetune.head_tokens": 20}, {"finetune.truncation": "head"}]
    made = load_study(
        changed(space={}, search={"sampler": "given", "first": points}, recipe=[{"finetune": {"max_length": 24, "head_tokens": 6}}])
    )
    assert {path: dimension.choice for path, dimension in made.space.items()} == {
        "finetune.max_length": (16, 24),
        "finetune.head_tokens": (4, 20, 6),
        "finetune.truncation": ("head+tail", "head"),
    }
    assert load_study(yaml.safe_load(made.to_yaml())) == made
    assert made.first_points()[1] == {"finetune.max_length": 24, "finetune.head_tokens": 20, "finetune.truncation": "head+tail"}


@pytest.mark.parametrize("data", [None, 3, [], "x"])
def test_not_a_mapping(data: Any, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert len(faults(tmp_path / "study.yaml")) == 1


def test_no_file_no_tags_no_anchors(tmp_path: Path) -> None:
    assert "No such file" in faults(tmp_path / "absent.yaml")[0]
    for text, fault in (("a: !!python/object:os.system x", "tag"), ("a: &a [1]\nb: *a", "anchors"), ("a: [", "not YAML")):
        (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
        assert fault in faults(tmp_path / "study.yaml")[0]


JUNK: list[Any] = [
    *(None, 0, -1, 1.5, True, "x", "", [], {}, [1], ["a", ["b"]], {"a": 1}, {"kind": "x"}, [{}], [None], 10**400),
    *([{"finetune": None}], [{"finetune": {"name": 3}}], "known", ["known"], {"choice": None}, {"when": 3, "int": [1, 2]}),
    *({"finetune.xi": {"uniform": [0.1, 0.2, 0.3]}}, {"finetune.epochs": {"int": [1, 9]}}, {"int": [1, 10**400]}),
]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_wrong_is_a_fault_and_no_traceback(seed: int) -> None:
    """One to three places of a sound study replaced by junk or left out."""
    rng, refused = random.Random(seed), list[tuple[str, ...]]()
    for _ in range(150):
        data = changed()
        for _ in range(rng.choice([1, 1, 2, 3])):
            *parents, last = rng.choice([place for place in _places(data) if place])
            at = data
            for key in parents:
                at = at[key]
            if rng.random() < 0.8:
                at[last] = copy.deepcopy(rng.choice(JUNK))
            else:
                del at[last]
        try:
            load_study(data)
        except ConfigError as error:
            refused.append(error.faults)
    assert len(refused) > 100
    assert all(lines and all(line and "\n" not in line for line in lines) for lines in refused)


def _places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _places(value, (*place, key))


def test_overrides() -> None:
    study = load_study(
        STUDY,
        [
            "recipe.finetune.epochs=5",
            "recipe.0.pretrain.seed=7",
            "space.finetune.xi={uniform: [0.9, 1]}",
            "space.finetune.learning_rate=null",
            "space.finetune.head_tokens.when.finetune.truncation=[head+tail]",
            "space.finetune.head_tokens.int=[3, 9]",
            "search.first.0={finetune.truncation: head, finetune.xi: 0.92}",
            "search.first.0.finetune.xi=0.93",
            "search.early_stopping=none",
            "budget.hours=2.5",
            "final.top_k=2",
        ],
    )
    assert study.max_epochs() == 5
    assert study.stages["pretrain"].canonical()["seed"] == 7
    assert study.space["finetune.xi"].uniform == (0.9, 1.0)
    assert "finetune.learning_rate" not in study.space
    assert study.space["finetune.head_tokens"].int == (3, 9)
    assert study.first_points()[0]["finetune.xi"] == 0.93
    assert study.search.early_stopping.kind == "none"
    assert (study.budget.trials, study.budget.hours, study.final.top_k) == (6, 2.5, 2)


def test_overrides_reach_the_stage_of_a_file_without_a_recipe() -> None:
    bare = {name: value for name, value in STUDY.items() if name not in ("recipe", "space", "search")}
    assert load_study(bare, ["recipe.finetune.epochs=7"]).max_epochs() == 7
    assert load_study(bare).max_epochs() == 4, "the default was changed for others"
    assert any("no stage 'pretrain' in the recipe" in fault for fault in faults(bare, "recipe.pretrain.steps=7"))


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("budgt.trials=3", "budgt: unknown field; did you mean 'budget'?"),
        ("budget.trails=3", "budget.trails: unknown field; did you mean 'trials'?"),
        ("budget.trials=many", "budget.trials: 'many' given"),
        ("recipe.finetun.epochs=3", "--set recipe.finetun.epochs: no stage 'finetun' in the recipe; did you mean 'finetune'?"),
        ("recipe.finetune.epoch=3", "recipe.1.finetune.epoch: unknown field; did you mean 'epochs'?"),
        ("search.first.9={}", "--set search.first.9={}: there is nothing at search.first.9 to set"),
        ("name.deeper=1", "there is nothing at name.deeper to set"),
        ("budget.trials=[", "--set budget.trials: not YAML"),
        ("=3", "expected path=value"),
        ("finetune.epochs=1", "--set finetune.epochs: a field of a stage is set as recipe.finetune.epochs, or searched as space."),
    ],
)
def test_faulty_overrides(override: str, fault: str) -> None:
    found = faults(STUDY, override)
    assert any(fault in line for line in found), found


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(changed(store="artifacts")), encoding="utf-8")
    study = load_study(tmp_path / "study.yaml")
    assert study.tasks["mine"].train == str(tmp_path / "train.csv")
    assert study.store == str(tmp_path / "artifacts")
    remote = load_study(changed(store="s3://bucket/x", tasks__mine={"train": "https://host/train.csv", "test": "t.csv"}))
    assert (remote.store, remote.tasks["mine"].train) == ("s3://bucket/x", "https://host/train.csv")


def test_recipe_of_a_trial() -> None:
    study = load_study(STUDY)
    recipe = study.recipe_for({"finetune.truncation": "tail", "pretrain.steps": 4, "finetune.xi": 1}, 3)
    first, last = (stage.canonical() for stage in recipe.stages)
    assert (first["steps"], first["schedule_steps"]) == (4, 8)
    assert (last["truncation"], last["xi"], last["head_tokens"]) == ("tail", 1.0, 6)
    assert recipe.seed == 3
    assert set(recipe.tasks) == {"mine", "other"}  # what no stage reads plays no part
    with pytest.raises(ConfigError, match="head_tokens"):
        study.recipe_for({"finetune.truncation": "head+tail", "finetune.head_tokens": 22}, 0)


HEADS = {4: 1, 8: 2, 16: 4, 24: 6, 64: 16, 128: 32, 256: 64, 512: 128, 4096: 1028}


@pytest.mark.parametrize(("length", "head"), HEADS.items())
@pytest.mark.parametrize("stage", ["finetune", "multitask"])
def test_a_length_alone_keeps_the_papers_proportion_of_the_head(stage: str, length: int, head: int) -> None:
    """In the recipe, in the space, in given points."""
    path, plain = f"{stage}.max_length", {"multitask": {"tasks": ["mine"]}, "finetune": {}}
    recipe = [{name: given} for name, given in plain.items()]
    long = [{name: given | ({"max_length": length} if name == stage else {})} for name, given in plain.items()]
    fixed = load_study(changed(recipe=long, space=None, search=None))
    searched = load_study(changed(recipe=recipe, space={path: {"choice": [length, 300]}}, search=None))
    for study, params in ((fixed, {}), (searched, {path: length})):
        made = next(each for each in study.recipe_for(params, 0).stages if each.kind == stage)
        assert (made.max_length, made.head_tokens) == (length, head)
    given = {"sampler": "given", "first": [{path: length}, {f"{stage}.head_tokens": 100}]}
    first, second = load_study(changed(recipe=recipe, space=None, search=given)).first_points()
    assert (first[f"{stage}.head_tokens"], second[f"{stage}.head_tokens"]) == (head, 100)


def test_a_head_under_a_condition_is_in_proportion_where_the_condition_does_not_hold() -> None:
    space = {
        "finetune.max_length": {"choice": [24, 128]},
        "finetune.head_tokens": {"int": [2, 20], "when": {"finetune.max_length": 24}},
    }
    study = load_study(changed(recipe=[{"finetune": {}}], space=space, search=None))
    assert study.recipe_for({"finetune.max_length": 24, "finetune.head_tokens": 9}, 0).stages[-1].head_tokens == 9
    assert study.recipe_for({"finetune.max_length": 128}, 0).stages[-1].head_tokens == 32


def test_a_study_that_says_nothing_of_the_head_is_what_it_was() -> None:
    """Run folders from before the proportion hold 128, and go on."""
    for said in ({}, {"head_tokens": None}, {"head_tokens": 128}):
        study = load_study(changed(recipe=[{"finetune": said}], space=None, search=None))
        assert study.digest() == load_study(changed(recipe=[{"finetune": {"head_tokens": 128}}], space=None, search=None)).digest()
    other = load_study(changed(recipe=[{"finetune": {"head_tokens": 127}}], space=None, search=None))
    assert other.digest() != study.digest()


SAME = {
    "name": "another",
    "budget": {"trials": 60, "hours": 3.0, "session_hours": 1.5},
    "final": {"top_k": 2, "seeds": 5},
    "resources": {"workers": 2},
    "baseline": False,
    "store": "elsewhere",
    "tasks__unused": {"train": "another.csv"},
}
OTHER = {
    "task": "other",
    "encoder": {"config": TINY_BERT | {"hidden_size": 16}, "vocabulary": 400},
    "precision": "float32",
    "seed": 1,
    "search__seed": 1,
    "search__sampler": "random",
    "tasks__mine": {"train": "train.csv", "text": ["review"], "test": "test.csv"},
    "space__pretrain.steps": {"choice": [0, 8]},
    "recipe": [STUDY["recipe"][0], {"finetune": {"max_length": 24, "epochs": 2}}],
}


@pytest.mark.parametrize("name", SAME)
def test_what_may_change_on_resume(name: str) -> None:
    assert name in MAY_CHANGE or name.startswith("tasks")
    a, b = load_study(STUDY), load_study(changed(**{name: SAME[name]}))
    assert a != b
    assert a.digest() == b.digest()
    assert a.differences(b) == []


@pytest.mark.parametrize("name", OTHER)
def test_what_makes_another_study(name: str) -> None:
    a, b = load_study(STUDY), load_study(changed(**{name: OTHER[name]}))
    assert a.digest() != b.digest()
    place = name.replace("__", ".")
    assert any(line.startswith(place) for line in a.differences(b)), a.differences(b)


def test_another_file_name_is_told_apart_from_another_study() -> None:
    a, b = load_study(STUDY), load_study(STUDY, ["tasks.mine.train=other-train.csv"])
    assert a.differences(b) == []
    assert a.renamed(b) == ['tasks.mine.train: "other-train.csv", was "train.csv"']
    assert a.renamed(a) == []
    more = load_study(STUDY, ["tasks.mine.validation=more.csv"])
    assert a.renamed(more) == []
    assert [line.partition(":")[0] for line in a.differences(more)] == ["tasks.mine.validation"]


def test_differences_say_both_values() -> None:
    other = load_study(changed(search__seed=4))
    assert load_study(STUDY).differences(other) == ["search.seed: 0 here, 4 there"]


def test_a_moved_folder_and_the_order_of_the_file_are_no_difference(tmp_path: Path) -> None:
    data = changed()
    data["space"] = dict(reversed(data["space"].items()))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    assert load_study(tmp_path / "study.yaml").digest() == load_study(STUDY).digest()


def test_reference_is_up_to_date_and_complete() -> None:
    written = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")
    assert written == document(), "run: make docs"
    for model_field in (
        "learning_rate",
        "head_tokens",
        "log_uniform",
        "grace_epochs",
        "label_of_first",
        "micro_batch",
    ):
        assert f"| `{model_field}` |" in written
    rows = [line for line in written.splitlines() if line.startswith("| `")]
    assert all(len(row.replace("\\|", "").split("|")) == 6 and "|  |" not in row for row in rows), "a field without a meaning"


def test_import_is_light() -> None:
    heavy = ("torch", "ray", "optuna", "pandas", "numpy")
    code = f"import study.definition.study_file, study.planning.plan, sys; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]"


def several(names: list[str], **space: Any) -> dict[str, Any]:
    """The study with a stage on several tasks between pre-training and fine-tuning."""
    stage = {"multitask": {"tasks": names, "max_length": 24, "head_tokens": 6}}
    recipe = [STUDY["recipe"][0], stage, STUDY["recipe"][1]]
    return changed(
        search=None, recipe=recipe, space=STUDY["space"] | {f"multitask.{field}": value for field, value in space.items()}
    )


def test_a_stage_on_several_tasks_uses_those_it_can_name() -> None:
    assert set(load_study(several(["mine"])).used_tasks) == {"mine", "other"}
    assert set(load_study(several([])).used_tasks) == {"mine", "other", "unused"}
    choice = {"choice": [["mine"], ["mine", "unused"]]}
    assert set(load_study(several(["mine"], tasks=choice)).used_tasks) == {"mine", "other", "unused"}
    study = load_study(several([], sampling={"choice": ["sqrt", "even"]}, learning_rate={"uniform": [1e-5, 1e-4]}))
    assert load_study(yaml.safe_load(study.to_yaml())) == study
    params = spaces.any_point(study.space, study.fixed) | {"multitask.sampling": "even"}
    stage = study.recipe_for(params, 0).stages[1]
    assert isinstance(stage, Multitask)
    assert (stage.sampling, stage.tasks) == ("even", ())


@pytest.mark.parametrize(
    ("space", "fault"),
    [
        ({"tasks": {"choice": [["mine"], ["othr"]]}}, "space.multitask.tasks: 'othr' is not among tasks; did you mean 'other'?"),
        ({"max_length": {"choice": [8, 24]}}, "space: multitask.max_length 8: "),
        ({"smapling": {"choice": ["even"]}}, "stage 'multitask' has no field 'smapling'; did you mean 'sampling'?"),
    ],
)
def test_faulty_spaces_of_several_tasks(space: dict[str, Any], fault: str) -> None:
    found = faults(several(["mine"], **space))
    assert any(fault in line for line in found), found


CORPORA = {"pretrain.corpus": {"choice": [["within-task"], ["in-domain"], ["cross-domain"], ["more.txt", "s3://b/x.jsonl"]]}}


def test_words_and_files_are_corpora(tmp_path: Path) -> None:
    tasks = {name: {"train": f"{name}.csv", "test": "t.csv", "domain": "s" if name != "c" else "t"} for name in "abc"}
    data = changed(tasks=tasks, task="a", space=CORPORA, search={"first": [{"pretrain.corpus": ["more.txt", "s3://b/x.jsonl"]}]})
    data["recipe"][0]["pretrain"]["corpus"] = ["in-domain"]
    data["recipe"][1]["finetune"]["head_tokens"] = 6
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data))
    study = load_study(tmp_path / "study.yaml")
    more = str(tmp_path / "more.txt")
    assert study.space["pretrain.corpus"].choice[-1] == (more, "s3://b/x.jsonl")  # type: ignore[index]
    assert study.first_points()[0]["pretrain.corpus"] == (more, "s3://b/x.jsonl")
    assert set(study.used_tasks) == {"a", "b", "c"}
    assert more in study.local_paths
    assert not any("s3:" in path for path in study.local_paths)
    assert load_study(yaml.safe_load(study.to_yaml())) == study
    narrow = study.model_copy(update={"space": {}})
    assert set(narrow.used_tasks) == {"a", "b"}, "in-domain alone reads no other domain"
    moved = study.recipe[0].model_copy(update={"corpus": ("elsewhere/more.txt",)})
    here = study.recipe[0].model_copy(update={"corpus": (more,)})
    assert len({narrow.model_copy(update={"recipe": (each, study.recipe[1])}).digest() for each in (moved, here)}) == 1


def test_corpora_that_cannot_be_are_refused() -> None:
    assert "space.pretrain.corpus: in-domain needs the domain of the target task, but 'mine' has none" in "\n".join(
        faults(changed(space=CORPORA, search=None))
    )
    tasks = {"mine": {"train": "a.csv", "domain": "s"}, "other": {"train": "b.csv"}, "cross-domain": {"train": "c.csv"}}
    found = faults(changed(tasks=tasks, space=CORPORA, search=None))
    assert found == [
        "tasks.cross-domain: the name is a word for corpora; give the task another one",
        "space.pretrain.corpus: in-domain: no other task has the domain 's' of 'mine'; add one, or use within-task",
    ]
    near = faults(changed(**{"space__pretrain.corpus": {"choice": [["in-domian"]]}}))
    assert near == ["space.pretrain.corpus: 'in-domian' is not among tasks; did you mean 'in-domain'?"]


HEAD_TOKENS = {"finetune.head_tokens": {"int": [2, 20]}}


ADAPTED = HEAD_TOKENS | {"finetune.lora_rank": {"int": [0, 8]}}


def test_adapters_with_what_freezes_other_layers_are_told_before_anything_runs() -> None:
    found = faults(changed(search=None, space=ADAPTED | {"finetune.freeze": {"choice": ["none", 1]}}))
    assert len(found) == 2  # at either end of head_tokens
    assert "finetune.lora_rank 8" in found[0]
    assert "finetune.freeze 1" in found[0]
    assert "trains adapters in all its layers, but freeze 1 given" in found[0]
    conditional = HEAD_TOKENS | {
        "finetune.lora_rank": {"choice": [0, 8]},
        "finetune.freeze": {"choice": [1, 2], "when": {"finetune.lora_rank": 0}},
    }
    assert load_study(changed(search=None, space=conditional))


@pytest.mark.parametrize(
    ("fixed", "space", "fault"),
    [
        (
            {"layers": [0, 1]},
            {"finetune.pooling": {"choice": ["cls", "pooled"]}},
            "finetune.pooling pooled: layers 0, 1 with combine concat",
        ),
        ({"train_share": 0.5}, {"finetune.train_examples": {"choice": [8, 20]}}, "finetune.train_examples 8: train_examples is 8"),
        (
            {"freeze": "encoder"},
            {"finetune.unfreeze_layers": {"choice": [0, 1]}},
            "finetune.unfreeze_layers 1: unfreeze_layers is 1",
        ),
    ],
)
def test_what_a_space_makes_of_fixed_settings_is_told(fixed: dict[str, Any], space: dict[str, Any], fault: str) -> None:
    recipe = [{"finetune": {"max_length": 24, "head_tokens": 6} | fixed}]
    found = faults(changed(recipe=recipe, space=space, search=None))
    assert any(line.startswith(f"space: {fault}") for line in found), found


def test_fixed_settings_that_the_space_replaces_are_no_fault() -> None:
    recipe = [{"finetune": {"max_length": 24, "head_tokens": 6, "layers": [0, 1]}}]  # pooled by default, which does not take two
    assert load_study(changed(recipe=recipe, space={"finetune.pooling": {"choice": ["cls", "mean"]}}, search=None))
