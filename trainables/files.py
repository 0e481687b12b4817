"""The few file operations a store needs: on a local disk (or NFS), and on any fsspec file system.

Both kinds offer the same methods on paths relative to their root. A small file that is written appears whole or not at all: locally
it is written aside, synced and renamed; elsewhere it is one PUT. `create` succeeds for one of many that try at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from trainables.config import ConfigError, closest

T = TypeVar("T")
OBJECT_STORES = {"memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "adl", "az", "oci", "oss"}
"""Protocols that know no folders: nothing has to be made before a file is written."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}


class StoreError(ConfigError):
    """The store cannot be used: disk full, not writable, no such protocol. Says the place, the reason and what to do."""


class LocalFiles:
    """Files below a folder. Names that begin with a dot are writes in progress and are not listed."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)

    def local(self, path: str) -> Path:
        """Where the file lies."""
        return self.root / path

    def read(self, path: str) -> bytes:
        """Content of a small file. Raises FileNotFoundError."""
        return (self.root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a small file at once."""
        target = self.root / path
        _beside(target, data, lambda aside: os.replace(aside, target))
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            _sync(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists: True for exactly one of several that try at once. It appears with its content.

        Not synced: what is created so (leases) need not outlive a power cut.
        """
        target = self.root / path
        try:
            _beside(target, data, lambda aside: _link(aside, target, data), durable=False)
        except FileExistsError:
            return False
        return True

    def put(self, path: str, source: Path | bytes, move: bool = False, durable: bool = True) -> tuple[int, str]:
        """Copy or move a file in, or write bytes: (its size in bytes, its sha256), of what is on the disk now.

        `durable` waits until the disk has it. Raises OSError, also when the copy differs from the source.
        """
        target = self.root / path
        _with_parent(target, lambda: _place(source, target, move))
        if durable:
            _sync(target)
        size, digest = target.stat().st_size, sha256(target)
        if not move and (size, digest) != _measure(source):
            raise OSError(errno.EIO, "what was written differs from its source", str(target))
        return size, digest

    def sizes(self, path: str) -> dict[str, int]:
        """Name and bytes of the files in a folder; empty where there is none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / path) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file() and not entry.name.startswith(".")}
        return {}

    def names(self, path: str) -> list[str]:
        """Names of files and folders in a folder, sorted; empty where there is none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(name for name in os.listdir(self.root / path) if not name.startswith("."))
        return []

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds; none is fine."""
        target = self.root / path
        try:
            target.unlink()
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            if not target.is_dir():
                raise
            shutil.rmtree(target, ignore_errors=True)

    def prune(self, path: str) -> None:
        """Remove a folder if nothing is in it."""
        with contextlib.suppress(OSError):
            (self.root / path).rmdir()

    def age_s(self, path: str) -> float:
        """Seconds since anything at or below the path was changed, by this machine's clock."""
        newest = 0.0
        for place in [self.root / path, *(self.root / path).rglob("*")]:
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, place.lstat().st_mtime)
        return time.time() - newest

    def bytes_in(self, path: str) -> int:
        """Bytes of all files at or below the path."""
        return sum(place.lstat().st_size for place in [self.root / path, *(self.root / path).rglob("*")] if place.is_file())


class RemoteFiles:
    """Files below an fsspec URL.

    `create` needs a file system that can refuse to overwrite (fsspec's `pipe_file(mode="create")`): memory:// does, s3:// by a
    conditional PUT, gs:// by a generation match. Listings are never cached, or an owner that lives would look dead.
    """

    def __init__(self, fs: Any, root: str, url: str) -> None:
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        self.fs, self.root, self.url = _OneAtATime(fs) if protocol == "memory" else fs, root.rstrip("/"), url
        self._folders = protocol not in OBJECT_STORES

    def _at(self, path: str, parent: bool = False) -> str:
        whole = f"{self.root}/{path}"
        if parent and self._folders:
            self.fs.makedirs(whole.rsplit("/", 1)[0], exist_ok=True)
        return whole

    def read(self, path: str) -> bytes:
        """Content of a small file. Raises FileNotFoundError."""
        return bytes(self.fs.cat_file(self._at(path)))

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a small file: with one PUT, or where there are folders aside and renamed."""
        target = self._at(path, parent=True)
        if not self._folders:
            self.fs.pipe_file(target, data)
            return
        aside = f"{target.rpartition('/')[0]}/.{uuid4().hex}"
        try:
            self.fs.pipe_file(aside, data)
            self.fs.mv(aside, target)
        except BaseException:
            with contextlib.suppress(Exception):
                self.fs.rm(aside)
            raise

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists: True for exactly one of several that try at once."""
        try:
            self.fs.pipe_file(self._at(path, parent=True), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if "precondition" in str(error).lower() or "conditionalrequest" in str(error).lower():
                return False
            raise
        return True

    def put(self, path: str, source: Path | bytes, move: bool = False, durable: bool = True) -> tuple[int, str]:
        """Upload a file or bytes: (its size in bytes, its sha256). Raises OSError, also when the size that arrived differs."""
        size, digest = _measure(source)
        target = self._at(path, parent=True)
        if isinstance(source, bytes):
            self.fs.pipe_file(target, source)
        else:
            self.fs.put_file(str(source), target)
        self.fs.invalidate_cache()
        if (arrived := self.fs.info(target)["size"]) != size:
            raise OSError(errno.EIO, f"{arrived} of {size} bytes arrived", f"{self.url}/{path}")
        if move and isinstance(source, Path):
            source.unlink()
        return size, digest

    def fetch(self, path: str, target: Path) -> None:
        """Download to a local file, aside, then renamed."""
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".{uuid4().hex}"
        try:
            self.fs.get_file(self._at(path), str(aside))
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)

    def _list(self, path: str) -> list[dict[str, Any]]:
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self._at(path), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        itself = self._at(path)  # an object store may hold a mark of the folder
        return [entry for entry in entries if entry["name"].rstrip("/") != itself and not _last(entry["name"]).startswith(".")]

    def sizes(self, path: str) -> dict[str, int]:
        """Name and bytes of the files in a folder; empty where there is none."""
        return {_last(entry["name"]): int(entry["size"]) for entry in self._list(path) if entry["type"] == "file"}

    def names(self, path: str) -> list[str]:
        """Names of files and folders in a folder, sorted; empty where there is none."""
        return sorted(_last(entry["name"]) for entry in self._list(path))

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds; none is fine."""
        self.fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self._at(path), recursive=True)

    def prune(self, path: str) -> None:
        """Remove a folder if nothing is in it; an object store has no empty ones."""
        if self._folders and not self._list(path):
            with contextlib.suppress(OSError):
                self.fs.rmdir(self._at(path))

    def age_s(self, path: str) -> float:
        """Seconds since anything below the path was changed, as far as the file system tells; 0 where it does not."""
        self.fs.invalidate_cache()
        try:
            times = [self.fs.modified(name).timestamp() for name in self.fs.find(self._at(path))]
        except (FileNotFoundError, NotImplementedError):
            return 0.0
        return time.time() - max(times) if times else 0.0

    def bytes_in(self, path: str) -> int:
        """Bytes of all files at or below the path."""
        self.fs.invalidate_cache()
        return sum(int(info["size"] or 0) for info in self.fs.find(self._at(path), detail=True).values())


class _OneAtATime:
    """memory:// as threads can use it: alone it looks and then writes, and its readers share one position in a file."""

    _turn = threading.RLock()

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._fs, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any, **named: Any) -> Any:
            with self._turn:
                return attribute(*arguments, **named)

        return call


Files = LocalFiles | RemoteFiles


def open_files(url: str | os.PathLike[str]) -> Files:
    """The files below a local path or an fsspec URL; touches nothing. Raises StoreError: protocol unknown, driver missing."""
    text = os.fspath(url)
    if "://" not in text and "::" not in text:
        return LocalFiles(Path(os.path.abspath(os.path.expanduser(text))))
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    protocol = text.split("::")[0].split("://")[0]
    if protocol in ("file", "local"):
        return LocalFiles(Path(LocalFileSystem._strip_protocol(text)))
    try:
        fs, root = fsspec.core.url_to_fs(text, use_listings_cache=False)
    except ImportError as error:
        raise StoreError([f"store {text!r}: {error}"]) from None
    except ValueError as error:
        close = closest(protocol, fsspec.available_protocols())
        raise StoreError([f"store {text!r}: {error}{f'; did you mean {close!r}?' if close else ''}"]) from None
    return RemoteFiles(fs, root, text.rstrip("/"))


@contextlib.contextmanager
def explained(url: str, doing: str = "write") -> Iterator[None]:
    """Turns what the file system, or the driver of a remote one, says into a StoreError: place, reason and what to do."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] in ("builtins", "trainables"):
            raise  # no driver's, but ours
        raise StoreError([f"store {url}: cannot {doing} {_reason(error, url)}"]) from error


def _reason(error: Exception, url: str) -> str:
    number = getattr(error, "errno", None)
    if number in FULL:
        advice = "free some space there"
    elif number in NOT_WRITABLE or isinstance(error, PermissionError):
        advice = "give yourself access"
    else:
        advice = "see that it can be reached"
    place = str(getattr(error, "filename", None) or url)
    said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"{place}: {said}; {advice}, or choose another store (--store, FINETUNE_STUDY_STORE)"


def sha256(path: Path) -> str:
    """Digest of a file's content. Read once per process as long as its size, time and inode stay. Raises OSError."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _measure(source: Path | bytes) -> tuple[int, str]:
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
    """Do it with the parent folder there. Others may remove an empty folder between the two: then again."""
    for _ in range(100):
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return action()
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
    elif move:
        shutil.move(source, target)  # renames where it can
    else:
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
