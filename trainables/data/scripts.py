"""Split texts in any script into words; in scripts without spaces between words, every character counts as a word.

A text may mix both kinds of scripts. Combining marks belong to the character before them. For texts in scripts with spaces, the
words are those of scikit-learn's pattern.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese, Shan
    "\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf"  # Khmer, Tai
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese characters
    "\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f"  # kana, bopomofo
    "\ua000-\ua48f"  # Yi
)
"""Character ranges of scripts without spaces between words. Korean has spaces, Tibetan has a mark after every syllable."""


def _marks() -> str:
    """Ranges of combining marks in scripts with spaces, without the variation selectors of emoji."""
    spaceless, last = re.compile(f"[{SPACELESS}]"), -2
    ranges: list[tuple[int, int]] = []
    for code in range(0x300, 0xFE00):
        if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) in ("Mn", "Mc") and not spaceless.match(chr(code)):
            ranges = [*ranges[:-1], (ranges[-1][0], code)] if code == last + 1 else [*ranges, (code, code)]
            last = code
    return "".join(f"{chr(first)}-{chr(end)}" for first, end in ranges)


_SPACED = rf"[^\W{SPACELESS}]"
_OPEN = re.compile(f"[{SPACELESS}]")
_LETTER, _NO_LETTERS = re.compile(r"[^\W\d_]"), bytes(code for code in range(128) if not chr(code).isalpha())
WORD = rf"(?u)(?:(?=\w)[{SPACELESS}](?:(?!\w)[{SPACELESS}])*|{_SPACED}(?:{_SPACED}|[{_marks()}])*)"
"""A word, or a character of a script without spaces."""
SIGN = r"(?u)\S"
"""Replaces words in texts without any, such as emoji."""
CHARACTERS = (1, 4)
"""Lengths of character n-grams if most letters are of scripts without spaces: about the length of their words."""
_WORD, _SIGN = re.compile(WORD), re.compile(SIGN)
_LONG = re.compile(r"\b\w\w+\b")
_UNCOMMON = re.compile(f"[{SPACELESS}{_marks()}]")


def simple(text: str) -> str:
    """A text in lower case and in Unicode normal form NFKC."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


def words(text: str) -> list[str]:
    """Words, and characters of scripts without spaces, in order."""
    return _WORD.findall(simple(text))


def signs(text: str) -> list[str]:
    """All characters except white space."""
    return _SIGN.findall(simple(text))


def same_words(text: str) -> bool:
    """Whether `words` equals the result of scikit-learn's pattern."""
    if text.isascii() or (unicodedata.is_normalized("NFKC", text) and not _UNCOMMON.search(text)):
        return True
    return words(text) == re.findall(r"\w+", text.lower())


def long_words(text: str) -> list[str]:
    """Words of two or more characters, as in scikit-learn's CountVectorizer; in scripts without spaces, bigrams of characters."""
    if same_words(text):
        return _LONG.findall(text.lower())
    result: list[str] = []
    before, end = "", -1
    for match in _WORD.finditer(simple(text)):
        word = match.group()
        if not _OPEN.match(word):
            result += [word] if len(word) > 1 else []
            continue
        result += [before + word] if match.start() == end else []
        before, end = word, match.end()
    return result


def has_spaceless(text: str) -> bool:
    """Whether a text has a character of a script without spaces."""
    return not text.isascii() and _OPEN.search(text) is not None


def mostly_spaceless(texts: Iterable[str]) -> bool:
    """Whether more than half of the letters are of scripts without spaces."""
    inside = total = 0
    for text in texts:
        if text.isascii():  # for speed
            total += len(text.encode().translate(None, _NO_LETTERS))
            continue
        total += len(_LETTER.findall(text))
        inside += sum(map(str.isalpha, _OPEN.findall(text)))
    return 2 * inside > total


def length(text: str) -> int:
    """Number of words separated by white space; a character of a script without spaces counts as one word."""
    if not has_spaceless(text):
        return len(text.split())
    return len(_OPEN.sub(" ", text).split()) + sum(map(str.isalpha, _OPEN.findall(text)))


def words_each(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[n]: the `length` of each text."""
    return np.fromiter(map(length, texts), np.int64, len(texts))
