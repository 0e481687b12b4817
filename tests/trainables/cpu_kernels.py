"""Torch's two kernels of packed attention, in Python, for the CPU: with them everything above the kernels runs without a GPU.

They implement torch's own operations for the CPU, so that their schemas and torch's formulas of the gradients are the real ones. As
on GPUs dropout draws from the device's default generator, and the backward pass makes the mask again from what the forward pass
kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.encoder import dropout
from trainables.kernels import choice

WRONG_WITH_DROPOUT = (
    "drops nothing",
    "does not scale",
    "drops too much",
    "drops otherwise in the backward pass",
    "drops alike in all heads",
    "drops alike in all texts",
    "drops alike in all calls",
    "drops in a text what the call before dropped in the next",
    "draws from no generator",
)
WRONG = (
    "uses its own scaling",
    "turns the heads round",
    "mixes texts",
    "has no gradient of the keys",
    "gives no numbers",
    "raises",
)


class Kernels:
    """Both operations and their backward passes; `wrong` names a fault of them."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong
        self.calls = {"flash": 0, "efficient": 0}
        self.coming: dict[int, list[int]] = {}

    def flash(
        self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, _: Tensor, longest: int, __: int, p: float, *flags: Any, **more: Any
    ) -> Any:
        assert q.dtype in (torch.bfloat16, torch.float16)
        assert q.shape[-1] % 8 == 0
        assert q.shape[-1] <= 256
        assert flags == (False, False)
        assert more["window_size_left"] == more["window_size_right"]
        self.calls["flash"] += 1
        seed = self.seed(p)
        out = self.forward(q, k, v, ends, longest, p, seed, more["scale"], more["window_size_left"])
        empty = torch.empty(0)
        return out, torch.empty(q.shape[1], q.shape[0]), torch.tensor([seed, 0]).to(torch.uint64), empty, empty.to(q.dtype)

    def flash_backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        ends: Tensor,
        _: Tensor,
        longest: int,
        *more: Any,
        scale: float,
        window_size_left: int,
        window_size_right: int,
    ) -> Any:
        (_, p, causal, rng_state, _) = more
        assert not causal
        return self.backward(grad, q, k, v, ends, longest, p, int(rng_state[0]), scale, window_size_left)

    def efficient(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: None,
        ends: Tensor,
        _: Tensor,
        longest: int,
        __: int,
        p: float,
        causal: int,
        lse: bool = False,
        *,
        scale: float,
        seqlen_k: None = None,
        window_size: None = None,
    ) -> Any:
        assert (bias, causal, lse, len(q)) == (None, 0, True, 1)
        assert q.shape[-1] % 8 == 0
        self.calls["efficient"] += 1
        seed = self.seed(p)
        out = self.forward(q[0], k[0], v[0], ends, longest, p, seed, scale, -1)[None]
        return (
            out,
            torch.empty(len(ends) - 1, q.shape[2], -(-longest // 32) * 32),
            torch.tensor(seed),
            torch.tensor(0),
            longest,
            longest,
        )

    def efficient_backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: None,
        out: Tensor,
        ends: Tensor,
        _: Tensor,
        longest: int,
        __: int,
        logsumexp: Tensor,
        p: float,
        seed: Tensor,
        offset: Tensor,
        causal: int,
        bias_requires_grad: bool,
        *,
        scale: float,
        **others: Any,
    ) -> Any:
        found = self.backward(grad[0], q[0], k[0], v[0], ends, longest, p, int(seed), scale, -1)
        return *(each[None] for each in found), torch.empty(0)

    def seed(self, p: float) -> int:
        if self.wrong == "raises":
            raise RuntimeError("no kernel image is available for execution on the device")
        if not p or self.wrong == "drops alike in all calls":
            return 0
        if self.wrong == "draws from no generator":
            return int.from_bytes(os.urandom(4))
        state = torch.get_rng_state()
        coming = torch.randint(1 << 40, (99,)).tolist()
        torch.set_rng_state(state)
        seed = int(torch.randint(1 << 40, ()))
        self.coming[seed] = coming
        return seed

    def masks(self, lengths: list[int], heads: int, p: float, seed: int) -> list[Tensor]:
        """Factors [h, l, l] of each text's probabilities."""
        masks = []
        for text, length in enumerate(lengths):
            if self.wrong == "drops alike in all texts":
                text = 0
            own = seed + text
            if p and self.wrong == "drops in a text what the call before dropped in the next":
                own = self.coming[seed][text]
            draw = torch.Generator().manual_seed(own)
            rate = {"drops nothing": 0.0, "drops too much": 1.3 * p}.get(self.wrong, p)
            mask = (torch.rand(heads, length, length, generator=draw) >= rate).float()
            if self.wrong == "drops alike in all heads":
                mask = mask[:1].expand_as(mask)
            masks.append(mask if self.wrong == "does not scale" else mask / (1 - p))
        return masks

    def texts(self, ends: Tensor, longest: int) -> list[int]:
        lengths: list[int] = ends.diff().tolist()
        assert max(lengths) == longest
        assert ends.dtype == torch.int32
        return [sum(lengths[:2]), *lengths[2:]] if self.wrong == "mixes texts" else lengths

    def probabilities(self, q: Tensor, k: Tensor, scale: float, side: int) -> Tensor:
        """[h, l, l] of one text."""
        if self.wrong == "has a wider window" and side >= 0:
            side += 1
        place = torch.arange(q.shape[1])
        hidden = (place[:, None] - place).abs() > (q.shape[1] if side < 0 else side)
        return (q @ k.transpose(1, 2) * scale).masked_fill(hidden, float("-inf")).softmax(-1)

    def scale(self, q: Tensor, scale: float) -> float:
        return q.shape[-1] ** -0.5 if self.wrong == "uses its own scaling" else scale

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, p: float, seed: int, scale: float, side: int
    ) -> Tensor:
        lengths, out = self.texts(ends, longest), []
        for mask, *text in zip(self.masks(lengths, q.shape[1], p, seed), *(heads(x, lengths) for x in (q, k, v)), strict=True):
            out.append((self.probabilities(text[0], text[1], self.scale(q, scale), side) * mask) @ text[2])
        result = torch.cat(out, dim=1).transpose(0, 1)
        if self.wrong == "turns the heads round":
            result = result.flip(1)
        if self.wrong == "gives no numbers":
            result = result * float("nan")
        return result.to(q.dtype)

    def backward(
        self,
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ends: Tensor,
        longest: int,
        p: float,
        seed: int,
        scale: float,
        side: int,
    ) -> tuple[Tensor, ...]:
        if self.wrong == "drops otherwise in the backward pass":
            seed += 1 << 20
        lengths, found = self.texts(ends, longest), []
        for mask, a, b, c, g in zip(
            self.masks(lengths, q.shape[1], p, seed), *(heads(x, lengths) for x in (q, k, v, grad)), strict=True
        ):
            shares = self.probabilities(a, b, self.scale(q, scale), side)
            inner = (g @ c.transpose(1, 2)) * mask
            inner = shares * (inner - (shares * inner).sum(-1, keepdim=True)) * self.scale(q, scale)
            keys = inner.transpose(1, 2) @ a * (self.wrong != "has no gradient of the keys")
            found.append((inner @ b, keys, (shares * mask).transpose(1, 2) @ g))
        return tuple(torch.cat(each, dim=1).transpose(0, 1).to(q.dtype) for each in zip(*found, strict=True))


def heads(x: Tensor, lengths: list[int]) -> list[Tensor]:
    """[h, l, d] of each text, from [T, h, d]."""
    return [text.float().transpose(0, 1) for text in x.split(lengths)]


@contextmanager
def registered(wrong: str = "") -> Iterator[Kernels]:
    """Within the block, torch's operations have kernels for the CPU."""
    kernels = Kernels(wrong)
    library = torch.library.Library("aten", "IMPL", "CPU")
    choice.chosen.cache_clear()
    try:
        for name in ("flash", "efficient"):
            library.impl(f"_{name}_attention_forward", getattr(kernels, name))
            library.impl(f"_{name}_attention_backward", getattr(kernels, f"{name}_backward"))
        yield kernels
    finally:
        library._destroy()
        choice.chosen.cache_clear()


@contextmanager
def as_on_a_gpu(wrong: str = "") -> Iterator[Kernels]:
    """Within the block, the CPU is treated as an accelerator is, with kernels and random numbers of its own."""
    with pytest.MonkeyPatch.context() as patch, registered(wrong) as kernels:
        patch.setattr(dropout, "accelerated", lambda device: True)
        yield kernels
