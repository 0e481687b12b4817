"""Dropout on a device: how much it drops, by which factor it scales what it keeps, and that the backward pass has the same mask.

Values that are one for their own position and zero elsewhere make the output of attention the dropped probabilities themselves: the
mask is read from it, and the gradients are compared with those of plain products with this mask. Draws differ between devices;
their statistics do not.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.encoders import examples_of, tiny_base
from tests.trainables.families import FAMILIES
from trainables.batches.pack import Batch, collate
from trainables.encoder import attention
from trainables.encoder.dropout import Dropout, dropout_bits
from trainables.encoder.load import fresh_encoder, hidden_states
from trainables.heads.classifier import classifier

LENGTHS = (64, 40, 64, 9, 1)
HEADS, CHANNELS = 4, 64
"""As many channels as the longest text has positions."""
SCALING = 0.2
"""Not the default, 1/8."""
ERRORS = 5
"""Standard errors that a frequency may be off: one test in a million fails by chance."""
COARSE = 1 / 256
"""GPU kernels decide with eight random bits: their rate is off by at most this much."""
rates = pytest.mark.parametrize("p", [0.1, 0.5])
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def batch_of(device: torch.device, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    base = tiny_base("bert")
    return collate(examples_of(base, lengths), base).to(device)


def assert_frequency(hits: Tensor, expected: float, message: str = "") -> None:
    """The share of hits is the expected one, within standard errors of independent draws and the kernels' coarseness."""
    error = math.sqrt(expected * (1 - expected) / hits.numel())
    assert abs(float(hits.float().mean()) - expected) < ERRORS * error + COARSE, message


def queries(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries and keys, and the values that read out probabilities: each [1, h, T, d]."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, HEADS, sum(LENGTHS), CHANNELS, generator=generator) * 0.3 for _ in range(2))
    own = torch.cat([torch.eye(CHANNELS)[:length] for length in LENGTHS])
    v = own.expand(1, HEADS, -1, -1).contiguous()
    return tuple(x.to(device, dtype).requires_grad_() for x in (q, k, v))  # type: ignore[return-value]


def attend(q: Tensor, k: Tensor, v: Tensor, p: float, batch: Batch, seed: int = 1, sites: int = 1) -> list[list[Tensor]]:
    """For each of several applications in one pass, the output of each text, [h, length, d]."""
    with attention.packed(LENGTHS, q.device), dropout_bits(seed, 1, batch):
        outputs = [
            attention.packed_attention(nn.Module().train(), q, k, v, None, scaling=SCALING, dropout=p)[0] for _ in range(sites)
        ]
    return [[text.transpose(0, 1) for text in output[0].split(LENGTHS)] for output in outputs]


def masks_of(outputs: list[Tensor]) -> list[Tensor]:
    """bool [h, n, n] of each text: which probabilities are kept."""
    return [output.detach()[..., : output.shape[1]] != 0 for output in outputs]


@both_dtypes
@rates
def test_attention_drops_at_its_rate_and_independently(device: torch.device, dtype: torch.dtype, p: float) -> None:
    batch = batch_of(device)
    first, second = (masks_of(site) for site in attend(*queries(device, dtype), p, batch, sites=2))
    assert_frequency(torch.cat([mask.flatten() for mask in first]), 1 - p)
    for head in range(HEADS):
        assert_frequency(first[0][head], 1 - p, f"head {head}")
    for axis in (1, 2):  # no row or column is kept or dropped as one
        shares = torch.cat([text.float().mean(axis).flatten() for text in (first[0], first[2])])
        scatter = (shares - (1 - p)).square().mean() * LENGTHS[0] / (p * (1 - p))
        assert float(scatter) == pytest.approx(1, abs=0.4)
    alike = p**2 + (1 - p) ** 2
    for one, other in pairwise(first[0]):
        assert_frequency(one == other, alike, "heads draw alike")
    assert_frequency(first[0] == first[2], alike, "texts draw alike")
    assert_frequency(first[0] == second[0], alike, "layers draw alike")
    assert_frequency(first[0] == masks_of(attend(*queries(device, dtype), p, batch, seed=2)[0])[0], alike, "seeds draw alike")


@both_dtypes
@rates
def test_attention_keeps_what_it_kept_in_the_backward_pass(device: torch.device, dtype: torch.dtype, p: float) -> None:
    """Output and gradients are those of softmax, mask and scale as plain products in float32."""
    ours = queries(device, dtype)
    (outputs,) = attend(*ours, p, batch_of(device))
    weight = torch.randn(HEADS, sum(LENGTHS), CHANNELS, generator=torch.Generator().manual_seed(2)).to(device)
    weights = weight.split(LENGTHS, dim=1)
    sum((output.float() * each).sum() for output, each in zip(outputs, weights, strict=True)).backward()

    plain = [x.detach().float().requires_grad_() for x in ours]
    parts = zip(*(x[0].split(LENGTHS, dim=1) for x in plain), strict=True)
    for (q, k, v), mask, output, each in zip(parts, masks_of(outputs), outputs, weights, strict=True):
        probabilities = (q @ k.transpose(1, 2) * SCALING).softmax(-1)
        expected = (probabilities * mask / (1 - p)) @ v
        (expected * each).sum().backward(retain_graph=True)
        near(output, expected, dtype)
    for found, wanted in zip(ours, plain, strict=True):
        assert found.grad is not None
        near(found.grad, wanted.grad, dtype)


def near(found: Tensor, expected: Tensor | None, dtype: torch.dtype) -> None:
    """Equal within a few roundings of the dtype, relative to the largest value; 1/32768 is the exactness of our own rate."""
    assert expected is not None
    unit = torch.finfo(dtype).eps + 2**-15
    assert (found.detach().float() - expected.detach()).abs().max() <= 4 * unit * expected.detach().abs().max()


@both_dtypes
@rates
@pytest.mark.parametrize("per_text", [False, True])
def test_states_are_dropped_at_the_rate_and_scaled(device: torch.device, dtype: torch.dtype, p: float, per_text: bool) -> None:
    width = 512
    rows = len(LENGTHS) if per_text else sum(LENGTHS)
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).add_(3).to(device, dtype).requires_grad_()
    weight = torch.rand(rows, width, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    drop = Dropout(p, per_text).train()
    with dropout_bits(1, 1, batch_of(device)):
        first, second = drop(x), drop(x)
    kept = first.detach() != 0
    assert_frequency(kept, 1 - p)
    assert_frequency(kept == (second.detach() != 0), p**2 + (1 - p) ** 2, "layers draw alike")
    near(first, x.detach().float() * kept / (1 - p), dtype)
    (first * weight).sum().backward()
    assert x.grad is not None
    near(x.grad, weight.float() * kept / (1 - p), dtype)
    assert torch.equal(drop(x), x), "nothing is dropped outside of training"


@pytest.mark.parametrize("kind", FAMILIES)
def test_masks_follow_seed_step_and_place(device: torch.device, kind: str) -> None:
    """The same draw again gives the same logits; copies of a text, other seeds, steps and micro-batches have others."""
    base = tiny_base(kind)
    model = classifier(base, 3, "cls", 0.2, seed=0).to(device).train()
    (text,) = examples_of(base, (21,))

    def logits(seed: int, step: int, before: int) -> Tensor:
        batch = collate([text] * 3, base, before=[text] * before).to(device)
        with torch.no_grad(), dropout_bits(seed, step, batch):
            found: Tensor = model(batch)
        return found

    first = logits(1, 1, 0)
    # Sums of some kernels depend on the order of threads.
    torch.testing.assert_close(logits(1, 1, 0), first, rtol=1e-5, atol=1e-5)
    every = torch.cat([first, logits(1, 2, 0), logits(2, 1, 0), logits(1, 1, 3)])
    distances = torch.cdist(every, every) + torch.eye(len(every), device=device)
    assert distances.min() > 1e-3
    model.eval()
    still = logits(1, 1, 0)
    torch.testing.assert_close(still, logits(2, 2, 0), rtol=1e-5, atol=1e-5)
    assert torch.cdist(still, still).max() < 1e-3


@pytest.mark.parametrize("kind", ["bert", "deberta-v2"])
def test_dropout_leaves_the_mean(device: torch.device, kind: str) -> None:
    """The embeddings' dropout in packed and padded passes: the mean over many steps is the value without, element by element."""
    base = tiny_base(kind)
    encoder = fresh_encoder(base, 0.3).to(device).eval()
    batch = collate(examples_of(base, (7, 12)), base).to(device)
    found = []
    encoder.embeddings.register_forward_hook(lambda module, given, output: found.append(output.detach().flatten(0, -2)))

    def embedded() -> Tensor:
        with torch.no_grad():
            hidden_states(encoder, batch)
        rows = torch.cat(found)
        found.clear()
        return rows

    expected, steps, draws = embedded(), 100, []
    encoder.train()
    for step in range(steps):
        with dropout_bits(1, step, batch):
            draws.append(embedded())
    drawn = torch.stack(draws)
    error = expected.abs() * math.sqrt(0.3 / 0.7 / steps)
    assert float(((drawn.mean(0) - expected) / error)[expected != 0].square().mean()) == pytest.approx(1, abs=0.3)
