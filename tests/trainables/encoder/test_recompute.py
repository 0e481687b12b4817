"""Gradient checkpointing: the same bits in less memory, through every kind of stage, for an encoder as deep as BERT-large."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import multitask_recipe, tiny_encoder, tiny_recipe
from tests.trainables.encoders import examples_of, tiny_base
from trainables.batches.pack import collate
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.recompute import recompute_blocks
from trainables.heads.classifier import classifier
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store


def losses(recipe: Recipe, folder: Path, **execution: Any) -> list[float]:
    """Training and validation losses of all evaluations."""
    store = Store(str(folder / "-".join(["store", *map(str, execution.values())])))
    rows = list(runner.run(recipe, store, Execution(threads=1, **execution)))
    return [row[name] for row in rows for name in ("train_loss", "loss") if name in row]


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: tiny_recipe(folder, {}),
        lambda folder: tiny_recipe(
            folder, {"objective": "mlm+nsp", "corpus": ("reviews",)}, truncation="hier-attention", max_length=12
        ),
        lambda folder: tiny_recipe(folder, freeze=1, layers=(0, 1), combine="mean"),
        lambda folder: tiny_recipe(folder, unfreeze_layers=1),
        multitask_recipe,
    ],
    ids=["pretrain", "fractions", "frozen", "thawing", "multitask"],
)
def test_every_stage_gives_the_same_bits(make: Any, tmp_path: Path) -> None:
    recipe = make(tmp_path)
    assert losses(recipe, tmp_path, gradient_checkpointing=True) == losses(recipe, tmp_path)


def test_an_encoder_as_deep_as_bert_large(tmp_path: Path) -> None:
    """24 layers: micro-batches and checkpointing against the plain run, and layer-wise rates over all of them."""
    recipe = tiny_recipe(tmp_path, {}, epochs=1).model_copy(update={"encoder": tiny_encoder(num_hidden_layers=24)})
    plain = losses(recipe, tmp_path)
    assert losses(recipe, tmp_path, gradient_checkpointing=True) == plain
    assert losses(recipe, tmp_path, gradient_checkpointing=True, micro_batch=3) == pytest.approx(plain, abs=1e-4)
    artifact = Store(str(tmp_path / "store")).get(nodes(Inputs(recipe))[-1].stage_id)
    assert artifact is not None
    rates = artifact.manifest["rows"][-1]["group_rates"]
    assert len(rates) == 26
    assert rates["layer 0"] == pytest.approx(rates["layer 23"] * 0.95**23)


def kept(model: nn.Module, batch: Any) -> int:
    """Elements that live between forward and backward pass: what autograd saves, and what autograd's functions hold themselves."""
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    gc.collect()
    before = {id(each) for each in gc.get_objects() if isinstance(each, torch.Tensor)}
    with dropout_bits(0, 0, batch), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(batch)
    held = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and id(each) not in before and each is not logits]
    saved |= {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in held}
    return sum(saved.values())


def test_memory_holds_the_inputs_of_the_blocks() -> None:
    base = tiny_base("bert")
    batch = collate(examples_of(base, (50, 50, 50)), base)
    plain, again = (classifier(base, 2, "cls", 0.1, 0).train() for _ in range(2))
    recompute_blocks(again.encoder)
    heads, inside = 4, 3 * 3 * 50**2 * 4 * 4
    assert kept(plain, batch) > inside, f"attention of {heads} heads in three blocks"
    states = 150 * 32 * 4
    assert kept(again, batch) < 10 * states


def test_nothing_is_kept_or_computed_twice_without_gradients() -> None:
    base = tiny_base("bert")
    batch = collate(examples_of(base, (6, 5)), base)
    model = classifier(base, 2, "cls", 0.1, 0).eval()
    with torch.inference_mode():
        expected = model(batch)
        recompute_blocks(model.encoder)
        assert torch.equal(model(batch), expected)
