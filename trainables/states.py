"""Where an unfinished stage stands: one state on the disk, two while it is replaced.

states/<id>/<step>-<token>/<file>, STATE.json last
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from trainables.contents import Damage, checked, checked_files, fetched, marker_bytes, parse_marker, put_all, wrong_size
from trainables.files import Files

MARKER = "STATE.json"


@dataclass(frozen=True)
class State:
    """Where an unfinished stage stands."""

    step: int
    meta: dict[str, Any]
    _paths: Mapping[str, Path] = field(repr=False)

    def path(self, name: str) -> Path:
        """A file of the state on this machine. Raises FileNotFoundError."""
        if name not in self._paths:
            raise FileNotFoundError(
                f"the state of step {self.step} has no {name!r}: {', '.join(sorted(self._paths)) or 'no files'}"
            )
        return self._paths[name]


def folder_of(stage_id: str) -> str:
    """Where the states of a stage lie."""
    return f"states/{checked(stage_id)}"


def save(files: Files, stage_id: str, step: int, meta: Mapping[str, Any], sources: Mapping[str, Path | bytes], move: bool) -> None:
    """Save a state; the one before it goes when this one is whole. Nothing to do when this step, or a later one, is saved."""
    text, folder = json.dumps(meta), folder_of(stage_id)
    checked_files(sources)
    complete = _complete(files, folder)
    for name in files.names(folder):
        if name not in list(complete)[:1]:
            files.remove(f"{folder}/{name}")
    if any(marker["step"] >= step for marker in complete.values()):
        return
    name = f"{step:012d}-{uuid4().hex[:12]}"
    try:
        # Not waiting for the disk: digests tell, when it is loaded, whether a power cut hurt it.
        facts = put_all(files, f"{folder}/{name}", sources, move, durable=False)
        marker = {"stage_id": stage_id, "step": step, "files": facts, "meta": json.loads(text)}
        files.write(f"{folder}/{name}/{MARKER}", marker_bytes(marker))
    except BaseException:
        _forget(files, folder, name)
        raise
    for older in complete:
        files.remove(f"{folder}/{older}")


def load(files: Files, stage_id: str, cache: Callable[[str], Path], notice: Callable[[str], None]) -> State | None:
    """The newest whole state, verified; a damaged one is removed and the one before it taken."""
    folder = folder_of(stage_id)
    for _ in range(3):  # its owner may replace the state while we read it
        complete = _complete(files, folder)
        for name, marker in complete.items():
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


def _complete(files: Files, folder: str) -> dict[str, dict[str, Any]]:
    """Name and marker of the complete states whose files have the right size, newest first."""
    found = {}
    for name in sorted(files.names(folder), reverse=True):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            marker = parse_marker(files.read(f"{folder}/{name}/{MARKER}"))
            if marker and not wrong_size(files.sizes(f"{folder}/{name}"), marker["files"]):
                found[name] = marker
    return found


def _forget(files: Files, folder: str, name: str) -> None:
    with contextlib.suppress(Exception):  # a store that we may only read, or a failure on top of another
        files.remove(f"{folder}/{name}")
        files.prune(folder)
