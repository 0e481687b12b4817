"""Low-rank adapters (Hu et al. 2021) by `peft`: W + (alpha / r) B A, where only A, B and the head are trained.

The adapters are merged into the weights when an artifact is published, so readers of artifacts see a plain encoder. Adapters have
no dropout of their own; the encoder's dropout stays active. peft is imported only if it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trainables.settings.errors import ConfigError, near

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainables.settings.stages import Finetune

ADAPTER = "default"
"""peft's name of the only adapter."""
TARGETS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "layoutlm"), ("query", "value")),
    "deberta-v2": ("query_proj", "value_proj"),
    "deberta": ("in_proj",),
}
"""{family: linear layers that get adapters by default}, as in peft 0.21. They are part of a stage's identity, and so they do not
depend on the version of peft that is installed."""
MISSING = 'adapters need the package peft, which is not installed: pip install "finetune-study[lora]", or set lora_rank to 0'


def missing(rank: int) -> list[str]:
    """Fault if adapters of this rank are requested and peft is not installed; it begins with the field."""
    return [f"lora_rank: {rank} given, but {MISSING}"] if rank and find_spec("peft") is None else []


def adapt(encoder: Any, layers: int, stage: Finetune, seed: int) -> tuple[str, ...]:
    """Add new adapters, initialised from `seed`, to the blocks of an encoder and freeze its other parameters. Returns notices.

    Raises ConfigError if peft is missing, and for targets that no block has.
    """
    if faults := missing(stage.lora_rank) or target_faults(encoder, layers, stage.lora_targets or ()):
        raise ConfigError(f"{stage.name}.{fault}" for fault in faults)
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    names = chosen(encoder, layers, stage.lora_targets)
    config = LoraConfig(r=stage.lora_rank, lora_alpha=stage.lora_alpha, target_modules=list(names), lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, encoder)
    trained = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    kinds = ", ".join(dict.fromkeys(names.values()))
    return (f"{stage.name}: adapters of rank {stage.lora_rank} on {kinds} train {trained} weights in the encoder's place",)


def chosen(encoder: Any, layers: int, wanted: Sequence[str] | None) -> dict[str, str]:
    """The `linear_layers` that get adapters: those with the wanted names, or the family's `TARGETS`, or all."""
    inside = linear_layers(encoder, layers)
    kinds = wanted or TARGETS.get(encoder.config.model_type) or inside.values()
    return {name: kind for name, kind in inside.items() if kind in kinds}


def linear_layers(encoder: Any, layers: int) -> dict[str, str]:
    """{full name: name within its block} of the linear layers in an encoder's blocks."""
    from torch import nn

    from trainables.encoder.layers import EMBEDDINGS, HEAD, layer_names

    places = layer_names(encoder, layers)
    linear = (name for name, module in encoder.named_modules() if isinstance(module, nn.Linear))
    return {name: name.rpartition(".")[2] for name in linear if places[f"{name}.weight"] not in (EMBEDDINGS, HEAD)}


def target_faults(encoder: Any, layers: int, wanted: Sequence[str]) -> list[str]:
    """Faults for the `wanted` names that no block has; they begin with the field."""
    kinds = list(dict.fromkeys(linear_layers(encoder, layers).values()))
    return [
        f"lora_targets: {name!r} is no linear layer in the blocks of this {encoder.config.model_type}{near(name, kinds)};"
        f" it has {', '.join(kinds)}"
        for name in wanted
        if name not in kinds
    ]


def merged(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters with the adapters merged, under their names without adapters."""
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            inner = f"{name}.base_layer."
            state = {f"{name}.{key.removeprefix(inner)}" if key.startswith(inner) else key: state[key] for key in state}
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight(ADAPTER).detach()
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.lora_")}
    return state
