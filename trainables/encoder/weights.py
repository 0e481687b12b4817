"""Check the weights in a checkpoint against the encoder in its config.json: no missing weight is silently initialised.

transformers itself matches the names, old ones included: from the real tensors, or, for a check before any computation, from
placeholders of the same shapes, which need no memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
from transformers.activations import ACT2FN
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from trainables.encoder import checkpoint, tensors
from trainables.encoder.tensors import TensorEntry, some
from trainables.settings.errors import ConfigError, near

MAY_BE_MISSING = ("pooler.",)
"""Optional parts of a checkpoint: without a pooler the head gets a new one, with a notice. Integer buffers, such as position_ids,
follow from config.json."""
NEW_POOLER = "no pooler in the checkpoint; a new dense tanh layer is used"
HEADS = (
    "cls.",
    "lm_head.",
    "lm_loss.",
    "pred_layer.",
    "predictions.",
    "sop_classifier.",
    "vocab_",
    "generator_",
    "discriminator_predictions.",
    "lm_predictions.",
    "mask_predictions.",
    "head.",
    "decoder.",
)
"""Beginnings of the names of pre-training heads: an encoder does not need them, and further pre-training reads its own head."""
BOTH_WAYS = ("xlnet", "bert-generation")
"""Families that transformers lists only for generation, though their attention is bidirectional."""
NOT_WHOLE = "the checkpoint is not whole: copy it again, or save it again with save_pretrained"
CONFIG_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings", "type_vocab_size", "embedding_size")
"""Fields of config.json that may be wrong if shapes differ."""


def read_model(kind: Any, folder: Path) -> tuple[Any, set[str]]:
    """Read a model of one of transformers' auto classes. Returns (model in float32, parameters that its checkpoint lacks)."""
    model, report = _fitted(kind, _config(folder), _stored(folder))
    return model, {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}


def check_weights(folder: Path, pooled: bool = False) -> list[str]:
    """Notices on an encoder's weights; `pooled` requires its pooler. Usually only the headers are read.

    Raises ConfigError if config.json describes no encoder, or if weights are missing, duplicated or of another shape.
    """
    config = _config(folder)
    entries = tensors.of(checkpoint.weights(folder))
    wrapper = checkpoint.wrapper(folder)
    bare = {name.removeprefix(wrapper): entry for name, entry in entries.items()}
    state = {name: torch.zeros(()).expand(entry.shape) for name, entry in bare.items() if entry.dtype in tensors.FLOATS}
    try:
        with no_init_weights():
            model, report = _fitted(AutoModel, config, state)
    except Exception as error:  # every family raises errors of its own
        raise ConfigError([f"config.json: {refusal(config.model_type, config.to_dict(), error)}"]) from error
    parameters = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    missing = sorted(name for name in report["missing_keys"] if name in parameters and not name.startswith(MAY_BE_MISSING))
    left = sorted(name.removeprefix(f"{model.base_model_prefix}.") for name in report["unexpected_keys"])
    faults = [*_shape_faults(report["mismatched_keys"], config), *_twice_faults(folder, state, parameters, model.base_model_prefix)]
    if missing:
        faults.append(_missing_fault(missing, parameters, left, bare, config))
    elif cut := [name for name in left if _pattern(name) in set(map(_pattern, parameters))]:
        wanted, held = _count(parameters, cut), _count([*parameters, *cut], cut)
        faults.append(
            f"config.json asks for {wanted} layers, but the file has weights for {held}: {some(cut)} would be left out; correct"
            " config.json, or save the smaller encoder with save_pretrained"
        )
    if faults:
        raise ConfigError(faults)
    poolers = [name for name in parameters if name.startswith(MAY_BE_MISSING)]
    fresh = not poolers or any(name in report["missing_keys"] for name in poolers)
    return [*_notices(left, wrapper), *([f"{NEW_POOLER}, for pooling pooled"] if pooled and fresh else [])]


def check_values(folder: Path) -> None:
    """Raise ConfigError for weights that are not finite. Reads every file once."""
    wrong = [name for name, value in _values(folder) if value.numel() and not torch.stack(value.aminmax()).isfinite().all()]
    if wrong:
        raise ConfigError([f"{len(wrong)} of its tensors hold NaN or infinite numbers: {some(wrong)}; the checkpoint is damaged"])


def kind_fault(config: Any) -> str | None:
    """Why a transformers configuration is not that of a text encoder; None if it is."""
    kind, way = config.model_type, "give an encoder such as BERT (study encoders lists them)"
    if getattr(config, "is_encoder_decoder", False):
        return f"{kind} is an encoder-decoder for generation: {way}"
    if getattr(config, "is_decoder", False):
        return f"config.json says is_decoder: pieces would not attend to later ones; set is_decoder to false, or {way}"
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in (*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *BOTH_WAYS):
        return f"{kind} is a decoder, in which no piece attends to later ones: {way}"
    if type(config) not in AutoModel._model_mapping or not isinstance(getattr(config, "vocab_size", None), int):
        return f"{kind} is no encoder of texts: {way}"
    return None


def _config(folder: Path) -> Any:
    """Read the configuration in a folder. Raises ConfigError if it is not that of an encoder, or if its family refuses it."""
    kind = checkpoint.settings(folder)["model_type"]
    if kind not in CONFIG_MAPPING:
        raise ConfigError([f"config.json: model_type {kind!r} is not known to transformers{near(kind, CONFIG_MAPPING)}"])
    try:
        fault = kind_fault(CONFIG_MAPPING[kind]())  # first: otherwise other families' fields would be refused one by one
        with quiet():
            config = None if fault else AutoConfig.from_pretrained(folder, trust_remote_code=False)
        fault = fault or kind_fault(config)
    except Exception as error:  # every family raises errors of its own
        raise ConfigError([f"config.json: {refusal(kind, checkpoint.settings(folder), error)}"]) from error
    if fault:
        raise ConfigError([fault])
    return config


def _fitted(kind: Any, config: Any, state: Mapping[str, Tensor]) -> tuple[Any, dict[str, Any]]:
    """(model with these tensors, transformers' report on missing, unexpected and mismatched ones)."""
    model_class = kind._model_mapping[type(config)]
    model_class = model_class[0] if isinstance(model_class, tuple | list) else model_class
    with quiet(), torch.random.fork_rng(devices=[]):  # missing weights are initialised at random, and refused or replaced later
        torch.default_generator.manual_seed(0)
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return model, report


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, transformers shows no progress bars, warnings or load reports: our own notices replace them."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _stored(folder: Path) -> dict[str, Tensor]:
    """{name without the wrapper's prefix: float32 tensor} of a folder's weights."""
    wrapper = checkpoint.wrapper(folder)
    return {name.removeprefix(wrapper): value.to(torch.float32, copy=True) for name, value in _values(folder)}


def _values(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in checkpoint.weights(folder):
        kinds = tensors.of([path])
        with safe_open(path, framework="pt") as file:
            yield from ((name, file.get_tensor(name)) for name, entry in kinds.items() if entry.dtype in tensors.FLOATS)


# --- messages -------------------------------------------------------------------------------------------------------------------


def refusal(kind: str, fields: Mapping[str, Any], error: Exception) -> str:
    """A family's error about a configuration; for an unknown value, with the field."""
    value = str(error.args[0]) if isinstance(error, KeyError) and error.args else None
    for name in (name for name, setting in fields.items() if value is not None and setting == value):
        return f"{name}: {value!r} is not known to {kind}{near(str(value), ACT2FN) if 'act' in name else ''}"
    return f"{kind} refuses it: {' '.join(str(error).split())[:300]}"


def _twice_faults(folder: Path, names: Iterable[str], parameters: Iterable[str], prefix: str) -> list[str]:
    """Fault for weights that the file holds under two names with different values."""
    places: dict[str, list[str]] = {name: [] for name in parameters}
    for name in names:
        plain = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name.removeprefix(f"{prefix}.")))
        places.get(plain, []).append(name)
    if not (twice := [aliases for aliases in places.values() if len(aliases) > 1]):
        return []
    values = {name: value for name, value in _stored(folder).items() if any(name in aliases for aliases in twice)}
    differ = sorted(aliases for aliases in twice if not all(torch.equal(values[aliases[0]], values[name]) for name in aliases))
    if not differ:
        return []
    shown = " and ".join(sorted(differ[0]))
    twice_over = f"{len(differ)} of its weights are there twice with different values, such as {shown}"
    return [f"the file holds two encoders, or parts of two: {twice_over}; save the one that is meant with save_pretrained"]


def _shape_faults(mismatched: Iterable[tuple[str, Any, Any]], config: Any) -> list[str]:
    """Fault for all tensors of other shapes: the first of them, both shapes, and the fields of config.json that define them."""
    differing = sorted(mismatched, key=lambda entry: entry[0])
    if not differing:
        return []
    first, stored, wanted = differing[0]
    sizes = [size for here, size in zip(stored, wanted, strict=False) if here != size]
    fields = [f"{name} {size}" for name in CONFIG_FIELDS for size in sizes[:1] if getattr(config, name, None) == size]
    why = f" ({' or '.join(fields)})" if fields else ""
    others = f"; so are {len(differing) - 1} more: {some(name for name, *_ in differing[1:])}" if differing[1:] else ""
    return [f"{first} is {[*stored]} in the file, but {[*wanted]} by config.json{why}{others}; correct config.json"]


def _missing_fault(
    missing: list[str], parameters: Mapping[str, Tensor], left: list[str], entries: Mapping[str, TensorEntry], config: Any
) -> str:
    quantised = [f"{n} is {e.dtype}" for n, e in entries.items() if e.dtype not in tensors.FLOATS and not n.endswith("_ids")]
    if quantised:
        return f"the file holds others than whole weights: {some(quantised, 1)}; {checkpoint.WHOLE}"
    what = f"{len(missing)} of the {len(parameters)} weights that config.json describes are not in the file: {some(missing)}"
    return f"{what}; {_cause(missing, parameters, left, entries, config)}"


def _cause(
    missing: list[str], parameters: Mapping[str, Tensor], left: list[str], entries: Mapping[str, TensorEntry], config: Any
) -> str:
    """Probable cause of the missing weights, and the way out."""
    present = [name for name in parameters if name not in missing]
    if any("lora_" in name or ".base_layer." in name for name in entries):
        return "the file holds adapters that are not merged: merge them with peft's merge_and_unload(), then save_pretrained"
    rows = tuple(parameters[missing[0]].shape)
    tied = [name for name in left if name in entries and entries[name].shape == rows]
    if len(missing) == 1 and rows[0] == config.vocab_size and tied:
        return (
            f"{tied[0]} has its shape, of a head that shares it: load it with AutoModelForMaskedLM and save it with save_pretrained"
        )
    if len(present) < len(missing) and left:
        starts = dict.fromkeys(".".join(name.split(".")[:2]) for name in left)
        return (
            f"names in the file begin with {some(starts)}, which fit no {config.model_type}: they are another family's or of a"
            " program that wraps the encoder; save the encoder itself with save_pretrained, or correct model_type in config.json"
        )
    # An unexpected name that ends with a missing one has a prefix in front of it.
    under = Counter(n[: -len(name)] for name in missing for n in left if n.endswith(f".{name}"))
    if under:
        return (
            f"the file also holds {' and '.join(f'{count} under `{start}`' for start, count in under.most_common(3))}: give all"
            " names the same beginning, or save the encoder itself with save_pretrained"
        )
    depth = _count(present, present)
    if all(_pattern(name) in set(map(_pattern, present)) and _number(name) >= depth for name in missing):
        wanted = _count(parameters, missing)
        return f"config.json asks for {wanted} layers, but the file has weights for {depth}: {NOT_WHOLE}, or correct config.json"
    return NOT_WHOLE


def _notices(left: list[str], wrapper: str) -> Iterator[str]:
    if wrapper:
        yield f"the names of all weights begin with {wrapper!r}, which a program put before them: read without it"
    if others := [name for name in left if not name.startswith(HEADS)]:
        yield f"the checkpoint holds more than the encoder, which is left out: {some(others)}"


def _pattern(name: str) -> str:
    """A name without its first number, which is that of its block."""
    return re.sub(r"\.\d+\.", ".*.", f".{name}", count=1)


def _number(name: str) -> int:
    """The number of a name's block; -1 outside of the blocks."""
    match = re.search(r"\.(\d+)\.", f".{name}")
    return int(match[1]) if match else -1


def _count(names: Iterable[str], like: Iterable[str]) -> int:
    """Number of blocks in these names, counting only names of the same patterns as `like`."""
    patterns = set(map(_pattern, like))
    return max((_number(name) for name in names if _pattern(name) in patterns), default=-1) + 1
