"""Read a file from any file system, decompress it and convert it to UTF-8. A file of another kind than its name is refused."""

from __future__ import annotations

import codecs
import io
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.settings.dialect import Dialect
from trainables.settings.errors import ConfigError, closest
from trainables.settings.file_names import COMPRESSIONS, is_local, own_name, suffix
from trainables.settings.file_names import TABLES as FORMATS
from trainables.tables.encodings import CONTROLS, likely, mostly_utf8, utf16, western
from trainables.tables.free_memory import check_fits

BOMS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""{byte-order mark: encoding}; the longer ones first, since they begin with shorter ones."""
KINDS = (
    (rb"PK\x03\x04[\s\S]*(xl/workbook|\[Content_Types\]\.xml)", "an Excel workbook; save it as csv there"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel workbook; save it as csv there"),
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive; let its name end in .zip"),
    (rb"\x1f\x8b", "packed by gzip; let its name end in .gz"),
    (rb"BZh[1-9]1AY", "packed by bzip2; let its name end in .bz2"),
    (rb"\xfd7zXZ\0", "packed by xz; let its name end in .xz"),
    (rb"\x28\xb5\x2f\xfd", "packed by zstd; let its name end in .zst"),
    (rb"(7z\xbc\xaf|Rar!|[\s\S]{257}ustar)", "an archive (7z, rar or tar); unpack it and give the file in it"),
    (rb"PAR1", "a parquet file; let its name end in .parquet"),
    (rb"ARROW1|\xff\xff\xff\xff[\s\S]{3}\0", "an Arrow file; save it as parquet, or give the folder that holds it as `folder`"),
    (rb"SQLite format 3", "an SQLite database; export the table as csv"),
    (rb"%PDF-", "a PDF"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`"),
    (rb"(?i)\s*(<!doctype html|<html)", "a page of HTML, perhaps what a server answered in place of the file"),
    (rb"\s*<\?xml", "an XML file"),
)
"""(pattern of the first bytes, kind of file and way out)."""
PIECE = 1 << 26
"""Bytes decompressed at a time."""
FOLDER = "is a folder; give a file, or as `folder` what `datasets` saved"
PROSE = ("a page of HTML", "an XML file")
"""Kinds that are also valid plain text."""


def check_lasting(url: str) -> None:
    """Raise ConfigError for a pipe or a device: data of a study are read several times, by several processes."""
    path = os.path.expanduser(url)
    if is_local(url) and os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise ConfigError([f"{url}: is a pipe or a device, which can be read only once; write it to a file, and give that"])


def read_content(url: str, formats: Sequence[str] = FORMATS) -> tuple[str, bytes]:
    """(format, decompressed bytes) of a file; for a zip, of the only file with one of these formats in it.

    Raises ConfigError that names the file.
    """
    if is_local(url) and os.path.isdir(os.path.expanduser(url)):
        raise ConfigError([f"{url}: {FOLDER}"])
    ending = suffix(url)
    if ending != "zip" and ending not in formats:
        raise ConfigError([f"{url}: {_not_a_format(os.path.basename(url), ending, formats)}"])
    try:
        kind, raw = _unpacked(own_name(url), _fetched(url), formats)
    except ConfigError as error:
        raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None
    return kind, raw


def _not_a_format(name: str, ending: str, formats: Sequence[str]) -> str:
    shown = "." + ending if "." in name else ending
    return f"the format {shown!r} is not one of {', '.join(formats)}"


def _fetched(url: str) -> bytes:
    import fsspec

    try:
        if is_local(url):  # `*`, `?`, `#` and `::` have no special meaning in local paths
            return Path(os.path.expanduser(url)).read_bytes()
        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise ConfigError([f"there is no such file{_sibling(url)}"]) from None
    except IsADirectoryError:
        raise ConfigError([FOLDER]) from None
    except Exception as error:  # file systems raise many types: permissions, network, a missing package
        raise ConfigError([_unreadable(error)]) from None


def _unreadable(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"cannot be read: {' '.join(reason.split())}"


def _sibling(url: str) -> str:
    """`; did you mean 'x'?` with a file in the same folder whose name is close; empty if there is none."""
    folder = Path(os.path.expanduser(url)).parent
    close = closest(Path(url).name, os.listdir(folder)) if folder.is_dir() else None
    return f"; did you mean {close!r}?" if close else ""


def _unpacked(name: str, raw: bytes, formats: Sequence[str]) -> tuple[str, bytes]:
    """(format, bytes) of a file with this name; removes one compression after the other."""
    stem, _, last = name.lower().rpartition(".")
    if last == "zip":
        return _member(stem, raw, formats)
    if last in COMPRESSIONS:
        try:
            raw = _decompressed(raw, last)
        except ConfigError:
            raise
        except Exception as error:  # every compression library raises errors of its own
            raise ConfigError([_unreadable(error)]) from None
        return _unpacked(stem, raw, formats)
    if last not in formats:
        raise ConfigError([_not_a_format(name, last, formats)])
    return last, raw


def _decompressed(raw: bytes, last: str) -> bytes:
    if last == "zst":  # fsspec would need another package for it
        import pyarrow as pa

        return _whole(pa.CompressedInputStream(pa.BufferReader(raw), "zstd"))
    from fsspec.compression import compr
    from fsspec.utils import infer_compression

    return _whole(compr[infer_compression(f"x.{last}")](io.BytesIO(raw), mode="rb"))


def _whole(file: Any) -> bytes:
    """Content of a stream. Raises ConfigError as soon as it exceeds the free memory."""
    parts, size = [], 0
    while part := file.read(PIECE):
        check_fits(size := size + len(part))
        parts.append(part)
    return b"".join(parts)


def _member(stem: str, raw: bytes, formats: Sequence[str]) -> tuple[str, bytes]:
    """(format, bytes) of the only file in a zip. Raises ConfigError if it does not hold exactly one file of these formats."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except zipfile.BadZipFile as error:
        raise ConfigError([f"not a zip archive, or a damaged one: {error}"]) from None
    outer = suffix(stem)
    members = [entry for entry in archive.infolist() if not entry.is_dir() and not _of_a_system(entry.filename)]
    mine = [entry for entry in members if suffix(entry.filename) in (("txt",) if outer == "txt" else FORMATS)]
    mine = mine or [entry for entry in members if suffix(entry.filename) in formats] or members[: len(members) == 1]
    names = ", ".join(entry.filename for entry in members[:8]) + ", ..." * (len(members) > 8)
    if len(mine) != 1:
        held = f"{len(mine)} files of texts ({names})" if mine else f"none of {', '.join(formats)} ({names or 'it is empty'})"
        raise ConfigError([f"the zip holds {held}, but one is read; unpack it, and give the file that is meant"])
    (member,) = mine
    if member.flag_bits & 1:
        raise ConfigError([f"{member.filename} in the zip is encrypted; unpack it with its password"])
    check_fits(member.file_size)
    try:
        content = archive.read(member)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise ConfigError([f"{member.filename} in the zip {_unreadable(error)}"]) from None
    name = os.path.basename(member.filename)
    try:
        return _unpacked(name if "." in name else f"{name}.{outer}", content, formats)
    except ConfigError as error:
        raise ConfigError(f"{member.filename} in the zip: {fault}" for fault in error.faults) from None


def _of_a_system(name: str) -> bool:
    """Whether a member of a zip is a hidden file or metadata of an operating system."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1].startswith(".") or parts[-1].lower() in ("thumbs.db", "desktop.ini")


def check_kind(raw: bytes, kind: str) -> None:
    """Raise ConfigError for a file of another kind than its name."""
    for begins, what in KINDS:
        if (kind == "parquet" and begins == rb"PAR1") or (kind == "txt" and what.startswith(PROSE)):
            continue
        if re.match(begins, raw[:4096] if begins.startswith(rb"PK\x03") else raw[:512]):
            raise ConfigError([f"is {what}"])


def as_utf8(raw: bytes, dialect: Dialect) -> bytes:
    """Convert a text file to UTF-8 without a byte-order mark. Raises ConfigError if it cannot be decoded reliably."""
    encoding = dialect.encoding or next((name for mark, name in BOMS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeError as error:
        raise ConfigError([_undecodable(raw, error, encoding, dialect)]) from None
    plain = encoding in ("utf-8", "utf-8-sig", "ascii")
    if not plain and _taken_for(raw, encoding) and _is_utf8(raw):
        raise ConfigError([f"is UTF-8, and {encoding} would spoil it; leave `encoding` out"])
    if not plain and (control := re.search(CONTROLS, text)):
        line = text.count("\n", 0, control.start()) + 1
        meant = f"; {dialect.way('encoding', 'cp1252')}" if western(raw) else "; is another `encoding` meant?"
        raise ConfigError([f"line {line}: as {encoding} it holds the control character {control[0]!r}, which no text has{meant}"])
    converted = raw.removeprefix(codecs.BOM_UTF8) if plain else text.removeprefix("\ufeff").encode(errors="surrogatepass")
    if (place := converted.find(b"\0")) >= 0:
        line = converted.count(b"\n", 0, place) + 1
        more = f"; is it UTF-16? Then {dialect.way('encoding', wide)}" if (wide := utf16(raw)) and plain else ""
        raise ConfigError([f"line {line} holds a NUL character, which no text has: the file is damaged, or no text{more}"])
    return converted


def _undecodable(raw: bytes, error: UnicodeError, encoding: str, dialect: Dialect) -> str:
    name = {"utf-8": "UTF-8"}.get(encoding, encoding)
    if not isinstance(error, UnicodeDecodeError):
        return f"not {name}: {error}"
    line = raw.count(b"\n", 0, error.start) + 1
    where = f"byte {raw[error.start]:#04x} at offset {error.start} (line {line})"
    if dialect.encoding is not None:
        return f"not {name}: {where}; {'it is UTF-8, leave `encoding` out' if _is_utf8(raw) else 'is another `encoding` meant?'}"
    lines, sure = mostly_utf8(raw) or (0, False)
    damaged = f"{lines} line{'s are' if lines > 1 else ' is'} damaged"
    if sure:
        rest = f"the rest is UTF-8, so {damaged} and the file in no other encoding"
        return f"not {name}: {where}: {rest}; mend that line and save the file as UTF-8"
    way = f", or {'set `encoding` to what it is in' if lines else _encoding_meant(raw)}" if dialect.settable else ""
    return f"not {name}: {where}{f': {damaged}, or the file is in another encoding' if lines else ''}; save the file as UTF-8{way}"


def _encoding_meant(raw: bytes) -> str:
    if wide := utf16(raw):
        return f"set `encoding: {wide}`, as it is UTF-16 without a byte-order mark"
    if western(raw):
        return "set `encoding: cp1252` or what else it is in"
    guess = likely(raw)
    shown = f"; by {guess[0]} it begins {guess[1]!r}" if guess else ""
    return f"set `encoding` to what it is in (not cp1252, by which it is no text{shown})"


def _taken_for(raw: bytes, encoding: str) -> bool:
    """Whether the encoding decodes UTF-8 bytes without an error, to other characters."""
    if encoding.startswith(("utf-16", "utf-32")):
        return b"\0" not in raw
    return encoding.startswith(("cp125", "iso8859", "mac", "koi8", "cp437", "cp85")) and not raw.isascii()


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
