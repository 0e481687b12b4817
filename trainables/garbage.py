"""Removing from a store what nobody will read any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainables import lease
from trainables.contents import parse_marker
from trainables.files import Files, LocalFiles

SCRATCH = ("writing", "fetched")
"""Local folders whose entries belong to one process, or can be fetched again."""
RAY = "ray"
"""Folder of the store where Ray Train on several nodes keeps its books, in one folder for each sitting."""


@dataclass
class CollectReport:
    """What was removed."""

    attempts: int = 0
    """Artifacts half-written, replaced or damaged."""
    leases: int = 0
    """Leases whose owners are gone."""
    states: int = 0
    """States of stages that nobody went on with, and half-written ones."""
    scratch: int = 0
    """Entries of scratch folders, and of Ray's, that their makers left behind."""
    bytes: int = 0
    """Space that this gave back."""


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
        dead = [attempt for attempt in files.names(folder) if attempt not in ("COMPLETE.json", marker)]
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


def _marker(files: Files, folder: str) -> str | None:
    """The attempt that readers see."""
    try:
        marker = parse_marker(files.read(f"{folder}/COMPLETE.json"))
    except FileNotFoundError:
        return None
    return marker["attempt"] if marker else None


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
