"""Encoders: loaded once per process, proved packable or not, copied for each trial.

Any transformers encoder will do: nothing here knows a family by name. Weights are float32 whatever the checkpoint holds, come from
safetensors alone, and no code comes from a checkpoint.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from trainables.batches.input_format import InputFormat
from trainables.batches.pack import Batch
from trainables.batches.special_tokens import Special, special_tokens
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.encoder import attention, checkpoint, lora, packing_probe, process_memory
from trainables.encoder.check import check_encoder, read_tokenizer, rows_needed
from trainables.encoder.dropout import Dropout, replaced_dropout
from trainables.encoder.occurring_embedding import OccurringEmbedding
from trainables.encoder.weights import kind_fault, read_model, refusal
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError, near

POOLER = "pooler"
"""Name under which transformers' base models keep their dense layer over the first token."""
OTHER_HEADS = ("classif", "qa", "summary")
"""Dropout rates of heads that are not ours."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Base(InputFormat):
    """An encoder as loaded, with the format of its inputs: what trials start from."""

    folder: Path | None
    """Where its files are; None for one made from a configuration."""
    config: Any
    """Its transformers configuration."""
    tokenizer: Any
    model: nn.Module
    """The encoder itself in float32, without a pooler. Trials copy it and never change it."""
    pooler: Mapping[str, Tensor] | None
    """Weight and bias of the checkpoint's own pooler, if it has one."""
    hidden_size: int
    layers: int
    notices: tuple[str, ...] = ()


@lru_cache(maxsize=1)  # the trials of a process start from the same one; more would fill the memory
def load_base(encoder: Encoder, texts: tuple[str, ...] = ()) -> Base:
    """The encoder that `encoder` names, read once per process. `texts` train the vocabulary of one that has no tokenizer yet.

    Raises ConfigError when its files are missing or refused (`checkpoint.locate`).
    """
    process_memory.keep_freed()
    notices, folder = check_encoder(encoder), checkpoint.tokenizer_folder(encoder)
    tokenizer = train_wordpiece(texts, encoder.vocabulary) if folder is None else read_tokenizer(folder)
    if encoder.config is not None:
        base = base_of(from_config(encoder.config, tokenizer), special_tokens(tokenizer), tokenizer)
    else:
        assert folder is not None, "checkpoint.tokenizer_folder answers with a folder or a fault"
        model, missing = read_model(AutoModel, folder)
        base = base_of(model, special_tokens(tokenizer), tokenizer, folder, missing)
    return replace(base, notices=(*base.notices, *notices))


def from_config(fields: Mapping[str, Any], tokenizer: Any, seed: int = 0) -> nn.Module:
    """A small encoder with random weights that depend on its configuration alone.

    Raises ConfigError for a configuration that its family does not take.
    """
    names = ("pad", "bos", "eos", "cls", "sep")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    rows = rows_needed(tokenizer)
    known = {"vocab_size": rows} | {name: value for name, value in ids.items() if value is not None}
    if (size := fields.get("vocab_size", rows)) < rows:
        raise ConfigError([f"encoder.config.vocab_size: {size} given, but the tokenizer has {rows} pieces"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _made_of(fields, known)


def check_config(fields: Mapping[str, Any] | None) -> None:
    """Raises ConfigError for a transformers configuration of which no encoder can be made; None is of none. Computes nothing."""
    if fields is not None:
        with torch.device("meta"):
            _made_of(fields)


def target_faults(encoder: Encoder, targets: Sequence[str]) -> list[str]:
    """What of these names of linear layers the encoder lacks; its weights are not read."""
    with torch.device("meta"):
        if encoder.config is None:
            model = AutoModel.from_config(AutoConfig.from_pretrained(checkpoint.locate(encoder), trust_remote_code=False))
        else:
            model = _made_of(encoder.config)
    return lora.target_faults(model, model.config.num_hidden_layers, targets)


def _made_of(fields: Mapping[str, Any], known: Mapping[str, Any] = MappingProxyType({})) -> nn.Module:
    """A model of these fields over those that are `known`, which not every family has."""
    others = dict(fields)
    kind = str(others.pop("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ConfigError([f"encoder.config.model_type: {kind!r} is no kind of encoder{near(kind, CONFIG_MAPPING)}"])
    default = CONFIG_MAPPING[kind]()
    faults = [
        f"encoder.config.{name}: {kind} has no such field{near(name, default.to_dict())}"
        for name in others
        if not hasattr(default, name)
    ]
    if faults:
        raise ConfigError(faults)
    try:
        config = AutoConfig.for_model(kind, **{**known, **others})
        model: nn.Module | None = None if (fault := kind_fault(config)) else AutoModel.from_config(config)
    except Exception as error:  # each family has its own ways to refuse a configuration
        raise ConfigError([f"encoder.config: {refusal(kind, others, error)}"]) from error
    if model is None:
        raise ConfigError([f"encoder.config: {fault}"])
    return model


def base_of(
    model: Any, special: Special, tokenizer: Any = None, folder: Path | None = None, missing: set[str] | None = None
) -> Base:
    """What trials need to know of a loaded model; `missing` are the parameters that its checkpoint lacks, None if it is all new."""
    model = model.float().eval()
    config = model.config
    pooler = _take_pooler(model, missing)
    if getattr(config, "type_vocab_size", 2) < 2:
        special = replace(special, pair=special.pair.of_one_type())
    found = packing_probe.packable(model, type_ids=(types := takes(model, "token_type_ids")))
    notices = () if found.reason is None else (f"{config.model_type} takes padded batches, which are slower: {found.reason}",)
    return Base(
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        special=special,
        model=model,
        pooler=pooler,
        packable=found.reason is None,
        position_start=found.position_start,
        takes_types=types,
        longest=_longest(model),
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        notices=notices,
        takes_global=takes(model, "global_attention_mask"),
    )


def _longest(model: Any) -> int | None:
    """Number of learned positions, less those that RoBERTa-like encoders leave unused at the beginning."""
    rows = getattr(model.config, "max_position_embeddings", None)
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.num_embeddings == rows]
    if not tables or tables[-1] is model.get_input_embeddings():
        return None
    unused = tables[-1].padding_idx
    return tables[-1].num_embeddings - (0 if unused is None else unused + 1)


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward has this argument."""
    return argument in inspect.signature(model.forward).parameters


def _take_pooler(model: Any, missing: set[str] | None) -> dict[str, Tensor] | None:
    """Weight and bias of the model's pooler, which leaves the model: it belongs to the head. None where the checkpoint has none."""
    pooler = getattr(model, POOLER, None)
    if pooler is None:
        return None
    setattr(model, POOLER, nn.Identity())
    dense = next(module for module in pooler.modules() if isinstance(module, nn.Linear))
    if missing is None or any(name.startswith(f"{POOLER}.") for name in missing):
        return None
    return {name: value.detach() for name, value in dense.named_parameters()}


def fresh_encoder(base: Base, dropout: float, depth: int | None = None) -> Any:
    """A copy of the base's encoder for one trial, or of its `depth` lowest blocks alone, with its dropout rates set."""
    depth = base.layers if depth is None else depth
    with no_init_weights():
        model = AutoModel.from_config(with_depth(with_dropout(base.config, dropout), depth))
    behind = False
    for name, child in model.named_children() if depth < base.layers else ():  # a final norm belongs to the last block of all
        if behind and any(True for _ in child.parameters()):
            setattr(model, name, nn.Identity())
        behind |= any(isinstance(module, nn.ModuleList) for module in child.modules())
    return prepared(model, base)


def with_depth(config: Any, depth: int) -> Any:
    """A copy of a transformers configuration with the `depth` lowest blocks; lists with an entry for each block are cut too."""
    fields, blocks = config.to_dict(), config.num_hidden_layers
    cut = {name: value[:depth] for name, value in fields.items() if isinstance(value, list) and len(value) == blocks}
    return type(config).from_dict(fields | cut | {config.attribute_map.get("num_hidden_layers", "num_hidden_layers"): depth})


def prepared(model: Any, base: Base) -> Any:
    """A newly made encoder with the base's weights, attention of our kind and dropout of our kind."""
    if getattr(model, POOLER, None) is not None:
        setattr(model, POOLER, nn.Identity())
    state, buffers = base.model.state_dict(), dict(base.model.named_buffers())
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    for name, target in model.named_buffers():
        target.copy_(buffers[name])
    # Eager attention, when padded, so that its dropout can be seen.
    model.set_attn_implementation(attention.NAME if base.packable else "eager")
    if base.packable:
        replace_dropout(model)
    return model


def replace_dropout(model: nn.Module) -> None:
    """Put our dropout in the place of torch's."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))


def with_dropout(config: Any, dropout: float) -> Any:
    """A copy of a transformers configuration with every dropout rate of the encoder set."""
    config = type(config).from_dict(config.to_dict())
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, (int, float)) and not any(other in name for other in OTHER_HEADS):
            setattr(config, name, dropout)
    return config


def hidden_states(encoder: nn.Module, batch: Batch) -> Tensor:
    """Last hidden states [T, H] of all tokens, text after text, whichever way the encoder takes them."""
    return layer_states(encoder, batch, (-1,))[0]


def layer_states(encoder: nn.Module, batch: Batch, layers: Sequence[int]) -> list[Tensor]:
    """Hidden states [T, H] of all tokens after each of these layers; -1 is what the encoder itself gives out."""
    inner = any(layer != -1 for layer in layers)

    def states(part: Any) -> list[Tensor]:
        set_attention_type(encoder, encoder.config)
        found = encoder(**_inputs(part), **({"output_hidden_states": True} if inner else {}))
        return [found.last_hidden_state if layer == -1 else found.hidden_states[layer + 1] for layer in layers]

    if batch.order is None:
        with attention.packed(batch.lengths, batch.pool_index.device):
            return [state[0] for state in states(batch.parts[0])]
    with replaced_dropout(uneven=hasattr(encoder, "set_attention_type")) as begin:
        flat = []
        for part in batch.parts:
            begin(part)
            flat.append([state.flatten(0, 1) for state in states(part)])
    return [torch.cat(each).index_select(0, batch.order) for each in zip(*flat, strict=True)]


def set_attention_type(encoder: Any, of: Any) -> None:
    """Give an encoder with several kinds of attention the kind that `of` has.

    BigBird turns from sparse to full attention at the first short batch, and would stay there: what a text comes out as would
    depend on those before it.
    """
    if hasattr(encoder, "set_attention_type"):
        with torch.device("meta"):  # the layers that it makes are replaced by those it has
            encoder.set_attention_type(of.attention_type)


def _inputs(part: Any) -> dict[str, Tensor]:
    names = ("input_ids", "position_ids", "token_type_ids", "attention_mask", "global_attention_mask")
    return {name: value for name in names if (value := getattr(part, name)) is not None}


def depth_of(layers: Sequence[int], blocks: int) -> int:
    """How many of an encoder's blocks it takes to reach the highest of `layers`."""
    return max(layer % blocks for layer in layers) + 1


def draw_initial(name: str, parameter: Tensor, config: Any, generator: torch.Generator) -> None:
    """Initial value as transformers gives it: weights normal, norms one, biases zero."""
    if name.endswith("bias"):
        parameter.zero_()
    elif parameter.ndim < 2:
        parameter.fill_(1.0)
    else:
        parameter.normal_(0.0, getattr(config, "initializer_range", 0.02), generator=generator)


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by name, tied ones once, whole tables of embeddings, adapters merged: what an artifact keeps."""
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tables = [(name, module) for name, module in model.named_modules() if isinstance(module, OccurringEmbedding)]
    return lora.merged(state | {f"{name}.weight": module.table() for name, module in tables}, model)


def load_encoder_weights(model: nn.Module, path: Path, head: str | None = None) -> None:
    """Take the encoder (all of it) and whatever else matches from the artifact of an earlier stage.

    Of several tasks' heads a classifier takes the one whose key is `head`, if it is there and fits, and never another task's.
    Raises KeyError naming what an artifact of another encoder lacks.
    """
    stored = load_file(path)
    if head is not None:
        prefix = f"classifier.heads.{head}."
        stored |= {f"classifier.{name.removeprefix(prefix)}": stored[name] for name in list(stored) if name.startswith(prefix)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in stored and stored[name].shape == parameter.shape:
                parameter.copy_(stored[name])
            elif name.startswith("encoder."):
                raise KeyError(f"{path} has no {name} of shape {tuple(parameter.shape)}")
