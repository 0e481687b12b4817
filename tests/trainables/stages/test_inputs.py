"""What recipes read: each part once for all who share a reader, nothing that no stage asks for, nothing kept of what failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import chinese_reviews, reviews, tiny_recipe, word_pieces, write_csv
from trainables.data import corpus, sources, splits
from trainables.encoder.check import read_tokenizer
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task
from trainables.stages import inputs
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
    expected = [max(1, round(count * inputs.PIECES_PER_WORD)) for count in words]
    assert inputs.pieces_of(np.array(words)).tolist() == expected


@pytest.mark.parametrize("load", [corpus.load_corpus, inputs.load_mixture])
def test_without_a_reader_data_are_read_anew(load: Callable[..., Any], tmp_path: Path, read: list[str | None]) -> None:
    recipe = tiny_recipe(tmp_path, {"steps": 4})
    one, other = (load(list(recipe.tasks)[:1], recipe.tasks) for _ in range(2))
    assert one is not other
    assert len(read) == 2 * len(recipe.tasks)


def test_pieces_of_a_plan_are_counted_by_the_encoders_tokenizer(tmp_path: Path) -> None:
    texts = [text[:size] for text, _ in chinese_reviews(12) for size in (9, 21, 60)]
    write_csv(tmp_path / "train.csv", [(text, "好差"[i % 2]) for i, text in enumerate(texts)])
    tiny = tiny_recipe(tmp_path)
    task = Task(train=str(tmp_path / "train.csv"), test=str(tmp_path / "train.csv"))
    recipe = tiny.model_copy(update={"tasks": {tiny.task: task}, "encoder": word_pieces(tmp_path / "tokenizer")})
    planned = Inputs(recipe, counts=True)
    train = planned.target.train
    tokenizer = read_tokenizer(tmp_path / "tokenizer")
    true = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in train.texts)
    assert planned.lengths(train).sum() == pytest.approx(true, rel=0.05)
    assert Inputs(recipe).lengths(train).sum() > 1.15 * true, "by words"
    last = nodes(planned)[-1]
    per_epoch = last.tokens_estimate / recipe.stages[-1].epochs - 2 * len(train)
    cut = sum(min(length, recipe.stages[-1].max_length - 2) for length in planned.lengths(train).tolist())
    assert per_epoch == cut
    assert last.stage_id == nodes(Inputs(recipe))[-1].stage_id, "an estimate is no part of the name"


def test_only_a_sample_of_many_long_texts_is_tokenised() -> None:
    seen: list[str] = []

    def tokenizer(texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        seen.extend(texts)
        return {"input_ids": [[0] * len(text) for text in texts]}

    assert inputs._pieces_per_word(tokenizer, ["好" * 5000] * 10_000) == 1
    assert len(seen) * len(seen[0]) <= 2 * inputs.SAMPLE_TEXTS * inputs.SAMPLE_CHARACTERS
    assert inputs._pieces_per_word(tokenizer, [" "] * 3) is None


def test_without_a_tokenizer_every_word_has_the_pieces_of_an_english_one(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)  # its vocabulary is trained
    assert recipe.encoder.tokenizer is None
    planned, other = Inputs(recipe, counts=True), Inputs(recipe)
    assert planned.lengths(planned.target.train).tolist() == other.lengths(other.target.train).tolist()
