"""Results of stages, by name: on any file system, shared by whoever knows its address, never half there and never damaged.

    artifacts/<id>/COMPLETE.json           the marker, written last: attempt, files with sizes and sha256, manifest
    artifacts/<id>/<attempt>/<file>        safetensors, json, parquet; nothing is unpickled, here or anywhere
    leases/<id>/<generation>.json          who computes it (lease.py)
    states/<id>/<step>-<token>/<file>      where an unfinished stage stands (states.py)
    cache/<kind>/                          scratch and caches of this machine; for a remote store in the user's cache folder

A reader sees an artifact by its marker only. Its files are checked before the marker is written and again when they are read; a
damaged artifact counts as missing, so that its stage is computed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from trainables.store import garbage, lease, states
from trainables.store.artifact_files import (
    DAMAGED,
    FORMAT_VERSION,
    ArtifactMarker,
    Damage,
    Facts,
    artifact_marker,
    checked,
    checked_files,
    fetched,
    marker_bytes,
    put_all,
    stage_id,
    wrong_size,
)
from trainables.store.files import LocalFiles, StoreError, explained, open_files
from trainables.store.garbage import CollectReport
from trainables.store.lease import Claim
from trainables.store.local_files import NotPlain
from trainables.store.manifest import fault_of
from trainables.store.states import State

__all__ = ["FORMAT_VERSION", "Artifact", "Claim", "DamagedArtifact", "State", "Store", "StoreError", "stage_id"]

log = logging.getLogger(__name__)
MARKER = "COMPLETE.json"
SLOWEST_POLL_S = 1.0
TWICE = "this store does not refuse to create a file twice, so two who begin a stage at once both compute it, with the same result"
_claims: dict[tuple[str, str, int], Claim] = {}
"""Claims held here, by store, stage and thread: a thread must not wait for itself, nor save what it has lost."""


class DamagedArtifact(RuntimeError):
    """A file of an artifact is gone, cut or altered. The artifact was set aside: its stage counts as missing now."""


@dataclass(frozen=True)
class Artifact:
    """What a finished stage left."""

    stage_id: str
    manifest: dict[str, Any]
    """What the stage says of itself: settings, rows, parent."""
    files: Mapping[str, Facts]
    """Size in bytes and sha256 of each file."""
    pruned: tuple[str, ...]
    """Files that were dropped to save space."""
    attempt: str = field(repr=False)
    store: Store = field(repr=False)

    def has(self, name: str) -> bool:
        """Whether the file is there, not pruned."""
        return name in self.files

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """What a stage of this kind measured, a row per evaluation. Raises DamagedArtifact if it is none of that kind."""
        if (said := self.manifest.get("kind")) != kind:
            raise self.damaged(f"its manifest is one of {said!r}, not of {kind!r}")
        return list(self.manifest["rows"])

    def damaged(self, damage: str) -> DamagedArtifact:
        """What to raise of an artifact whose content is whole and of no use. It is set aside: from now on it counts as missing."""
        self.store.set_aside(self, None, damage)
        return DamagedArtifact(f"artifact {self.stage_id}: {damage}")

    def path(self, name: str) -> Path:
        """The file on this machine, fetched if need be, content verified once per process.

        Raises FileNotFoundError for a file that it never had or that was pruned, DamagedArtifact for one that is not what it was.
        """
        if name not in self.files:
            why = "was pruned" if name in self.pruned else f"is not among its files: {', '.join(sorted(self.files)) or 'none'}"
            raise FileNotFoundError(f"artifact {self.stage_id}: {name!r} {why}")
        try:
            return fetched(self.store.files, self.folder, name, self.files[name], self.store.local_cache)
        except Damage as damage:
            if not self.store.set_aside(self, name, str(damage)):
                raise FileNotFoundError(f"artifact {self.stage_id}: {name!r} was pruned or replaced meanwhile") from None
            raise DamagedArtifact(f"artifact {self.stage_id}: {damage}") from None

    @property
    def folder(self) -> str:
        """Where its files lie in the store."""
        return f"{_folder(self.stage_id)}/{self.attempt}"


class Store:
    """Artifacts, states and leases below a local path or an fsspec URL. Making one touches nothing.

    `notice` takes lines meant for the user: damage found, waiting for another process. Raises StoreError for an impossible address.
    """

    def __init__(self, url: str | os.PathLike[str], notice: Callable[[str], None] = log.warning) -> None:
        self.files = open_files(url)
        self.url = self.files.url
        self.notice = notice
        self._told = set[str]()

    @classmethod
    def default(cls, notice: Callable[[str], None] = log.warning) -> Store:
        """`$FINETUNE_STUDY_STORE`, else the user's cache folder, else a folder in the working directory. Raises StoreError."""
        if given := os.environ.get("FINETUNE_STUDY_STORE"):
            return cls(given, notice)
        faults: list[str] = []
        for folder in (user_cache(), beside()):
            store = cls(folder, notice)
            try:
                store.check_writable()
            except StoreError as error:
                faults += error.faults
                continue
            if faults:
                notice(f"the user's cache folder cannot be used, results are kept in {store.url}: {faults[0]}")
            return store
        raise StoreError(faults)

    def check_writable(self) -> None:
        """Create, read and remove a small file, as leases do. Raises StoreError: better before the work than after it."""
        probe = f".probe-{uuid4().hex}"
        with explained(self.url):
            try:
                self.files.create(probe, b"x" * 4096)
                self.files.read(probe)
                if self.files.create(probe, b"y"):
                    self._tell(f"{TWICE}: {self.url}")
            except BaseException:
                with contextlib.suppress(Exception):
                    self.files.remove(probe)
                raise
        with explained(self.url, "remove from"), contextlib.suppress(FileNotFoundError):
            self.files.remove(probe)
            self.files.read(probe)  # s3fs says nothing where it may not delete
            raise PermissionError(errno.EACCES, "what was removed is still there", self.url)

    def local_cache(self, kind: str) -> Path:
        """A folder on this machine for scratch and caches of one kind: in a local store, else in the user's cache folder.

        `writing` is for files on their way into the store, each in a folder of its own. Raises StoreError.
        """
        own = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        inside = [self.files.root / "cache"] if isinstance(self.files, LocalFiles) else []
        faults = []
        for folder in (*inside, user_cache() / "of" / own, beside() / "of" / own):
            path = folder / checked(kind)
            try:
                if folder in inside and isinstance(self.files, LocalFiles):
                    self.files.local(f"cache/{kind}")  # no link that leads elsewhere
                path.mkdir(parents=True, exist_ok=True)
                if not os.access(path, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return path
            except OSError as error:
                faults.append(error)
        with explained(self.url):
            raise faults[0]
        raise AssertionError("unreachable")

    # --- artifacts --------------------------------------------------------------------------------------------------------------

    def get(self, stage_id: str, needs: Collection[str] = (), *, digests: bool = True) -> Artifact | None:
        """The artifact of a finished stage; None when there is none, when it is damaged, or when it lacks a file in `needs`.

        Sizes are checked always. Contents are checked once per process: here, those of a local store (unless not `digests`, for a
        look that reads nothing); when they are fetched, those of a remote one.
        """
        while True:
            marker = self._marker(stage_id)
            if marker is None:
                return None
            artifact = self._artifact(stage_id, marker)
            damage = self._damage(artifact, digests)
            if damage is None:
                return artifact if all(artifact.has(name) for name in needs) else None
            if self.set_aside(artifact, *damage):
                return None  # else it was pruned or replaced while we looked

    def _artifact(self, stage_id: str, marker: ArtifactMarker) -> Artifact:
        return Artifact(stage_id, marker["manifest"], marker["files"], tuple(marker["pruned"]), marker["attempt"], self)

    def _marker(self, stage_id: str) -> ArtifactMarker | None:
        """The marker; None where there is none. One that no store wrote, or that was altered, is removed."""
        path = f"{_folder(stage_id)}/{MARKER}"
        with explained(self.url, "read"):
            try:
                data = self.files.read(path)
            except FileNotFoundError:
                return None
            except NotPlain:
                data = b""
        marker = artifact_marker(data, stage_id)
        if marker is None:
            self._tell(f"artifact {stage_id} counts as missing: {path} is damaged")
            with contextlib.suppress(Exception):
                self.files.remove(path)
        return marker

    def _tell(self, line: str) -> None:
        """Say once what cannot be mended here, however often it is met."""
        if line not in self._told:
            self._told.add(line)
            self.notice(line)

    def _damage(self, artifact: Artifact, digests: bool) -> tuple[str, str] | None:
        """(file, what is wrong with it) of the first damaged file."""
        with explained(self.url, "read"):
            fault = wrong_size(self.files.sizes(artifact.folder), artifact.files)
        if fault or not digests or not isinstance(self.files, LocalFiles):
            return fault
        for name, facts in artifact.files.items():
            try:
                fetched(self.files, artifact.folder, name, facts, self.local_cache)
            except Damage as damage:
                return name, str(damage)
        return None

    def set_aside(self, artifact: Artifact, name: str | None, damage: str) -> bool:
        """Take the marker away from an artifact of which a file, or the manifest, is damaged.

        False when its marker does not name the file any more, so nothing is wrong. Files stay for a look until `collect` comes.
        """
        marker = self._marker(artifact.stage_id)
        if marker is None:  # someone else was faster
            return True
        if marker["attempt"] != artifact.attempt or (name is not None and name not in marker["files"]):
            return False
        self.notice(f"artifact {artifact.stage_id} is damaged and counts as missing: {damage} ({self.url}/{artifact.folder})")
        with contextlib.suppress(Exception):  # a store that we may only read
            self.files.remove(f"{_folder(artifact.stage_id)}/{MARKER}")
            self.files.write(f"{artifact.folder}/{DAMAGED}", json.dumps({"damage": damage, "marker": marker}).encode())
        return True

    def publish(
        self, stage_id: str, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes], *, move: bool = False
    ) -> Artifact:
        """Leave the artifact of a finished stage: visible as a whole, or not at all.

        One that is there already, with all these files, stays as it is. `move` takes the given files instead of copying them.
        Raises StoreError when the store cannot take it, ValueError for names or a manifest that are not allowed.
        """
        text = json.dumps(manifest)  # first: a manifest that is no plain data must not cost a transfer
        if fault := fault_of(manifest):
            raise ValueError(f"nobody could read this manifest: {fault}")
        if (there := self.get(stage_id, needs=checked_files(files))) is not None:
            return there
        attempt, folder = uuid4().hex, _folder(stage_id)
        with explained(self.url):
            try:
                facts = put_all(self.files, f"{folder}/{attempt}", files, move, durable=True)
                said = json.loads(text)
                marker = ArtifactMarker(stage_id=stage_id, attempt=attempt, files=facts, pruned=[], manifest=said)
                self.files.write(f"{folder}/{MARKER}", marker_bytes(marker))
            except BaseException:
                with contextlib.suppress(Exception):
                    self.files.remove(f"{folder}/{attempt}")
                    self.files.prune(folder)
                raise
        return self._artifact(stage_id, marker)

    def drop_files(self, stage_id: str, names: Collection[str]) -> None:
        """Prune files of an artifact, such as weights; its marker says so. None there is fine. Raises StoreError."""
        marker = self._marker(stage_id)
        gone = sorted(set(names) & set(marker["files"])) if marker else []
        if marker is None or not gone:
            return
        left = {name: facts for name, facts in marker["files"].items() if name not in gone}
        marker["files"], marker["pruned"] = left, sorted({*marker["pruned"], *gone})
        with explained(self.url):
            self.files.write(f"{_folder(stage_id)}/{MARKER}", marker_bytes(marker))
            for name in gone:
                self.files.remove(f"{_folder(stage_id)}/{marker['attempt']}/{name}")

    # --- claims -----------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(
        self,
        stage_id: str,
        wait: bool = True,
        *,
        needs: Collection[str] = (),
        poll_s: float = 0.05,
        ttl_s: float = lease.TTL_S,
        waiting: Callable[[str], None] | None = None,
    ) -> Iterator[Claim | None]:
        """Be the one that computes a stage.

        Yields a Claim to the owner, and None when there is nothing to compute: someone finished it meanwhile, or computes it while
        not `wait`. `needs` names files without which an artifact is not finished. `waiting` gets a line per owner waited for.
        Polls every `poll_s` at first, more slowly later. Raises StoreError when the store is not writable.
        """
        claim = self._acquire(stage_id, wait, needs, poll_s, ttl_s, waiting or self.notice)
        if claim is None:
            yield None
            return
        holder = (self.url, stage_id, threading.get_ident())
        _claims[holder] = claim
        try:
            yield claim
        finally:
            _claims.pop(holder, None)
            claim.release()

    def _acquire(
        self, name: str, wait: bool, needs: Collection[str], poll_s: float, ttl_s: float, waiting: Callable[[str], None]
    ) -> Claim | None:
        watch, told = lease.Watch(), set[str]()
        slowest_s = max(poll_s, SLOWEST_POLL_S)
        while self.get(name, needs) is None:
            with explained(self.url):
                got = lease.attempt(self.files, f"leases/{checked(name)}", ttl_s, watch)
            if isinstance(got, Claim):
                if self.get(name, needs) is None:
                    return got.start()
                got.release()
                return None
            if not wait:
                return None
            if got == lease.this_process() and (self.url, name, threading.get_ident()) in _claims:
                raise RuntimeError(f"stage {name} is claimed by this very thread, which would wait for itself")
            if str(got) not in told:
                told.add(str(got))
                waiting(f"waiting for stage {name}, which {got} computes")
            time.sleep(poll_s)
            poll_s = min(slowest_s, poll_s * 1.3)
        return None

    # --- states -----------------------------------------------------------------------------------------------------------------

    def save_state(
        self, stage_id: str, step: int, meta: Mapping[str, Any], files: Mapping[str, Path | bytes], *, move: bool = False
    ) -> None:
        """Save where an unfinished stage stands; the state before it goes when this one is whole.

        The furthest state stays beside it, for who went further. Nothing is saved of a step that is, nor by a thread whose claim on
        the stage someone took over. `move` takes the files. Raises StoreError; then the state before it is kept.
        """
        with explained(self.url):
            states.save(self.files, stage_id, step, meta, files, move, self._owns(stage_id))

    def load_state(self, stage_id: str, at_most: int | None = None) -> State | None:
        """The furthest whole state, every file verified, up to step `at_most`; None when there is none.

        A damaged one is removed with a notice.
        """
        with explained(self.url, "read"):
            return states.load(self.files, stage_id, self.local_cache, self._tell, at_most)

    def drop_state(self, stage_id: str) -> None:
        """Remove what is saved of an unfinished stage, unless this thread's claim on it was lost. Raises StoreError."""
        with explained(self.url, "remove"):
            if self._owns(stage_id)():
                self.files.remove(states.folder_of(stage_id))

    def _owns(self, stage_id: str) -> Callable[[], bool]:
        """Whether nobody took over what this thread, or else this process, has claimed; True too where nothing is claimed."""
        here = {thread: claim for (url, stage, thread), claim in _claims.copy().items() if (url, stage) == (self.url, stage_id)}
        claim = here.get(threading.get_ident()) or (next(iter(here.values())) if len(here) == 1 else None)
        return claim.holds if claim else lambda: True

    def collect(self, older_than_s: float = 30 * 86400.0) -> CollectReport:
        """Remove what nobody will read: half-written and damaged artifacts, leases of the dead, old states, what was left behind.

        Only what was not touched for so long (dead leases at once), and nothing of a stage that someone computes: safe while others
        run, if that is longer than the transfer of one file takes. Raises StoreError.
        """
        with explained(self.url, "remove"):
            return garbage.collect(self.files, self.local_cache, older_than_s)


def user_cache() -> Path:
    """The user's cache folder for this program; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(base):  # to be ignored then, says the XDG specification
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "finetune-study" if os.path.isabs(base) else beside()


def beside() -> Path:
    """A folder in the working directory, for users whose home cannot be written."""
    return Path.cwd() / ".finetune-study"


def _folder(stage_id: str) -> str:
    return f"artifacts/{checked(stage_id)}"
