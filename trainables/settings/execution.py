"""Execution of a trial: device, threads, memory. None of these settings enters the identity of a result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainables.settings.base import Settings

Precision = Literal["float32", "tf32", "bfloat16", "float16", "auto"]


class Execution(Settings):
    """Execution of a trial. None of these settings changes its result, so they are excluded from the ids of stages.

    On a GPU device and micro-batch change which elements drop out, but not their distribution.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto: a GPU if there is one."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one trial; 0: PyTorch's default."""
    micro_batch: Annotated[int, Field(ge=0)] = 0
    """Sequences per forward pass; 0: as many as fit into the device's memory by an estimate. Halved automatically if memory runs
    out. On a GPU the dropped elements depend on it."""
    gradient_checkpointing: bool = False
    """Recompute the activations of the encoder's blocks in the backward pass: less memory, at the cost of one more forward pass."""
    state_every_steps: Annotated[int, Field(ge=0)] = 0
    """Save the state for a resume after every this many steps, too; 0: only at evaluations."""
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of its GPU that a process may use. Below 1 its tensors are bounded to this share of the GPU's memory, and the energy is
    not recorded, since others use the GPU too."""
    keep_weights: bool = True
    """Keep the fine-tuned weights in the artifact; otherwise it holds only metrics and predictions."""
