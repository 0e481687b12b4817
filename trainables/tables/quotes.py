"""Locate the quoted fields of a csv file, and explain misplaced quotes.

numpy alone handles a well-formed file; fields are examined one by one only if some quote is misplaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainables.settings.dialect import Dialect

QUOTE, LF, CR = b'"\n\r'
PART = 1 << 24
Places = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Fields:
    """The well-formed quoted fields of a file."""

    raw: bytes
    opens: Places
    closes: Places
    """Positions of the opening and closing quotes; a doubled quote may split a field in two."""
    fault: str = ""
    """Fault of the first field that is not well-formed; empty if there is none."""

    @property
    def doubled(self) -> bool:
        """Whether a field contains doubled quotes, which only writers of quoted fields produce."""
        inner = self.opens[1:][self.opens[1:] == self.closes[:-1] + 1]
        pairs = zip(self.opens.tolist(), self.closes.tolist(), strict=True)
        return len(inner) > 0 or any(b'""' in self.raw[start + 1 : end] for start, end in pairs)

    @property
    def count(self) -> int:
        """Number of fields; parts that are separated by doubled quotes count as one."""
        return len(self.opens) - int((self.opens[1:] == self.closes[:-1] + 1).sum())

    def breaks(self) -> Places:
        """Positions of all line ends."""
        return ends_of_lines(self.raw)

    def inside(self, places: Places) -> Any:
        """For every position, whether it is inside a quoted field."""
        return np.searchsorted(self.opens, places) > np.searchsorted(self.closes, places)

    def line_of_row(self, row: int) -> int:
        """Line on which a row begins, both counted from 1 with the header first; empty lines are not rows."""
        ends = self.breaks()
        ends = ends[~self.inside(ends)]
        starts = np.concatenate([[0], ends + 1])
        filled = [s for s, e in zip(starts, np.concatenate([ends, [len(self.raw)]]), strict=True) if self.raw[s:e].strip(b"\r\n")]
        return line_at(self.raw, int(filled[min(row, len(filled)) - 1]))


def ends_of_lines(raw: bytes) -> Places:
    """Positions of the last characters of all line ends: LF, CR LF or CR."""
    buffer = np.frombuffer(raw, dtype=np.uint8)
    feeds, returns = _places_of(LF, buffer), _places_of(CR, buffer) if b"\r" in raw else np.empty(0, dtype=np.int64)
    alone = returns[(returns == len(raw) - 1) | (buffer[np.minimum(returns + 1, len(raw) - 1)] != LF)]
    return np.sort(np.concatenate([feeds, alone])) if len(alone) else feeds


def _places_of(sign: int, buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> Places:
    """Where a character stands, looked for part by part: what is compared takes as much memory as the part."""
    found = [start + np.flatnonzero(buffer[start : start + PART] == sign) for start in range(0, len(buffer), PART)]
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


def lone_returns(fields: Fields) -> Places:
    """Positions of carriage returns outside of quoted fields without a line feed after them."""
    buffer = np.frombuffer(fields.raw, dtype=np.uint8)
    places = ends_of_lines(fields.raw)
    places = places[(buffer[places] == CR) & (buffer[np.minimum(places + 1, len(buffer) - 1)] != CR)]  # \r\r\n is one end
    outside: Places = places[~fields.inside(places)]
    return outside


def line_at(raw: bytes, place: int) -> int:
    """Line of a position, counted from 1."""
    return int(np.searchsorted(ends_of_lines(raw[:place]), place)) + 1


def quoted_fields(raw: bytes, delimiter: str, dialect: Dialect) -> Fields:
    """Quoted fields of a file; quotes within them are doubled or, depending on the dialect, escaped by a backslash."""
    buffer = np.frombuffer(raw, dtype=np.uint8)
    quotes = _places_of(QUOTE, buffer)
    opens, closes = quotes[0::2], quotes[1::2]
    border = np.zeros(256, dtype=bool)
    border[[QUOTE, LF, CR, ord(delimiter)]] = True
    if dialect.quoting != "backslash" and len(opens) == len(closes):
        before = buffer[np.maximum(opens - 1, 0)]
        after = buffer[np.minimum(closes + 1, len(raw) - 1)]
        if (border[before] | (opens == 0)).all() and border[after].all():
            return Fields(raw, opens, closes)
    return _looked_at(raw, delimiter, dialect)


def _looked_at(raw: bytes, delimiter: str, dialect: Dialect) -> Fields:
    """Like `quoted_fields`, field by field."""
    mark = re.escape(delimiter).encode()
    body = rb'(?:[^"\\]++|\\.|"")*+' if dialect.quoting == "backslash" else rb'(?:[^"]++|"")*+'
    pattern = rb'(?<![^%b\n\r])"(%b)("|\Z)|(?<![^%b\n\r])( ++"[^"\r\n]*+")(?=[%b\r\n]|\Z)|(\\")' % (mark, body, mark, mark)
    opens: list[int] = []
    closes: list[int] = []
    fault = ""
    for match in re.finditer(pattern, raw, re.DOTALL):
        if match[3] or match[4]:
            # In a tab-separated file quotes and backslashes may be ordinary characters; an explicit `quoting` is trusted.
            if not fault and dialect.quoting is None and delimiter != "\t":
                fault = _strange(raw, match, dialect)
            continue
        if raw[match.end() : match.end() + 1] not in (b"", b"\n", b"\r", delimiter.encode()) or not match[2]:
            return Fields(raw, _places(opens), _places(closes), _malformed(raw, match, dialect))
        opens.append(match.start())
        closes.append(match.end() - 1)
    return Fields(raw, _places(opens), _places(closes), fault)


def _places(positions: list[int]) -> Places:
    return np.array(positions, dtype=np.int64)


def _strange(raw: bytes, match: re.Match[bytes], dialect: Dialect) -> str:
    line = line_at(raw, match.start())
    if match[4]:
        return (
            f"line {line}: a quote after a backslash, {_shown(raw[max(match.start() - 20, 0) : match.end() + 20])}: if that"
            f" escapes it, {dialect.way('quoting', 'backslash')}; if both belong to the text, {dialect.way('quoting', 'double')}"
        )
    return (
        f"line {line}: a space stands before the quotes of {_shown(match[3])}: remove spaces that follow delimiters,"
        f" or if they and the quotes belong to the text, {dialect.way('quoting', 'double')}"
    )


def _malformed(raw: bytes, match: re.Match[bytes], dialect: Dialect) -> str:
    """Message on a malformed field that begins with a quote, with the ways out."""
    begin, end = line_at(raw, match.start()), line_at(raw, match.end())
    lead = f"line {begin}: the quote before {_shown(match[1][:60])}"
    rest = raw[match.end() : match.end() + 30]
    if dialect.quoting != "backslash" and (match[1].endswith(b"\\") or b'\\"' in match[1]):
        escaped = (
            f"is closed on line {end} after a backslash: if that escapes a quote" if match[2] else "is closed after a backslash"
        )
        return f"{lead} {escaped}, {dialect.way('quoting', 'backslash')}; else double the quotes inside of texts"
    what = f"is closed on line {end}, where {_shown(rest)} follows" if match[2] else "is never closed"
    off = "" if dialect.quoting == "none" else f", or if quotes belong to the texts everywhere, {dialect.way('quoting', 'none')}"
    return f'{lead} {what}: a lone quote? Write it twice in a quoted text (""){off}'


def _shown(raw: bytes) -> str:
    text = " ".join(raw.decode(errors="ignore").split())
    return repr(text if len(text) <= 40 else text[:37] + "...")
