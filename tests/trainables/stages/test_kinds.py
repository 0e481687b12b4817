"""The table of the kinds of stage against the stage tree that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers import marks_recipe, multitask_recipe, tiny_recipe
from trainables.settings import stages
from trainables.settings.recipe import Recipe
from trainables.stages.identity import nodes
from trainables.stages.inputs import PIECES_PER_WORD, Inputs
from trainables.stages.kinds import KINDS
from trainables.stages.node import Node


def finetuned_twice(folder: Path) -> Recipe:
    recipe = tiny_recipe(folder)
    (last,) = recipe.stages
    return recipe.model_copy(update={"stages": (last.model_copy(update={"name": "first"}), last)})


RECIPES: dict[str, Callable[[Path], Recipe]] = {
    "pretrain": lambda folder: tiny_recipe(folder, {}),
    "multitask": multitask_recipe,
    "marks": marks_recipe,
    "finetune": finetuned_twice,
}
"""{kind of stage: a recipe that begins with it, before another stage}."""


def first_stage(recipe: Recipe) -> tuple[list[Node], list[Node]]:
    """(nodes of the first stage, nodes of the others)."""
    tree = nodes(Inputs(recipe))
    name = recipe.stages[0].name
    return [node for node in tree if node.whole.name == name], [node for node in tree if node.whole.name != name]


def test_every_kind_of_settings_is_in_the_table() -> None:
    assert KINDS.keys() == stages.SETTINGS.keys() == RECIPES.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_flags_of_a_kind_hold_in_the_tree(kind: str, tmp_path: Path) -> None:
    recipe = RECIPES[kind](tmp_path)
    own, later = first_stage(recipe)
    entry, stage = KINDS[kind], own[-1]
    assert stage.stage.kind == kind
    assert later[0].parent_id == (stage.stage_id if entry.continues else None)
    assert (stage.trajectory_id != stage.stage_id) == entry.milestones
    reseeded, _ = first_stage(recipe.model_copy(update={"seed": 1}))
    assert (reseeded[-1].stage_id != stage.stage_id) == entry.per_seed


@pytest.mark.parametrize("kind", KINDS)
def test_cost_from_sizes_is_about_the_cost_from_the_data(kind: str, tmp_path: Path) -> None:
    """The texts are not truncated, so that their mean length determines the cost."""
    short = RECIPES[kind](tmp_path)
    first, *others = short.stages
    recipe = short.model_copy(update={"stages": (first.model_copy(update={"max_length": 400}), *others)})
    inputs, (own, _) = Inputs(recipe), first_stage(recipe)
    read = {name: inputs.reader.task(name, task) for name, task in recipe.tasks.items()}
    sizes = {
        name: SimpleNamespace(train=len(data.train), length=PIECES_PER_WORD * data.train.words.mean())
        for name, data in read.items()
    }
    sketch = KINDS[kind].sketch(recipe.stages[0], recipe, sizes)
    assert sketch.steps == pytest.approx(sum(node.steps for node in own), rel=0.12)  # held-out texts of marks are left out
    assert sketch.tokens == pytest.approx(sum(node.tokens_estimate for node in own), rel=0.05)
    assert set(sketch.reads) <= set(recipe.tasks)
