"""Device, precision and processes for the computation of a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainables.training import energy
from trainables.training.world import World


@dataclass
class Runtime:
    """Device and execution options; none of them changes the result, except for the dropped elements on a GPU."""

    device: torch.device
    world: World
    autocast: bool
    """bfloat16 matrix products; weights, sums and the optimizer stay float32."""
    micro_batch: int = 0
    """Sequences per forward pass; 0: as many as fit into memory."""
    save_at: Callable[[int], bool] = lambda step: False
    """Steps after which to save without evaluating."""
    joules: energy.Counter = energy.silent
    """Energy counter of this process's GPU."""
    gpu_share: float = 1.0
    """Share of its GPU's memory that this process may take."""
    recomputes: bool = False
    """Whether the encoder's blocks are recomputed in the backward pass."""

    def __post_init__(self) -> None:
        """float32 is float32 on GPUs too: cuDNN would round the inputs of LSTMs and convolutions to TF32, forward and backward."""
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
