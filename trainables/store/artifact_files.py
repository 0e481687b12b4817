"""What a folder of the store holds: names, sizes, digests, and the marker that says so and is written last."""

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
"""Raise it when what a stage leaves, or the meaning of its settings, changes: every stage then has a new name."""
SUFFIXES = (".safetensors", ".json", ".parquet")
"""Nothing else is kept, so that nothing has to be unpickled."""
WEIGHTS, PREDICTIONS = "model.safetensors", "predictions-test.parquet"
"""What stages leave: a model's parameters; a fine-tuned one's logits on the test split."""
FEATURES = "features.safetensors"
"""What a frozen encoder says of texts; can be made again, so it goes when nobody has used it for long."""
MARKS, CHOSEN = "marks.parquet", "chosen.parquet"
"""Words of the task's texts with scores and marks; words of a corpus with what selective masking chose."""
USED, DAMAGED = "USED.json", "DAMAGED.json"
"""Written beside files that can be made again whenever they are used; beside those of an artifact that was set aside."""
MARKERS = ("COMPLETE.json", "STATE.json", USED, DAMAGED)
Facts = Mapping[str, Any]
"""`size` in bytes and `sha256` of a file."""
STAGE = ATTEMPT = re.compile(r"[0-9a-f]{32}")
"""Names that a store gives to stages, and to attempts at leaving an artifact."""

DEEPEST = 64
"""Levels of a marker that may lie in each other."""


class ArtifactMarker(TypedDict):
    """What COMPLETE.json says."""

    stage_id: str
    attempt: str
    files: dict[str, Facts]
    pruned: list[str]
    manifest: dict[str, Any]


class StateMarker(TypedDict):
    """What STATE.json says."""

    stage_id: str
    step: int
    files: dict[str, Facts]
    meta: dict[str, Any]


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
    if not is_name(name):
        raise ValueError(f"{name!r} is no name: up to 128 letters, digits, '_', '-' and single dots inside")
    return name


def checked_files(files: Mapping[str, Path | bytes]) -> list[str]:
    """Names of files that may be kept. Raises ValueError."""
    for name in files:
        if not checked(name).endswith(SUFFIXES):
            raise ValueError(f"{name!r}: a store holds {', '.join(SUFFIXES)} only")
        if name.casefold() in map(str.casefold, MARKERS):
            raise ValueError(f"{name!r} is the store's own name")
    if len({name.casefold() for name in files}) < len(files):
        raise ValueError(f"{', '.join(sorted(files))}: some disks do not tell capitals from small letters")
    return list(files)


def marker_bytes(marker: Mapping[str, Any]) -> bytes:
    """A marker as it is stored, with a digest of itself."""
    whole = {"format": FORMAT_VERSION, **marker}
    return json.dumps({**whole, "sha256": _own_digest(whole)}, indent=1).encode()


def artifact_marker(data: bytes, stage_id: str) -> ArtifactMarker | None:
    """The marker of this stage's artifact; None if it is cut, altered, another's, or says what no store writes."""
    marker = _whole(data, stage_id)
    attempt, said = marker.get("attempt"), marker.get("manifest")
    sound = isinstance(attempt, str) and ATTEMPT.fullmatch(attempt) and _are_files(marker.get("files"))
    sound = sound and _are_names(marker.get("pruned")) and isinstance(said, dict) and not manifest.fault_of(said)
    return cast(ArtifactMarker, marker) if sound else None


def state_marker(data: bytes, stage_id: str) -> StateMarker | None:
    """The marker of a state of this stage; None if it is cut, altered, another's, or says what no store writes."""
    marker = _whole(data, stage_id)
    sound = _is_count(marker.get("step")) and _are_files(marker.get("files")) and isinstance(marker.get("meta"), dict)
    return cast(StateMarker, marker) if sound else None


def _whole(data: bytes, stage_id: str) -> dict[str, Any]:
    """A marker of this stage that is whole, unaltered and of this format; else an empty one."""
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
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _are_names(names: Any) -> bool:
    try:
        return isinstance(names, list) and len(checked_files(dict.fromkeys(names, b""))) == len(names)
    except (ValueError, TypeError):
        return False


def _are_files(files: Any) -> bool:
    """Whether these are names and facts of files as a store keeps them: anybody can make a marker with the right digest."""
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
            raise Damage(f"{path.name} is no file")
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
