"""Assign the parameters of an encoder to layers, for layer-wise learning rates, freezing and adapters."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

EMBEDDINGS, HEAD = "embeddings", "head"


def layer_names(encoder: nn.Module, layers: int) -> dict[str, str]:
    """{parameter name: place} of an encoder; the places are 'embeddings', 'layer 0' ... and 'head'.

    The blocks are the outermost ModuleList with `layers` entries. An encoder whose blocks share their weights (ALBERT) has one
    block, which counts as the last. Tables after the blocks (MPNet's relative positions) count as embeddings; other parameters
    there (a final norm) count as head.
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
    """(name, list) of an encoder's blocks: `layers` of them, or fewer if they are shared."""
    lists = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
    return next(((name, module) for name, module in lists if len(module) == layers), lists[0])


def blocks_of(encoder: nn.Module, layers: int) -> list[nn.Module]:
    """The blocks of an encoder with this number of layers, without repetition."""
    return list(_stack(encoder, layers)[1])


def ordered(layers: int) -> list[str]:
    """All places, from the embeddings up."""
    return [EMBEDDINGS, *(f"layer {i}" for i in range(layers)), HEAD]


def places_of(encoder: nn.Module, layers: int) -> dict[int, str]:
    """{id of a parameter: its place} for the parameters of an encoder."""
    names = layer_names(encoder, layers)
    return {id(parameter): names[name] for name, parameter in encoder.named_parameters()}


def freeze(encoder: nn.Module, layers: int, what: str | int) -> None:
    """Freeze nothing (`none`), the `embeddings`, the `encoder`, or the embeddings and this number of the lowest layers."""
    places, order = places_of(encoder, layers), ordered(layers)
    count = {"none": 0, "embeddings": 1, "encoder": len(order)}[what] if isinstance(what, str) else 1 + what
    for parameter in encoder.parameters():
        parameter.requires_grad_(places[id(parameter)] not in order[:count])


def thaw(encoder: nn.Module, layers: int, per_epoch: int) -> Callable[[int], None]:
    """Gradual unfreezing from the top (Howard and Ruder 2018, section 3.3), as a function of the epoch.

    Epoch 0 trains only the head; every later epoch adds `per_epoch` layers, and finally the embeddings. Parameters that are frozen
    now stay frozen.
    """
    places, order = places_of(encoder, layers), ordered(layers)
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]

    def begin(epoch: int) -> None:
        thawed = order[max(0, len(order) - 1 - epoch * per_epoch) :]
        for parameter in trainable:
            parameter.requires_grad_(places[id(parameter)] in thawed)

    return begin
