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


def save(
    files: Files,
    stage_id: str,
    step: int,
    meta: Mapping[str, Any],
    sources: Mapping[str, Path | bytes],
    move: bool,
    owns: Owns,
) -> None:
    """Save a state, then remove the earlier ones except the furthest. Does nothing if this step is saved already.

    A process that lost the stage to another owner saves nothing, and removes nothing but its own files.
    """
    text, folder = json.dumps(meta), folder_of(stage_id)
    checked_files(sources)
    if not owns():
        return
    complete = _complete(files, stage_id)
    if any(marker["step"] == step for marker in complete.values()):
        return
    name = f"{step:012d}-{uuid4().hex[:12]}"
    try:
        # Without a sync: the digests detect damage by a power cut when the state is loaded.
        facts = put_all(files, f"{folder}/{name}", sources, move, durable=False)
        marker = StateMarker(stage_id=stage_id, step=step, files=facts, meta=json.loads(text))
        files.write(f"{folder}/{name}/{MARKER}", marker_bytes(marker))
    except BaseException as error:
        _forget(files, folder, name)
        if isinstance(error, Exception) and not owns():  # the new owner removed it as abandoned
            return
        raise
    if not owns():
        _forget(files, folder, name)
        return
    _clear(files, folder, {name, *list(complete)[:1]} if any(it["step"] > step for it in complete.values()) else {name}, complete)


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
