"""The random state of a device, on which torch's own dropout and attention draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def default_generator(device: torch.device) -> torch.Generator:
    """The generator of a device that torch's operations use if they are given none."""
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device)
    module.init()  # the generators exist from then on
    generator: torch.Generator = module.default_generators[module.current_device() if device.index is None else device.index]
    return generator


@contextmanager
def seeded(generator: torch.Generator | None, seed: int) -> Iterator[None]:
    """Within the block, numbers are drawn from `seed` on; then others go on where they were. Nothing happens to None."""
    if generator is None:
        yield
        return
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def drawn_again(generator: torch.Generator | None, state: Tensor | None) -> Iterator[None]:
    """Within the block, the numbers after `state` are drawn again; then others go on where they were. Nothing happens to None."""
    if generator is None or state is None:
        yield
        return
    before = generator.get_state()
    generator.set_state(state)
    try:
        yield
    finally:
        generator.set_state(before)
