"""File operations of a store on any fsspec file system. `local_files.py` has the same for a local disk.

Small files appear atomically: by one PUT, or by a temporary file that is renamed. Of several concurrent calls of `create`, exactly
one succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from trainables.store.local_files import LARGEST, NotPlain, is_name, measure, persist

OBJECT_STORES = {"memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "adl", "az", "oci", "oss"}
"""Protocols without folders: none has to be created before a file is written."""


class RemoteFiles:
    """Files below an fsspec URL.

    `create` is exclusive if the file system supports it: s3:// (conditional PUT), gs:// (generation match), memory://, and all that
    open with mode `xb`. Listings are never cached; otherwise a live owner of a lease would look dead.
    """

    def __init__(self, fs: Any, root: str, url: str) -> None:
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        self.fs, self.root, self.url = _OneAtATime(fs) if protocol == "memory" else fs, root.rstrip("/"), url
        self._folders = protocol not in OBJECT_STORES

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

    def _within_parent(self, path: str, action: Callable[[str], None]) -> None:
        """Create the parent folder if the protocol has folders, then run `action`."""
        target = self._at(path)
        if self._folders:
            persist(lambda: self.fs.makedirs(target.rpartition("/")[0], exist_ok=True), lambda: action(target))
        else:
            action(target)

    def read(self, path: str) -> bytes:
        """Content of a small file. Raises FileNotFoundError, and NotPlain for files that no store wrote."""
        self.fs.invalidate_cache()
        info = self.fs.info(self._at(path))
        if info["type"] != "file" or info.get("islink") or int(info["size"] or 0) > LARGEST:
            raise NotPlain(errno.EINVAL, "no small file", f"{self.url}/{path}")
        return bytes(self.fs.cat_file(self._at(path)))

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a small file: with one PUT, or with a temporary file that is renamed."""
        self._within_parent(path, lambda target: self._write(target, data))

    def _write(self, target: str, data: bytes) -> None:
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
        """Write a file unless it exists: True for exactly one of several concurrent calls."""
        try:
            self._within_parent(path, lambda target: self._create(target, data))
        except FileExistsError:
            return False
        except (ValueError, NotImplementedError) as error:
            raise OSError(errno.ENOTSUP, f"files cannot be created exclusively, which leases need ({error})", self.url) from error
        except OSError as error:
            if "precondition" in str(error).lower() or "conditionalrequest" in str(error).lower():
                return False
            raise
        return True

    def _create(self, target: str, data: bytes) -> None:
        if not self._folders:
            self.fs.pipe_file(target, data, mode="create")
            return
        with self.fs.open(target, "xb") as file:  # fsspec's own `create` checks first and then writes, which is not atomic
            file.write(data)

    def put(self, path: str, source: Path | bytes, move: bool = False, durable: bool = True) -> tuple[int, str]:
        """Upload a file or bytes. Returns (size in bytes, sha256). Raises OSError, also if the uploaded size differs."""
        size, digest = measure(source)
        if isinstance(source, bytes):
            self._within_parent(path, lambda target: self.fs.pipe_file(target, source))
        else:
            self._within_parent(path, lambda target: self.fs.put_file(str(source), target))
        self.fs.invalidate_cache()
        if (arrived := self.fs.info(self._at(path))["size"]) != size:
            raise OSError(errno.EIO, f"{arrived} of {size} bytes arrived", f"{self.url}/{path}")
        if move and isinstance(source, Path):
            source.unlink()
        return size, digest

    def fetch(self, path: str, target: Path) -> None:
        """Download to a local file, atomically."""
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".{uuid4().hex}"
        try:
            self.fs.get_file(self._at(path), str(aside))
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)

    def _list(self, path: str) -> list[dict[str, Any]]:
        while True:
            self.fs.invalidate_cache()
            try:
                entries = self.fs.ls(self._at(path), detail=True)
                break
            except (FileNotFoundError, NotADirectoryError):
                # Some file systems stat every name, and one of them was removed meanwhile: list again.
                if not self.fs.isdir(self._at(path)):
                    return []
        itself = self._at(path)  # an object store may hold a placeholder of the folder
        named = [entry for entry in entries if entry["name"].rstrip("/") != itself and is_name(_last(entry["name"]))]
        return [entry for entry in named if not entry.get("islink") and entry["type"] != "link"]

    def sizes(self, path: str) -> dict[str, int]:
        """{name: bytes} of the files in a folder; empty if there is no folder."""
        return {_last(entry["name"]): int(entry["size"]) for entry in self._list(path) if entry["type"] == "file"}

    def names(self, path: str) -> list[str]:
        """Names of files and folders in a folder, sorted; empty if there is no folder."""
        return sorted(_last(entry["name"]) for entry in self._list(path))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with its content, if it exists."""
        self.fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self._at(path), recursive=True)

    def prune(self, path: str) -> None:
        """Remove a folder if it is empty; an object store has no empty folders."""
        if self._folders and not self._list(path):
            with contextlib.suppress(OSError):
                self.fs.rmdir(self._at(path))

    def age_s(self, path: str) -> float:
        """Seconds since the last change below the path; 0 if the file system has no times."""
        self.fs.invalidate_cache()
        try:
            times = [self.fs.modified(name).timestamp() for name in self.fs.find(self._at(path))]
        except (FileNotFoundError, NotImplementedError):
            return 0.0
        return time.time() - max(times) if times else 0.0

    def bytes_in(self, path: str) -> int:
        """Bytes of all files at or below the path."""
        self.fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            return sum(int(info["size"] or 0) for info in self.fs.find(self._at(path), detail=True).values())
        return 0


class _OneAtATime:
    """Thread-safe memory://: on its own, it checks before it writes without a lock, and its readers share a file position."""

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


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
