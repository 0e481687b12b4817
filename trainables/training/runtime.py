"""Where and in which precision a stage is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainables.training import energy
from trainables.training.world import World


@dataclass
class Runtime:
    """Where and how to compute; nothing here changes the result."""

    device: torch.device
    world: World
    autocast: bool
    """bfloat16 matrix products; weights, sums and the optimizer stay float32."""
    micro_batch: int = 0
    """Sequences per forward pass; 0 takes a rank's whole share."""
    save_at: Callable[[int], bool] = lambda step: False
    """Steps after which to save without evaluating."""
    joules: energy.Counter = energy.silent
    """Counter of this process's own GPU."""
