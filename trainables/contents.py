"""What a folder of the store holds: names, sizes, digests, and the marker that says so and is written last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.files import Files, LocalFiles, explained, sha256

FORMAT_VERSION = 3
"""Raise it when what a stage leaves, or the meaning of its settings, changes: every stage then has a new name."""
SUFFIXES = (".safetensors", ".json", ".parquet")
"""Nothing else is kept, so that nothing has to be unpickled."""
WEIGHTS, PREDICTIONS = "model.safetensors", "predictions-test.parquet"
"""What stages leave: a model's parameters; a fine-tuned one's logits on the test split."""
FEATURES = "features.safetensors"
"""What a frozen encoder says of texts; can be made again, so it goes when nobody has used it for long."""
MARKS, CHOSEN = "marks.parquet", "chosen.parquet"
"""Words of the task's texts with scores and marks; words of a corpus with what selective masking chose."""
MARKERS = ("COMPLETE.json", "STATE.json")
Facts = Mapping[str, Any]
"""`size` in bytes and `sha256` of a file."""


class Damage(Exception):
    """What is wrong with a file."""


def stage_id(kind: str, determines: Mapping[str, Any]) -> str:
    """Name of a stage: 32 hex digits of the sha256 of all that determines its result, the same on every machine.

    Raises ValueError for NaN and TypeError for what is no plain data.
    """
    return hashlib.sha256(canonical({"format": FORMAT_VERSION, "kind": kind, "determines": determines}).encode()).hexdigest()[:32]


def canonical(value: Any) -> str:
    """Plain data as JSON that depends on its content alone: keys sorted, no spaces, floats by repr, no NaN."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"keys must be strings, {wrong[0]!r} is not")  # json would make 1 and "1" the same
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def checked(name: str) -> str:
    """A name that is a file name on any file system and no way out of its folder. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", name) or ".." in name:
        raise ValueError(f"{name!r} is no name: up to 128 letters, digits, '_', '-' and single dots inside")
    return name


def checked_files(files: Mapping[str, Path | bytes]) -> list[str]:
    """Names of files that may be kept. Raises ValueError."""
    for name in files:
        if not checked(name).endswith(SUFFIXES):
            raise ValueError(f"{name!r}: a store holds {', '.join(SUFFIXES)} only")
        if name in MARKERS:
            raise ValueError(f"{name!r} is the store's own name")
    return list(files)


def marker_bytes(marker: Mapping[str, Any]) -> bytes:
    """A marker as it is stored, with a digest of itself."""
    whole = {"format": FORMAT_VERSION, **marker}
    return json.dumps({**whole, "sha256": _own_digest(whole)}, indent=1).encode()


def parse_marker(data: bytes) -> dict[str, Any] | None:
    """A marker that is whole, unaltered and of this format; else None."""
    try:
        marker = json.loads(data)
        digest = marker.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return marker if digest == _own_digest(marker) and marker["format"] == FORMAT_VERSION else None


def _own_digest(marker: Mapping[str, Any]) -> str:
    # A metric may be NaN: Python writes and reads it.
    return hashlib.sha256(json.dumps(marker, sort_keys=True).encode()).hexdigest()


def put_all(files: Files, folder: str, sources: Mapping[str, Path | bytes], move: bool, durable: bool) -> dict[str, Facts]:
    """Bring files in and see that all have arrived: their facts. Raises OSError."""
    facts: dict[str, Facts] = {}
    for name, source in sources.items():
        size, digest = files.put(f"{folder}/{name}", source, move, durable)
        facts[name] = {"size": size, "sha256": digest}
    if fault := wrong_size(files.sizes(folder), facts):
        raise OSError(errno.EIO, fault[1], f"{files.url}/{folder}")
    return facts


def wrong_size(found: Mapping[str, int], facts: Mapping[str, Facts]) -> tuple[str, str] | None:
    """(name, what is wrong) of the first file that is gone or has another size."""
    for name, fact in facts.items():
        if (size := found.get(name)) != fact["size"]:
            return name, f"{name} is gone" if size is None else f"{name} has {size} of {fact['size']} bytes"
    return None


def fetched(files: Files, folder: str, name: str, facts: Facts, cache: Callable[[str], Path]) -> Path:
    """A verified file on this machine; of a remote store, a copy in `cache("fetched")`. Raises Damage if it is not so."""
    if isinstance(files, LocalFiles):
        return _verified(files.local(f"{folder}/{name}"), facts)
    path = cache("fetched") / folder.replace("/", "-") / name
    with contextlib.suppress(Damage):
        return _verified(path, facts)
    with explained(files.url, "read"):
        try:
            files.fetch(f"{folder}/{name}", path)
        except FileNotFoundError:
            raise Damage(f"{name} is gone") from None
    try:
        return _verified(path, facts)
    except Damage:
        path.unlink(missing_ok=True)
        raise


def _verified(path: Path, facts: Facts) -> Path:
    try:
        size, digest = path.stat().st_size, sha256(path)
    except FileNotFoundError:
        raise Damage(f"{path.name} is gone") from None
    except OSError as error:
        raise Damage(f"{path.name} cannot be read: {error.strerror}") from None
    if fault := wrong_size({path.name: size}, {path.name: facts}):
        raise Damage(fault[1])
    if digest != facts["sha256"]:
        raise Damage(f"{path.name} was altered: its sha256 is {digest[:12]}..., not {facts['sha256'][:12]}...")
    return path
