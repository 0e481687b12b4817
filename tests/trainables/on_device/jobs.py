"""A job on random texts for the training loop, and what the loop leaves after each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.trainables.encoders import examples_of, tiny_base
from trainables.batches.pack import Example
from trainables.encoder.load import Base
from trainables.encoder.recompute import recompute_blocks
from trainables.heads.classifier import classifier
from trainables.stages.finetune import task_loss
from trainables.training import optimizer
from trainables.training.loop import Job, Position, Row, train
from trainables.training.runtime import Runtime
from trainables.training.world import World

LENGTHS = (22, 9, 21, 8, 40, 64, 9, 20)


def job_of(
    device: torch.device,
    base: Base | None = None,
    dropout: float = 0.0,
    lengths: tuple[int, ...] = LENGTHS,
    rate: float = 0.0,
    checkpointing: bool = False,
    **head: Any,
) -> Job:
    """The same batch of random texts in every step. With `rate` 0 the weights stay, so that steps differ in their dropout alone."""
    base = base or tiny_base("bert")
    model = classifier(base, 3, **({"pooling": "pooled", "dropout": dropout, "seed": 0} | head)).to(device)
    if checkpointing:
        recompute_blocks(model.encoder)
    groups = optimizer.parameter_groups(model, model.encoder, base.layers, learning_rate=1e-3)
    texts: list[Example] = examples_of(base, lengths)
    return Job(
        base=base,
        model=model,
        optimizer=optimizer.adamw(groups, beta1=0.9, beta2=0.999, epsilon=1e-6),
        steps=1000,
        rate=lambda step: rate,
        examples=lambda step: texts,
        loss=task_loss,
        weight=len,
        evaluate_at=frozenset(),
        evaluate=lambda step, model: {},
        clip_norm=0.0,
        seed=5,
    )


def runtime_of(device: torch.device, micro_batch: int = 0, half: bool = False, every_step: bool = False) -> Runtime:
    return Runtime(device, World(), "bfloat16" if half else "float32", micro_batch, save_at=lambda step: every_step)


def gradients(job: Job, device: torch.device, micro_batch: int = 0, half: bool = False, steps: range = range(1)) -> list[Tensor]:
    """The gradient of each step, all parameters in one vector on the CPU. The weights must stay: `rate` 0."""
    found: list[Tensor] = []

    def note(at: Position) -> None:
        found.append(torch.cat([gradient.detach().float().flatten().cpu() for gradient in of_model(job.model)]))

    list(train(job, runtime_of(device, micro_batch, half, True), Position(step=steps.start), steps.stop, note))
    return found


def of_model(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def rows_of(job: Job, device: torch.device, steps: int, micro_batch: int = 0, half: bool = False) -> list[Row]:
    """A row for every step."""
    return rows_in(runtime_of(device, micro_batch, half), job, steps)


def rows_in(runtime: Runtime, job: Job, steps: int) -> list[Row]:
    job.evaluate_at = frozenset(range(1, steps + 1))
    return list(train(job, runtime, Position(), steps, lambda at: None))
