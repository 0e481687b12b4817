"""File operations of a store on a local disk or NFS. `remote_files.py` has the same for other file systems.

Small files appear atomically: they are written to a temporary file, synced and renamed. Of several concurrent calls of `create`,
exactly one succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar
from uuid import uuid4

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
LARGEST = 64 * 2**20
"""Largest size of a marker or a lease in bytes: a larger file was not written by a store and is not read into memory."""


class NotPlain(OSError):
    """The path is not a file of a store: a link, a folder, a device, or far too large."""


def is_name(name: object) -> bool:
    """Whether it is a file name on any file system and cannot leave its folder."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and ".." not in name


class LocalFiles:
    """Files below a folder. Listings skip names that a store would not write, and writes in progress.

    A store holds no symbolic links, and their targets are never read, written or removed: a link below the top folders counts as
    missing and is replaced by a write; a top folder that is a link is refused with OSError.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)

    def local(self, path: str, replace: bool = False) -> Path:
        """Path of a file. Raises NotPlain for a link on the way, unless `replace` removes it; OSError for a link at the top."""
        place = self.root
        for depth, part in enumerate(Path(path).parts):
            place /= part
            if not place.is_symlink():
                continue
            if depth == 0:
                raise OSError(errno.ELOOP, "a symbolic link, which a store must not contain", str(place))
            if not replace:
                raise NotPlain(errno.ELOOP, "a symbolic link, which a store must not contain", str(place))
            place.unlink(missing_ok=True)
        return place

    def read(self, path: str) -> bytes:
        """Content of a small file. Raises FileNotFoundError, and NotPlain for files that no store wrote."""
        place = self.local(path)
        try:
            handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
        except NotADirectoryError as error:
            raise NotPlain(error.errno, error.strerror, str(place)) from None
        try:
            stat = os.fstat(handle)
            if not S_ISREG(stat.st_mode) or stat.st_size > LARGEST:
                raise NotPlain(errno.EINVAL, "no small file", str(place))
            with open(handle, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a small file atomically."""
        target = self.local(path, replace=True)
        _beside(target, data, lambda aside: os.replace(aside, target))
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            _sync(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists: True for exactly one of several concurrent calls. It appears with its content.

        Not synced: leases need not survive a power cut.
        """
        target = self.local(path, replace=True)
        try:
            _beside(target, data, lambda aside: _link(aside, target, data), durable=False)
        except FileExistsError:
            return False
        return True

    def put(self, path: str, source: Path | bytes, move: bool = False, durable: bool = True) -> tuple[int, str]:
        """Copy or move a file in, or write bytes. Returns (size in bytes, sha256) of the file on disk.

        `durable` syncs the file. Raises OSError, also if the copy differs from the source.
        """
        target = self.local(path, replace=True)
        _with_parent(target, lambda: _place(source, target, move))
        if durable:
            _sync(target)
        size, digest = target.stat().st_size, sha256(target)
        if not move and (size, digest) != measure(source):
            raise OSError(errno.EIO, "what was written differs from its source", str(target))
        return size, digest

    def sizes(self, path: str) -> dict[str, int]:
        """{name: bytes} of the files in a folder; empty if there is no folder."""
        sizes: dict[str, int] = {}
        for name in self.names(path):
            with contextlib.suppress(FileNotFoundError):  # removed since the listing; the others still exist
                stat = (self.root / path / name).lstat()
                sizes |= {name: stat.st_size} if S_ISREG(stat.st_mode) else {}
        return sizes

    def names(self, path: str) -> list[str]:
        """Names of files and folders in a folder, sorted; empty if there is no folder."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, NotPlain):
            return sorted(filter(is_name, os.listdir(self.local(path))))
        return []

    def remove(self, path: str) -> None:
        """Remove a file, a link, or a folder with its content, if it exists."""
        folder, _, name = path.rpartition("/")
        try:
            target = self.local(folder) / name
        except NotPlain:
            return
        try:
            target.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except (IsADirectoryError, PermissionError):
            if not target.is_dir():
                raise
            shutil.rmtree(target, ignore_errors=True)

    def prune(self, path: str) -> None:
        """Remove a folder if it is empty."""
        with contextlib.suppress(OSError):
            self.local(path).rmdir()

    def age_s(self, path: str) -> float:
        """Seconds since the last change at or below the path, by this machine's clock."""
        return time.time() - max((stat.st_mtime for stat in self._stats(path)), default=time.time())

    def bytes_in(self, path: str) -> int:
        """Bytes of all files at or below the path."""
        return sum(stat.st_size for stat in self._stats(path) if S_ISREG(stat.st_mode))

    def _stats(self, path: str) -> Iterator[os.stat_result]:
        """Stats of everything at or below the path, except files that are removed meanwhile."""
        first = str(self.root / path)
        walk = [] if os.path.islink(first) else os.walk(first)
        places = [first, *(os.path.join(top, name) for top, folders, files in walk for name in (*folders, *files))]
        for place in places:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield os.lstat(place)


def sha256(path: Path) -> str:
    """Digest of a file's content, cached per process while size, time and inode stay the same. Raises OSError."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)  # weights are gigabytes, and each stage asks for them again
def _sha256(path: str, size: int, mtime_ns: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(source: Path | bytes) -> tuple[int, str]:
    if isinstance(source, bytes):
        return len(source), hashlib.sha256(source).hexdigest()
    return source.stat().st_size, sha256(source)


def _beside(target: Path, data: bytes, finish: Callable[[Path], None], durable: bool = True) -> None:
    """Write a temporary file in the target's folder, sync it, and call `finish` to give it its name."""

    def attempt() -> None:
        aside = target.parent / f".{uuid4().hex}"
        try:
            with open(aside, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            finish(aside)
        finally:
            aside.unlink(missing_ok=True)

    _with_parent(target, attempt)


def _with_parent(target: Path, action: Callable[[], T]) -> T:
    """Create the parent folder, then run `action`."""
    return persist(lambda: target.parent.mkdir(parents=True, exist_ok=True), action)


def persist(prepare: Callable[[], None], action: Callable[[], T]) -> T:
    """Run `action` in a folder that `prepare` creates. Repeat if another process removes the empty folder in between."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            prepare()
            return action()
    prepare()
    return action()


def _link(aside: Path, target: Path, data: bytes) -> None:
    try:
        os.link(aside, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        with open(target, "xb") as file:  # a file system without hard links: exclusive too, but empty for a moment
            file.write(data)


def _place(source: Path | bytes, target: Path, move: bool) -> None:
    if isinstance(source, bytes):
        target.write_bytes(source)
    elif move and not source.is_symlink():
        shutil.move(source, target)  # renames if possible
    else:
        shutil.copyfile(source, target)
        if move:
            source.unlink()


def _sync(path: Path) -> None:
    """Sync a file's content, or the names in a folder, so that they survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
