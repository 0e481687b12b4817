"""Garbage collection: remove unused artifacts, states, leases and scratch files from a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainables.store import lease, states
from trainables.store.artifact_files import ATTEMPT, FEATURES, STAGE, USED, ArtifactMarker, artifact_marker
from trainables.store.files import Files, LocalFiles
from trainables.store.local_files import NotPlain

SCRATCH = ("writing", "fetched")
"""Local folders whose entries belong to one process or can be fetched again."""
MARKER = "COMPLETE.json"
RAY = "ray"
"""Folder of the store for Ray Train's files on several nodes, with one folder per session."""


@dataclass
class CollectReport:
    """Number of removed items, and the space they freed."""

    attempts: int = 0
    """Half-written, replaced or damaged artifacts, and unused features."""
    leases: int = 0
    """Leases of dead owners."""
    states: int = 0
    """Old states of unfinished stages, and half-written ones."""
    scratch: int = 0
    """Abandoned entries of scratch folders and of Ray's folder."""
    bytes: int = 0
    """Freed space."""


def used(files: Files, folder: str) -> None:
    """Record that the folder's files are in use, if the store is writable."""
    with contextlib.suppress(Exception):
        files.write(f"{folder}/{USED}", b"{}")


def collect(files: Files, cache: Callable[[str], Path], older_than_s: float) -> CollectReport:
    """Remove garbage that is older than `older_than_s`, and dead leases. Stages with a live lease are left alone.

    Files whose names a store would not write are foreign and stay.
    """
    report = CollectReport()

    def old(place: Files, path: str) -> bool:
        if place.age_s(path) <= older_than_s:
            return False
        report.bytes += place.bytes_in(path)
        place.remove(path)
        return True

    held = _leases(files, report)

    def stages(kind: str) -> list[str]:
        return [name for name in files.names(kind) if STAGE.fullmatch(name) and name not in held]

    for name in stages("artifacts"):
        folder = f"artifacts/{name}"
        marker = _marker(files, name)
        if marker is not None and FEATURES in marker["files"] and files.age_s(folder) > older_than_s:
            files.remove(f"{folder}/{MARKER}")
            marker = None
        kept = marker["attempt"] if marker else None
        dead = [attempt for attempt in files.names(folder) if ATTEMPT.fullmatch(attempt) and attempt != kept]
        report.attempts += sum(old(files, f"{folder}/{attempt}") for attempt in dead)
        files.prune(folder)
    for name in stages("states"):
        report.states += sum(old(files, f"states/{name}/{state}") for state in states.states_in(files, f"states/{name}"))
        files.prune(f"states/{name}")
    report.scratch += sum(old(files, f"{RAY}/{entry}") for entry in filter(ATTEMPT.fullmatch, files.names(RAY)))
    files.prune(RAY)
    for kind in SCRATCH:
        scratch = LocalFiles(cache(kind))
        report.scratch += sum(old(scratch, entry) for entry in scratch.names(""))
    return report


def _marker(files: Files, name: str) -> ArtifactMarker | None:
    """Marker of the artifact; None if there is no readable one."""
    try:
        return artifact_marker(files.read(f"artifacts/{name}/{MARKER}"), name)
    except (FileNotFoundError, NotPlain):
        return None


def _leases(files: Files, report: CollectReport) -> set[str]:
    """Remove dead leases. Returns the names of stages whose lease is alive."""
    held = set()
    for name in filter(STAGE.fullmatch, files.names("leases")):
        folder = f"leases/{name}"
        last = max(lease.generations(files, folder), default=0)
        content = lease.read(files, folder, last)
        if content is not None and not lease.Watch().dead(content):
            held.add(name)
            continue
        lease.remove(files, folder, last)
        report.leases += 1
    return held
