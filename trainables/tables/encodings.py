"""Guess the encoding of bytes that are not UTF-8, and detect signs of a wrong encoding in text. Imports nothing heavy."""

from __future__ import annotations

import re
import unicodedata

CONTROLS = re.compile("[\x80-\x84\x86-\x9f]")
"""Control characters that do not occur in text; \\x85 is a Unicode line end, so it is excluded."""
_SIGNS = (
    "\u2018\u2019\u201c\u201d\u201a\u201e\u2013\u2014\u2026\u2022\u20ac\u2122\xa0\xa1\xa3\xa7\xa9\xab\xae\xb0\xb4\xb7\xbb\xbd\xbf"
)
_LETTER = "\xc0-\xd6\xd8-\xf6\xf8-\xff\u0152\u0153\u0160\u0161\u0178\u017d\u017e"
_UPPER = "\xc0-\xd6\xd8-\xde\u0152\u0160\u0178\u017d"
_ODD = re.compile(f"[^\\x00-\\x7f{_SIGNS}{_LETTER}]|(?<=[a-z])[{_UPPER}\xa1\xbf\xa3]|[{_LETTER}{_SIGNS}]{{3,}}")
"""Rare in Western European languages: other characters, capitals within words, several special characters in a row."""
SAMPLE = 1 << 20
"""Number of characters examined."""
FEW = 0.1
GUESSED = ("gb18030", "big5", "cp949", "cp1250", "cp1251", "koi8_r")
"""Encodings to guess from, besides cp1252 and those of Japanese: Chinese, Korean, Central European, Russian."""
JAPANESE = ("cp932", "euc_jp")


def western(raw: bytes) -> bool:
    """Whether the bytes read as cp1252 are plausible text of a Western European language."""
    try:
        text = raw.decode("cp1252")[:SAMPLE]
    except UnicodeDecodeError:
        return False
    high = len(re.findall(r"[^\x00-\x7f]", text))
    odd = sum(len(match) for match in _ODD.findall(text))
    return "\0" not in text and odd <= FEW * high


def likely(raw: bytes) -> tuple[str, str] | None:
    """(the likely encoding of a text that is not UTF-8, its reading of the first line that is not ASCII); None without a guess.

    A guess: a message shows the reading, which the user can judge.
    """
    from charset_normalizer import from_bytes

    lines = raw[: SAMPLE // 16].splitlines(keepends=True)
    sample = b"".join(lines[:-1] or lines)
    best = from_bytes(sample, cp_isolation=[*GUESSED]).best()
    name = next((name for name in JAPANESE if _has_kana(sample, name)), None if best is None else best.encoding)
    if name is None:
        return None
    shown = next((line.strip() for line in sample.decode(name).splitlines() if not line.isascii()), "")
    return (name, shown[:40]) if shown.isprintable() and shown else None


def _has_kana(raw: bytes, encoding: str) -> bool:
    """Whether more than a tenth of the characters beyond ASCII are hiragana in this encoding."""
    try:
        high: list[str] = re.findall(r"[^\x00-\x7f]", raw.decode(encoding))
    except UnicodeDecodeError:
        return False
    return 10 * sum("\u3041" <= character <= "\u3096" for character in high) > len(high)


def mostly_utf8(raw: bytes) -> tuple[int, bool] | None:
    """(number of damaged lines, whether that is sure) of a file with more valid than invalid UTF-8 characters; None of others.

    It is not sure where the valid ones are few: about one in six characters of gb18030 is valid UTF-8 of two bytes by chance.
    """
    text = raw.decode(errors="surrogateescape")
    bad = len(re.findall("[\udc80-\udcff]", text))
    short, long = (len(re.findall(pattern, text)) for pattern in ("[\x80-\u07ff]", "[^\x00-\u07ff\udc80-\udcff]"))
    if short + long <= bad:
        return None
    lines = sum(not line.isascii() and re.search("[\udc80-\udcff]", line) is not None for line in text.split("\n"))
    return lines, short + 3 * long > max(8, 4 * bad)


def utf16(raw: bytes) -> str | None:
    """Codec of UTF-16 without a byte-order mark, by the positions of NUL bytes; None if it is not UTF-16."""
    sample = raw[: SAMPLE // 2 * 2]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if min(even, odd) * 10 > max(even, odd) or max(even, odd) * 20 < len(sample):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def doubts(raw: bytes, unit: str = "line") -> list[str]:
    """Notices on lost or misread characters in UTF-8 text; `unit` is the name of a line in the messages."""
    if raw.isascii():
        return []
    notices = []
    if lost := raw.count("\ufffd".encode()):
        line = raw.count(b"\n", 0, raw.index("\ufffd".encode())) + 1
        at = f"{'on' if unit == 'line' else 'in'} {unit} {line}"
        notices.append(f"{lost} characters were lost before the file was written (U+FFFD, first {at})")
    controls = re.findall(rb"\xc2[\x80-\x84\x86-\x9f]", raw)
    if len(controls) * 100 > raw.count(b"\n"):  # many published sets have a few, left by an earlier conversion
        line = raw.count(b"\n", 0, raw.index(controls[0])) + 1
        shown = f"{controls[0].decode()!r} ({unit} {line})"
        notices.append(f"{len(controls)} control characters such as {shown}: was it read in a wrong encoding?")
    high = re.findall(r"[^\x00-\x7f]", raw[:SAMPLE].decode(errors="ignore"))
    strange = sum(unicodedata.category(character) in ("Cn", "Co") for character in high)
    if strange > max(2, FEW / 2 * len(high)):
        notices.append(f"{strange} characters that Unicode does not assign: is another `encoding` meant?")
    return notices
