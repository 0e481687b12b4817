"""AdamW with layer-wise learning rates.

Sun et al. 2019, section 5.3.3: eta^(k-1) = xi * eta^k, so layer i of n has the rate lr * xi^(n-1-i). The paper does not define the
rates of the embeddings and the head: 'consistent' puts the embeddings one step below the first layer, 'published' leaves them
undecayed as the authors' code does; the head has the base rate in both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainables.encoder.layers import EMBEDDINGS, HEAD, ordered, places_of
from trainables.settings.base import Optimisation
from trainables.training.schedules import SCHEDULES


def parameter_groups(
    model: nn.Module,
    encoder: nn.Module,
    layers: int,
    *,
    learning_rate: float,
    xi: float = 1.0,
    thirds: float | None = None,
    variant: str = "consistent",
    head_rate: float | None = None,
    weight_decay: float = 0.01,
) -> list[dict[str, object]]:
    """AdamW groups of a model whose `encoder` has `layers` blocks: every trainable parameter is in exactly one group.

    The layers' rates follow from `xi`, or from the factor between `thirds`. A group has `name` (embeddings, layer i, head), `lr`
    (its peak rate) and `weight_decay` (0 for biases and norms).
    """
    places = places_of(encoder, layers)
    factors = {f"layer {i}": xi ** (layers - 1 - i) if thirds is None else thirds ** (3 * i // layers - 1) for i in range(layers)}
    lowest = xi**layers if thirds is None else 1 / thirds
    peaks = {place: learning_rate * factor for place, factor in factors.items()}
    peaks[EMBEDDINGS] = learning_rate * (lowest if variant == "consistent" else 1.0)
    peaks[HEAD] = learning_rate if head_rate is None else head_rate
    groups: dict[tuple[str, bool], dict[str, object]] = {}
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        place = places.get(id(parameter), HEAD)
        plain = parameter.ndim < 2 or name.endswith("bias")
        key = (place, plain)
        members.setdefault(key, []).append(parameter)
        groups[key] = {
            "name": place,
            "params": members[key],
            "lr": peaks[place],
            "weight_decay": 0.0 if plain else weight_decay,
        }
    order = ordered(layers)
    return [groups[key] for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1]))]


def rates(groups: list[dict[str, object]]) -> dict[str, float]:
    """{place: peak learning rate}, from the embeddings up: printed and recorded at the start of a stage."""
    return {str(group["name"]): float(group["lr"]) for group in groups}  # type: ignore[arg-type]


def adamw(groups: list[dict[str, object]], *, beta1: float, beta2: float, epsilon: float) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019), one fused kernel per step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=epsilon, fused=True)


def for_job(stage: Optimisation, groups: list[dict[str, object]], steps: int) -> dict[str, Any]:
    """Arguments of `Job` from a stage's settings: the optimizer of these groups, its schedule over `steps`, clipping."""
    schedule = SCHEDULES[stage.schedule]
    return {
        "optimizer": adamw(groups, beta1=stage.beta1, beta2=stage.beta2, epsilon=stage.epsilon),
        "steps": steps,
        "rate": lambda step: schedule(step, steps, stage.warmup),
        "clip_norm": stage.clip_norm,
    }
