"""Saved states of unfinished stages: `states/<id>/<step>-<token>/<file>`, with STATE.json written last.

A stage has one state, two while it is replaced, and one more if another owner had trained further.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from trainables.store.artifact_files import (
    Damage,
    Facts,
    StateMarker,
    checked,
    checked_files,
    fetched,
    marker_bytes,
    put_all,
    state_marker,
    wrong_size,
)
from trainables.store.files import Files
from trainables.store.lease import TTL_S
from trainables.store.local_files import NotPlain

MARKER = "STATE.json"
STATE = re.compile(r"(\d{12,19})-[0-9a-f]{12}")
"""Names of states; entries with other names are foreign."""
Owns = Callable[[], bool]
"""Whether the claim on a stage still holds."""


@dataclass(frozen=True)
class State:
    """Saved state of an unfinished stage."""

    step: int
    meta: dict[str, Any]
    _paths: Mapping[str, Path] = field(repr=False)

    def path(self, name: str) -> Path:
        """Path of a file of the state on this machine. Raises FileNotFoundError."""
        if name not in self._paths:
            raise FileNotFoundError(
                f"the state of step {self.step} has no {name!r}: {', '.join(sorted(self._paths)) or 'no files'}"
            )
        return self._paths[name]


def folder_of(stage_id: str) -> str:
    """Folder of a stage's states."""
    return f"states/{checked(stage_id)}"


@dataclass(frozen=True)
class Draft:
    """A state without a marker, which counts for nothing yet."""

    step: int
    name: str
    files: dict[str, Facts]


def begin(files: Files, stage_id: str, step: int, sources: Mapping[str, Path | bytes], move: bool, owns: Owns) -> Draft | None:
    """Write files of a state. None if this step is saved already, or if the process lost the stage to another owner."""
    checked_files(sources)
    if not owns() or any(marker["step"] == step for marker in _complete(files, stage_id).values()):
        return None
    name = f"{step:012d}-{uuid4().hex[:12]}"
    try:
        return Draft(step, name, _put(files, stage_id, name, sources, move))
    except BaseException as error:
        if _abandoned(files, stage_id, name, owns, error):
            return None
        raise


def complete(
    files: Files,
    stage_id: str,
    draft: Draft,
    meta: Mapping[str, Any],
    sources: Mapping[str, Path | bytes],
    move: bool,
    owns: Owns,
) -> None:
    """Add further files and the marker to a state, then remove the earlier states except the furthest.

    A process that lost the stage to another owner saves nothing, and removes nothing but its own files.
    """
    folder = folder_of(stage_id)
    if not owns():
        discard(files, stage_id, draft)
        return
    before = _complete(files, stage_id)
    try:
        facts = draft.files | _put(files, stage_id, draft.name, sources, move)
        marker = StateMarker(stage_id=stage_id, step=draft.step, files=facts, meta=json.loads(json.dumps(meta)))
        files.write(f"{folder}/{draft.name}/{MARKER}", marker_bytes(marker))
    except BaseException as error:
        if _abandoned(files, stage_id, draft.name, owns, error):
            return
        raise
    if not owns():
        discard(files, stage_id, draft)
        return
    further = list(before)[:1] if any(it["step"] > draft.step for it in before.values()) else []
    _clear(files, folder, {draft.name, *further}, before)


def discard(files: Files, stage_id: str, draft: Draft) -> None:
    """Remove a state that shall not be completed, as far as the store allows."""
    _forget(files, folder_of(stage_id), draft.name)


def _put(files: Files, stage_id: str, name: str, sources: Mapping[str, Path | bytes], move: bool) -> dict[str, Facts]:
    # Without a sync: the digests detect damage by a power cut when the state is loaded.
    return put_all(files, f"{folder_of(stage_id)}/{name}", sources, move, durable=False) if sources else {}


def _abandoned(files: Files, stage_id: str, name: str, owns: Owns, error: BaseException) -> bool:
    """Remove a state that could not be written. Whether the reason is that a new owner of the stage removed it as abandoned."""
    _forget(files, folder_of(stage_id), name)
    return isinstance(error, Exception) and not owns()


def _clear(files: Files, folder: str, kept: set[str], complete: Collection[str]) -> None:
    """Remove other states. A young incomplete one stays: an owner that only seemed dead may be writing it."""
    for name in states_in(files, folder):
        if name not in kept and (name in complete or files.age_s(f"{folder}/{name}") > TTL_S):
            files.remove(f"{folder}/{name}")


def load(
    files: Files, stage_id: str, cache: Callable[[str], Path], notice: Callable[[str], None], at_most: int | None = None
) -> State | None:
    """Load the furthest complete state up to step `at_most`, verified. A damaged one is removed and the one before it used."""
    folder = folder_of(stage_id)
    for _ in range(3):  # its owner may replace the state while we read it
        complete = _complete(files, stage_id)
        for name, marker in complete.items():
            if at_most is not None and marker["step"] > at_most:
                continue
            try:
                paths = {file: fetched(files, f"{folder}/{name}", file, facts, cache) for file, facts in marker["files"].items()}
            except Damage as damage:
                if name not in files.names(folder):
                    break
                notice(f"the state of stage {stage_id} at step {marker['step']} is damaged and not used: {damage}")
                _forget(files, folder, name)
                continue
            return State(marker["step"], marker["meta"], paths)
        else:
            return None
    return None


def states_in(files: Files, folder: str) -> list[str]:
    """Names of the states in the folder of a stage, the furthest first, complete or not."""
    return sorted(filter(STATE.fullmatch, files.names(folder)), key=lambda name: int(name.partition("-")[0]), reverse=True)


def _complete(files: Files, stage_id: str) -> dict[str, StateMarker]:
    """{name: marker} of the complete states whose files have the right sizes, the furthest first."""
    states, folder = {}, folder_of(stage_id)
    for name in states_in(files, folder):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, NotPlain):
            marker = state_marker(files.read(f"{folder}/{name}/{MARKER}"), stage_id)
            if marker is None or marker["step"] != int(name.partition("-")[0]):
                continue
            if not wrong_size(files.sizes(f"{folder}/{name}"), marker["files"]):
                states[name] = marker
    return states


def _forget(files: Files, folder: str, name: str) -> None:
    with contextlib.suppress(Exception):  # the store may be read-only, or an earlier failure is being raised
        files.remove(f"{folder}/{name}")
        files.prune(folder)
