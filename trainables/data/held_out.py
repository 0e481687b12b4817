"""Texts that a task is judged on, found wherever they stand in other texts, so that nothing is trained on them.

A held-out text is found as a whole text, line, sentence or paragraph, and over several of them, however it is wrapped. All that is
compared is `bare`. Boundaries are line breaks, tabs and signs that end a sentence; more of them than there are sentences do no
harm, since all from one to another must be the held-out text. HTML's `<br>` and `<p>` are line breaks, its entities what they stand
for; in scripts without spaces white space and commas are boundaries too. Imports no torch.
"""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from trainables.data.scripts import SPACELESS, has_spaceless
from trainables.data.splits import Split, TaskData, plain

LINES = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What ends a line, as in str.splitlines."""
JOINT = "\x1e"
"""A line break between the texts of a pair: one that texts do not hold."""
_CLOSING = "\"'\u201d\u2019\u00bb\u203a)\\]}\u300d\u300f\uff09"
_ENDING = "\u3002\uff01\uff1f\uff0e\u0964\u0965\u061f\u06d4\u1362\u0589"
"""Signs that end a sentence, with or without a space behind them."""
_TAG_NAME = r"/?(?:[bB][rR]|[pP])\s*/?(?:>|&gt;)"
_TAG = f"(?:<|&lt;){_TAG_NAME}"
"""How HTML ends a line."""
_STOP, _COMMA = ".!?\u2026", " \u3000,;\uff0c\u3001\uff1b\uff1a"
# What a boundary begins with stands first in its pattern, so that a search runs over all else at once.
_SIGN = rf"{_STOP}\t{LINES}<&"
_REST = rf"(?<=[{_STOP}])[{_STOP}]*[{_CLOSING}]*\s+|(?<=[\t{LINES}])\s*|(?:(?<=<)|(?<=&)lt;){_TAG_NAME}\s*"
_OTHER = rf"(?<=[{_ENDING}])[{_ENDING}]*[{_CLOSING}]*\s*|(?<=[{SPACELESS}][{_COMMA}])[{_COMMA}]*"
_BREAK, _BREAK_ASCII = re.compile(f"[{_SIGN}{_ENDING}{_COMMA}](?:{_REST}|{_OTHER})"), re.compile(f"[{_SIGN}](?:{_REST})")
_LINE = re.compile(f"[{LINES}]|{_TAG}")
_SPACE = re.compile(rf"(?:\s|{_TAG})*\Z")
_TAGS, _ENTITY = re.compile(_TAG), re.compile(r"&(?:#\w+|[a-zA-Z]\w*);")
PREFIX = 8
"""Letters by which a held-out text is looked up at a boundary."""
SHORT, CHARACTERS = 20, 4
"""A single word of so many letters, or so many characters of a script without spaces, is found as a whole line only: as a sentence
("Good.") it would tear texts everywhere."""


def boundaries(text: str) -> re.Pattern[str]:
    """The pattern of all boundaries that this text may hold."""
    return _BREAK_ASCII if text.isascii() else _BREAK


def bare(text: str) -> str:
    """A text's letters and digits alone, compatible forms and case made one: how near copies are found.

    Without white space, since a mark may stand for it ("good--bad", "good, bad"). A text without any letter is compared as it is.
    """
    return letters(text) or plain(text)


def letters(text: str) -> str:
    """The same; empty for a text without any letter."""
    return _kept(text).replace("\0", "")


def _kept(text: str) -> str:
    """Letters, digits, and NUL, which stands between parts that are looked at in one go."""
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    if "<" in text:
        text = _TAGS.sub("\n", text)
    if text.isascii():  # for speed
        return text.lower().encode().translate(None, _OTHER_ASCII).decode()
    # `plain` first, so that no copy that it tells is missed.
    return unicodedata.normalize("NFKC", plain(text)).casefold().translate(_LETTERS)


class _Letters(dict[int, str | None]):
    """What becomes of a character, found out once: letters, digits and their marks stay, the rest goes.

    Variation selectors and enclosing signs are marks of emoji, not of letters.
    """

    def __missing__(self, code: int) -> str | None:
        kept = unicodedata.category(chr(code)) in _KEPT and not (0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF)
        self[code] = found = chr(code) if kept else None
        return found


_KEPT = ("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Mn", "Mc")
_LETTERS = _Letters({0: "\0"})
_OTHER_ASCII = bytes(code for code in range(1, 128) if not chr(code).isalnum())


@dataclass(frozen=True)
class Cut:
    """A text without the held-out texts in it."""

    text: str
    """What is left, in its order; empty if that holds no letter."""
    places: int
    """Held-out texts that were taken out."""
    left: int
    """Sentences of one word that are held-out texts and stay, since they are no whole line."""


class HeldOut:
    """Held-out texts of all tasks of a study."""

    def __init__(self, texts: Iterable[str], sides: Iterable[str] = ()) -> None:
        """`sides` are texts of held-out pairs: they are held out too unless they are a single word, such as an answer."""
        self._whole: set[str] = set()
        self._words: set[str] = set()
        starts: dict[str, set[int]] = {}
        for text, is_side in (*((text, False) for text in texts), *((side, True) for side in sides)):
            found, one_word = letters(text), _one_word(text)
            if is_side and one_word:
                continue
            self._whole.add(found or plain(text))
            if one_word:
                self._words.add(found or plain(text))
            else:
                starts.setdefault(found[:PREFIX], set()).add(len(found))
        self._starts = {prefix: sorted(lengths, reverse=True) for prefix, lengths in starts.items()}
        self._prefixes = sorted(set(map(len, starts)))
        self._signs = any(not letters(word) for word in self._words)

    def is_one(self, text: str) -> bool:
        """Whether a text as a whole is held out."""
        return bare(text) in self._whole

    def cut(self, text: str, *, words: bool = True) -> Cut | None:
        """The text without the held-out texts in it; None if there are none. `words`: lines of a single word are taken out too."""
        whole = letters(text)
        if (whole or plain(text)) in self._whole:
            return Cut("", 1, 0)
        if not self._may_hold(text, whole):
            return None
        ends = _ends(text)
        parts = [text[start:end] for start, end in zip((0, *ends), ends, strict=False)]
        runs, left = self._runs(parts, words)
        if not runs:
            return Cut(text, 0, left) if left else None
        rest = _without(parts, runs)
        again = self.cut(rest, words=words) if letters(rest) else Cut("", 0, 0)  # what was apart now stands together
        return Cut(rest, len(runs), left) if again is None else Cut(again.text, len(runs) + again.places, again.left)

    def cut_across(self, texts: Sequence[str]) -> tuple[list[str], int]:
        """(each text without the held-out texts that begin in it and end in a later one, or the reverse; how many they are)."""
        rests, places = list(texts), 0
        whole = [letters(text) for text in texts]
        for i in range(len(rests)):
            while found := self._across(rests, whole, i):
                start, j, end = found
                rests[i], rests[j] = rests[i][:start].rstrip(), rests[j][end:]
                rests[i + 1 : j] = whole[i + 1 : j] = [""] * (j - i - 1)
                whole[i], whole[j] = letters(rests[i]), letters(rests[j])
                places += 1
        return rests, places

    def _across(self, texts: Sequence[str], whole: Sequence[str], i: int) -> tuple[int, int, int] | None:
        """(place in the text `i` where a held-out text begins, the later text in which it ends, place there)."""
        if not whole[i]:
            return None
        near = whole[i] + _following(whole, i, PREFIX)
        offsets = _offsets(texts[i])
        for at, (offset, place) in enumerate(offsets):
            if at and offset == offsets[at - 1][0]:
                continue
            for prefix in reversed(self._prefixes):
                for length in self._starts.get(near[offset : offset + prefix], ()):
                    over = offset + length - len(whole[i])
                    if over <= 0:
                        break
                    run = whole[i][offset:] + _following(whole, i, over)[:over]
                    if len(run) == length and run in self._whole and (end := _ending(texts, whole, i, over)):
                        return place, *end
        return None

    def _may_hold(self, text: str, whole: str) -> bool:
        """Whether a closer look can find anything: few texts need one, which costs ten times as much."""
        parts = boundaries(text).split(text)
        if len(parts) == 1:
            return False
        each = _kept("\0".join(parts)).split("\0")
        if not self._words.isdisjoint(each) or (self._signs and "" in each):
            return True
        begins = list(accumulate(map(len, each), initial=0))
        return any(not self._starts.keys().isdisjoint([whole[at : at + n] for at in begins]) for n in self._prefixes)

    def _runs(self, parts: Sequence[str], words: bool) -> tuple[list[tuple[int, int]], int]:
        """(parts from one to before another that are a held-out text, sentences of one word that stay)."""
        each = [letters(part) for part in parts]
        offsets = [0, *accumulate(map(len, each))]
        closed = [i + 1 for i, part in enumerate(parts) if _LINE.search(part) or i + 1 == len(parts)]
        stream, runs, left, at = "".join(each), [], 0, 0
        while at < len(parts):
            end = self._end(stream, offsets, at) if each[at] else at
            if end == at and words and (at == 0 or _LINE.search(parts[at - 1])):
                line = closed[bisect_left(closed, at + 1)]
                if (stream[offsets[at] : offsets[line]] or plain("".join(parts[at:line]))) in self._words:
                    end = line
            if end > at:
                runs.append((at, end))
            left += end == at and bool(each[at]) and each[at] in self._words
            at = max(end, at + 1)
        return runs, left

    def _end(self, stream: str, offsets: Sequence[int], at: int) -> int:
        """Where the longest held-out text that begins with the part `at` ends; `at` itself if none does."""
        start = offsets[at]
        for prefix in reversed(self._prefixes):
            for length in self._starts.get(stream[start : start + prefix], ()):
                end = bisect_left(offsets, start + length, at + 1)
                if end < len(offsets) and offsets[end] == start + length and stream[start : start + length] in self._whole:
                    return end
        return at


def _one_word(text: str) -> bool:
    found = letters(text)
    if len(boundaries(text).split(text.strip())) > 1:
        return not found
    if has_spaceless(text):
        return len(found) <= CHARACTERS
    return not found or (len(text.split()) == 1 and len(found) <= SHORT)


def _ends(text: str) -> list[int]:
    """Where the parts of a text end: lines and sentences, with the white space after them."""
    ends = [match.end() for match in boundaries(text).finditer(text)]
    return ends if ends and ends[-1] == len(text) else [*ends, len(text)]


def _offsets(text: str) -> list[tuple[int, int]]:
    """(letters before a part, its place) of the parts of a text."""
    starts = [0, *_ends(text)]
    each = _kept("\0".join(text[a:b] for a, b in pairwise(starts))).split("\0")
    return list(zip(accumulate(map(len, each[:-1]), initial=0), starts[:-1], strict=True))


def _following(whole: Sequence[str], i: int, count: int) -> str:
    """At least so many letters of the texts behind the text `i`, as far as there are."""
    found: list[str] = []
    while count > 0 and (i := i + 1) < len(whole):
        found.append(whole[i])
        count -= len(whole[i])
    return "".join(found)


def _ending(texts: Sequence[str], whole: Sequence[str], i: int, over: int) -> tuple[int, int] | None:
    """(text, place in it) behind so many letters that follow the text `i`; None if no part ends there."""
    while over > len(whole[i := i + 1]):
        over -= len(whole[i])
    if over == len(whole[i]):
        return i, len(texts[i])
    return next(((i, place) for offset, place in _offsets(texts[i]) if offset == over), None)


def _without(parts: Sequence[str], runs: Sequence[tuple[int, int]]) -> str:
    """The parts without these runs; a line that ends with one still ends."""
    kept: list[str] = []
    at = 0
    for start, end in runs:
        kept += parts[at:start]
        last = parts[end - 1]
        space = _SPACE.search(last)
        kept += [space[0]] if space and _LINE.search(space[0]) else []
        at = end
    return "".join([*kept, *parts[at:]]).strip()


def held_out(loaded: Iterable[TaskData], *, sides: bool) -> HeldOut:
    """Validation and test texts of all these tasks: what nothing else may be trained on; of pairs both texts too if `sides`."""
    splits = [part for data in loaded for part in (data.validation, data.test)]
    return HeldOut(_texts(splits, False), _texts(splits, True) if sides else ())


def _texts(splits: Iterable[Split], sides: bool) -> Iterator[str]:
    for split in splits:
        yield from split.texts if not sides else split.sides if split.pairs is not None else ()
