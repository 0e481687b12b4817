"""The store: artifacts and states of stages by name. Artifacts appear atomically and are verified when they are read.

    artifacts/<id>/COMPLETE.json           the marker, written last: attempt, files with sizes and sha256, manifest
    artifacts/<id>/<attempt>/<file>        safetensors, json, parquet; nothing is ever unpickled
    leases/<id>/<generation>.json          the process that computes the stage (lease.py)
    states/<id>/<step>-<token>/<file>      saved states of an unfinished stage (states.py)
    cache/<kind>/                          scratch and caches of this machine; for a remote store in the user's cache folder

An artifact exists if its marker does. Its files are checked before the marker is written and again when they are read; a damaged
artifact counts as missing, so that its stage is computed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
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
from trainables.store.files import FULL, LocalFiles, StoreError, explained, open_files
from trainables.store.garbage import CollectReport
from trainables.store.lease import Claim
from trainables.store.local_files import NotPlain
from trainables.store.manifest import fault_of
from trainables.store.states import Draft, Owns, State

__all__ = ["FORMAT_VERSION", "Artifact", "Claim", "DamagedArtifact", "State", "Store", "StoreError", "stage_id"]

log = logging.getLogger(__name__)
MARKER = "COMPLETE.json"
SLOWEST_POLL_S = 1.0
TWICE = (
    "this store cannot create files exclusively: two processes that begin a stage together both compute it, with the same result"
)
_claims: dict[tuple[str, str, int], Claim] = {}
"""Claims of this process by store, stage and thread: a thread must not wait for itself, nor save the state of a lost stage."""


class DamagedArtifact(RuntimeError):
    """A file of an artifact is missing, truncated or altered. The artifact was set aside: its stage counts as missing now."""


@dataclass(frozen=True)
class Artifact:
    """Result of a finished stage."""

    stage_id: str
    manifest: dict[str, Any]
    """Settings, rows and parent of the stage."""
    files: Mapping[str, Facts]
    """{name: size in bytes and sha256}."""
    pruned: tuple[str, ...]
    """Files that were deleted to save space."""
    attempt: str = field(repr=False)
    store: Store = field(repr=False)

    def has(self, name: str) -> bool:
        """Whether the artifact has the file, not pruned."""
        return name in self.files

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Rows of a stage of this kind, one per evaluation. Raises DamagedArtifact if the stage is of another kind."""
        if (actual := self.manifest.get("kind")) != kind:
            raise self.damaged(f"its manifest is one of {actual!r}, not of {kind!r}")
        return list(self.manifest["rows"])

    def damaged(self, damage: str) -> DamagedArtifact:
        """Set the artifact aside, so that it counts as missing, and return the exception to raise: its content is unusable."""
        self.store.set_aside(self, None, damage)
        return DamagedArtifact(f"artifact {self.stage_id}: {damage}")

    def path(self, name: str) -> Path:
        """Path of a file on this machine, fetched if necessary; its content is verified once per process.

        Raises FileNotFoundError for a file that does not exist or was pruned, DamagedArtifact for a damaged one.
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
        """Folder of its files in the store."""
        return f"{_folder(self.stage_id)}/{self.attempt}"


class Store:
    """Artifacts, states and leases below a local path or an fsspec URL. The constructor accesses nothing.

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
        if url := os.environ.get("FINETUNE_STUDY_STORE"):
            return cls(url, notice)
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
        """Create, read and remove a small file, as leases do. Raises StoreError before any work is done in vain."""
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
            self.files.read(probe)  # s3fs ignores a missing permission to delete
            raise PermissionError(errno.EACCES, "what was removed is still there", self.url)

    def local_cache(self, kind: str) -> Path:
        """Folder on this machine for scratch and caches of one kind: in a local store, else in the user's cache folder.

        Raises StoreError.
        """
        own = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        inside = [self.files.root / "cache"] if isinstance(self.files, LocalFiles) else []
        faults = []
        for folder in (*inside, user_cache() / "of" / own, beside() / "of" / own):
            path = folder / checked(kind)
            try:
                if folder in inside and isinstance(self.files, LocalFiles):
                    self.files.local(f"cache/{kind}")  # refuses a link that leads elsewhere
                path.mkdir(parents=True, exist_ok=True)
                if not os.access(path, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return path
            except OSError as error:
                faults.append(error)
        with explained(self.url):
            raise faults[0]
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """A folder for files that will be moved into the store. Raises StoreError where they cannot be written."""
        with explained(self.url):
            scratch = tempfile.TemporaryDirectory(dir=self.local_cache("writing"))
        with scratch as folder:
            try:
                yield Path(folder)
            except OSError as error:
                if error.errno not in FULL and not str(error.filename).startswith(folder):
                    raise  # of what is read
                with explained(self.url):
                    raise

    # --- artifacts --------------------------------------------------------------------------------------------------------------

    def get(self, stage_id: str, needs: Collection[str] = (), *, digests: bool = True) -> Artifact | None:
        """The artifact of a finished stage; None if there is none, if it is damaged, or if it lacks a file in `needs`.

        Sizes are always checked. Contents are checked once per process: of a local store here (unless `digests` is false, which
        reads no content), of a remote store when they are fetched.
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
                return None  # else it was pruned or replaced meanwhile: read the marker again

    def _artifact(self, stage_id: str, marker: ArtifactMarker) -> Artifact:
        return Artifact(stage_id, marker["manifest"], marker["files"], tuple(marker["pruned"]), marker["attempt"], self)

    def _marker(self, stage_id: str) -> ArtifactMarker | None:
        """The marker; None if there is none. An invalid or altered one is removed."""
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
        """Send a notice, at most once per line."""
        if line not in self._told:
            self._told.add(line)
            self.notice(line)

    def _damage(self, artifact: Artifact, digests: bool) -> tuple[str, str] | None:
        """(file, damage) of the first damaged file; None if there is none."""
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
        """Remove the marker of an artifact with a damaged file or manifest.

        False if its marker does not name the file any more, so nothing is wrong. The files stay for inspection until `collect`.
        """
        marker = self._marker(artifact.stage_id)
        if marker is None:  # another process was faster
            return True
        if marker["attempt"] != artifact.attempt or (name is not None and name not in marker["files"]):
            return False
        self.notice(f"artifact {artifact.stage_id} is damaged and counts as missing: {damage} ({self.url}/{artifact.folder})")
        with contextlib.suppress(Exception):  # the store may be read-only
            self.files.remove(f"{_folder(artifact.stage_id)}/{MARKER}")
            self.files.write(f"{artifact.folder}/{DAMAGED}", json.dumps({"damage": damage, "marker": marker}).encode())
        return True

    def publish(
        self, stage_id: str, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes], *, move: bool = False
    ) -> Artifact:
        """Publish the artifact of a finished stage atomically.

        An existing artifact that has all these files stays as it is. `move` moves the files instead of copying them.
        Raises StoreError if the store cannot be written, ValueError for invalid names or an invalid manifest.
        """
        text = json.dumps(manifest)  # first: an invalid manifest must not cost a transfer
        if fault := fault_of(manifest):
            raise ValueError(f"the manifest is invalid: {fault}")
        if (there := self.get(stage_id, needs=checked_files(files))) is not None:
            return there
        attempt, folder = uuid4().hex, _folder(stage_id)
        with explained(self.url):
            try:
                facts = put_all(self.files, f"{folder}/{attempt}", files, move, durable=True)
                content = json.loads(text)
                marker = ArtifactMarker(stage_id=stage_id, attempt=attempt, files=facts, pruned=[], manifest=content)
                self.files.write(f"{folder}/{MARKER}", marker_bytes(marker))
            except BaseException:
                with contextlib.suppress(Exception):
                    self.files.remove(f"{folder}/{attempt}")
                    self.files.prune(folder)
                raise
        return self._artifact(stage_id, marker)

    def drop_files(self, stage_id: str, names: Collection[str]) -> None:
        """Delete files of an artifact, such as weights, and list them in its marker as pruned. Raises StoreError."""
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
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Iterator[Claim | None]:
        """Acquire the right to compute a stage.

        Yields a Claim to the owner, and None if there is nothing to compute: the stage was finished meanwhile, or another process
        computes it and `wait` is false. `needs` names files that a finished artifact must have. `waiting` gets a line for every
        owner that is waited for, `meanwhile` is called at every poll. Polls every `poll_s` at first, more slowly later. Raises
        StoreError if the store is not writable.
        """
        claim = self._acquire(stage_id, wait, needs, poll_s, ttl_s, waiting or self.notice, meanwhile)
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
        self,
        name: str,
        wait: bool,
        needs: Collection[str],
        poll_s: float,
        ttl_s: float,
        waiting: Callable[[str], None],
        meanwhile: Callable[[], None],
    ) -> Claim | None:
        watch, announced = lease.Watch(), set[str]()
        slowest_s = max(poll_s, SLOWEST_POLL_S)
        while self.get(name, needs) is None:
            with explained(self.url):
                holder = lease.attempt(self.files, f"leases/{checked(name)}", ttl_s, watch)
            if isinstance(holder, Claim):
                if self.get(name, needs) is None:
                    return holder.start()
                holder.release()
                return None
            if not wait:
                return None
            if holder == lease.this_process() and (self.url, name, threading.get_ident()) in _claims:
                raise RuntimeError(f"stage {name} is claimed by this very thread, which would wait for itself")
            if str(holder) not in announced:
                announced.add(str(holder))
                waiting(f"waiting for stage {name}, which {holder} computes")
            meanwhile()
            time.sleep(poll_s)
            poll_s = min(slowest_s, poll_s * 1.3)
        return None

    # --- states -----------------------------------------------------------------------------------------------------------------

    def save_state(
        self,
        stage_id: str,
        step: int,
        meta: Mapping[str, Any],
        files: Mapping[str, Path | bytes],
        *,
        move: bool = False,
        owns: Owns | None = None,
    ) -> None:
        """Save the state of an unfinished stage, then remove the state before it.

        The furthest state is kept too. Does nothing if this step is saved already, or if another process took over this thread's
        claim on the stage, or the one that `owns` checks. `move` moves the files. Raises StoreError; the state before it is kept
        then.
        """
        draft = self.begin_state(stage_id, step, files, move=move, owns=owns)
        if draft is not None:
            self.complete_state(stage_id, draft, meta, owns=owns)

    def begin_state(
        self, stage_id: str, step: int, files: Mapping[str, Path | bytes], *, move: bool = False, owns: Owns | None = None
    ) -> Draft | None:
        """Write files of a state, which counts once `complete_state` has ended; None if there is nothing to save (`save_state`).

        Raises StoreError.
        """
        with explained(self.url):
            return states.begin(self.files, stage_id, step, files, move, owns or self.owns(stage_id))

    def complete_state(
        self,
        stage_id: str,
        draft: Draft,
        meta: Mapping[str, Any],
        files: Mapping[str, Path | bytes] = MappingProxyType({}),
        *,
        move: bool = False,
        owns: Owns | None = None,
    ) -> None:
        """Add further files, then the marker, to a state that was begun, and remove the state before it. Raises StoreError."""
        with explained(self.url):
            states.complete(self.files, stage_id, draft, meta, files, move, owns or self.owns(stage_id))

    def discard_state(self, stage_id: str, draft: Draft) -> None:
        """Remove a state that was begun and shall not be completed."""
        states.discard(self.files, stage_id, draft)

    def load_state(self, stage_id: str, at_most: int | None = None) -> State | None:
        """Load the furthest complete state up to step `at_most`, every file verified; None if there is none.

        A damaged one is removed with a notice.
        """
        with explained(self.url, "read"):
            return states.load(self.files, stage_id, self.local_cache, self._tell, at_most)

    def drop_state(self, stage_id: str) -> None:
        """Remove the states of an unfinished stage, unless this thread lost its claim on it. Raises StoreError."""
        with explained(self.url, "remove"):
            if self.owns(stage_id)():
                self.files.remove(states.folder_of(stage_id))

    def owns(self, stage_id: str) -> Owns:
        """Function that checks whether the claim of this thread, or else of this process, still holds; true without a claim."""
        here = {thread: claim for (url, stage, thread), claim in _claims.copy().items() if (url, stage) == (self.url, stage_id)}
        claim = here.get(threading.get_ident()) or (next(iter(here.values())) if len(here) == 1 else None)
        return claim.holds if claim else lambda: True

    def collect(self, older_than_s: float = 30 * 86400.0) -> CollectReport:
        """Remove half-written and damaged artifacts, leases of dead processes, old states and abandoned scratch files.

        Only items that did not change for `older_than_s` are removed (dead leases at once), and none of a stage that is being
        computed: safe while others run, if this is longer than the transfer of one file. Raises StoreError.
        """
        with explained(self.url, "remove"):
            return garbage.collect(self.files, self.local_cache, older_than_s)


def user_cache() -> Path:
    """The user's cache folder for this program, which may not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(base):  # the XDG specification ignores relative paths
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "finetune-study" if os.path.isabs(base) else beside()


def beside() -> Path:
    """Folder in the working directory, used if the home cannot be written."""
    return Path.cwd() / ".finetune-study"


def _folder(stage_id: str) -> str:
    return f"artifacts/{checked(stage_id)}"
