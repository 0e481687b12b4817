"""Load encoders: once per process, tested for packing, and copied for every trial.

Every transformers encoder works: no family is treated by name. Weights are converted to float32 and are read from safetensors only;
no code of a checkpoint runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
"""Attribute of transformers' base models with their dense layer over the first token."""
OTHER_HEADS = ("classif", "qa", "summary")
"""Parts of the names of dropout rates that belong to transformers' own heads."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Base(InputFormat):
    """A loaded encoder with the format of its inputs: the start of every trial."""

    folder: Path | None
    """Folder of its files; None for an encoder from a configuration."""
    config: Any
    """Transformers configuration."""
    tokenizer: Any
    model: nn.Module
    """The encoder in float32, without a pooler. Trials copy it and never change it."""
    pooler: Mapping[str, Tensor] | None
    """Weight and bias of the checkpoint's own pooler, if it has one."""
    hidden_size: int
    layers: int
    notices: tuple[str, ...] = ()


@lru_cache(maxsize=1)  # the trials of a process start from the same one; more would fill the memory
def load_base(encoder: Encoder, texts: tuple[str, ...] = ()) -> Base:
    """Load an encoder, once per process. `texts` train the vocabulary of an encoder from scratch without a tokenizer.

    Raises ConfigError if its files are missing or refused (`checkpoint.locate`).
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
    """An encoder with random weights that depend only on its configuration and `seed`.

    Raises ConfigError for a configuration that its family does not accept.
    """
    names = ("pad", "bos", "eos", "cls", "sep")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    rows = rows_needed(tokenizer)
    known = {"vocab_size": rows} | {name: value for name, value in ids.items() if value is not None}
    if (size := fields.get("vocab_size", rows)) < rows:
        raise ConfigError([f"encoder.config.vocab_size: {size} given, but the tokenizer has {rows} pieces"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(fields, known)


def check_config(fields: Mapping[str, Any] | None) -> None:
    """Raise ConfigError if no encoder can be built from a transformers configuration; None is accepted. Computes nothing."""
    if fields is not None:
        with torch.device("meta"):
            _build(fields)


def target_faults(encoder: Encoder, targets: Sequence[str]) -> list[str]:
    """Faults for those names of linear layers that the encoder lacks; its weights are not read."""
    with torch.device("meta"):
        if encoder.config is None:
            model = AutoModel.from_config(AutoConfig.from_pretrained(checkpoint.locate(encoder), trust_remote_code=False))
        else:
            model = _build(encoder.config)
    return lora.target_faults(model, model.config.num_hidden_layers, targets)


def _build(fields: Mapping[str, Any], known: Mapping[str, Any] = MappingProxyType({})) -> nn.Module:
    """Build a model from these fields and from the `known` ones, which not every family has."""
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
    except Exception as error:  # every family raises errors of its own
        raise ConfigError([f"encoder.config: {refusal(kind, others, error)}"]) from error
    if model is None:
        raise ConfigError([f"encoder.config: {fault}"])
    return model


def base_of(
    model: Any, special: Special, tokenizer: Any = None, folder: Path | None = None, missing: set[str] | None = None
) -> Base:
    """Wrap a loaded model for trials. `missing`: parameters that its checkpoint lacks; None for a model with new weights."""
    model = model.float().eval()
    config = model.config
    pooler = _take_pooler(model, missing)
    if getattr(config, "type_vocab_size", 2) < 2:
        special = replace(special, pair=special.pair.of_one_type())
    probe = packing_probe.packable(model, type_ids=(types := takes(model, "token_type_ids")))
    notices = []
    if probe.reason is not None:
        notices.append(f"{config.model_type} takes padded batches, which are slower: {probe.reason}")
    return Base(
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        special=special,
        model=model,
        pooler=pooler,
        packable=probe.reason is None,
        position_start=probe.position_start,
        takes_types=types,
        longest=_longest(model),
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        notices=tuple(notices),
        takes_global=takes(model, "global_attention_mask"),
    )


def _longest(model: Any) -> int | None:
    """Number of learned positions, without those that RoBERTa-like encoders leave unused at the beginning; None if unlimited."""
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
    """Remove the pooler from the model and return its weight and bias, for the head; None if the checkpoint has none."""
    pooler = getattr(model, POOLER, None)
    if pooler is None:
        return None
    setattr(model, POOLER, nn.Identity())
    dense = next(module for module in pooler.modules() if isinstance(module, nn.Linear))
    if missing is None or any(name.startswith(f"{POOLER}.") for name in missing):
        return None
    return {name: value.detach() for name, value in dense.named_parameters()}


def fresh_encoder(base: Base, dropout: float, depth: int | None = None) -> Any:
    """Copy the base's encoder, or only its `depth` lowest blocks, for one trial, with these dropout rates."""
    depth = base.layers if depth is None else depth
    with no_init_weights():
        model = AutoModel.from_config(with_depth(with_dropout(base.config, dropout), depth))
    behind = False
    for name, child in model.named_children() if depth < base.layers else ():  # a final norm belongs to the last block
        if behind and any(True for _ in child.parameters()):
            setattr(model, name, nn.Identity())
        behind |= any(isinstance(module, nn.ModuleList) for module in child.modules())
    return prepared(model, base)


def with_depth(config: Any, depth: int) -> Any:
    """Copy a transformers configuration with only the `depth` lowest blocks; lists with an entry per block are cut as well."""
    fields, blocks = config.to_dict(), config.num_hidden_layers
    cut = {name: value[:depth] for name, value in fields.items() if isinstance(value, list) and len(value) == blocks}
    return type(config).from_dict(fields | cut | {config.attribute_map.get("num_hidden_layers", "num_hidden_layers"): depth})


def prepared(model: Any, base: Base) -> Any:
    """Give a new encoder the base's weights and our attention and dropout."""
    if getattr(model, POOLER, None) is not None:
        setattr(model, POOLER, nn.Identity())
    state, buffers = base.model.state_dict(), dict(base.model.named_buffers())
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    for name, target in model.named_buffers():
        target.copy_(buffers[name])
    # Eager attention for padded batches, so that its dropout can be intercepted.
    model.set_attn_implementation(attention.NAME if base.packable else "eager")
    if base.packable:
        replace_dropout(model)
    return model


def replace_dropout(model: nn.Module) -> None:
    """Replace torch's dropout modules by ours."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))


def with_dropout(config: Any, dropout: float) -> Any:
    """Copy a transformers configuration with every dropout rate of the encoder set."""
    config = type(config).from_dict(config.to_dict())
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, (int, float)) and not any(other in name for other in OTHER_HEADS):
            setattr(config, name, dropout)
    return config


def hidden_states(encoder: nn.Module, batch: Batch) -> Tensor:
    """Last hidden states [T, H] of all tokens, text after text, for packed and padded batches."""
    return layer_states(encoder, batch, (-1,))[0]


def layer_states(encoder: nn.Module, batch: Batch, layers: Sequence[int]) -> list[Tensor]:
    """Hidden states [T, H] of all tokens after every one of these layers; -1 is the encoder's output."""
    inner = any(layer != -1 for layer in layers)

    def states(part: Any) -> list[Tensor]:
        set_attention_type(encoder, encoder.config)
        with torch.autocast(part.input_ids.device.type, enabled=False) if in_float32(encoder) else nullcontext():
            output = encoder(**_inputs(part), **({"output_hidden_states": True} if inner else {}))
        return [output.last_hidden_state if layer == -1 else output.hidden_states[layer + 1] for layer in layers]

    if batch.order is None:
        with attention.packed(batch.lengths, batch.pool_index.device) as layout:
            layout.ends = batch.ends  # on the device already
            return [state[0] for state in states(batch.parts[0])]
    with replaced_dropout(uneven=hasattr(encoder, "set_attention_type")) as begin:
        flat = []
        for part in batch.parts:
            begin(part)
            flat.append([state.flatten(0, 1) for state in states(part)])
    return [torch.cat(layer_parts).index_select(0, batch.order) for layer_parts in zip(*flat, strict=True)]


def in_float32(encoder: Any) -> bool:
    """Whether an encoder computes in float32 whatever the precision: transformers' block-sparse attention fails in bfloat16."""
    return getattr(encoder.config, "attention_type", None) == "block_sparse"


def bfloat16_notices(base: Base) -> tuple[str, ...]:
    """What to say where this encoder is to compute in bfloat16."""
    if not in_float32(base.model):
        return ()
    kind = base.config.model_type
    return (f"{kind} computes in float32 also with precision bfloat16, which its block-sparse attention lacks",)


def set_attention_type(encoder: Any, of: Any) -> None:
    """Set an encoder with several kinds of attention to the kind in `of`.

    BigBird switches from sparse to full attention at the first short batch and would stay there: a text's result would depend on
    earlier batches.
    """
    if hasattr(encoder, "set_attention_type"):
        with torch.device("meta"):  # the layers that it creates are replaced by the existing ones
            encoder.set_attention_type(of.attention_type)


def _inputs(part: Any) -> dict[str, Tensor]:
    names = ("input_ids", "position_ids", "token_type_ids", "attention_mask", "global_attention_mask")
    return {name: value for name in names if (value := getattr(part, name)) is not None}


def depth_of(layers: Sequence[int], blocks: int) -> int:
    """Number of an encoder's blocks up to the highest of `layers`."""
    return max(layer % blocks for layer in layers) + 1


def draw_initial(name: str, parameter: Tensor, config: Any, generator: torch.Generator) -> None:
    """Initialise a parameter as transformers does: weights normal, norms one, biases zero."""
    if name.endswith("bias"):
        parameter.zero_()
    elif parameter.ndim < 2:
        parameter.fill_(1.0)
    else:
        parameter.normal_(0.0, getattr(config, "initializer_range", 0.02), generator=generator)


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """{name: parameter} of an artifact: tied parameters once, whole embedding tables, adapters merged."""
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tables = [(name, module) for name, module in model.named_modules() if isinstance(module, OccurringEmbedding)]
    return lora.merged(state | {f"{name}.weight": module.table() for name, module in tables}, model)


def load_encoder_weights(model: nn.Module, path: Path, head: str | None = None) -> None:
    """Load the whole encoder, and all other parameters that match, from the artifact of an earlier stage.

    A classifier takes the head with the key `head` from a multi-task artifact, if it exists and fits, and never another task's.
    Raises KeyError with the name of a parameter that an artifact of another encoder lacks.
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
