"""Normal forms of texts, by which copies and near copies are detected. Imports no torch."""

from __future__ import annotations

import html
import re
import unicodedata

TAG_NAME = r"/?(?:[bB][rR]|[pP])\s*/?(?:>|&gt;)"
TAG = f"(?:<|&lt;){TAG_NAME}"
"""How HTML ends a line."""
_TAGS, _ENTITY = re.compile(TAG), re.compile(r"&(?:#\w+|[a-zA-Z]\w*);")


def plain(text: str) -> str:
    """Normal form for the detection of copies: white space and case unified."""
    return " ".join(text.split()).casefold()


def bare(text: str) -> str:
    """Normal form for the detection of near copies: only letters and digits, with Unicode compatibility forms and case unified.

    Without white space, since punctuation may replace it ("good--bad", "good, bad"). A text without letters is compared as it is.
    """
    return letters(text) or plain(text)


def letters(text: str) -> str:
    """Like `bare`; empty for a text without letters."""
    return letters_and_nul(text).replace("\0", "")


def letters_and_nul(text: str) -> str:
    """Letters and digits of a text, and NUL, which separates parts that are processed together."""
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if "<" in text:
        text = _TAGS.sub("\n", text)
    if text.isascii():  # for speed
        return text.lower().encode().translate(None, _OTHER_ASCII).decode()
    # `plain` first, so that every copy by `plain` is also one by `bare`.
    return unicodedata.normalize("NFKC", plain(text)).casefold().translate(_LETTERS)


class _Letters(dict[int, str | None]):
    """Cached translation table: letters, digits and their combining marks stay, other characters are removed.

    Variation selectors and enclosing marks belong to emoji, not to letters.
    """

    def __missing__(self, code: int) -> str | None:
        kept = unicodedata.category(chr(code)) in _KEPT and not (0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF)
        self[code] = target = chr(code) if kept else None
        return target


_KEPT = ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Mn", "Mc")
_LETTERS = _Letters({0: "\0"})
_OTHER_ASCII = bytes(code for code in range(1, 128) if not chr(code).isalnum())
