"""The few file operations a store needs, on a local disk or NFS. `remote.py` has the same for other file systems.

A small file that is written appears whole or not at all: it is written aside, synced and renamed. `create` succeeds for one of many
that try at once.
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
"""Bytes of a marker or a lease at most: what is larger was not written by a store, and is not read into memory."""


class NotPlain(OSError):
    """What stands there is no file of a store: a link, a folder, a device, or far too large."""


def is_name(name: object) -> bool:
    """Whether it is a file name on any file system and no way out of its folder."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and ".." not in name


class LocalFiles:
    """Files below a folder. What has no name of a store's own, such as a write in progress, is not listed.

    A store holds no symbolic links. What one leads to is never read, written or removed: one below the top folders is as good as
    nothing there and is replaced by what is written; a top folder that is one is refused with OSError.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)

    def local(self, path: str, replace: bool = False) -> Path:
        """Where the file lies. Raises NotPlain for a link on the way, unless it is to `replace` it; OSError for one at the top."""
        place = self.root
        for depth, part in enumerate(Path(path).parts):
            place /= part
            if not place.is_symlink():
                continue
            if depth == 0:
                raise OSError(errno.ELOOP, "a symbolic link, of which a store holds none", str(place))
            if not replace:
                raise NotPlain(errno.ELOOP, "a symbolic link, of which a store holds none", str(place))
            place.unlink(missing_ok=True)
        return place

    def read(self, path: str) -> bytes:
        """Content of a small file. Raises FileNotFoundError, and NotPlain for what no store wrote."""
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
        """Write or replace a small file at once."""
        target = self.local(path, replace=True)
        _beside(target, data, lambda aside: os.replace(aside, target))
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            _sync(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists: True for exactly one of several that try at once. It appears with its content.

        Not synced: what is created so (leases) need not outlive a power cut.
        """
        target = self.local(path, replace=True)
        try:
            _beside(target, data, lambda aside: _link(aside, target, data), durable=False)
        except FileExistsError:
            return False
        return True

    def put(self, path: str, source: Path | bytes, move: bool = False, durable: bool = True) -> tuple[int, str]:
        """Copy or move a file in, or write bytes: (its size in bytes, its sha256), of what is on the disk now.

        `durable` waits until the disk has it. Raises OSError, also when the copy differs from the source.
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
        """Name and bytes of the files in a folder; empty where there is none."""
        found: dict[str, int] = {}
        for name in self.names(path):
            with contextlib.suppress(FileNotFoundError):  # removed while we look; the others are there
                stat = (self.root / path / name).lstat()
                found |= {name: stat.st_size} if S_ISREG(stat.st_mode) else {}
        return found

    def names(self, path: str) -> list[str]:
        """Names of files and folders in a folder, sorted; empty where there is none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, NotPlain):
            return sorted(filter(is_name, os.listdir(self.local(path))))
        return []

    def remove(self, path: str) -> None:
        """Remove a file, a link, or a folder with all it holds; none is fine."""
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
        """Remove a folder if nothing is in it."""
        with contextlib.suppress(OSError):
            self.local(path).rmdir()

    def age_s(self, path: str) -> float:
        """Seconds since anything at or below the path was changed, by this machine's clock."""
        return time.time() - max((stat.st_mtime for stat in self._stats(path)), default=time.time())

    def bytes_in(self, path: str) -> int:
        """Bytes of all files at or below the path."""
        return sum(stat.st_size for stat in self._stats(path) if S_ISREG(stat.st_mode))

    def _stats(self, path: str) -> Iterator[os.stat_result]:
        """Of all that is at or below the path; what others remove meanwhile is left out."""
        first = str(self.root / path)
        walk = [] if os.path.islink(first) else os.walk(first)
        places = [first, *(os.path.join(top, name) for top, folders, files in walk for name in (*folders, *files))]
        for place in places:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield os.lstat(place)


def sha256(path: Path) -> str:
    """Digest of a file's content. Read once per process as long as its size, time and inode stay. Raises OSError."""
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
    """Write a file in the target's folder, wait until the disk has it, and let `finish` give it its name."""

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
    """Do it with the parent folder there."""
    return persist(lambda: target.parent.mkdir(parents=True, exist_ok=True), action)


def persist(prepare: Callable[[], None], action: Callable[[], T]) -> T:
    """Do it in a folder that `prepare` makes. Others may remove an empty folder between the two: then again."""
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
        with open(target, "xb") as file:  # a file system without hard links: exclusive too, but a moment empty
            file.write(data)


def _place(source: Path | bytes, target: Path, move: bool) -> None:
    if isinstance(source, bytes):
        target.write_bytes(source)
    elif move and not source.is_symlink():
        shutil.move(source, target)  # renames where it can
    else:
        shutil.copyfile(source, target)
        if move:
            source.unlink()


def _sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
