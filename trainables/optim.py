"""Parameter groups with layer-wise rates, what is frozen, and schedules as functions of the step.

Sun et al. 2019, section 5.3.3: eta^(k-1) = xi * eta^k, so layer i of n has the rate lr * xi^(n-1-i). The paper leaves open what
the embeddings and the head get: 'consistent' puts the embeddings one step below the first layer, 'published' leaves them
undecayed as the authors' code does; the head has the base rate in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainables.stages import Optimisation

EMBEDDINGS, HEAD = "embeddings", "head"


def layer_names(encoder: nn.Module, layers: int) -> dict[str, str]:
    """Where each parameter of an encoder lies: {parameter name: 'embeddings' | 'layer 0' ... | 'head'}.

    The blocks are the outermost ModuleList with `layers` entries. An encoder whose blocks share their weights (ALBERT) has
    one block, which counts as the last. Tables after the blocks (MPNet's of relative positions) count as embeddings, what else is
    there (a final norm) has the head's rate.
    """
    stack, modules = _stack(encoder, layers)
    blocks, prefix, places, seen = len(modules), f"{stack}.", {}, False
    tables = {id(module.weight) for module in encoder.modules() if isinstance(module, nn.Embedding)}
    for name, parameter in encoder.named_parameters():
        if name.startswith(prefix):
            seen = True
            index = int(name.removeprefix(prefix).split(".")[0]) if blocks == layers else layers - 1
            places[name] = f"layer {index}"
        else:
            places[name] = EMBEDDINGS if not seen or "embed" in name or id(parameter) in tables else HEAD
    return places


def _stack(encoder: nn.Module, layers: int) -> tuple[str, nn.ModuleList]:
    """Name and list of an encoder's blocks: `layers` of them, or those that stand for all."""
    lists = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
    return next(((name, module) for name, module in lists if len(module) == layers), lists[0])


def blocks_of(encoder: nn.Module, layers: int) -> list[nn.Module]:
    """The blocks of an encoder with so many layers, each once."""
    return list(_stack(encoder, layers)[1])


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
    """AdamW groups of a model whose part `encoder` has `layers` blocks: every parameter to be trained in exactly one group.

    The layers' rates follow from `xi`, or from the factor between `thirds`. Each group has `name` (embeddings, layer i, head), `lr`
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


def ordered(layers: int) -> list[str]:
    """All places from below."""
    return [EMBEDDINGS, *(f"layer {i}" for i in range(layers)), HEAD]


def places_of(encoder: nn.Module, layers: int) -> dict[int, str]:
    """{id of a parameter: its place} for the parameters of an encoder."""
    names = layer_names(encoder, layers)
    return {id(parameter): names[name] for name, parameter in encoder.named_parameters()}


def freeze(encoder: nn.Module, layers: int, what: str | int) -> None:
    """Take from training nothing, the `embeddings`, the `encoder`, or the embeddings and so many of the lowest layers."""
    places, order = places_of(encoder, layers), ordered(layers)
    count = {"none": 0, "embeddings": 1, "encoder": len(order)}[what] if isinstance(what, str) else 1 + what
    for parameter in encoder.parameters():
        parameter.requires_grad_(places[id(parameter)] not in order[:count])


def thaw(encoder: nn.Module, layers: int, per_epoch: int) -> Callable[[int], None]:
    """Gradual unfreezing from the top (Howard and Ruder 2018, section 3.3), as a function of the epoch.

    Epoch 0 trains the head alone, each later one `per_epoch` layers more, at last the embeddings. What is frozen for good stays so.
    """
    places, order = places_of(encoder, layers), ordered(layers)
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]

    def begin(epoch: int) -> None:
        thawed = order[max(0, len(order) - 1 - epoch * per_epoch) :]
        for parameter in trainable:
            parameter.requires_grad_(places[id(parameter)] in thawed)

    return begin


def rates(groups: list[dict[str, object]]) -> dict[str, float]:
    """Peak learning rate of each place, from the embeddings up: what is printed and recorded at the start of a stage."""
    return {str(group["name"]): float(group["lr"]) for group in groups}  # type: ignore[arg-type]


def adamw(groups: list[dict[str, object]], *, beta1: float, beta2: float, epsilon: float) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019), one fused kernel per step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=epsilon, fused=True)


def for_job(stage: Optimisation, groups: list[dict[str, object]], steps: int) -> dict[str, Any]:
    """What a loop's job takes of a stage's settings: the optimizer of these groups, its schedule over `steps`, clipping."""
    schedule = SCHEDULES[stage.schedule]
    return {
        "optimizer": adamw(groups, beta1=stage.beta1, beta2=stage.beta2, epsilon=stage.epsilon),
        "steps": steps,
        "rate": lambda step: schedule(step, steps, stage.warmup),
        "clip_norm": stage.clip_norm,
    }


def climb(step: int, total: int, warmup: float) -> float | None:
    """Factor of the peak rate while it climbs over the first `warmup` share of steps; None after that."""
    ramp = round(total * warmup)
    return step / ramp if step < ramp else None


def progress(step: int, total: int, warmup: float) -> float:
    """Share of the steps after the climb that is done, 0 to 1."""
    ramp = round(total * warmup)
    return 1.0 - max(0, total - step) / max(1, total - ramp)


def linear(step: int, total: int, warmup: float) -> float:
    """Factor of the peak rate at step 0, 1, ...: up to 1 over the first `warmup` share of steps, then linearly to 0 at `total`."""
    rising = climb(step, total, warmup)
    return 1.0 - progress(step, total, warmup) if rising is None else rising


def cosine(step: int, total: int, warmup: float) -> float:
    """Up to 1, then half a cosine to 0 at `total` (Loshchilov and Hutter 2017, without restarts)."""
    rising = climb(step, total, warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress(step, total, warmup))) if rising is None else rising


def constant(step: int, total: int, warmup: float) -> float:
    """Up to 1, then 1."""
    rising = climb(step, total, warmup)
    return 1.0 if rising is None else rising


def slanted(step: int, total: int, warmup: float, ratio: float = 32.0) -> float:
    """The slanted triangle (Howard and Ruder 2018, equation 3): `warmup` is its cut_frac; from 1/ratio to 1 and back to 1/ratio."""
    cut = math.floor(total * warmup)
    if step < cut:
        p = step / cut
    else:  # the formula's cut * (1 / cut_frac - 1) is total - cut, but for rounding, by which it would fall below 1/ratio
        p = 1.0 - progress(step, total, cut / total)
    return (1.0 + p * (ratio - 1.0)) / ratio


SCHEDULES: dict[str, Callable[[int, int, float], float]] = {
    "linear": linear,
    "slanted": slanted,
    "cosine": cosine,
    "constant": constant,
}
