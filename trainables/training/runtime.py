"""Device, precision and processes for the computation of a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainables.settings.execution import Precision
from trainables.training import energy
from trainables.training.world import World

SIXTEEN_BITS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""{precision: type of the products of matrices under autocast}"""


@dataclass
class Runtime:
    """Device and execution options; none of them changes the result, except for the dropped elements on a GPU."""

    device: torch.device
    world: World
    precision: Precision = "float32"
    """Arithmetic of matrix products, not `auto`; weights, sums and the optimizer stay float32."""
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

    def autocast(self) -> torch.autocast:
        """The context of a forward pass in this precision, which also holds for its backward pass, up to the next call."""
        self._set_products()
        dtype = SIXTEEN_BITS.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def __post_init__(self) -> None:
        self._set_products()

    def _set_products(self) -> None:
        """float32 is float32 on GPUs too, and TF32 only in products of matrices, whatever an earlier stage of this process had.

        cuDNN would round the inputs of LSTMs and convolutions to TF32, forward and backward.
        """
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
