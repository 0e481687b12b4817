"""Every family of encoders through everything that a study does with one: a row for each family, a test for each property.

The reference is transformers itself: the checkpoint read anew for each text, which goes through it alone and unpadded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from study.planning.check import OFFSET_POSITIONS
from study.survey.encoders import TABLE
from tests.helpers import reviews, tiny_encoder, tiny_recipe
from tests.trainables.families import FAMILIES, base, checkpoint, encoder, inputs_of
from trainables.batches.pack import Example, collate, token_types
from trainables.data.splits import Split
from trainables.encoder import lora
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.load import Base, fresh_encoder, hidden_states, model_state
from trainables.encoder.recompute import recompute_blocks
from trainables.heads.abilities import abilities_of
from trainables.heads.classifier import classifier
from trainables.heads.masked_lm import masked_lm
from trainables.heads.next_sentence import paired_lm
from trainables.scores.evaluate import predict, write_predictions
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.stages import finetune, jobs
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store
from trainables.training import optimizer
from trainables.training.runtime import Runtime
from trainables.training.world import current

LENGTHS = (9, 5, 26, 8, 40, 64, 9)
"""Pieces of texts: two of BigBird's are long enough for its sparse attention."""
every_family = pytest.mark.parametrize("kind", FAMILIES)


def texts_of(base: Base, lengths: Sequence[int] = LENGTHS) -> list[Example]:
    """Reviews of these lengths with their special tokens, in three classes, with a piece or two to predict."""
    words = " ".join(text for text, _ in reviews(limit=60))
    ids = np.array(base.tokenizer(words, add_special_tokens=False)["input_ids"], dtype=np.int32)
    found, rng = [], np.random.default_rng(0)
    for number, length in enumerate(lengths):
        text = base.special.wrap(ids[number * 50 :][: length - base.special.count])
        places = np.unique(rng.integers(0, length, 2))
        found.append(Example(text, number % 3, (places, text[places[::-1]].astype(np.int64))))
    return found


def read(kind: str, made: Any = AutoModel) -> Any:
    """The checkpoint by transformers alone."""
    return made.from_pretrained(checkpoint(kind), attn_implementation="eager", dtype=torch.float32)


def close(found: Tensor, expected: Tensor, message: str | None = None) -> None:
    size = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * max(size, 1e-3), msg=message)


def test_the_table_has_these_families() -> None:
    assert list(TABLE) == list(FAMILIES)


@every_family
def test_the_table_says_what_is_measured(kind: str) -> None:
    """A wrong cell of `study encoders` and docs/encoders.md fails here."""
    model = base(kind).model
    row, found = TABLE[kind], abilities_of(base(kind, type_vocab_size=2) if TABLE[kind].pairs else base(kind))
    assert (found.packed, found.masked, found.pairs, found.types) == (row.padded is None, row.masked, row.pairs, row.types)
    assert (found.layers, found.blocks) == (3, 1 if row.shared else 3)
    assert (found.longest is not None) == row.learned
    if row.learned:
        assert found.longest == 200 - (2 if kind in OFFSET_POSITIONS else 0)
    reason = f"{kind} takes padded batches, which are slower: its attention cannot be replaced (0 calls for 3 layers)"
    in_float32 = f"{kind} computes in float32 also in 16-bit precision, which its block-sparse attention lacks"
    expected = [*([reason] if row.padded else []), *([in_float32] if kind == "big_bird" else [])]
    assert [notice for notice in found.notices if "pooler" not in notice] == expected
    assert any("no pooler in the checkpoint" in notice for notice in found.notices) == (base(kind).pooler is None)
    names, every = (set(each.values()) for each in (lora.chosen(model, 3, None), lora.linear_layers(model, 3)))
    assert names == (set(row.adapters) if row.adapters else every)


@every_family
def test_states_and_gradients_are_those_of_transformers(kind: str) -> None:
    ours = fresh_encoder(base(kind), 0.0).train()
    texts = texts_of(base(kind))
    states = hidden_states(ours, collate(texts, base(kind))).split([len(text.ids) for text in texts])
    weight = torch.randn(max(LENGTHS), 32, generator=torch.Generator().manual_seed(0))
    sum((state * weight[: len(state)]).sum() for state in states).backward()
    wanted: dict[str, Tensor] = {}
    for text, state in zip(texts, states, strict=True):
        theirs = read(kind).train()
        expected = theirs(**inputs_of(text, base(kind))).last_hidden_state[0, : len(text.ids)]
        close(state, expected)
        (expected * weight[: len(expected)]).sum().backward()
        for name, parameter in theirs.named_parameters():
            if parameter.grad is not None:
                wanted[name] = wanted.get(name, 0) + parameter.grad
    size = max(float(gradient.abs().max()) for gradient in wanted.values())
    found = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    assert found.keys() == {name for name in wanted if not name.startswith("pooler.")}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=2e-5 * size, msg=name)


def test_texts_beyond_512_go_through_windows_uncut() -> None:
    """The attention windows of the two families for long texts, whatever stands beside a text and came before it."""
    for kind in ("longformer", "big_bird"):
        lengths = (640, 12, 700)
        long = base(kind, max_position_embeddings=800)
        texts = texts_of(long, lengths)
        model = fresh_encoder(long, 0.0).eval()
        with torch.inference_mode():
            hidden_states(model, collate(texts_of(long, (5,)), long))
            states = hidden_states(model, collate(texts, long)).split(list(lengths))
            for text, state in zip(texts, states, strict=True):
                theirs = AutoModel.from_pretrained(long.folder, attn_implementation="eager", dtype=torch.float32).eval()
                close(state, theirs(**inputs_of(text, long)).last_hidden_state[0, : len(text.ids)])


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "xlnet"])
def test_masked_pieces_are_those_of_transformers(kind: str) -> None:
    ours = masked_lm(base(kind), 0.1, seed=0).eval()
    assert ours.notices == ()
    assert {name.split(".")[0] for name in model_state(ours)} == {"encoder", "head"}
    texts = texts_of(base(kind))
    with torch.inference_mode():
        found = ours(collate(texts, base(kind)))
        expected = [read(kind, AutoModelForMaskedLM)(**inputs_of(text, base(kind))).logits[0][text.masked[0]] for text in texts]
    close(found, torch.cat(expected))


def test_a_family_without_a_head_for_masked_pieces_says_so() -> None:
    with pytest.raises(ConfigError, match="xlnet encoders have no masked-language-modelling head"):
        masked_lm(base("xlnet"), 0.1, seed=0)


@pytest.mark.parametrize("kind", [kind for kind, row in TABLE.items() if row.pairs])
def test_pairs_are_told_apart_by_their_types(kind: str) -> None:
    """Both texts' pieces with types of their own, against transformers; the head on the first token is the formula."""
    taken = base(kind, type_vocab_size=2)
    model = paired_lm(taken, 0.1, seed=0).eval()
    rows = []
    with torch.inference_mode():
        texts = [replace(text, types=(np.arange(len(text.ids)) > 4).astype(np.int64)) for text in texts_of(taken)]
        for text in texts:
            theirs = AutoModel.from_pretrained(taken.folder, attn_implementation="eager", dtype=torch.float32).eval()
            inputs = inputs_of(text, taken)
            inputs["token_type_ids"][0, : len(text.ids)] = torch.from_numpy(text.types)
            pooled = torch.tanh(model.pooler(theirs(**inputs).last_hidden_state[0, 0]))
            rows.append(model.next_sentence(pooled))
        close(model(collate(texts, taken))[1], torch.stack(rows))
        alike = [replace(text, types=np.zeros_like(text.types)) for text in texts]
        assert (model(collate(alike, taken))[1] - torch.stack(rows)).abs().max() > 1e-3


NUMBER = re.compile(r"(?:^|\.)(?:layer|layers|h)\.(\d+)\.")


@every_family
def test_every_parameter_is_in_one_group_with_its_rate(kind: str) -> None:
    """The number in a parameter's own name against the rate of the group that it is in."""
    model = classifier(base(kind), 2, "pooled", 0.1, seed=0)
    groups = optimizer.parameter_groups(model, model.encoder, 3, learning_rate=1.0, xi=0.5)
    rates: dict[int, list[float]] = {}
    for group in groups:
        for parameter in group["params"]:  # type: ignore[attr-defined]
            rates.setdefault(id(parameter), []).append(group["lr"])  # type: ignore[arg-type]
    inside = set()
    for name, parameter in model.named_parameters():
        (rate,) = rates.pop(id(parameter))
        number = NUMBER.search(name)
        if "albert_layer_groups" in name:
            assert rate == 1.0, "its one block counts as the last"
        elif number:
            inside.add(int(number[1]))
            assert rate == 0.5 ** (2 - int(number[1])), name
        else:
            of_head = not name.startswith("encoder.") or name in ("encoder.final_norm.weight", "encoder.encoder.LayerNorm.weight")
            assert rate == (1.0 if of_head or name == "encoder.encoder.LayerNorm.bias" else 0.125), name
    assert not rates
    assert inside == ({0, 1, 2} if kind != "albert" else set())


@every_family
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_vectors_of_each_layer_are_those_of_transformers(kind: str, layer: int) -> None:
    texts = texts_of(base(kind))
    with torch.inference_mode():
        found = classifier(base(kind), 2, "cls", 0.1, 0, layers=(layer,)).eval().vectors(collate(texts, base(kind)))
        for text, vector in zip(texts, found, strict=True):
            whole = read(kind).eval()(**inputs_of(text, base(kind)), output_hidden_states=True)
            states = whole.last_hidden_state if layer == 2 else whole.hidden_states[layer + 1]
            close(vector, states[0, 0 if base(kind).special.prefix else -1])


@every_family
@pytest.mark.parametrize("how", ["head", "tail"])
def test_truncation_is_that_of_the_tokenizer(kind: str, how: str) -> None:
    split = Split(tuple(text for text, _ in reviews(limit=20)), np.zeros(20, dtype=np.int64))
    pieces = [np.array(base(kind).tokenizer(text, add_special_tokens=False)["input_ids"], np.int32) for text in split.texts]
    ours = finetune.examples(split, pieces, base(kind), Finetune(max_length=24, truncation=how))  # type: ignore[arg-type]
    theirs = AutoTokenizer.from_pretrained(checkpoint(kind), truncation_side={"head": "right", "tail": "left"}[how])
    assert max(len(each) for each in pieces) > 24
    for text, found in zip(split.texts, ours, strict=True):
        expected = theirs(text, truncation=True, max_length=24, return_token_type_ids=True)
        assert found.ids.tolist() == expected["input_ids"]
        assert token_types(len(found.ids), base(kind)).tolist() == expected["token_type_ids"]


@every_family
def test_fractions_are_those_of_transformers(kind: str) -> None:
    """Three texts of 3, 1 and 3 fractions, by the mean over what transformers makes of each fraction."""
    sequences, counts = texts_of(base(kind)), (3, 1, 3)
    texts, theirs = [], []
    model = classifier(base(kind), 2, "cls", 0.1, 0, fractions="mean").eval()
    with torch.inference_mode():
        for start, count in zip((0, 3, 4), counts, strict=True):
            mine = sequences[start : start + count]
            texts.append(Example(np.concatenate([each.ids for each in mine]), 0, fractions=tuple(len(each.ids) for each in mine)))
            place = 0 if base(kind).special.prefix else -1
            each = [read(kind).eval()(**inputs_of(one, base(kind))).last_hidden_state[0, place] for one in mine]
            theirs.append(torch.stack(each).mean(0))
        close(model(collate(texts, base(kind))), model.classifier(torch.stack(theirs)))


def gradients(model: Any, base: Base, texts: list[Example], micro: int) -> dict[str, Tensor]:
    """All gradients of one step in micro-batches, with dropout, and the logits."""
    model.zero_grad()
    logits = []
    for start in range(0, len(texts), micro):
        batch = collate(texts[start : start + micro], base, before=texts[:start])
        with dropout_bits(5, 1, batch):
            logits.append(model(batch))
            torch.nn.functional.cross_entropy(logits[-1], batch.labels, reduction="sum").backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": torch.cat(logits).detach(), **found}


@every_family
def test_dropout_does_not_depend_on_the_micro_batch(kind: str) -> None:
    texts = texts_of(base(kind), (22, 9, 21, 8, 40, 24, 9, 20))
    model = classifier(base(kind), 3, "pooled", 0.2, seed=0).train()
    whole = gradients(model, base(kind), texts, 8)
    size = max(float(gradient.abs().max()) for gradient in whole.values())
    for micro in (1, 3):
        parts = gradients(model, base(kind), texts, micro)
        assert parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5 * size, msg=name)
    still = gradients(classifier(base(kind), 3, "pooled", 0.0, seed=0).train(), base(kind), texts, 8)
    assert (still["logits"] - whole["logits"]).abs().max() > 1e-3, "dropout does something"


@every_family
def test_gradient_checkpointing_changes_no_bit(kind: str) -> None:
    """With dropout, in several padded groups, of which BigBird takes some with sparse and some with full attention."""
    texts = texts_of(base(kind), (40, 9, 21, 8, 64, 9))
    whole = Example(np.concatenate([text.ids for text in texts]), 1, fractions=tuple(len(text.ids) for text in texts))
    for fractions, batch in ((None, texts), ("attention", [whole, whole])):
        plain, again = (classifier(base(kind), 3, "pooled", 0.2, seed=0, fractions=fractions).train() for _ in range(2))
        recompute_blocks(again.encoder)
        expected, found = (gradients(model, base(kind), batch, 4) for model in (plain, again))
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def recipe_of(kind: str, folder: Path) -> Recipe:
    """Further pre-training where the family can, then fine-tuning."""
    pretrain = None if kind == "xlnet" else {"max_length": 32}
    return tiny_recipe(folder, pretrain, max_length=32, learning_rate=1e-4).model_copy(update={"encoder": encoder(kind)})


@every_family
def test_a_recipe_trains_saves_and_reloads(kind: str, tmp_path: Path) -> None:
    """The weights that a stage leaves, read by another model, give the predictions that it left, to the bit."""
    recipe, store = recipe_of(kind, tmp_path), Store(str(tmp_path / "store"))
    rows = list(runner.run(recipe, store, Execution(threads=1)))
    losses = [row["train_loss"] for row in rows if row["stage"] == "finetune"]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    artifact = store.get(nodes(Inputs(recipe))[-1].stage_id)
    assert artifact is not None
    state, data = load_file(artifact.path("model.safetensors")), Inputs(recipe).target
    before = {f"encoder.{name}": value for name, value in base(kind).model.named_parameters()}
    assert sum(torch.equal(value, state[name]) for name, value in before.items()) <= 4, "training moves the encoder"
    model = finetune.model_of(recipe.stages[-1], base(kind), 2, seed=99).eval()  # type: ignore[arg-type]
    assert state.keys() == dict(model.named_parameters()).keys()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    pieces = jobs.tokens(data.validation.texts, data.digest("validation"), base(kind), store)
    validation = finetune.examples(data.validation, pieces, base(kind), recipe.stages[-1])  # type: ignore[arg-type]
    logits = predict(model, base(kind), validation, Runtime(torch.device("cpu"), current()))
    again = pq.read_table(write_predictions(tmp_path / "again.parquet", logits, data.validation.labels))
    assert again.equals(pq.read_table(artifact.path("predictions-validation.parquet")))


@pytest.mark.parametrize(("precision", "told"), [("float32", False), ("bfloat16", True)])
def test_float32_is_told_where_it_was_not_asked_for(tmp_path: Path, precision: Any, told: bool) -> None:
    big_bird = tiny_encoder(model_type="big_bird", block_size=4, num_random_blocks=1)
    recipe = tiny_recipe(tmp_path, epochs=1).model_copy(update={"encoder": big_bird, "precision": precision})
    row = next(runner.run(recipe, Store(tmp_path / "store"), Execution(threads=1)))
    assert any("computes in float32 also in 16-bit precision" in notice for notice in row["notices"]) == told
