"""Parameter groups with layer-wise decay, and the schedule as a function of the step.

Sun et al. 2019, section 5.3.3: eta^(k-1) = xi * eta^k, so layer i of n has the rate lr * xi^(n-1-i). The paper leaves open what
the embeddings and the head get: 'consistent' puts the embeddings one step below the first layer, 'published' leaves them
undecayed as the authors' code does; the head has the base rate in both.
"""

from __future__ import annotations

import torch
from torch import nn

EMBEDDINGS, HEAD = "embeddings", "head"


def layer_names(encoder: nn.Module, layers: int) -> dict[str, str]:
    """Where each parameter of an encoder lies: {parameter name: 'embeddings' | 'layer 0' ... | 'head'}.

    The blocks are the outermost ModuleList with `layers` entries. An encoder whose blocks share their weights (ALBERT) has
    one block, which counts as the last. Parameters after the blocks (a final norm) have the head's rate.
    """
    lists = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
    stack, blocks = next(((name, len(module)) for name, module in lists if len(module) == layers), (lists[0][0], 1))
    prefix, places, seen = f"{stack}.", {}, False
    for name, _ in encoder.named_parameters():
        if name.startswith(prefix):
            seen = True
            index = int(name.removeprefix(prefix).split(".")[0]) if blocks == layers else layers - 1
            places[name] = f"layer {index}"
        else:
            places[name] = EMBEDDINGS if not seen or "embed" in name else HEAD
    return places


def parameter_groups(
    model: nn.Module,
    encoder: nn.Module,
    layers: int,
    *,
    learning_rate: float,
    xi: float = 1.0,
    variant: str = "consistent",
    weight_decay: float = 0.01,
) -> list[dict[str, object]]:
    """AdamW groups of a model whose part `encoder` has `layers` blocks: every parameter in exactly one group.

    Each group has `name` (embeddings, layer i, head), `lr` (its peak rate) and `weight_decay` (0 for biases and norms).
    """
    places = {id(parameter): place for parameter, place in _placed(encoder, layers)}
    factors = {f"layer {i}": xi ** (layers - 1 - i) for i in range(layers)} | {HEAD: 1.0}
    factors[EMBEDDINGS] = xi**layers if variant == "consistent" else 1.0
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
            "lr": learning_rate * factors[place],
            "weight_decay": 0.0 if plain else weight_decay,
        }
    order = [EMBEDDINGS, *(f"layer {i}" for i in range(layers)), HEAD]
    return [groups[key] for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1]))]


def _placed(encoder: nn.Module, layers: int) -> list[tuple[nn.Parameter, str]]:
    names = layer_names(encoder, layers)
    return [(parameter, names[name]) for name, parameter in encoder.named_parameters()]


def rates(groups: list[dict[str, object]]) -> dict[str, float]:
    """Peak learning rate of each place, from the embeddings up: what is printed and recorded at the start of a stage."""
    return {str(group["name"]): float(group["lr"]) for group in groups}  # type: ignore[arg-type]


def adamw(groups: list[dict[str, object]], *, beta1: float, beta2: float, epsilon: float) -> torch.optim.AdamW:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019), one fused kernel per step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=epsilon, fused=True)


def linear(step: int, total: int, warmup: float) -> float:
    """Factor of the peak rate at step 0, 1, ...: up to 1 over the first `warmup` share of steps, then linearly to 0 at `total`."""
    ramp = round(total * warmup)
    if step < ramp:
        return step / ramp
    return max(0.0, (total - step) / max(1, total - ramp))
