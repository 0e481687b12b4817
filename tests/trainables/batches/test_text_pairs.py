"""Tasks on pairs of texts: against the tokenizers' own pairs and transformers' own answers, and what must not matter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from transformers import ByT5Tokenizer

from tests.helpers import multitask_recipe, pair_recipe, pair_task, reviews, tiny_recipe, write_csv
from tests.trainables.batches.test_tokenise import KINDS, ODD, byte_bpe, wordpiece, xlnet
from tests.trainables.encoders import tiny_config
from tests.trainables.families import strong
from tests.trainables.resume import ONE_THREAD, same_bits, weights
from trainables.batches.pack import collate
from trainables.batches.special_tokens import special_tokens
from trainables.batches.tokenise import pieces
from trainables.batches.truncate import longest_first, truncate_pair
from trainables.data.corpus import load_corpus
from trainables.data.held_out import HeldOut
from trainables.data.splits import Split, carve, load_task, subset
from trainables.data.task_mixture import without
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.load import Base, base_of, fresh_encoder, hidden_states
from trainables.heads.classifier import classifier
from trainables.scores.bag_of_words import bag_of_words
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stage_rules import pair_faults
from trainables.settings.stages import Finetune
from trainables.settings.task import Task
from trainables.settings.validate import validate
from trainables.stages import run_recipe as runner
from trainables.stages.finetune import examples
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store

QUESTIONS = [text for text, _ in reviews()]
ANSWERS = [text for text, _ in reviews("sls_yelp")]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


# Tokens


@kinds
def test_special_tokens_of_a_pair_are_the_tokenizers_own(kind: Callable[[], Any], tmp_path: Path) -> None:
    tokenizer = kind()
    special = special_tokens(tokenizer).pair
    texts = [*QUESTIONS[:40], *ODD]
    others = [*ODD, *ANSWERS[:40]]
    a, b = (pieces(each, tokenizer, tmp_path, name) for name, each in (("a", texts), ("b", others)))
    for i, pair in enumerate(zip(texts, others, strict=True)):
        whole = tokenizer([pair], return_token_type_ids=True, verbose=False)
        assert special.wrap(a[i], b[i]).tolist() == whole["input_ids"][0]
        assert special.types_of(len(a[i]), len(b[i])).tolist() == whole["token_type_ids"][0]
    assert special.count == tokenizer.num_special_tokens_to_add(pair=True)


@given(a=st.integers(0, 40), b=st.integers(0, 40), budget=st.integers(0, 50))
def test_the_longer_text_is_cut_as_the_loop_does(a: int, b: int, budget: int) -> None:
    found, left = longest_first(a, b, budget), [a, b]
    while sum(left) > budget:
        left[int(left[1] >= left[0])] -= 1  # the second where they are equally long
    assert found == tuple(left)


@cache
def by_bytes() -> Any:
    """A tokenizer in pure Python: a piece for each byte."""
    return ByT5Tokenizer()


@given(a=st.integers(0, 30), b=st.integers(1, 30), budget=st.integers(2, 40))
def test_the_longer_text_is_cut_as_transformers_does(a: int, b: int, budget: int) -> None:
    tokenizer = by_bytes()
    ids = tokenizer("a" * a, "b" * b, truncation="longest_first", max_length=budget + 2)["input_ids"]
    assert longest_first(a, b, budget) == (ids.count(3 + ord("a")), ids.count(3 + ord("b")))


@given(a=st.integers(1, 20), b=st.integers(1, 20), budget=st.integers(2, 30))
def test_the_tokenizers_library_differs_by_an_odd_piece_alone(a: int, b: int, budget: int) -> None:
    """Its odd piece stays with the text that was longer, or with the second."""
    whole = wordpiece()(" ".join("a" * a), " ".join("a" * b), truncation="longest_first", max_length=budget + 3)
    theirs, ours = [whole.sequence_ids().count(side) for side in (0, 1)], longest_first(a, b, budget)
    odd = budget % 2 and min(a, b) > budget // 2 and b >= a
    assert theirs == [ours[0] - odd, ours[1] + odd]


A, B = np.arange(100, 120, dtype=np.int32), np.arange(200, 206, dtype=np.int32)


@pytest.mark.parametrize(
    ("how", "head_tokens", "expected"),
    [
        ("head", 9, [*range(100, 108)]),
        ("tail", 9, [*range(112, 120)]),
        ("head+tail", 3, [100, 101, 102, *range(115, 120)]),
        ("head+tail", 9, [*range(100, 107), 119]),
    ],
)
def test_each_text_is_cut_to_its_share_by_the_rule(how: str, head_tokens: int, expected: list[int]) -> None:
    for a, b, swapped in ((A, B, False), (B, A, True)):
        found = truncate_pair(a, b, 14, how, head_tokens)
        assert [side.tolist() for side in (found[::-1] if swapped else found)] == [expected, B.tolist()]


def test_short_and_empty_texts_stay_whole() -> None:
    none = np.zeros(0, np.int32)
    for a, b in ((B, none), (none, B), (none, none), (A[:8], B)):
        found = truncate_pair(a, b, 14, "head+tail", 9)
        assert [side.tolist() for side in found] == [a.tolist(), b.tolist()]
    alone, nothing = truncate_pair(A, none, 14, "tail")
    assert (alone.tolist(), nothing.tolist()) == ([*range(106, 120)], [])
    assert [len(side) for side in truncate_pair(A, B, 2, "head+tail", 9)] == [1, 1]
    with pytest.raises(ValueError, match="cannot keep a piece of both texts in 1"):
        truncate_pair(A, B, 1, "head")


# Encoders


ENCODERS: list[tuple[str, Callable[[], Any], dict[str, Any]]] = [
    ("bert", wordpiece, {}),
    ("albert", wordpiece, {}),
    ("electra", wordpiece, {}),
    ("distilbert", wordpiece, {}),
    ("modernbert", wordpiece, {}),
    ("roberta", byte_bpe, {"type_vocab_size": 1}),
    ("mpnet", byte_bpe, {}),
    ("deberta-v2", wordpiece, {"type_vocab_size": 0}),
    ("xlnet", xlnet, {}),
]


@cache
def base(kind: str, tokenizer: Callable[[], Any], changes: str = "{}") -> Base:
    """A tiny encoder of a family with a real tokenizer, and weights large enough that a wrong token type shows."""
    own = tokenizer()
    names = ("pad", "bos", "eos", "cls", "sep")
    ids = {f"{name}_token_id": getattr(own, f"{name}_token_id") for name in names if getattr(own, f"{name}_token_id") is not None}
    config = tiny_config(kind, **{"vocab_size": len(own)} | ids | json.loads(changes))
    return base_of(strong(config), special_tokens(own), own)


def made(of: Base, folder: Path, pairs: list[tuple[str, str]], **settings: Any) -> list[Any]:
    """The pairs as examples."""
    split = Split(tuple(map(" ".join, pairs)), np.arange(len(pairs)) % 2, tuple(pairs))
    stage = Finetune(**({"truncation": "head", "max_length": 300} | settings))
    return examples(split, pieces(split.sides, of.tokenizer, folder, split.digest), of, stage)


def states(of: Base, found: list[Any]) -> list[torch.Tensor]:
    """Hidden states [length, H] of every example, in one batch."""
    batch = collate(found, of)
    with torch.inference_mode():
        hidden = hidden_states(fresh_encoder(of, 0.0).eval(), batch)
    return list(hidden.split(list(batch.lengths)))


@pytest.mark.parametrize(("kind", "tokenizer", "changes"), ENCODERS, ids=[each[0] for each in ENCODERS])
def test_hidden_states_are_those_of_transformers_on_the_tokenizers_own_pairs(
    kind: str, tokenizer: Callable[[], Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    of = base(kind, tokenizer, json.dumps(changes))
    pairs = [*zip(QUESTIONS[:4], ANSWERS[:4], strict=True), (QUESTIONS[4], ""), ("", ANSWERS[5]), (QUESTIONS[6] * 9, ANSWERS[6])]
    length = 40 + of.special.pair.count  # an even budget: the odd piece does not matter
    for (a, b), state in zip(pairs, states(of, made(of, tmp_path, pairs, max_length=length)), strict=True):
        own = of.tokenizer(a, b, truncation="longest_first", max_length=length, return_token_type_ids=True, return_tensors="pt")
        given = {name: own[name] for name in ("input_ids", "attention_mask")}
        if of.takes_types:
            given["token_type_ids"] = own["token_type_ids"]
        with torch.inference_mode():
            theirs = of.model(**given).last_hidden_state[0]
        assert state.shape == theirs.shape
        torch.testing.assert_close(state, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kind", "tokenizer"), [("bert", wordpiece), ("roberta", byte_bpe), ("modernbert", wordpiece)])
def test_packed_equals_padded(kind: str, tokenizer: Callable[[], Any], tmp_path: Path) -> None:
    """Gradients too."""
    packed = base(kind, tokenizer)
    assert packed.packable
    found = made(packed, tmp_path, list(zip(QUESTIONS[:9], ANSWERS[:9], strict=True)), max_length=48)
    gradients = []
    for of in (packed, dataclasses.replace(packed, packable=False)):
        model = classifier(of, 2, "cls", 0.0, 0).train()
        batch = collate(found, of)
        assert len(batch.parts) == (1 if of.packable else len({part.input_ids.shape for part in batch.parts}))
        torch.nn.functional.cross_entropy(model(batch), batch.labels).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_micro_batches_change_no_dropout(kind: str, tmp_path: Path) -> None:
    of = base(kind, {"bert": wordpiece, "xlnet": xlnet}[kind])
    found = made(of, tmp_path, list(zip(QUESTIONS[:6], ANSWERS[:6], strict=True)), max_length=48)
    model = classifier(of, 2, "cls", 0.3, 0).train()
    with dropout_bits(3, 1, whole := collate(found, of)):
        together = model(whole)
    with dropout_bits(3, 1, last := collate(found[4:], of, before=found[:4])):
        torch.testing.assert_close(model(last), together[4:], rtol=1e-4, atol=1e-5)


def test_an_encoder_with_one_token_type_gets_no_other() -> None:
    """Also where the tokenizer tells two, as one trained here for a RoBERTa does."""
    for changes in ({"type_vocab_size": 1}, {"type_vocab_size": 2}):
        of = base("roberta", wordpiece, json.dumps(changes))
        assert of.takes_types
        assert set(of.special.pair.types_of(3, 4)) == set(range(changes["type_vocab_size"]))
    assert special_tokens(wordpiece()).pair.types_of(1, 2).tolist() == [0, 0, 0, 1, 1, 1]


def test_the_side_matters_where_there_are_types(tmp_path: Path) -> None:
    of = base("bert", wordpiece)
    ways = made(of, tmp_path, [("so good", "a film"), ("so good a", "film"), ("so good a film", "")])
    assert len({tuple(way.ids) for way in ways}) == 3
    assert [way.types.tolist().count(1) for way in ways[:2]] == [len(way.ids) - way.ids.tolist().index(3) - 1 for way in ways[:2]]
    alone = of.tokenizer("so good a film")["input_ids"]
    assert (ways[2].ids.tolist(), ways[2].types) == (alone, None), "a single text where there is no second"


# Data


def csv_task(folder: Path, content: str, **changes: Any) -> Task:
    (folder / "train.csv").write_text(content, encoding="utf-8")
    return Task(**({"train": str(folder / "train.csv"), "text": "a", "text_pair": "b", "validation_share": 0.5} | changes))


def test_rows_are_read_with_empty_sides(tmp_path: Path) -> None:
    rows = "a,c,b,label\n" + "one,1,two,x\n,,three,x\nfour,2,,y\n ,,,y\nfive,,six,y\n"
    data = load_task("mine", csv_task(tmp_path, rows), needs_test=False)
    kept = dict(
        zip(data.train.texts + data.validation.texts, (data.train.pairs or ()) + (data.validation.pairs or ()), strict=True)
    )
    assert kept == {"one two": ("one", "two"), "three": ("", "three"), "four": ("four", ""), "five six": ("five", "six")}
    assert data.test.pairs == ()
    assert "tasks.mine.train: 1 of 5 texts are empty and were dropped" in data.notices
    several = load_task("mine", csv_task(tmp_path, rows, text=("a", "c")), needs_test=False)
    assert ("one 1", "two") in (several.train.pairs or ()) + (several.validation.pairs or ())


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_every_format_gives_the_same_pairs(suffix: str, tmp_path: Path) -> None:
    rows = [{"a": f"question {i}", "b": f"answer {i}" if i % 3 else None, "label": "xy"[i % 2]} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = "".join(f"{row['a']},{row['b'] or ''},{row['label']}\n" for row in rows)
    expected = load_task("mine", csv_task(tmp_path, "a,b,label\n" + lines), needs_test=False)
    found = load_task("mine", csv_task(tmp_path, "", train=str(tmp_path / f"a.{suffix}")), needs_test=False)
    assert [found.digest(split) for split in ("train", "validation")] == [
        expected.digest(split) for split in ("train", "validation")
    ]


def test_faulty_columns_are_named_with_the_near_miss(tmp_path: Path) -> None:
    rows = "a,answer,label\n" + "one,two,x\nthree,four,y\n"
    for changes, message in [
        ({"text_pair": "anwser"}, "tasks.mine.train: there is no column 'anwser'; did you mean 'answer'?"),
        ({"text_pair": ("answer", "label")}, "tasks.mine.train: 'label' is named as both text and label column"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_task("mine", csv_task(tmp_path, rows, **changes), needs_test=False)
        assert caught.value.faults == (message,)
    for column, message in [("a", "'a' is a column of `text` already"), ([], "text_pair")]:
        with pytest.raises(ConfigError, match=message):
            validate(Task, {"train": "x.csv", "text": ["a", "b"], "text_pair": column})


def test_pairs_and_their_joins_are_different_data(tmp_path: Path) -> None:
    pair = pair_task(tmp_path)
    single = pair.model_copy(update={"text": ("question", "answer"), "text_pair": None})
    moved = pair.model_copy(update={"text": "answer", "text_pair": "question"})
    data = [load_task("mine", task) for task in (pair, single, moved)]
    assert data[0].train.texts == data[1].train.texts
    for split in ("train", "validation", "test"):
        assert len({each.digest(split) for each in data}) == 3
    ways = [None, (("a b", "c"),), (("a", "b c"),), (("a b c", ""),)]
    assert len({Split(("a b c",), np.zeros(1, np.int64), way).digest for way in ways}) == 4
    assert bag_of_words(data[0])["test"] == bag_of_words(data[1])["test"], "words of both sides"
    assert load_corpus(["a"], {"a": pair}).texts == load_corpus(["a"], {"a": single}).texts


def test_shares_subsets_and_copies_keep_pairs_together(tmp_path: Path) -> None:
    data = load_task("mine", pair_task(tmp_path))
    whole = dict(zip(data.train.texts, data.train.pairs or (), strict=True))
    assert len(whole) == 45
    small, large = subset(data.train, 10, 0), subset(data.train, 20, 0)
    rest, carved = carve(data.train, 0.3, 1)
    for part in (small, large, rest, carved, without(data.train, HeldOut(()))):
        assert all(whole[text] == pair for text, pair in zip(part.texts, part.pairs or (), strict=True))
        assert all(" ".join(filter(None, pair)) == text for text, pair in zip(part.texts, part.pairs or (), strict=True))
    assert set(small.pairs or ()) < set(large.pairs or ()) < set(data.train.pairs or ())
    assert set(rest.pairs or ()) | set(carved.pairs or ()) == set(data.train.pairs or ())


def test_copies_are_found_in_the_joined_text(tmp_path: Path) -> None:
    rows = [f"question {i},answer {i},{'xy'[i % 2]}\n" for i in range(8)]
    task = csv_task(tmp_path, "a,b,label\n" + "".join(rows))
    (tmp_path / "test.csv").write_text("a,b,label\nQuestion 1,answer  1,y\nquestion 2,another,x\n", encoding="utf-8")
    data = load_task("mine", task.model_copy(update={"test": str(tmp_path / "test.csv")}))
    assert any(notice.startswith("tasks.mine.test: 1 of 2 texts also occur in train") for notice in data.notices)
    assert "question 1 answer 1" not in load_corpus(["mine"], {"mine": data.task}).texts


# Stages


def test_a_recipe_is_tested_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    recipe = pair_recipe(tmp_path, epochs=3)
    whole, broken, split = (Store(str(tmp_path / name)) for name in "abc")
    rows = list(runner.run(recipe, whole, ONE_THREAD))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert 0 <= runner.evaluate_test(recipe, whole, ONE_THREAD)["error_rate_percent"] <= 100
    running = runner.run(recipe, broken, ONE_THREAD)
    next(running)
    running.close()
    again = list(runner.run(recipe, broken, ONE_THREAD))
    assert [row["source"] for row in again] == ["loaded", "computed", "computed"]
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    end = nodes(Inputs(recipe))[-1].stage_id
    assert same_bits(weights(whole, end), weights(broken, end))
    parts = list(runner.run(recipe, split, Execution(threads=1, micro_batch=3)))
    assert [row["train_loss"] for row in parts] == pytest.approx([row["train_loss"] for row in rows], abs=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "deberta-v2"])
def test_other_families_with_a_vocabulary_of_their_own(kind: str, tmp_path: Path) -> None:
    """The tokenizer trained here tells two token types, which these encoders do not know."""
    recipe = pair_recipe(tmp_path, epochs=1)
    fields = {"model_type": kind, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    if kind == "distilbert":
        fields = {"model_type": kind, "n_layers": 2, "n_heads": 2, "dim": 32, "hidden_dim": 64}
    elif kind == "roberta":
        fields["type_vocab_size"] = 1
    encoder = recipe.encoder.model_copy(update={"config": fields | {"max_position_embeddings": 64}})
    rows = list(runner.run(recipe.model_copy(update={"encoder": encoder}), Store(str(tmp_path / "store")), ONE_THREAD))
    assert np.isfinite(rows[-1]["loss"])


def test_pairs_and_single_texts_are_trained_together(tmp_path: Path) -> None:
    recipe = multitask_recipe(tmp_path)
    recipe = recipe.model_copy(update={"tasks": recipe.tasks | {"pairs": pair_task(tmp_path)}, "task": "pairs"})
    store = Store(str(tmp_path / "store"))
    rows = list(runner.run(recipe, store, ONE_THREAD))
    assert set(rows[0]["by_task"]) == {"reviews", "places", "pairs"}
    assert rows[-1]["stage"] == "finetune"
    assert np.isfinite(runner.evaluate_test(recipe, store, ONE_THREAD)["loss"])


def test_further_pretraining_reads_the_joined_texts(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, pretrain={"steps": 2})
    recipe = recipe.model_copy(update={"tasks": {"reviews": pair_task(tmp_path)}})
    rows = list(runner.run(recipe, Store(str(tmp_path / "store")), ONE_THREAD))
    assert [row["stage"] for row in rows][-3:] == ["pretrain", "finetune", "finetune"]


def test_identity(tmp_path: Path) -> None:
    """The second text changes the data, and with them every stage that reads the labelled texts."""
    recipe = pair_recipe(tmp_path)
    single = recipe.tasks["reviews"].model_copy(update={"text": ("question", "answer"), "text_pair": None})
    other = recipe.model_copy(update={"tasks": {"reviews": single}})
    assert nodes(Inputs(recipe))[-1].stage_id != nodes(Inputs(other))[-1].stage_id
    folder = tmp_path / "copy"
    folder.mkdir()
    again = recipe.model_copy(update={"tasks": {"reviews": pair_task(folder)}})
    assert nodes(Inputs(again))[-1].stage_id == nodes(Inputs(recipe))[-1].stage_id


def test_settings_that_pairs_cannot_have_are_refused(tmp_path: Path) -> None:
    recipe = pair_recipe(tmp_path).canonical()
    recipe["stages"][0] |= {"truncation": "hier-mean", "max_length": 5}
    with pytest.raises(ConfigError) as caught:
        validate(Recipe, recipe)
    (fault,) = caught.value.faults
    assert (
        "finetune.truncation: hier-mean given, but pairs of texts are not read in fractions; use head, tail or head+tail" in fault
    )
    assert "finetune.max_length: 5 given, but a pair of texts needs at least 6" in fault
    assert pair_faults(Finetune(max_length=6, truncation="head")) == []
    shortest = pair_recipe(tmp_path, max_length=6, truncation="head", epochs=1)
    assert len(list(runner.run(shortest, Store(str(tmp_path / "store")), ONE_THREAD))) == 1
    many = multitask_recipe(tmp_path, {"max_length": 5, "head_tokens": 1}).canonical()
    assert validate(Recipe, many)
    many["tasks"]["places"] = pair_task(tmp_path).canonical()
    with pytest.raises(ConfigError, match=r"multitask\.max_length: 5 given, but a pair of texts needs at least 6"):
        validate(Recipe, many)
    many["stages"][0]["tasks"] = ["reviews"]
    assert validate(Recipe, many), "the pairs are not among the stage's tasks"


def test_single_texts_are_what_they_were(tmp_path: Path) -> None:
    """The digest of single texts, written down: what was computed on them stays valid."""
    rows = [("good", "a"), ("bad", "b"), ("fine", "a"), ("poor", "b")]
    files = {split: write_csv(tmp_path / f"{split}.csv", rows) for split in ("train", "validation", "test")}
    assert load_task("mine", Task(**files)).digest("train")[:16] == "7862cceeb9ff95e1"
