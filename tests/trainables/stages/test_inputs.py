"""What recipes read: each part once for all who share a reader, nothing that no stage asks for, nothing kept of what failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import reviews, tiny_recipe, write_csv
from trainables.data import corpus, sources, splits
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task
from trainables.stages import inputs, kinds
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs, Reader


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Training files of tasks, whenever one is read."""
    found: list[str | None] = []

    def counted(task: Task) -> Any:
        found.append(task.train)
        return sources.read(task)

    monkeypatch.setattr(splits, "read", counted)
    return found


def test_recipes_that_share_a_reader_read_their_data_once(tmp_path: Path, read: list[str | None]) -> None:
    recipe = tiny_recipe(tmp_path, {"steps": 4})
    reader = Reader()
    first = nodes(Inputs(recipe, reader))
    once = list(read)
    assert sorted(once, key=str) == sorted((task.train for task in recipe.tasks.values()), key=str)
    assert nodes(Inputs(recipe, reader)) == first == nodes(Inputs(recipe.model_copy(update={"seed": recipe.seed}), reader))
    assert read == once
    assert nodes(Inputs(recipe)) == first
    assert read == once * 2, "another reader reads for itself"


def test_the_same_corpus_however_it_is_named_is_one(tmp_path: Path) -> None:
    recipe, reader = tiny_recipe(tmp_path, {"steps": 4}), Reader()
    names = list(recipe.tasks)
    assert reader.corpus(names, recipe.tasks) is reader.corpus([*names[::-1], names[0]], recipe.tasks)
    assert reader.members(names[:1], recipe.tasks) is reader.members(names[:1], dict(reversed(recipe.tasks.items())))


def test_what_no_stage_asks_for_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError

    for name in ("load_corpus", "load_mixture", "pool", "turns"):
        monkeypatch.setattr(inputs, name, refuse)
    recipe = tiny_recipe(tmp_path, {"steps": 4})
    nodes(Inputs(recipe.model_copy(update={"stages": recipe.stages[-1:]})))
    with pytest.raises(AssertionError):
        nodes(Inputs(recipe))


def test_what_failed_is_tried_again_and_a_reader_keeps_what_it_has_read(tmp_path: Path) -> None:
    task = Task(train=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"))
    reader = Reader()
    with pytest.raises(ConfigError):
        reader.task("mine", task)
    write_csv(tmp_path / "train.csv", reviews(limit=40))
    write_csv(tmp_path / "test.csv", reviews(split="test", limit=10))
    found = reader.task("mine", task)
    write_csv(tmp_path / "train.csv", reviews(limit=30))
    assert reader.task("mine", task) is found
    assert len(Reader().task("mine", task).train) < len(found.train)


def test_a_task_without_a_test_split_is_refused_only_where_one_is_read(tmp_path: Path) -> None:
    task, reader = Task(train=write_csv(tmp_path / "train.csv", reviews(limit=40))), Reader()
    assert not len(reader.task("mine", task, needs_test=False).test)
    with pytest.raises(ConfigError, match="no test split"):
        reader.task("mine", task)


@pytest.mark.parametrize("words", [[0, 1, 2, 10, 11, 12, 13, 150]])
def test_pieces_are_those_of_each_text_rounded(words: list[int]) -> None:
    """As Python rounds, halves to even."""
    expected = [max(1, round(count * kinds.PIECES_PER_WORD)) for count in words]
    assert kinds.pieces_of(np.array(words)).tolist() == expected


@pytest.mark.parametrize("load", [corpus.load_corpus, inputs.load_mixture])
def test_without_a_reader_data_are_read_anew(load: Callable[..., Any], tmp_path: Path, read: list[str | None]) -> None:
    recipe = tiny_recipe(tmp_path, {"steps": 4})
    one, other = (load(list(recipe.tasks)[:1], recipe.tasks) for _ in range(2))
    assert one is not other
    assert len(read) == 2 * len(recipe.tasks)
