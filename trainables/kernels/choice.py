"""Choose the kernel of packed attention on an accelerator: the fastest that suits the inputs and passes its test.

As a program it prints what it chooses on the first GPU, as JSON.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.kernels.calls import KERNELS
from trainables.kernels.self_test import fault

log = logging.getLogger(__name__)
PLAIN = "plain"
"""Name of attention by matrix products, which needs no kernel."""


class Choice(NamedTuple):
    """A kernel for some inputs."""

    name: str
    attend: Callable[..., Tensor] | None
    """As in `calls.Kernel`; None: plain."""
    notices: tuple[str, ...]
    """Which kernels failed before it, and why."""


@cache  # tested once per process
def chosen(device: torch.device, dtype: torch.dtype, width: int, windowed: bool, dropping: bool) -> Choice:
    """The kernel for heads of `width` channels, with or without a window and dropout.

    The tests run in a thread of their own: the caller's autocast, checkpointing and gradient modes do not reach them.
    """
    with ThreadPoolExecutor(1) as own:
        choice = own.submit(_chosen, device, dtype, width, windowed, dropping).result()
    for notice in choice.notices:
        log.warning("%s", notice)
    return choice


def _chosen(device: torch.device, dtype: torch.dtype, width: int, windowed: bool, dropping: bool) -> Choice:
    failed: list[tuple[str, str]] = []
    best, attend = PLAIN, None
    for kernel in KERNELS:
        if not kernel.suits(device, dtype, width, windowed):
            continue
        reason = fault(kernel.attend, device, dtype, width, windowed, dropping)
        if reason is None:
            best, attend = kernel.name, kernel.attend
            break
        failed.append((kernel.name, reason))
    inputs = f"{str(dtype).removeprefix('torch.')}, heads of {width}{', a window' * windowed}{', dropout' * dropping}"
    notices = tuple(f"attention on {device}: torch's {name} kernel failed its test ({inputs}): {why}" for name, why in failed)
    return Choice(best, attend, tuple(f"{notice}; computed by {best} attention" for notice in notices))


def survey(device: torch.device, dtype: torch.dtype, width: int = 64) -> dict[str, tuple[str, tuple[str, ...]]]:
    """{inputs: (kernel, notices)} for heads of `width` channels, with and without dropout and a window."""
    cases = {
        "full": (False, False),
        "with dropout": (False, True),
        "in windows": (True, False),
        "in windows with dropout": (True, True),
    }
    choices = {case: chosen(device, dtype, width, *flags) for case, flags in cases.items()}
    return {case: (choice.name, choice.notices) for case, choice in choices.items()}


if __name__ == "__main__":
    first = torch.device("cuda", 0)
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    print(json.dumps({str(dtype).removeprefix("torch."): survey(first, dtype) for dtype in (half, torch.float32)}))
