"""Files of an artifact and its marker: names, sizes and digests. The marker lists them and is written last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypedDict, cast

from trainables.store import manifest
from trainables.store.files import Files, LocalFiles, explained, sha256
from trainables.store.local_files import NotPlain, is_name

FORMAT_VERSION = 3
"""Increase it when the files of a stage, or the meaning of its settings, change: every stage then has a new id."""
SUFFIXES = (".safetensors", ".json", ".parquet")
"""The only file types of a store: none of them needs unpickling."""
WEIGHTS, PREDICTIONS, VALIDATED = "model.safetensors", "predictions-test.parquet", "predictions-validation.parquet"
"""Files of finished stages: parameters of a model; predictions of a fine-tuned model on the test and the validation split."""
FEATURES = "features.safetensors"
"""Cached outputs of a frozen encoder; they can be recomputed, so garbage collection removes them when they are unused for long."""
MARKS, CHOSEN = "marks.parquet", "chosen.parquet"
"""Words of the task's texts with scores and marks; words of a corpus with the choice of selective masking."""
USED, DAMAGED = "USED.json", "DAMAGED.json"
"""USED is rewritten at every use of recomputable files; DAMAGED lies beside the files of an artifact that was set aside."""
MARKERS = ("COMPLETE.json", "STATE.json", USED, DAMAGED)
Facts = Mapping[str, Any]
"""`size` in bytes and `sha256` of a file."""
STAGE = ATTEMPT = re.compile(r"[0-9a-f]{32}")
"""Names of stages, and of attempts to publish an artifact."""

DEEPEST = 64
"""Largest nesting depth of a marker."""


class ArtifactMarker(TypedDict):
    """Content of COMPLETE.json."""

    stage_id: str
    attempt: str
    files: dict[str, Facts]
    pruned: list[str]
    manifest: dict[str, Any]


class StateMarker(TypedDict):
    """Content of STATE.json."""

    stage_id: str
    step: int
    files: dict[str, Facts]
    meta: dict[str, Any]


class Damage(Exception):
    """A file is missing, altered or unreadable; the message says which."""


def stage_id(kind: str, determines: Mapping[str, Any]) -> str:
    """Id of a stage: 32 hex digits of the sha256 of everything that determines its result, the same on every machine.

    Raises ValueError for NaN and TypeError for values that are not plain data.
    """
    return hashlib.sha256(canonical({"format": FORMAT_VERSION, "kind": kind, "determines": determines}).encode()).hexdigest()[:32]


def canonical(value: Any) -> str:
    """Plain data as canonical JSON: keys sorted, no spaces, floats by repr, no NaN."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"keys must be strings, {wrong[0]!r} is not")  # json would make 1 and "1" the same
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def checked(name: str) -> str:
    """Return the name if it is a file name on any file system and cannot leave its folder. Raises ValueError."""
    if not is_name(name):
        raise ValueError(f"{name!r} is no name: up to 128 letters, digits, '_', '-' and single dots inside")
    return name


def checked_files(files: Mapping[str, Path | bytes]) -> list[str]:
    """Return the names of the files if a store may hold them. Raises ValueError."""
    for name in files:
        if not checked(name).endswith(SUFFIXES):
            raise ValueError(f"{name!r}: a store holds {', '.join(SUFFIXES)} only")
        if name.casefold() in map(str.casefold, MARKERS):
            raise ValueError(f"{name!r} is the store's own name")
    if len({name.casefold() for name in files}) < len(files):
        raise ValueError(f"{', '.join(sorted(files))}: some disks ignore the case of names, and these differ only in case")
    return list(files)


def marker_bytes(marker: Mapping[str, Any]) -> bytes:
    """Serialise a marker, with a digest of itself."""
    whole = {"format": FORMAT_VERSION, **marker}
    return json.dumps({**whole, "sha256": _own_digest(whole)}, indent=1).encode()


def artifact_marker(data: bytes, stage_id: str) -> ArtifactMarker | None:
    """Parse the marker of this stage's artifact; None if it is truncated, altered, of another stage, or not written by a store."""
    marker = _whole(data, stage_id)
    attempt, content = marker.get("attempt"), marker.get("manifest")
    sound = isinstance(attempt, str) and ATTEMPT.fullmatch(attempt) and _are_files(marker.get("files"))
    sound = sound and _are_names(marker.get("pruned")) and isinstance(content, dict) and not manifest.fault_of(content)
    return cast(ArtifactMarker, marker) if sound else None


def state_marker(data: bytes, stage_id: str) -> StateMarker | None:
    """Parse the marker of a state of this stage; None if it is truncated, altered, of another stage, or not written by a store."""
    marker = _whole(data, stage_id)
    sound = _is_count(marker.get("step")) and _are_files(marker.get("files")) and isinstance(marker.get("meta"), dict)
    return cast(StateMarker, marker) if sound else None


def _whole(data: bytes, stage_id: str) -> dict[str, Any]:
    """Parse a marker of this stage; empty if it is truncated, altered or of another format."""
    try:
        marker = json.loads(data, object_pairs_hook=_undoubled)
        digest = marker.pop("sha256")
        sound = digest == _own_digest(marker) and (marker["format"], marker["stage_id"]) == (FORMAT_VERSION, stage_id)
        sound = sound and _nests_at_most(DEEPEST, marker)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return {}
    return dict(marker) if sound else {}


def _nests_at_most(levels: int, value: Any) -> bool:
    if not isinstance(value, dict | list):
        return True
    return levels > 0 and all(_nests_at_most(levels - 1, item) for item in (value.values() if isinstance(value, dict) else value))


def _undoubled(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _are_names(names: Any) -> bool:
    try:
        return isinstance(names, list) and len(checked_files(dict.fromkeys(names, b""))) == len(names)
    except (ValueError, TypeError):
        return False


def _are_files(files: Any) -> bool:
    """Whether these are valid names and facts of files: any writer can produce a marker with a correct digest."""
    try:
        return len(checked_files(files)) == sum(map(_are_facts, files.values()))
    except (ValueError, TypeError, AttributeError):
        return False


def _are_facts(facts: Any) -> bool:
    if not (isinstance(facts, dict) and facts.keys() == {"size", "sha256"} and _is_count(facts["size"])):
        return False
    return isinstance(facts["sha256"], str) and re.fullmatch(r"[0-9a-f]{64}", facts["sha256"]) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _own_digest(marker: Mapping[str, Any]) -> str:
    # A metric may be NaN: Python writes and reads it.
    return hashlib.sha256(json.dumps(marker, sort_keys=True).encode()).hexdigest()


def put_all(files: Files, folder: str, sources: Mapping[str, Path | bytes], move: bool, durable: bool) -> dict[str, Facts]:
    """Copy or move files into a folder and check that all arrived. Returns their facts. Raises OSError."""
    facts: dict[str, Facts] = {}
    for name, source in sources.items():
        size, digest = files.put(f"{folder}/{name}", source, move, durable)
        facts[name] = {"size": size, "sha256": digest}
    if fault := wrong_size(files.sizes(folder), facts):
        raise OSError(errno.EIO, fault[1], f"{files.url}/{folder}")
    return facts


def wrong_size(sizes: Mapping[str, int], facts: Mapping[str, Facts]) -> tuple[str, str] | None:
    """(name, fault) of the first file that is missing or has another size; None if all agree."""
    for name, fact in facts.items():
        if (size := sizes.get(name)) != fact["size"]:
            return name, f"{name} is gone" if size is None else f"{name} has {size} of {fact['size']} bytes"
    return None


def fetched(files: Files, folder: str, name: str, facts: Facts, cache: Callable[[str], Path]) -> Path:
    """Path of a verified file on this machine; for a remote store, of a copy in `cache("fetched")`. Raises Damage."""
    if isinstance(files, LocalFiles):
        try:
            return _verified(files.local(f"{folder}/{name}"), facts)
        except NotPlain as fault:
            raise Damage(f"{name} is {fault.strerror}") from None
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
        stat = path.lstat()
        if not S_ISREG(stat.st_mode):
            raise Damage(f"{path.name} is not a file")
        size, digest = stat.st_size, sha256(path)
    except FileNotFoundError:
        raise Damage(f"{path.name} is gone") from None
    except OSError as error:
        raise Damage(f"{path.name} cannot be read: {error.strerror}") from None
    if fault := wrong_size({path.name: size}, {path.name: facts}):
        raise Damage(fault[1])
    if digest != facts["sha256"]:
        raise Damage(f"{path.name} was altered: its sha256 is {digest[:12]}..., not {facts['sha256'][:12]}...")
    return path
