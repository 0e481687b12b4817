"""The last block on the tokens that are read alone, against the same block on all tokens: outputs, gradients, dropout, work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainables.encoders import examples_of, tiny_base
from trainables.batches.pack import Batch, Example, collate
from trainables.encoder import packing_probe
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.layers import blocks_of
from trainables.encoder.load import Base, fresh_encoder
from trainables.encoder.recompute import recompute_blocks
from trainables.heads.classifier import classifier
from trainables.heads.masked_lm import masked_lm

LENGTHS = (22, 9, 21, 8, 40, 24, 9, 20, 2)
"""Texts in several groups."""
NARROW = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "ernie", "nomic_bert", "modernbert")


def masked(texts: list[Example]) -> list[Example]:
    """A fifth of the pieces are predicted; none in the first and the longest text."""
    rng, found = np.random.default_rng(0), []
    for text in texts:
        length = len(text.ids)
        places = np.flatnonzero(rng.random(length) < 0.2) if length not in (22, 40) else np.empty(0, dtype=np.int64)
        found.append(replace(text, masked=(places, text.ids[places].astype(np.int64))))
    return found


def step(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Outputs and gradients of one step with dropout."""
    with dropout_bits(3, 7, batch):
        out = model(batch)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
        (out * weight).sum().backward()
    return {"out": out.detach()} | {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Equal but for rounding; with all tokens, those that nothing reads have gradients of zero."""
    assert found.keys() == wanted.keys()
    size = max(float(each.abs().max()) for each in wanted.values())
    for name, each in wanted.items():
        torch.testing.assert_close(found[name], each, rtol=1e-4, atol=2e-6 * size, msg=name)


@pytest.mark.parametrize("kind", NARROW)
def test_outputs_and_gradients_are_those_of_all_tokens(kind: str) -> None:
    base = tiny_base(kind)
    assert base.narrows
    batch = collate(examples_of(base, LENGTHS), base)
    found, wanted = (step(classifier(of, 2, "cls", 0.2, seed=0).train(), batch) for of in (base, replace(base, narrows=False)))
    close(found, wanted)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_predicted_pieces_are_those_of_all_tokens(kind: str) -> None:
    """Several tokens of a text, or none; ModernBERT's last block sees a window of tokens only."""
    base = tiny_base(kind)
    batch = collate(masked(examples_of(base, LENGTHS)), base)
    found, wanted = (step(masked_lm(of, 0.2, seed=0).train(), batch) for of in (base, replace(base, narrows=False)))
    close(found, wanted)
    nothing = collate([replace(text, masked=(np.empty(0, np.int64),) * 2) for text in examples_of(base, LENGTHS)], base)
    assert masked_lm(base, 0.2, seed=0)(nothing).shape[0] == 0


def test_recomputed_blocks_are_narrow_too() -> None:
    base = tiny_base("modernbert")
    batch = collate(masked(examples_of(base, LENGTHS)), base)
    plain, again = (masked_lm(base, 0.2, seed=0).train() for _ in range(2))
    recompute_blocks(again.encoder)
    found, wanted = step(again, batch), step(plain, batch)
    assert all(torch.equal(found[name], each) for name, each in wanted.items())


def rows_by_block(base: Base, batch: Batch, pooling: str, layers: tuple[int, ...] = (-1,)) -> list[set[int]]:
    """Numbers of tokens that went through the linear layers of each block."""
    model = classifier(base, 2, pooling, 0.0, seed=0, layers=layers).eval()
    found: list[set[int]] = []
    for block in blocks_of(model.encoder, base.layers):
        found.append(set())
        for module in block.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(lambda module, inputs, seen=found[-1]: seen.add(inputs[0].shape[1]))
    model(batch)
    return found


def test_only_the_last_block_computes_fewer_tokens_and_only_if_no_other_is_read() -> None:
    base = tiny_base("bert", num_hidden_layers=3)
    texts = examples_of(base, LENGTHS)
    batch, total, some = collate(texts, base), sum(LENGTHS), len(LENGTHS)
    assert rows_by_block(base, batch, "pooled") == [{total}, {total}, {some, total}]  # queries, keys and values of all
    assert rows_by_block(base, batch, "mean") == [{total}] * 3
    assert rows_by_block(base, batch, "cls", layers=(-2, -1)) == [{total}] * 3


def test_an_encoder_whose_block_takes_no_fewer_tokens_computes_all() -> None:
    """Here it adds to every token something that the encoder computed outside of the block."""
    base = tiny_base("bert")
    model = fresh_encoder(replace(base, narrows=False), 0.0).eval()
    model.set_attn_implementation("eager")
    outside: list[Tensor] = []
    model.embeddings.register_forward_hook(lambda module, inputs, output: outside.append(output))
    assert packing_probe.packable(model, type_ids=True).narrows
    model.encoder.layer[-1].output.dense.register_forward_hook(lambda module, inputs, output: output + outside[-1])
    probe = packing_probe.packable(model, type_ids=True)
    assert (probe.reason, probe.narrows) == (None, False)
    assert "forward" not in vars(model.encoder.layer[-1])


def test_layers_that_share_a_block_compute_all_tokens() -> None:
    base = tiny_base("albert")
    assert base.packable
    assert not base.narrows
