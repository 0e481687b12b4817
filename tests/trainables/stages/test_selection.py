"""Automatically selected TAPT: what is read, what is never read, and that it is found out once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from tests.helpers import TINY_BERT, reviews, tiny_recipe, tiny_task, write_csv
from trainables.data import similarity
from trainables.data.corpus import load_corpus
from trainables.data.normal_forms import bare
from trainables.data.splits import load_task
from trainables.encoder.load import load_base
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.task import Task
from trainables.settings.validate import validate
from trainables.stages import run_recipe as runner
from trainables.stages import text_vectors
from trainables.stages.identity import nodes, recipe_name
from trainables.stages.inputs import Inputs
from trainables.stages.jobs import base_of, corpus_read
from trainables.stages.node import settings_of
from trainables.stages.selection import pool, selected
from trainables.store.artifact_files import WEIGHTS
from trainables.store.store import Store, stage_id

CPU = torch.device("cpu")
UNSET = {"steps": 100_000, "schedule_steps": 100_000}
"""Lengths at their defaults, as `epochs` asks for."""


def recipe_with(folder: Path, **pretrain: Any) -> Recipe:
    """Further pre-training on a tiny task's texts and on what is selected of 60 others."""
    path = folder / "pool.txt"
    path.write_text("\n".join(text for text, _ in reviews("sls_yelp", limit=60)), encoding="utf-8")
    return tiny_recipe(folder, pretrain={"corpus": ("within-task", str(path)), "select": "nearest", "neighbours": 2} | pretrain)


def read(recipe: Recipe, store: Store) -> Any:
    stage = recipe.stages[0]
    assert isinstance(stage, Pretrain)
    return corpus_read(Inputs(recipe), stage, store, CPU)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_what_is_read(tmp_path: Path, store: Store) -> None:
    """The target's own texts and the nearest of the others by scikit-learn's TF-IDF; without `within-task` the latter alone."""
    recipe = recipe_with(tmp_path)
    own, others = list(Inputs(recipe).target.train.texts), [text for text, _ in reviews("sls_yelp", limit=60)]
    candidates, queries = similarity.tfidf(others, sorted(set(own)))
    cosines = (queries @ candidates.T).toarray()
    expected = {others[i] for row in cosines for i in np.argsort(-row, kind="stable")[:2]}
    found = read(recipe, store)
    assert sorted(found.texts) == sorted([*own, *expected])
    assert any(f"{len(expected)} of 60 texts selected" in notice for notice in found.notices)
    alone = recipe_with(tmp_path, corpus=(str(tmp_path / "pool.txt"),))
    assert set(read(alone, store).texts) == expected


def test_random_is_of_the_same_size_and_by_seed(tmp_path: Path, store: Store) -> None:
    near = read(recipe_with(tmp_path), store)
    drawn = [read(recipe_with(tmp_path, select="random", seed=seed), store) for seed in (0, 0, 1)]
    own = set(Inputs(recipe_with(tmp_path)).target.train.texts)
    assert [len(each.texts) for each in drawn] == [len(near.texts)] * 3
    assert len(set(drawn[0].texts)) == len(drawn[0].texts)
    assert own <= set(drawn[0].texts)
    assert drawn[0].texts == drawn[1].texts != drawn[2].texts
    assert set(drawn[0].texts) != set(near.texts)


def test_more_neighbours_than_texts_select_all_and_say_so(tmp_path: Path, store: Store) -> None:
    told = "61 given, but there are 60 texts to select from: all are selected"
    recipe = recipe_with(tmp_path, neighbours=61, embeddings="encoder")
    found = read(recipe, store)
    assert sorted(found.texts) == sorted(Inputs(recipe).corpus(recipe.stages[0]).texts)  # type: ignore[arg-type]
    assert f"neighbours: {told}" in found.notices
    few = read(recipe_with(tmp_path, neighbours=61), store)
    assert set(found.texts) - set(few.texts) == {"Seriously flavorful delights, folks."}
    assert f"neighbours: {told} that share a word with a training text" in few.notices


def test_candidates_are_each_once_and_never_the_targets_own(tmp_path: Path, store: Store) -> None:
    task = tiny_task(tmp_path)
    own = load_task("reviews", task).train.texts
    file = tmp_path / "pool.txt"
    file.write_text("\n".join([own[0].upper(), "new text", "New text!", own[1], "zygotes"]), encoding="utf-8")
    corpus = load_corpus((), {"reviews": task}, (str(file),))
    found = pool(corpus, load_task("reviews", task), False)
    assert found.candidates == ("new text", "zygotes")
    assert not len(found.own)
    stage = Pretrain(corpus=(str(file),), select="nearest", neighbours=5)
    assert selected(stage, found, store, "", lambda *_: None).texts == ("new text",)  # "zygotes" shares no word


def test_texts_that_share_no_word_select_none_and_say_so(tmp_path: Path, store: Store) -> None:
    """And the control draws as many as were selected; a corpus that shares none with any is refused before anything is computed."""
    rows = [("soup cold", "a"), ("birds fly", "b"), ("xyzzy", "a"), ("?!", "b")]
    split = {
        name: write_csv(tmp_path / f"{name}.csv", [(f"{name} {i}", "ab"[i]) for i in range(2)]) for name in ("validation", "test")
    }
    data = load_task("mine", task := Task(train=write_csv(tmp_path / "train.csv", rows), **split))
    file = tmp_path / "pool.txt"

    def found(lines: list[str], keeps: bool = False) -> Any:
        file.write_text("\n".join(lines), encoding="utf-8")
        return pool(load_corpus(("mine",) if keeps else (), {"mine": task}, (str(file),)), data, keeps)

    few = found(["one", "two", "hot soup", "three", "birds", "four", "!!"])
    both = [Pretrain(corpus=(str(file),), select=select, neighbours=3) for select in ("nearest", "random")]  # type: ignore[arg-type]
    near, drawn = (selected(stage, few, store, "", lambda *_: None) for stage in both)
    assert near.texts == ("hot soup", "birds")
    assert len(drawn.texts) == 2
    told = "embeddings: tfidf: 2 of 4 training texts share no word with any of 7 texts: none is selected for them"
    assert told in near.notices
    assert near.notices[-1].startswith("2 of 7 texts selected")
    none = found(["one", "two"])
    with pytest.raises(
        ConfigError, match="nothing to select: none of 4 training texts shares a word with any of 2 texts; name another"
    ):
        none.notices(3, "tfidf")
    assert none.notices(1, "encoder") == ()
    beside = found(["one", "two"], keeps=True)
    assert len(selected(both[0], beside, store, "", lambda *_: None).texts) == 4
    assert any("4 of 4 training texts share no word" in notice for notice in beside.notices(1, "tfidf"))


def test_selections_that_are_what_they_were_keep_their_names(tmp_path: Path) -> None:
    """Others must not be taken from a store that holds what was selected by another rule."""
    rows = {
        "train": [("the soup", "a"), ("the birds", "b")],
        "test": [("x", "a"), ("y", "b")],
        "validation": [("v", "a"), ("w", "b")],
    }
    task = Task(**{name: write_csv(tmp_path / f"{name}.csv", each) for name, each in rows.items()})  # type: ignore[arg-type]
    lines = ["the day", "the night", "the war", "a\u00a0film \u2026", "café of the world"]

    def ids(more: list[str], **fields: Any) -> tuple[tuple[str, ...], str]:
        path = tmp_path / f"{len(more)}-{more}.txt"
        path.write_text("\n".join([*lines, *more]), encoding="utf-8")
        pretrain = {"corpus": (str(path),), "select": "nearest", "neighbours": 4} | fields
        recipe = tiny_recipe(tmp_path, pretrain=pretrain).model_copy(update={"tasks": {"mine": task}, "task": "mine"})
        stage = recipe.stages[0]
        assert isinstance(stage, Pretrain)
        inputs = Inputs(recipe)
        found, node = inputs.pool(stage), nodes(inputs)[0]
        rule = found.rule(stage.neighbours, stage.embeddings)
        old = {"settings": settings_of(stage), "parent": inputs.encoder_id, "precision": recipe.precision, "data": found.digests}
        assert (node.trajectory_id == stage_id("pretrain", old)) == (not rule)
        return rule, node.stage_id

    assert ids([])[0] == ids(["other words"])[0] == ids([], embeddings="encoder")[0] == ()
    assert ids([], neighbours=5)[0] == ids(["the 汉字"])[0] == ids(["the ที่"])[0] == ids([], neighbours=9)[0] == ("by shared words",)


WORDS = st.sampled_from(["soup", "film", "bird", "war", "cold", "good"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 4), st.booleans(), st.sampled_from(["nearest", "random"]))
def test_held_out_texts_are_never_selected(
    others: list[str], held_out: list[str], neighbours: int, keeps: bool, select: str
) -> None:
    """Nor near copies of them; and what is read is the target's own (where it is named) or from the corpus."""
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "train": write_csv(Path(folder) / "train.csv", [("soup good", "yes"), ("bird war", "no")]),
            "validation": write_csv(Path(folder) / "validation.csv", [("held", "yes"), ("back", "no")]),
            "test": write_csv(Path(folder) / "test.csv", [(text, label) for text in held_out for label in ("yes", "no")]),
        }
        task = Task(**files)
        (Path(folder) / "pool.txt").write_text(
            "\n".join([*others, *(text.upper() + "!" for text in held_out), "soup, war, the last one"])
        )
        data = load_task("mine", task)
        corpus = load_corpus(("mine",) if keeps else (), {"mine": task}, (f"{folder}/pool.txt",))
        stage = Pretrain(corpus=("x.txt",), select=select, neighbours=neighbours)  # type: ignore[arg-type]
        found = selected(stage, pool(corpus, data, keeps), Store(f"{folder}/store"), "", lambda *_: None)
        forbidden = {bare(text) for text in (*data.test.texts, *data.validation.texts)}
        assert not forbidden & set(map(bare, found.texts))
        assert set(found.texts) <= set(corpus.texts)
        mine = {bare(text) for text in data.train.texts}
        assert keeps or not mine & set(map(bare, found.texts))
        assert not keeps or mine - forbidden <= set(map(bare, found.texts))


def test_nothing_to_select_from(tmp_path: Path) -> None:
    for corpus in ((), ("within-task",)):
        with pytest.raises(ConfigError, match=r"the corpus has only the target's own texts.*corpus: \[within-task, pool.txt\]"):
            validate(Pretrain, {"select": "nearest", "corpus": corpus})
    recipe = recipe_with(tmp_path, corpus=("cross-domain",))  # there is no other task
    with pytest.raises(ConfigError, match=r"nothing to select from: all \d+ texts are those of 'reviews'; name another task"):
        nodes(Inputs(recipe))


def test_settings_that_contradict_each_other() -> None:
    for data, fault in (
        ({"select": "nearest", "corpus": ["a.txt"], "epochs": 3}, "epochs is 3, but how many texts select nearest leaves"),
        ({"select": "nearest", "corpus": ["a.txt"], "neighbours": 0}, "neighbours: 0 given"),
        ({"select": "neares", "corpus": ["a.txt"]}, "did you mean 'nearest'?"),
        ({"epochs": 3, "steps": 10}, "steps is 10, but epochs, 3, replaces it; to use steps, set epochs: null"),
        ({"epochs": 3, "schedule_steps": 10}, "schedule_steps is 10, but epochs"),
        ({"epochs": 0}, "epochs: 0 given"),
    ):
        with pytest.raises(ConfigError) as caught:
            validate(Pretrain, data)
        assert fault in str(caught.value)


def test_identity(tmp_path: Path) -> None:
    """By what determines what is selected, which is not computed; at `all` the settings change nothing."""

    def ids(**pretrain: Any) -> tuple[str, ...]:
        return tuple(node.stage_id for node in nodes(Inputs(recipe_with(tmp_path, **pretrain))))

    base = ids()
    changed = [
        {"neighbours": 3},
        {"select": "random"},
        {"select": "all"},
        {"embeddings": "encoder"},
        {"seed": 1},
        {"corpus": (str(tmp_path / "pool.txt"),)},
    ]
    found = [ids(**fields) for fields in changed]
    assert not set(base) & {each for pair in found for each in pair}
    assert len({pair[0] for pair in found}) == len(changed)
    assert ids(select="all", neighbours=3, embeddings="encoder") == ids(select="all")
    assert ids(corpus=("reviews", str(tmp_path / "pool.txt"))) == base
    recipe = recipe_with(tmp_path)
    with open(tmp_path / "pool.txt", "a", encoding="utf-8") as file:
        file.write("\none more")
    (tmp_path / "b").mkdir()
    moved = recipe.model_copy(update={"tasks": {"mine": tiny_task(tmp_path / "b")}, "task": "mine"})
    assert not set(base) & {node.stage_id for node in nodes(Inputs(moved))}


def test_names(tmp_path: Path) -> None:
    assert recipe_name(recipe_with(tmp_path)) == "BERT-kNN-TAPT-FiT"
    assert recipe_name(recipe_with(tmp_path, select="random")) == "BERT-RAND-TAPT-FiT"
    assert recipe_name(recipe_with(tmp_path, steps=0)) == "BERT-FiT"
    assert (
        recipe_name(tiny_recipe(tmp_path, pretrain={"epochs": 2, "steps": 100_000, "schedule_steps": 100_000})) == "BERT-ITPT-FiT"
    )


def test_is_found_out_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other trajectories, the control and other processes read what was selected before."""
    first = read(recipe_with(tmp_path), store)

    def fail(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(similarity, "tfidf", fail)
    again = Store(store.url)
    assert read(recipe_with(tmp_path, learning_rate=1e-3), again).texts == first.texts
    assert len(read(recipe_with(tmp_path, select="random"), again).texts) == len(first.texts)
    with pytest.raises(AssertionError, match="computed again"):
        read(recipe_with(tmp_path, neighbours=3), again)


@pytest.mark.parametrize("select", ["nearest", "random"])
@pytest.mark.parametrize("kind", ["tfidf", "encoder"])
def test_runs_and_resumes_bit_for_bit(tmp_path: Path, kind: str, select: str) -> None:
    recipe = recipe_with(tmp_path, embeddings=kind, select=select)
    whole, broken = Store(str(tmp_path / "whole")), Store(str(tmp_path / "broken"))
    rows = list(runner.run(recipe, whole))
    assert rows[0]["recipe"] == ("BERT-kNN-TAPT-FiT" if select == "nearest" else "BERT-RAND-TAPT-FiT")
    assert any("of 60 texts selected" in notice for notice in rows[0]["notices"])
    steps = runner.run(recipe, broken, Execution(state_every_steps=1))
    next(steps)
    steps.close()
    again = list(runner.run(recipe, broken))
    losses = [[row.get("loss") for row in found] for found in (rows, again)]
    assert losses[0] == losses[1]
    name = nodes(Inputs(recipe))[0].stage_id
    weights = [each.get(name).path(WEIGHTS).read_bytes() for each in (whole, broken)]  # type: ignore[union-attr]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("changes", [{}, {"model_type": "xlnet", "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}])
def test_vectors_of_the_encoder_are_means_of_its_last_layer(tmp_path: Path, store: Store, changes: dict[str, Any]) -> None:
    """Packed or padded, against transformers, a text at a time; long ones by what the encoder has positions for."""
    config = changes or TINY_BERT | {"max_position_embeddings": 32}
    texts = (*(text for text, _ in reviews(limit=12)), " ".join(text for text, _ in reviews(limit=30)))
    base = load_base(Encoder(config=config, vocabulary=400), texts)
    found = text_vectors.embedded(texts, "texts", base, "encoder", store, CPU)
    model = AutoModel.from_config(base.config).eval()
    model.load_state_dict(base.model.state_dict(), strict=False)
    for row, text in zip(found, texts, strict=True):
        ids = base.tokenizer(text, truncation=True, max_length=base.longest or 512, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=2e-6)
    path = found.filename  # type: ignore[attr-defined]
    again = text_vectors.embedded(texts, "texts", base, "encoder", store, CPU)
    assert again.filename == path  # type: ignore[attr-defined]


def test_torn_vectors_are_computed_again(tmp_path: Path, store: Store) -> None:
    recipe = recipe_with(tmp_path)
    base, texts = base_of(Inputs(recipe)), tuple(text for text, _ in reviews(limit=5))
    found = np.array(text_vectors.embedded(texts, "texts", base, Inputs(recipe).encoder_id, store, CPU))
    (path,) = store.local_cache("embeddings").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    np.testing.assert_array_equal(text_vectors.embedded(texts, "texts", base, Inputs(recipe).encoder_id, store, CPU), found)


def test_epochs_are_steps(tmp_path: Path) -> None:
    """45 training texts, 8 a batch: 6 steps a pass. The same as those steps written out; half passes too, never no step."""

    def node(**pretrain: Any) -> Any:
        return nodes(Inputs(tiny_recipe(tmp_path, pretrain=pretrain)))[0]

    two = node(epochs=2, **UNSET)
    assert (two.steps, two.stage.schedule_steps) == (12, 12)
    assert two.stage_id == node(steps=12, schedule_steps=12).stage_id
    assert two.trajectory_id != node(epochs=3, **UNSET).trajectory_id
    assert node(epochs=2.5, **UNSET).steps == 15
    assert node(epochs=0.01, **UNSET).steps == 1
    assert node(epochs=100, batch_size=64, **UNSET).steps == 100
    rows = list(runner.run(tiny_recipe(tmp_path, pretrain={"epochs": 1} | UNSET), Store(str(tmp_path / "store")), last="pretrain"))
    assert rows[-1]["step"] == 6


def test_pool_of_a_recipe(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path)
    assert isinstance(recipe.stages[0], Pretrain)
    found = Inputs(recipe).pool(recipe.stages[0])
    assert (len(found.own), len(found.places)) == (45, 60)
