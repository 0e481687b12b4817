"""Format and compression of a file by its name."""

from __future__ import annotations

import os
import re

TABLES = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet")
COMPRESSIONS = ("gz", "bz2", "xz", "zst", "zip")
_END = rf"(\.({'|'.join(COMPRESSIONS)}))?(\?.*)?$"
_FILE = re.compile(rf"\.(txt|{'|'.join(TABLES)}){_END}", re.IGNORECASE)
_PLAIN = re.compile(rf"\.txt{_END}", re.IGNORECASE)


def is_file(entry: str) -> bool:
    """Whether an entry is a text file or its URL, by its suffix."""
    return _FILE.search(entry) is not None


def is_plain_text(entry: str) -> bool:
    """Whether a file is plain text without columns."""
    return _PLAIN.search(entry) is not None


def is_local(url: str) -> bool:
    """Whether it is a path on this machine and not an fsspec URL."""
    return "://" not in url


def suffix(url: str) -> str:
    """Suffix of the file's name without the compression."""
    parts = own_name(url).lower().split(".")
    return parts[-2] if parts[-1] in COMPRESSIONS and len(parts) > 2 else parts[-1]


def own_name(url: str) -> str:
    """The file's name without its folder. `?` begins a query only in a URL, not in a local path."""
    return os.path.basename(url if is_local(url) else url.split("?")[0])
