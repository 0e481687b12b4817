"""How a trial is computed: device, threads, memory. Nothing here changes a result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainables.settings.base import Settings

Precision = Literal["float32", "bfloat16", "auto"]


class Execution(Settings):
    """How a trial is computed. Nothing here changes its result, so nothing here enters the identity of a stage."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one trial; 0 leaves PyTorch's choice."""
    micro_batch: Annotated[int, Field(ge=0)] = 0
    """Sequences per forward pass; 0 takes the whole batch. Halved by itself when memory runs out."""
    gradient_checkpointing: bool = False
    """Compute what a block of the encoder keeps for the backward pass once more there: less memory for one more forward pass."""
    state_every_steps: Annotated[int, Field(ge=0)] = 0
    """Save the state for a resume also every so many steps; 0: at every evaluation only."""
    whole_gpu: bool = True
    """Whether a process has its GPU to itself: only then is the GPU's energy its own, and recorded."""
    keep_weights: bool = True
    """Keep the fine-tuned weights in the artifact; without them it holds metrics and predictions."""
