"""What bytes that are no UTF-8 may be, and what in decoded text speaks of another encoding. Imports nothing heavy."""

from __future__ import annotations

import re
import unicodedata

CONTROLS = re.compile("[\x80-\x84\x86-\x9f]")
"""Control characters that no text has; \\x85 is a line end of Unicode's, too."""
_SIGNS = (
    "\u2018\u2019\u201c\u201d\u201a\u201e\u2013\u2014\u2026\u2022\u20ac\u2122\xa0\xa1\xa3\xa7\xa9\xab\xae\xb0\xb4\xb7\xbb\xbd\xbf"
)
_LETTER = "\xc0-\xd6\xd8-\xf6\xf8-\xff\u0152\u0153\u0160\u0161\u0178\u017d\u017e"
_UPPER = "\xc0-\xd6\xd8-\xde\u0152\u0160\u0178\u017d"
_ODD = re.compile(f"[^\\x00-\\x7f{_SIGNS}{_LETTER}]|(?<=[a-z])[{_UPPER}\xa1\xbf\xa3]|[{_LETTER}{_SIGNS}]{{3,}}")
"""What a text of a Western European language seldom holds: other signs, capitals in words, several of its signs in a row."""
SAMPLE = 1 << 20
"""Characters looked at."""
FEW = 0.1


def western(raw: bytes) -> bool:
    """Whether the bytes read as cp1252 are plausible text of a Western European language."""
    try:
        text = raw.decode("cp1252")[:SAMPLE]
    except UnicodeDecodeError:
        return False
    high = len(re.findall(r"[^\x00-\x7f]", text))
    odd = sum(len(found) for found in _ODD.findall(text))
    return "\0" not in text and odd <= FEW * high


def mostly_utf8(raw: bytes) -> str | None:
    """What is said of a file in which more characters are UTF-8 than not, which no other encoding gives by chance."""
    text = raw.decode(errors="surrogateescape")
    bad = len(re.findall("[\udc80-\udcff]", text))
    good = len(re.findall(r"[^\x00-\x7f]", text)) - bad
    if good <= bad:
        return None
    lines = sum(not line.isascii() and re.search("[\udc80-\udcff]", line) is not None for line in text.split("\n"))
    return f"the rest is UTF-8, so {lines} line{'s are' if lines > 1 else ' is'} damaged and the file in no other encoding"


def utf16(raw: bytes) -> str | None:
    """Which UTF-16 without a byte-order mark the bytes are, by where their NUL bytes stand."""
    sample = raw[: SAMPLE // 2 * 2]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if min(even, odd) * 10 > max(even, odd) or max(even, odd) * 20 < len(sample):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def doubts(raw: bytes, unit: str = "line") -> list[str]:
    """What in UTF-8 text speaks of characters that were lost or misread; its lines are called by their `unit`."""
    if raw.isascii():
        return []
    notices = []
    if lost := raw.count("\ufffd".encode()):
        line = raw.count(b"\n", 0, raw.index("\ufffd".encode())) + 1
        at = f"{'on' if unit == 'line' else 'in'} {unit} {line}"
        notices.append(f"{lost} characters were lost before the file was written (U+FFFD, first {at})")
    controls = re.findall(rb"\xc2[\x80-\x84\x86-\x9f]", raw)
    if len(controls) * 100 > raw.count(b"\n"):  # a few are remains of an earlier conversion, as in many published sets
        line = raw.count(b"\n", 0, raw.index(controls[0])) + 1
        shown = f"{controls[0].decode()!r} ({unit} {line})"
        notices.append(f"{len(controls)} control characters such as {shown}: was it read in a wrong encoding?")
    high = re.findall(r"[^\x00-\x7f]", raw[:SAMPLE].decode(errors="ignore"))
    strange = sum(unicodedata.category(each) in ("Cn", "Co") for each in high)
    if strange > max(2, FEW / 2 * len(high)):
        notices.append(f"{strange} characters that Unicode does not assign: is another `encoding` meant?")
    return notices
