"""Packed texts on a device against transformers' own pass over each text there: states and gradients, for all families.

In float32 both differ by rounding alone. In bfloat16 both are off the float32 states, and ours must not be further off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from tests.trainables.encoders import examples_of, tiny_base
from tests.trainables.families import FAMILIES, inputs_of
from trainables.batches.pack import Example, collate
from trainables.encoder.load import Base, fresh_encoder, hidden_states, with_dropout

LENGTHS = (9, 5, 26, 130, 8, 64, 9)
"""One text longer than the 128 positions of a kernel's tile."""
SHORT = (9, 5, 22, 8, 16)
ENCODERS: dict[str, tuple[str, dict[str, int]]] = {kind: (kind, {}) for kind in FAMILIES} | {
    "heads of 26 channels": ("bert", {"hidden_size": 52, "num_attention_heads": 2}),  # TinyBERT's, no multiple of 8
    "heads of 64 channels": ("bert", {"hidden_size": 128, "num_attention_heads": 2}),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)

UNITS = 256
"""Rounding of float32, in units in the last place of the largest value: sums of about a hundred terms through three blocks, which
GPUs may compute from three products of rounded parts."""
WORSE = 2.0
"""How much larger the error of bfloat16 may be than that of transformers' own pass: they round at other places."""


def towards(states: Tensor) -> Tensor:
    """A loss that weighs every element of the states [length, H] differently."""
    weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    return (states.float() * weight.to(states.device)).sum()


Pass = Callable[[Base, list[Example], torch.device], tuple[Tensor, dict[str, Tensor]]]
"""(states [T, H] of all texts, gradients of `towards` by parameter)."""


def packed(base: Base, texts: list[Example], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """All texts at once, as training computes them."""
    model = fresh_encoder(base, 0.0).to(device).train()
    states = hidden_states(model, collate(texts, base).to(device))
    sum(towards(text) for text in states.split([len(text.ids) for text in texts])).backward()
    return states.detach().float(), gradients(model)


def padded(base: Base, texts: list[Example], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Each text by transformers alone; a new model for each, since BigBird's kind of attention follows the texts before."""
    states, total = [], dict[str, Tensor]()
    for text in texts:
        model = without_dropout(base).to(device).train()
        inputs = {name: value.to(device) for name, value in inputs_of(text, base).items()}
        states.append(model(**inputs).last_hidden_state[0, : len(text.ids)])
        towards(states[-1]).backward()
        for name, gradient in gradients(model).items():
            total[name] = total.get(name, torch.zeros_like(gradient)) + gradient
    return torch.cat(states).detach().float(), total


def without_dropout(base: Base) -> Any:
    """transformers' model with the base's weights, whose training differs in no other way from its evaluation."""
    model = AutoModel.from_config(with_dropout(base.config, 0.0), attn_implementation="eager")
    model.load_state_dict(base.model.state_dict(), strict=False)
    return model


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def in_bfloat16(computed: Pass, base: Base, texts: list[Example], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.autocast(device.type, dtype=torch.bfloat16):
        return computed(base, texts, device)


@every_encoder
def test_packed_texts_are_those_of_transformers_in_float32(device: torch.device, name: str) -> None:
    kind, changes = ENCODERS[name]
    base = tiny_base(kind, **changes)
    texts = examples_of(base, LENGTHS)
    ours, found = packed(base, texts, device)
    theirs, wanted = padded(base, texts, device)
    unit = torch.finfo(torch.float32).eps
    assert (ours - theirs).abs().max() <= UNITS * unit * theirs.abs().max()
    assert found.keys() == {parameter for parameter in wanted if not parameter.startswith("pooler.")}
    size = max(float(gradient.abs().max()) for gradient in wanted.values())
    for parameter, gradient in found.items():
        assert (gradient - wanted[parameter]).abs().max() <= UNITS * unit * size, parameter


def off(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Distance of all gradients from the wanted ones, relative to their length."""
    square = sum(float((found[name].float() - gradient).square().sum()) for name, gradient in wanted.items())
    return float((square / sum(float(gradient.square().sum()) for gradient in wanted.values())) ** 0.5)


@every_encoder
def test_packed_texts_in_bfloat16_are_as_exact_as_those_of_transformers(device: torch.device, name: str) -> None:
    kind, changes = ENCODERS[name]
    base = tiny_base(kind, **changes)
    # BigBird's sparse attention itself refuses autocast: short texts have full attention.
    texts = examples_of(base, SHORT if kind == "big_bird" else LENGTHS)
    exact, exact_gradients = padded(base, texts, device)
    theirs, their_gradients = in_bfloat16(padded, base, texts, device)
    ours, our_gradients = in_bfloat16(packed, base, texts, device)
    for found, their, wanted in (
        ({"": ours}, {"": theirs}, {"": exact}),
        (our_gradients, their_gradients, exact_gradients),
    ):
        assert 0 < off(their, wanted) < 0.5
        assert off(found, wanted) <= WORSE * off(their, wanted)


def test_a_text_that_attends_to_its_neighbour_is_found(device: torch.device) -> None:
    """The tolerance is far below what mixing up texts changes."""
    base = tiny_base("bert")
    texts = examples_of(base, LENGTHS)
    joined = [*texts[:2], Example(torch.cat([torch.from_numpy(text.ids) for text in texts[2:4]]).numpy()), *texts[4:]]
    ours, theirs = packed(base, texts, device)[0], packed(base, joined, device)[0]
    assert (ours - theirs).abs().max() > 0.1 * theirs.abs().max()
