"""The file of test predictions: one writer for all kinds of task and recipe, and the length of each text before any cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers import multitask_recipe, pair_recipe, tiny_recipe
from tests.trainables.scores import test_multilabel
from trainables.scores import predictions
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.jobs import base_of
from trainables.store.store import Store

ONE_THREAD = Execution(threads=1)
BILSTM = {"pooling": "bilstm", "lstm_width": 6, "attention_width": 5, "attention_hops": 2}
LONG = "a good film and a bad end, " * 30


def lengthened(recipe: Recipe, columns: int = 1) -> Recipe:
    """The same with one long text more in the test split."""
    path = Path(recipe.tasks[recipe.task].test or "")
    label = path.read_text(encoding="utf-8").splitlines()[1].rsplit(",", 1)[1]
    path.write_text(path.read_text(encoding="utf-8") + ",".join(['"' + LONG + '"'] * columns + [label]) + "\n", encoding="utf-8")
    return recipe


MADE: dict[str, Any] = {
    "cut": lambda folder: tiny_recipe(folder, epochs=1, max_length=8, truncation="head+tail", head_tokens=2),
    "in fractions": lambda folder: tiny_recipe(folder, epochs=1, max_length=8, truncation="hier-mean", max_fractions=3),
    "frozen": lambda folder: tiny_recipe(folder, epochs=1, freeze="encoder", **BILSTM),
    "several labels": lambda folder: test_multilabel.recipe(folder),
    "pairs": lambda folder: pair_recipe(folder, epochs=1),
    "several tasks": multitask_recipe,
}


@pytest.mark.parametrize("kind", MADE)
def test_lengths_are_those_of_uncut_texts_as_the_tokenizer_counts(kind: str, tmp_path: Path) -> None:
    recipe = MADE[kind](tmp_path)
    if kind != "several labels":
        recipe = lengthened(recipe, 2 if kind == "pairs" else 1)
    store = Store(str(tmp_path / "store"))
    list(runner.run(recipe, store, ONE_THREAD))
    artifact = store.get(runner.evaluate_test(recipe, store, ONE_THREAD)["stage_id"])
    assert artifact is not None
    table = pq.read_table(artifact.path("predictions-test.parquet"))
    test, tokenizer = Inputs(recipe).target.test, base_of(Inputs(recipe)).tokenizer
    sides = [(text,) for text in test.texts] if test.pairs is None else [pair if pair[1] else pair[:1] for pair in test.pairs]
    expected = [len(tokenizer(*each, verbose=False)["input_ids"]) for each in sides]
    assert table["pieces"].to_pylist() == expected
    assert kind == "several labels" or max(expected) > 200
    assert table.column_names == ["index", "label", "prediction", "probabilities", "pieces"]


def test_a_second_text_that_is_empty_adds_no_special_tokens(tmp_path: Path) -> None:
    recipe = pair_recipe(tmp_path, epochs=1)
    path = Path(recipe.tasks[recipe.task].test or "")
    lines = path.read_text(encoding="utf-8").splitlines()
    first, _, label = lines[1].split(",")
    path.write_text("\n".join([*lines, f"{first},,{label}"]) + "\n", encoding="utf-8")
    store = Store(str(tmp_path / "store"))
    list(runner.run(recipe, store, ONE_THREAD))
    artifact = store.get(runner.evaluate_test(recipe, store, ONE_THREAD)["stage_id"])
    assert artifact is not None
    told = pq.read_table(artifact.path("predictions-test.parquet"))["pieces"].to_pylist()
    assert told[-1] == len(base_of(Inputs(recipe)).tokenizer(first)["input_ids"])


def test_without_lengths_the_column_is_left_out(tmp_path: Path) -> None:
    """As of a bag of words, and of validation."""
    path = predictions.write(tmp_path / "a.parquet", np.array([0, 1]), np.array([1, 1]), np.full((2, 2), 0.5))
    assert pq.read_table(path).column_names == ["index", "label", "prediction", "probabilities"]
    recipe = tiny_recipe(tmp_path, epochs=1)
    store = Store(str(tmp_path / "store"))
    list(runner.run(recipe, store, ONE_THREAD))
    artifact = store.get(nodes(Inputs(recipe))[-1].stage_id)
    assert artifact is not None
    assert "pieces" not in pq.read_table(artifact.path("predictions-validation.parquet")).column_names
