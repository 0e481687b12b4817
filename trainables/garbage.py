"""Removing from a store what nobody will read any more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables import lease
from trainables.contents import FEATURES, parse_marker
from trainables.files import Files, LocalFiles

SCRATCH = ("writing", "fetched")
"""Local folders whose entries belong to one process, or can be fetched again."""
MARKER = "COMPLETE.json"
USED = "USED.json"
"""Written beside files that can be made again whenever they are used."""
RAY = "ray"
"""Folder of the store where Ray Train on several nodes keeps its books, in one folder for each sitting."""


@dataclass
class CollectReport:
    """What was removed."""

    attempts: int = 0
    """Artifacts half-written, replaced or damaged, and features that nobody uses any more."""
    leases: int = 0
    """Leases whose owners are gone."""
    states: int = 0
    """States of stages that nobody went on with, and half-written ones."""
    scratch: int = 0
    """Entries of scratch folders, and of Ray's, that their makers left behind."""
    bytes: int = 0
    """Space that this gave back."""


def used(files: Files, folder: str) -> None:
    """Note that what lies in the folder is in use, where the store may be written."""
    with contextlib.suppress(Exception):
        files.write(f"{folder}/{USED}", b"{}")


def collect(files: Files, cache: Callable[[str], Path], older_than_s: float) -> CollectReport:
    """Remove garbage that was not touched for so long, and dead leases. Nothing of a stage whose lease lives."""
    report = CollectReport()

    def old(place: Files, path: str) -> bool:
        if place.age_s(path) <= older_than_s:
            return False
        report.bytes += place.bytes_in(path)
        place.remove(path)
        return True

    held = _leases(files, report)
    for name in set(files.names("artifacts")) - held:
        folder = f"artifacts/{name}"
        marker = _marker(files, folder)
        if marker is not None and FEATURES in marker["files"] and files.age_s(folder) > older_than_s:
            files.remove(f"{folder}/{MARKER}")
            marker = None
        kept = (MARKER, marker and marker["attempt"])
        dead = [attempt for attempt in files.names(folder) if attempt not in kept]
        report.attempts += sum(old(files, f"{folder}/{attempt}") for attempt in dead)
        files.prune(folder)
    for name in set(files.names("states")) - held:
        report.states += sum(old(files, f"states/{name}/{state}") for state in files.names(f"states/{name}"))
        files.prune(f"states/{name}")
    report.scratch += sum(old(files, f"{RAY}/{entry}") for entry in files.names(RAY))
    files.prune(RAY)
    for kind in SCRATCH:
        scratch = LocalFiles(cache(kind))
        report.scratch += sum(old(scratch, entry) for entry in scratch.names(""))
    return report


def _marker(files: Files, folder: str) -> dict[str, Any] | None:
    """The marker that readers see."""
    try:
        return parse_marker(files.read(f"{folder}/{MARKER}"))
    except FileNotFoundError:
        return None


def _leases(files: Files, report: CollectReport) -> set[str]:
    """Remove dead leases; the names of stages whose lease lives."""
    held = set()
    for name in files.names("leases"):
        folder = f"leases/{name}"
        last = max(lease.generations(files, folder), default=0)
        found = lease.read(files, folder, last)
        if found is not None and not lease.Watch().dead(found):
            held.add(name)
            continue
        lease.remove(files, folder, last)
        report.leases += 1
    return held
