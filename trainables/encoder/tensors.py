"""Read names, types and shapes of the tensors in a checkpoint from the headers of its files. Imports no torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOATS = ("F64", "F32", "F16", "BF16")
"""Supported types of weights."""
WRAPPERS = ("module.", "_orig_mod.", "base_model.", "model.", "0.auto_model.", "auto_model.", "backbone.", "encoder.")
"""Prefixes of wrapped models: data parallelism, torch.compile, peft, sentence-transformers, and training scripts in which the
encoder is an attribute."""
OWN = {"modernbert": "model."}
"""Families whose own names begin with a wrapper's prefix."""
FIRST_PARTS = ("embeddings.", "embedding.", "word_embedding.", "shared.")
"""Beginnings of the names of an encoder's embeddings. A file with only the blocks, also called `encoder`, has none."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file."""

    file: Path
    dtype: str
    """In the notation of safetensors: F32, I8, ..."""
    shape: tuple[int, ...]


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """(number of bytes before the data, {tensor: its entry}) of a safetensors file.

    Raises OSError, and struct.error or ValueError for another kind of file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length)) if length < size else {}
    return 8 + length, {name: entry for name, entry in header.items() if name != "__metadata__"}


def of(files: Iterable[Path]) -> dict[str, TensorEntry]:
    """{name: tensor} of a checkpoint's files."""
    return {
        name: TensorEntry(file, entry["dtype"], tuple(entry["shape"]))
        for file in files
        for name, entry in read_header(file)[1].items()
    }


def wrapper(names: Sequence[str], model_type: str) -> str:
    """Prefix that wrapping programs put before every name of a checkpoint: `module.`, `module._orig_mod.`, or nothing."""
    removed, rest = "", list(names)
    while rest:
        shared = next((prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in rest)), None)
        inner = [name.removeprefix(shared or "") for name in rest]
        if shared is None or (shared == OWN.get(model_type) and any(name.startswith(FIRST_PARTS) for name in inner)):
            break
        removed, rest = removed + shared, inner
    return removed if any(part in f".{name}" for name in rest for part in (f".{first}" for first in FIRST_PARTS)) else ""


def index_faults(index: Mapping[str, str], entries: Mapping[Path, Iterable[str]]) -> list[str]:
    """Differences between an index of shards and the shards: a tensor that its shard lacks, or one that two shards hold."""
    held = {file.name: set(names) for file, names in entries.items()}
    lacking = sorted(name for name, file in index.items() if name not in held[file])
    faults = []
    if lacking:
        faults.append(
            f"the index puts {some(lacking)} into {index[lacking[0]]}, which lacks {'it' if len(lacking) == 1 else 'them'}:"
            " copy the shards and the index again"
        )
    every = [name for names in held.values() for name in names]
    if len(every) != len(set(every)):
        twice = sorted({name for name in every if every.count(name) > 1})
        faults.append(f"two shards hold {some(twice)}: which one counts cannot be told; save it again with save_pretrained")
    return faults


def some(names: Iterable[str], most: int = 3) -> str:
    """Text with the first `most` names and the number of the others."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
