"""Open the files of a store by its address (a local path or any fsspec URL), and explain why they cannot be used."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from trainables.settings.errors import ConfigError, closest
from trainables.settings.file_names import is_local
from trainables.store.local_files import LocalFiles, sha256
from trainables.store.remote_files import RemoteFiles

__all__ = ["Files", "LocalFiles", "RemoteFiles", "StoreError", "explained", "open_files", "sha256"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}
NO_KEYS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
"""Exceptions of botocore for missing or incomplete S3 keys."""
Files = LocalFiles | RemoteFiles


class StoreError(ConfigError):
    """The store cannot be used: disk full, not writable, unknown protocol. The message names place, reason and way out."""


def open_files(url: str | os.PathLike[str]) -> Files:
    """Open the files below a local path or an fsspec URL, without any access yet.

    Raises StoreError for an unknown protocol or a missing driver.
    """
    text = os.fspath(url)
    if is_local(text):
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
    if signs := sorted(set("*?[") & set(root)):
        raise StoreError([f"store {text.rpartition('@')[2]!r}: {signs[0]} is a wildcard in a URL; name a folder without it"])
    if protocol in ("s3", "s3a") and (fault := _s3_fault(root)):
        raise StoreError([f"store {protocol}://{root.rpartition('@')[2]}: {fault}"])
    return RemoteFiles(fs, root, text.rstrip("/"))


def _s3_fault(root: str) -> str:
    """Fault of `bucket/path`, empty if there is none: s3fs would report it only when it writes."""
    bucket = root.partition("/")[0]
    if "@" in bucket:
        return "keys in the address are not read; give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "" if bucket else "no bucket is named; write s3://BUCKET/FOLDER"


@contextlib.contextmanager
def explained(url: str, doing: str = "write") -> Iterator[None]:
    """Turn errors of a file system or its driver into a StoreError with place, reason and way out."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] in ("builtins", "trainables"):
            raise  # our own error, not a driver's
        raise StoreError([f"store {url}: cannot {doing} {_reason(error, url)}"]) from error


def _reason(error: Exception, url: str) -> str:
    number = getattr(error, "errno", None)
    if number in FULL:
        advice = "free some space there"
    elif number in NOT_WRITABLE or isinstance(error, PermissionError):
        advice = "give yourself access"
    elif type(error).__name__ in NO_KEYS:
        advice = "give keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as a profile in ~/.aws"
    elif isinstance(error, FileNotFoundError) and "bucket" in str(error):
        advice = "make the bucket, or mend its name"
    elif number == errno.ELOOP:
        advice = "put the folder itself there"
    else:
        advice = "see that it can be reached"
    place = str(getattr(error, "filename", None) or url)
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"{place}: {reason}; {advice}, or choose another store (--store, FINETUNE_STUDY_STORE)"
