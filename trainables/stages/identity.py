"""The stage tree of a recipe, each stage with the id of its result, and the recipe's name in the papers. Imports no torch."""

from __future__ import annotations

from trainables.settings.recipe import Recipe
from trainables.settings.stage_rules import marks_of
from trainables.stages.inputs import Inputs
from trainables.stages.kinds import KINDS, Start
from trainables.stages.node import Node


def nodes(inputs: Inputs) -> list[Node]:
    """The nodes of a recipe in order; further pre-training of zero steps has none. Raises ValueError for `precision: auto`."""
    if inputs.recipe.precision == "auto":
        raise ValueError("precision 'auto' must be resolved before stages have an identity")
    stages = [stage for stage in inputs.recipe.stages if stage.trains]
    marks, parent = marks_of(stages), None
    tree: list[Node] = []
    for stage in stages:
        start = Start(inputs, parent, marks, {node.stage.name: node for node in tree})
        tree += KINDS[stage.kind].nodes(stage, start)
        if KINDS[stage.kind].continues:
            parent = tree[-1].stage_id
    return tree


def recipe_name(recipe: Recipe) -> str:
    """The name of Sun et al. 2019, sections 5.4 and 5.5: BERT-Feat, -FiT, -ITPT- (within task), -IDPT- (in domain), -CDPT-, -MFiT-.

    It depends on the tasks whose texts are read, not on how the corpus names them. Text files have no domain: with them it is CDPT.
    Selected texts have the names of Gururangan et al. 2020: -kNN-TAPT- and -RAND-TAPT-. Masking by marks is appended in brackets:
    ITPT(selective).
    """
    labels = (KINDS[stage.kind].label(stage, recipe) for stage in recipe.stages if stage.trains)
    return "-".join(["BERT", *filter(None, labels)])
