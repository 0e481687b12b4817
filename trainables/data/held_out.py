"""Detect held-out texts (validation and test) within other texts, so that nothing is trained on them.

A held-out text is detected as a whole text, line, sentence or paragraph, and across several of them, however it is wrapped. Texts
are compared in their `bare` form. Boundaries are line breaks, tabs and sentence ends; too many boundaries do no harm, since the
whole stretch between two of them must be the held-out text. HTML's `<br>` and `<p>` are line breaks, its entities are decoded; in
scripts without spaces, white space and commas are boundaries too. Imports no torch.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from trainables.data.normal_forms import TAG, TAG_NAME, bare, letters, letters_and_nul, plain
from trainables.data.scripts import SPACELESS, has_spaceless
from trainables.data.splits import Split, TaskData

LINES = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""Line ends, as in str.splitlines."""
JOINT = "\x1e"
"""Line break between the texts of a pair: a character that texts do not contain."""
_CLOSING = "\"'\u201d\u2019\u00bb\u203a)\\]}\u300d\u300f\uff09"
_ENDING = "\u3002\uff01\uff1f\uff0e\u0964\u0965\u061f\u06d4\u1362\u0589"
"""Signs that end a sentence, with or without a space behind them."""
_STOP, _COMMA = ".!?\u2026", " \u3000,;\uff0c\u3001\uff1b\uff1a"
# What a boundary begins with stands first in its pattern, so that a search runs over all else at once.
_SIGN = rf"{_STOP}\t{LINES}<&"
_REST = rf"(?<=[{_STOP}])[{_STOP}]*[{_CLOSING}]*\s+|(?<=[\t{LINES}])\s*|(?:(?<=<)|(?<=&)lt;){TAG_NAME}\s*"
_OTHER = rf"(?<=[{_ENDING}])[{_ENDING}]*[{_CLOSING}]*\s*|(?<=[{SPACELESS}][{_COMMA}])[{_COMMA}]*"
_BREAK, _BREAK_ASCII = re.compile(f"[{_SIGN}{_ENDING}{_COMMA}](?:{_REST}|{_OTHER})"), re.compile(f"[{_SIGN}](?:{_REST})")
_LINE = re.compile(f"[{LINES}]|{TAG}")
_SPACE = re.compile(rf"(?:\s|{TAG})*\Z")
PREFIX = 8
"""Length of the prefix by which a held-out text is looked up at a boundary, in letters."""
SHORT, CHARACTERS = 20, 4
"""A single word of up to SHORT letters, or up to CHARACTERS of a script without spaces, is detected only as a whole line: as a
sentence ("Good.") it would damage too many texts."""


def boundaries(text: str) -> re.Pattern[str]:
    """The pattern of all boundaries that this text may hold."""
    return _BREAK_ASCII if text.isascii() else _BREAK


@dataclass(frozen=True)
class Cut:
    """A text without the held-out texts in it."""

    text: str
    """The remaining text, in order; empty if it has no letter."""
    places: int
    """Number of held-out texts that were cut."""
    left: int
    """Number of one-word sentences that are held-out texts but stay, since they are not a whole line."""


class HeldOut:
    """Held-out texts of all tasks of a study."""

    def __init__(self, texts: Iterable[str], sides: Iterable[str] = ()) -> None:
        """`sides`: single texts of held-out pairs, held out too unless they are a single word, such as an answer."""
        self._whole: set[str] = set()
        self._words: set[str] = set()
        starts: dict[str, set[int]] = {}
        for text, is_side in (*((text, False) for text in texts), *((side, True) for side in sides)):
            form, one_word = letters(text), _one_word(text)
            if is_side and one_word:
                continue
            self._whole.add(form or plain(text))
            if one_word:
                self._words.add(form or plain(text))
            else:
                starts.setdefault(form[:PREFIX], set()).add(len(form))
        self._starts = {prefix: sorted(lengths, reverse=True) for prefix, lengths in starts.items()}
        self._prefixes = sorted(set(map(len, starts)))
        self._signs = any(not letters(word) for word in self._words)

    def is_one(self, text: str) -> bool:
        """Whether the whole text is held out."""
        return bare(text) in self._whole

    def cut(self, text: str, *, words: bool = True) -> Cut | None:
        """Cut held-out texts from a text; None if it has none. `words`: one-word lines are cut too."""
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
        again = self.cut(rest, words=words) if letters(rest) else Cut("", 0, 0)  # a cut may join the parts of a held-out text
        return Cut(rest, len(runs), left) if again is None else Cut(again.text, len(runs) + again.places, again.left)

    def cut_across(self, texts: Sequence[str]) -> tuple[list[str], int]:
        """Cut held-out texts that span several successive texts. Returns (remaining texts, number of cuts)."""
        rests, places = list(texts), 0
        whole = [letters(text) for text in texts]
        for i in range(len(rests)):
            while span := self._across(rests, whole, i):
                start, j, end = span
                rests[i], rests[j] = rests[i][:start].rstrip(), rests[j][end:]
                rests[i + 1 : j] = whole[i + 1 : j] = [""] * (j - i - 1)
                whole[i], whole[j] = letters(rests[i]), letters(rests[j])
                places += 1
        return rests, places

    def _across(self, texts: Sequence[str], whole: Sequence[str], i: int) -> tuple[int, int, int] | None:
        """(start in text `i`, later text, end in it) of a held-out text that begins in text `i`; None if there is none."""
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
        """Whether a text may contain a held-out text: a quick filter, since the full search costs ten times as much."""
        parts = boundaries(text).split(text)
        if len(parts) == 1:
            return False
        forms = letters_and_nul("\0".join(parts)).split("\0")
        if not self._words.isdisjoint(forms) or (self._signs and "" in forms):
            return True
        begins = list(accumulate(map(len, forms), initial=0))
        return any(not self._starts.keys().isdisjoint([whole[at : at + n] for at in begins]) for n in self._prefixes)

    def _runs(self, parts: Sequence[str], words: bool) -> tuple[list[tuple[int, int]], int]:
        """([(first part, part after the last)] of held-out texts, number of one-word sentences that stay)."""
        forms = [letters(part) for part in parts]
        offsets = [0, *accumulate(map(len, forms))]
        closed = [i + 1 for i, part in enumerate(parts) if _LINE.search(part) or i + 1 == len(parts)]
        stream, runs, left, at = "".join(forms), [], 0, 0
        while at < len(parts):
            end = self._end(stream, offsets, at) if forms[at] else at
            if end == at and words and (at == 0 or _LINE.search(parts[at - 1])):
                line = closed[bisect_left(closed, at + 1)]
                if (stream[offsets[at] : offsets[line]] or plain("".join(parts[at:line]))) in self._words:
                    end = line
            if end > at:
                runs.append((at, end))
            left += end == at and bool(forms[at]) and forms[at] in self._words
            at = max(end, at + 1)
        return runs, left

    def _end(self, stream: str, offsets: Sequence[int], at: int) -> int:
        """The part after the longest held-out text that begins with the part `at`; `at` itself if there is none."""
        start = offsets[at]
        for prefix in reversed(self._prefixes):
            for length in self._starts.get(stream[start : start + prefix], ()):
                end = bisect_left(offsets, start + length, at + 1)
                if end < len(offsets) and offsets[end] == start + length and stream[start : start + length] in self._whole:
                    return end
        return at


def _one_word(text: str) -> bool:
    form = letters(text)
    if len(boundaries(text).split(text.strip())) > 1:
        return not form
    if has_spaceless(text):
        return len(form) <= CHARACTERS
    return not form or (len(text.split()) == 1 and len(form) <= SHORT)


def _ends(text: str) -> list[int]:
    """Ends of a text's parts: lines and sentences with the white space after them."""
    ends = [match.end() for match in boundaries(text).finditer(text)]
    return ends if ends and ends[-1] == len(text) else [*ends, len(text)]


def _offsets(text: str) -> list[tuple[int, int]]:
    """[(number of letters before a part, its position)] of a text's parts."""
    starts = [0, *_ends(text)]
    forms = letters_and_nul("\0".join(text[a:b] for a, b in pairwise(starts))).split("\0")
    return list(zip(accumulate(map(len, forms[:-1]), initial=0), starts[:-1], strict=True))


def _following(whole: Sequence[str], i: int, count: int) -> str:
    """At least `count` letters of the texts after text `i`, if there are so many."""
    collected: list[str] = []
    while count > 0 and (i := i + 1) < len(whole):
        collected.append(whole[i])
        count -= len(whole[i])
    return "".join(collected)


def _ending(texts: Sequence[str], whole: Sequence[str], i: int, over: int) -> tuple[int, int] | None:
    """(text, position in it) after `over` letters of the texts that follow text `i`; None if no part ends there."""
    while over > len(whole[i := i + 1]):
        over -= len(whole[i])
    if over == len(whole[i]):
        return i, len(texts[i])
    return next(((i, place) for offset, place in _offsets(texts[i]) if offset == over), None)


def _without(parts: Sequence[str], runs: Sequence[tuple[int, int]]) -> str:
    """Join the parts without these runs; line breaks at the end of a run stay."""
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
    """Validation and test texts of all these tasks; with `sides`, also the single texts of pairs."""
    splits = [part for data in loaded for part in (data.validation, data.test)]
    return HeldOut(_texts(splits, False), _texts(splits, True) if sides else ())


def _texts(splits: Iterable[Split], sides: bool) -> Iterator[str]:
    for split in splits:
        yield from split.texts if not sides else split.sides if split.pairs is not None else ()
