"""Layers as features against plain transformers; what is frozen, thawed or made anew; losses and few-shot subsets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from tests.helpers import tiny_recipe
from tests.trainables.encoders import examples_of, tiny_base
from tests.trainables.families import FAMILIES
from trainables.batches.pack import collate, token_types
from trainables.data.splits import Split, subset
from trainables.encoder.load import layer_states
from trainables.heads.classifier import classifier, reinitialise
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.stages import jobs
from trainables.stages import run_recipe as runner
from trainables.stages.finetune import class_weights, cross_entropy
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store

LENGTHS = (9, 5, 14)


def naive(base: Any, texts: Any, layers: tuple[int, ...], combine: str) -> torch.Tensor:
    """Each text alone through the whole encoder; the vectors of its first (XLNet: last) token, as the paper combines them."""
    rows = []
    for example in texts:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        types = {"token_type_ids": torch.from_numpy(token_types(len(example.ids), base))[None]} if base.takes_types else {}
        found = base.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **types)
        states = [found.last_hidden_state if layer == base.layers - 1 else found.hidden_states[layer + 1] for layer in layers]
        place = 0 if base.special.prefix else -1
        each = [state[0, place] for state in states]
        whole = {"concat": torch.cat(each), "mean": sum(each) / len(each), "max": torch.stack(each).max(0).values}
        rows.append(whole[combine])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["bert", "albert", "xlnet", "modernbert"])
@pytest.mark.parametrize(("layers", "combine"), [((0,), "concat"), ((0, 1), "concat"), ((1, 2), "mean"), ((0, 2), "max")])
def test_layer_features_equal_the_naive_loop(kind: str, layers: tuple[int, ...], combine: str) -> None:
    base = tiny_base(kind)
    texts = examples_of(base, LENGTHS)
    model = classifier(base, 2, "cls", 0.0, 0, layers, combine).eval()
    with torch.inference_mode():
        found = model.vectors(collate(texts, base))
        torch.testing.assert_close(found, naive(base, texts, layers, combine), rtol=1e-4, atol=1e-5)
        assert model(collate(texts, base)).shape == (3, 2)


@pytest.mark.parametrize("kind", FAMILIES)
def test_blocks_above_the_highest_layer_are_not_there(kind: str) -> None:
    base = tiny_base(kind)
    blocks = [classifier(base, 2, "cls", 0.0, 0, (layer,)).encoder.config.num_hidden_layers for layer in (0, 1, 2, -1, -3)]
    assert blocks == [1, 2, 3, 3, 1]
    sizes = [sum(p.numel() for p in classifier(base, 2, "cls", 0.0, 0, (layer,)).parameters()) for layer in (0, 1, 2)]
    assert sizes[0] < sizes[1] < sizes[2] or kind == "albert"  # which has one block for all layers


def test_negative_layers_count_from_the_top() -> None:
    base = tiny_base("bert")
    batch = collate(examples_of(base, LENGTHS), base)
    with torch.inference_mode():
        for one, other in (((-1,), (2,)), ((-3, -2), (0, 1))):
            models = [classifier(base, 2, "cls", 0.0, 0, layers).eval() for layers in (one, other)]
            assert torch.equal(models[0](batch), models[1](batch))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (3,)}, r"layers: 3 given, but the encoder has the layers 0 to 2"),
        ({"layers": (-4, 0)}, r"layers: -4 given"),
        ({"freeze": 4}, r"freeze: 4 layers given, but 3 are used"),
        ({"layers": (0,), "reinit_layers": 2}, r"reinit_layers: 2 layers given, but 1 are used"),
    ],
)
def test_layers_that_the_encoder_lacks(fields: dict[str, Any], message: str) -> None:
    faults = Finetune(pooling="cls", **fields).layer_faults(3)
    assert len(faults) == 1
    assert re.search(message, faults[0])


def test_layers_that_the_encoder_lacks_end_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"finetune.layers: 5 given"):
        run(tiny_recipe(tmp_path, layers=(5,), pooling="cls"), tmp_path)


def test_wide_vectors_do_not_go_through_the_pooler() -> None:
    with pytest.raises(ValueError, match="use pooling cls or mean, or combine mean or max"):
        Finetune(layers=(0, 1))
    assert Finetune(layers=(0, 1), combine="mean").pooling == "pooled"


def run(recipe: Recipe, folder: Path, name: str = "store") -> Any:
    store = Store(str(folder / name))
    rows = list(runner.run(recipe, store, Execution(threads=1)))
    artifact = store.get(nodes(Inputs(recipe))[-1].stage_id)
    assert artifact is not None
    return rows, artifact


def weights_of(artifact: Any) -> dict[str, torch.Tensor]:
    return load_file(artifact.path("model.safetensors"))


def changed(recipe: Recipe, folder: Path) -> set[str]:
    """Parts of the encoder whose weights training has moved."""
    base = jobs.base_of(Inputs(recipe))
    _, artifact = run(recipe, folder)
    before = {f"encoder.{name}": tensor for name, tensor in base.model.state_dict().items()}
    moved = {name for name, tensor in weights_of(artifact).items() if name in before and not torch.equal(tensor, before[name])}
    parts = {"embeddings": "embeddings", "layer.0": "layer 0", "layer.1": "layer 1"}
    return {part for key, part in parts.items() if any(key in name for name in moved)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"freeze": "embeddings"}, {"layer 0", "layer 1"}),
        ({"freeze": 1}, {"layer 1"}),
        ({"freeze": "encoder"}, set()),
        ({"unfreeze_layers": 1}, {"layer 1"}),  # two epochs: the head, then the upper layer
        ({"unfreeze_layers": 1, "epochs": 4}, {"embeddings", "layer 0", "layer 1"}),
        ({"layers": (0,)}, {"embeddings", "layer 0"}),
    ],
)
def test_what_training_moves(tmp_path: Path, fields: dict[str, Any], expected: set[str]) -> None:
    assert changed(tiny_recipe(tmp_path, **fields), tmp_path) == expected


def test_gradual_unfreezing_resumes_bit_for_bit(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, unfreeze_layers=1, epochs=4, schedule="slanted")
    rows, whole = run(recipe, tmp_path, "whole")
    store = Store(str(tmp_path / "halves"))
    for _ in range(3):  # closed after one more evaluation each time
        part = runner.run(recipe, store, Execution(threads=1))
        next(row for row in part if row["source"] == "computed")
        part.close()
    again = list(runner.run(recipe, store, Execution(threads=1)))
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in rows]
    artifact = store.get(nodes(Inputs(recipe))[-1].stage_id)
    assert artifact is not None
    assert all(torch.equal(tensor, weights_of(artifact)[name]) for name, tensor in weights_of(whole).items())


def test_layers_made_anew() -> None:
    base = tiny_base("bert")
    model = classifier(base, 2, "cls", 0.0, 0)
    reinitialise(model, base, 3, 2, seed=5)
    again = classifier(base, 2, "cls", 0.0, 0)
    reinitialise(again, base, 3, 2, seed=5)
    original = dict(base.model.named_parameters())
    for name, parameter in model.encoder.named_parameters():
        assert torch.equal(parameter, again.encoder.get_parameter(name))
        anew = "layer.1." in name or "layer.2." in name
        if parameter.ndim > 1:
            assert torch.equal(parameter, original[name]) != anew, name
            if anew:
                assert parameter.std().item() == pytest.approx(base.config.initializer_range, rel=0.15)
        elif anew:
            assert set(parameter.tolist()) == ({0.0} if name.endswith("bias") else {1.0})


def test_a_frozen_encoder_drops_nothing_out() -> None:
    base = tiny_base("bert")
    model = classifier(base, 2, "cls", 0.5, 0, frozen=True).train()
    batch = collate(examples_of(base, LENGTHS), base)
    expected = layer_states(classifier(base, 2, "cls", 0.0, 0).encoder.eval(), batch, (-1,))[0]
    torch.testing.assert_close(layer_states(model.encoder, batch, (-1,))[0], expected)
    assert model.dropout.p == 0.5


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_and_smoothing_equal_torch(smoothing: float) -> None:
    labels = np.array([0, 0, 0, 1, 2, 2, 0, 0])
    weights = class_weights(labels, 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)
    base = tiny_base("bert")
    batch = collate([_labelled(e, label) for e, label in zip(examples_of(base, (5,) * 8), labels, strict=True)], base)
    model = classifier(base, 3, "cls", 0.0, 0).eval()
    ours = cross_entropy(model, batch, weights, smoothing) / float(weights[labels].sum())
    theirs = F.cross_entropy(model(batch), batch.labels, weights, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)


def _labelled(example: Any, label: int) -> Any:
    return replace(example, label=int(label))


SIZES = st.lists(st.integers(1, 40), min_size=2, max_size=5)


@given(SIZES, st.data())
def test_subsets_are_stratified_and_nested(sizes: list[int], data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    split = Split(tuple(f"text {i}" for i in range(len(labels))), labels)
    small, large = sorted(data.draw(st.tuples(*[st.integers(len(sizes), len(labels))] * 2)))
    seed = data.draw(st.integers(0, 3))
    few, many = subset(split, small, seed), subset(split, large, seed)
    assert (len(few), len(many)) == (small, large)
    assert set(few.texts) <= set(many.texts)
    assert list(few.texts) == sorted(few.texts, key=split.texts.index), "the order of the file"
    shares = np.bincount(few.labels, minlength=len(sizes)) - small * np.array(sizes) / len(labels)
    assert np.bincount(few.labels, minlength=len(sizes)).min() >= 1
    assert np.abs(shares).max() <= len(sizes), "in proportion, but for one text of each class"
    assert [split.labels[split.texts.index(text)] for text in few.texts] == few.labels.tolist()


def test_subsets_depend_on_the_seed_and_have_a_least_size() -> None:
    split = Split(tuple(map(str, range(50))), np.arange(50) % 5)
    assert subset(split, 10, 0).texts != subset(split, 10, 1).texts
    for count in (4, 51):
        with pytest.raises(ValueError, match=f"{count} of 50 texts in 5 classes"):
            subset(split, count, 0)


def test_few_shot_trains_on_few(tmp_path: Path) -> None:
    rows, _ = run(tiny_recipe(tmp_path, train_examples=10), tmp_path)
    assert rows[-1]["step"] == 2 * 2  # two epochs of two batches of at most eight
    with pytest.raises(ConfigError, match=r"train_examples: 500 given, 500 texts, but reviews has 45 training texts in 2 classes"):
        nodes(Inputs(tiny_recipe(tmp_path, train_examples=500)))
    assert nodes(Inputs(tiny_recipe(tmp_path, train_share=0.5)))[-1].steps == 2 * 3
