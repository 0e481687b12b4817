"""Torch's kernels for texts of different lengths in one row, by one signature.

Both operations are private to torch, but have formulas of their gradients, and torch's nested tensors use them. The public
`varlen_attn` has no dropout.

Shapes: T tokens of all texts, b texts, h heads of d channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

CHANNELS = 8
"""The kernels load so many channels of a head at once: other sizes are padded with zeros, which change no product."""


class Kernel(NamedTuple):
    """A kernel: its name in notices and records, its call, and what it was written for."""

    name: str
    attend: Callable[..., Tensor]
    """attend(q, k, v, ends, longest, scaling, window, p): [T, h, d] from three of [T, h, d], see `flash`."""
    suits: Callable[[torch.device, torch.dtype, int, bool], bool]
    """suits(device, dtype, d, whether there is a window)."""


def flash(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, scaling: float, window: int | None, p: float = 0.0
) -> Tensor:
    """FlashAttention-2 (Dao 2023): [T, h, d]. `ends` [b + 1], int32: starts of the texts and the end of the last one.

    A token sees those less than `window` positions away. Dropout at the rate `p` draws from the device's default generator.
    """
    sides = -1 if window is None else window - 1  # its windows include their ends
    out: Tensor = torch.ops.aten._flash_attention_forward(
        *map(_aligned, (q, k, v)),
        ends,
        ends,
        longest,
        longest,
        p,
        False,
        False,
        scale=scaling,
        window_size_left=sides,
        window_size_right=sides,
    )[0]
    return out.narrow(-1, 0, q.shape[-1])


def efficient(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, scaling: float, window: int | None, p: float = 0.0
) -> Tensor:
    """Memory-efficient attention (Rabe and Staats 2021), without windows; otherwise as `flash`."""
    assert window is None
    out: Tensor = torch.ops.aten._efficient_attention_forward(
        *(_aligned(x).unsqueeze(0) for x in (q, k, v)), None, ends, ends, longest, longest, p, 0, True, scale=scaling
    )[0]
    return out.squeeze(0).narrow(-1, 0, q.shape[-1])


def _aligned(x: Tensor) -> Tensor:
    return pad(x, (0, -x.shape[-1] % CHANNELS)).contiguous()


def _suits_flash(device: torch.device, dtype: torch.dtype, width: int, windowed: bool) -> bool:
    """16-bit numbers and heads of up to 256 channels, on NVIDIA's GPUs from Ampere on."""
    if dtype not in (torch.bfloat16, torch.float16) or width > 256:
        return False
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def _suits_efficient(device: torch.device, dtype: torch.dtype, width: int, windowed: bool) -> bool:
    return dtype in (torch.float32, torch.bfloat16, torch.float16) and not windowed


KERNELS = (Kernel("flash", flash, _suits_flash), Kernel("efficient", efficient, _suits_efficient))
"""The fastest first."""
