"""Packed batches, attention within texts against a plain reference, and dropout that does not depend on how a batch is split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trainables.encoders import examples_of, tiny_base
from trainables.batches.pack import Batch, Example, Offsets, collate, padded_width
from trainables.encoder import attention, dropout
from trainables.encoder.dropout import LEVELS, Stream, dropout_bits, scale, threshold
from trainables.encoder.load import Base
from trainables.heads.classifier import classifier
from trainables.kernels import textbook


@pytest.fixture(scope="module")
def bert() -> Base:
    return tiny_base("bert")


def batch_of(base: Base, lengths: Sequence[int], before: Sequence[int] = ()) -> Batch:
    return collate(examples_of(base, lengths), base, before=examples_of(base, before))


# Batches


def test_packed_batch(bert: Base) -> None:
    examples = [
        Example(np.array([2, 10, 11, 3], np.int32), label=1, masked=(np.array([1]), np.array([40]))),
        Example(np.array([2, 12, 3], np.int32), label=0, masked=(np.array([0, 2]), np.array([41, 42]))),
    ]
    batch = collate(examples, bert, before=examples)
    (part,) = batch.parts
    assert part.input_ids.tolist() == [[2, 10, 11, 3, 2, 12, 3]]
    assert part.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert part.token_type_ids.tolist() == [[0] * 7]
    assert (part.attention_mask, batch.order) == (None, None)
    assert batch.pool_index.tolist() == [0, 4]
    assert batch.labels.tolist() == [1, 0]
    assert batch.masked_index.tolist() == [1, 4, 6]
    assert batch.masked_targets.tolist() == [40, 41, 42]
    assert batch.offsets == Offsets(texts=2, sequences=2, tokens=7, squares=4 + 3)
    assert batch.to("meta").parts[0].input_ids.device.type == "meta"
    assert batch.to("meta").labels.device.type == "meta"


def test_padded_batch() -> None:
    base = tiny_base("xlnet")
    lengths = [9, 3, 12, 4, 20]
    batch = batch_of(base, lengths)
    assert [tuple(part.input_ids.shape) for part in batch.parts] == [(2, 8), (2, 16), (1, 24)]
    assert all((part.input_ids[part.attention_mask == 0] == base.special.pad).all() for part in batch.parts)
    flat = torch.cat([part.input_ids.flatten() for part in batch.parts])
    packed = np.concatenate([example.ids for example in examples_of(base, lengths)])
    assert flat[batch.order].tolist() == packed.tolist()
    assert batch.pool_index.tolist() == (np.cumsum(lengths) - 1).tolist()  # XLNet's <cls> comes last
    types = torch.cat([part.token_type_ids.flatten() for part in batch.parts])[batch.order]
    assert types[batch.pool_index].tolist() == [2] * 5
    assert int((types == 0).sum()) == sum(lengths) - 5


@given(length=st.integers(1, 5000))
def test_padded_width(length: int) -> None:
    assert length <= padded_width(length) < max(length + 8, 1.25 * length + 1)


def test_a_padded_group_never_has_as_many_texts_as_positions() -> None:
    parts = batch_of(tiny_base("xlnet"), [8] * 8).parts
    assert [tuple(part.input_ids.shape) for part in parts] == [(7, 8), (1, 8)]


# Attention


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_groups_hold_every_text_once_and_waste_little(lengths: list[int]) -> None:
    groups = attention.grouped(lengths)
    assert sorted(text for members in groups for text in members) == list(range(len(lengths)))
    for members in groups:
        width = lengths[members[0]]
        assert width == max(lengths[text] for text in members)
        assert sum(width**2 - lengths[text] ** 2 for text in members) <= attention.WASTE
        assert len(members) == 1 or len(members) * width**2 <= attention.CELLS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    p=st.sampled_from([0.0, 0.1, 0.5]),
    window=st.sampled_from([None, 4]),
    seed=st.integers(0, 99),
    at_once=st.sampled_from([0, attention.AT_ONCE]),
)
def test_attention_against_the_textbook(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], p: float, window: int | None, seed: int, at_once: int
) -> None:
    torch.manual_seed(seed)
    total, heads = sum(lengths), 3
    monkeypatch.setattr(attention, "AT_ONCE", at_once)
    q, k, v, weight = (torch.randn(total, heads, 8, dtype=torch.float64) for _ in range(4))
    tensors = [x.requires_grad_() for x in (q, k, v)]
    layout = attention.PackedLayout(lengths)
    stream = stream_of(lengths, seed) if p else None
    factor = scale(p) if p else 1.0
    out = attention._Attention.apply(q, k, v, layout, layout.whole, 8**-0.5, window, p, stream)
    found = torch.autograd.grad((out * weight).sum(), tensors)

    keep = []
    for text, length in enumerate(lengths):
        keep.append(torch.ones(heads, length, length, dtype=torch.bool))
        if p:
            stream.seek(layout.draws[text] * heads)
            keep[-1] = (stream.signs(heads * length**2, p) > 0).view(heads, length, length)
    expected = textbook.attention(q, k, v, lengths, 8**-0.5, window, keep, factor)
    torch.testing.assert_close(out, expected)
    for a, b in zip(found, torch.autograd.grad((expected * weight).sum(), tensors), strict=True):
        torch.testing.assert_close(a, b)


def stream_of(lengths: Sequence[int], seed: int, offsets: Offsets | None = None) -> Stream:
    empty = torch.empty(0)
    stream = Stream(seed, 0, Batch(tuple(lengths), (), None, empty, offsets or Offsets(), empty))
    stream.site = 0
    return stream


# Dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_rate_and_scale(p: float) -> None:
    stream = stream_of([1], 3)
    stream.seek(0)
    count = 1 << 20
    signs = stream.signs(count, p)
    assert set(torch.sign(signs).tolist()) == {-1, 1}
    rate = threshold(p) / LEVELS
    assert rate == pytest.approx(p, abs=1 / LEVELS)
    assert (signs < 0).double().mean().item() == pytest.approx(rate, abs=5 * (p * (1 - p) / count) ** 0.5)
    assert scale(p) == 1 / (1 - rate)


def test_sign_of_16_bit_floats_is_that_of_the_integer() -> None:
    """Every pattern, infinities and what is no number among them."""
    patterns = torch.arange(-LEVELS, LEVELS, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        signed = torch.ones(2 * LEVELS, dtype=dtype).copysign_(patterns.view(dtype))
        assert torch.equal(signed < 0, patterns < 0)


def test_rates_close_to_one_keep_something() -> None:
    assert scale(0.999999) == LEVELS


def test_streams_differ_by_site_step_and_seed_and_lanes_are_independent() -> None:
    def drawn(seed: int, step: int, site: int) -> Tensor:
        stream = Stream(seed, step, batch_of(tiny_base("bert"), [3]))
        stream.site = site
        stream.seek(0)
        return (stream.signs(1 << 16, 0.5) > 0).double()

    base = drawn(0, 0, 0)
    for other in (drawn(1, 0, 0), drawn(0, 1, 0), drawn(0, 0, 1)):
        assert abs(torch.corrcoef(torch.stack([base, other]))[0, 1]) < 0.02
    lanes = torch.corrcoef(base.view(-1, 4).T)
    assert (lanes - torch.eye(4, dtype=torch.float64)).abs().max() < 0.04
    assert torch.equal(base, drawn(0, 0, 0))


@pytest.mark.parametrize("width", [8, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_dropout(width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept elements and their gradients are scaled by the exact rate, the others are zero; small chunks give the same."""
    base = tiny_base("bert")
    layer = dropout.Dropout(0.3).train()
    x = torch.rand(1, 60, width).add(0.5).to(dtype).requires_grad_()

    def dropped() -> Tensor:
        with dropout_bits(1, 2, batch_of(base, [40, 20])):
            return layer(x)

    out = dropped()
    (gradient,) = torch.autograd.grad(out.sum(), x)
    kept = out != 0
    assert 0.5 < kept.double().mean() < 0.9
    torch.testing.assert_close(out[kept], x[kept] * scale(0.3))
    torch.testing.assert_close(gradient, kept.to(dtype) * scale(0.3))
    monkeypatch.setattr(dropout, "CHUNK", 16)
    assert torch.equal(dropped(), out)
    assert torch.equal(layer(x), x)  # no bits, no dropout
    assert torch.equal(layer.eval()(x), x)


def gradients(model: Any, base: Base, examples: list[Example], split: int, step: int = 0) -> dict[str, Tensor]:
    """Logits and all gradients of one step in micro-batches of `split` texts."""
    model.zero_grad()
    logits = []
    for start in range(0, len(examples), split):
        batch = collate(examples[start : start + split], base, before=examples[:start])
        with dropout_bits(5, step, batch):
            logits.append(model(batch))
        torch.nn.functional.cross_entropy(logits[-1], batch.labels, reduction="sum").backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": torch.cat(logits).detach(), **found}


def test_same_step_same_bits_other_step_others(bert: Base) -> None:
    model = classifier(bert, 3, "cls", 0.1, seed=0).train()
    examples = examples_of(bert, [9, 4, 22])
    first, again, other = (gradients(model, bert, examples, 3, step) for step in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["logits"], other["logits"])


def test_mean_of_dropout_is_the_answer_without(bert: Base) -> None:
    """Over many steps the dropped attention averages to the plain one: rate and scale are right together."""
    torch.manual_seed(0)
    lengths = [7, 12]
    q, k, v = (torch.randn(19, 2, 4) for _ in range(3))
    layout = attention.PackedLayout(lengths)
    plain = attention._Attention.apply(q, k, v, layout, layout.whole, 0.5, None, 0.0, None)
    total = torch.zeros_like(plain)
    for seed in range(600):
        total += attention._Attention.apply(q, k, v, layout, layout.whole, 0.5, None, 0.3, stream_of(lengths, seed))
    assert (total / 600 - plain).abs().max() < 0.15
    assert (total / 600 - plain).mean().abs() < 0.01
