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
def numbers_from(generator: torch.Generator | None, start: int | Tensor | None) -> Iterator[None]:
    """Within the block, a generator draws from `start` on, a seed or a state; afterwards it is where it was before.

    Nothing happens without a generator, which has no state either.
    """
    if generator is None or start is None:
        yield
        return
    before = generator.get_state()
    if isinstance(start, int):
        generator.manual_seed(start)
    else:
        generator.set_state(start)
    try:
        yield
    finally:
        generator.set_state(before)
