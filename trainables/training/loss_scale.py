"""Loss scaling for float16 (Micikevicius et al. 2018, section 3.2), with the rules and constants of torch.amp.GradScaler.

Small gradients would be 0 in float16. So the loss is multiplied by a scale before the backward pass, and the gradients, summed in
float32, are divided by it before clipping. If a gradient is not finite, the step is skipped and the scale halved; after INTERVAL
steps without a skip it is doubled. All values stay on the device, so that no step waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FIRST = 2.0**16
"""Scale at the start."""
INTERVAL = 2000
"""Number of steps without a skip after which the scale is doubled."""


@dataclass
class LossScale:
    """The scale of the losses of a run, and what has happened to it. Numbers on the device of training."""

    value: Tensor
    """float32 []; 1 if losses are not scaled."""
    good_steps: Tensor
    """int64 []: steps since the last skip or doubling."""
    skipped_steps: Tensor
    """int64 []: skipped steps since the start of the stage."""
    changes: bool
    """Whether losses are scaled."""

    @classmethod
    def of(
        cls, scaled: bool, device: torch.device, value: float | None = None, good_steps: int = 0, skipped_steps: int = 0
    ) -> LossScale:
        """The scale at the start of a run, or with these values where it goes on."""
        first = (FIRST if value is None else value) if scaled else 1.0
        good, skipped = (torch.tensor(count, device=device) for count in (good_steps, skipped_steps))
        return cls(torch.tensor(first, device=device), good, skipped, scaled)

    def bearable(self, norm: Tensor) -> Tensor:
        """A gradient norm [], or 0 for one that is not finite as long as a smaller scale may help: at 1 none does."""
        return torch.where(torch.isfinite(norm) | (self.value <= 1), norm, torch.zeros_like(norm)) if self.changes else norm

    def update(self, skipped: Tensor) -> None:
        """Adapt the scale after a step that was `skipped`, bool []."""
        if not self.changes:
            return
        good = torch.where(skipped, 0, self.good_steps + 1)
        full = good == INTERVAL
        self.value = torch.where(skipped, self.value / 2, torch.where(full, self.value * 2, self.value))
        self.good_steps = torch.where(full, 0, good)
        self.skipped_steps = self.skipped_steps + skipped

    def numbers(self) -> tuple[float | None, int, int]:
        """(scale, good steps, skipped steps) for a saved position; waits for the device."""
        return (float(self.value), int(self.good_steps), int(self.skipped_steps)) if self.changes else (None, 0, 0)
