"""Next-sentence prediction (Devlin et al. 2019, section 3.1): cut documents into chunks of sentences and draw pairs from them.

A chunk holds consecutive sentences of a document, until they reach the budget of pieces. At every visit it is split at random into
A and B, and with probability 1/2 B is replaced by sentences of another document. A single sentence has no next one. BERT's public
code always pairs it with a random one, so that short texts teach that B never follows; here it is read alone, without a pair label,
so that the classes of the pairs stay balanced. The B of another document is about as long as the replaced one, so that length gives
little information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from trainables.batches.pack import Example
from trainables.batches.special_tokens import Ids, Special
from trainables.batches.tokenise import Pieces
from trainables.batches.truncate import longest_first

Places = np.ndarray[Any, np.dtype[np.int64]]
FOLLOWS, RANDOM = 0, 1
"""Classes of a pair, as BERT numbers them."""
NO_PAIR = -100
"""Label of a text that is not a pair: cross-entropy ignores it."""
Chunk = tuple[int, int, int]
"""(document, first sentence, sentence after the last)."""


@dataclass(frozen=True)
class Segment:
    """Pieces of consecutive sentences, int32 [n], and their word numbers, int32 [n], ascending."""

    ids: Ids
    words: Ids


@dataclass(frozen=True)
class Documents:
    """Sentences as pieces, with the boundaries of documents."""

    pieces: Pieces
    numbers: Places
    """Numbers in `pieces` of the sentences with at least one piece, [s]."""
    first: Places
    """First of these sentences of every document, then the number of sentences, [documents + 1]."""

    @cached_property
    def lengths(self) -> Places:
        """Pieces of every sentence, [s]."""
        return self.pieces.lengths[self.numbers]

    def segment(self, start: int, end: int) -> Segment:
        """Sentences start..end-1, concatenated."""
        ids, words, last = [], [], 0
        for number in self.numbers[start:end].tolist():
            ids.append(self.pieces[number])
            words.append(self.pieces.words(number) + np.int32(last))
            last = int(words[-1][-1])
        return Segment(np.concatenate(ids), np.concatenate(words))


def documents(pieces: Pieces, counts: np.ndarray[Any, Any]) -> Documents:
    """Documents with these `counts` of sentences; sentences without pieces and documents without sentences are skipped."""
    numbers = np.flatnonzero(pieces.lengths)
    document = np.repeat(np.arange(len(counts)), counts)[numbers]
    first = np.flatnonzero(np.diff(document, prepend=-1))
    return Documents(pieces, numbers, np.append(first, len(numbers)))


def chunks(corpus: Documents, budget: int) -> Places:
    """Cut documents into chunks of consecutive sentences that reach `budget` pieces, except the last: [chunks, 3], Chunk rows."""
    lengths, cut = corpus.lengths.tolist(), []
    for document, (begin, end) in enumerate(pairwise(corpus.first.tolist())):
        start, size = begin, 0
        for sentence in range(begin, end):
            size += lengths[sentence]
            if size >= budget or sentence + 1 == end:
                cut.append((document, start, sentence + 1))
                start, size = sentence + 1, 0
    return np.array(cut, dtype=np.int64).reshape(-1, 3)


def draw(corpus: Documents, chunk: Chunk, special: Special, max_length: int, rng: np.random.Generator) -> tuple[list[Segment], int]:
    """([A, B], FOLLOWS or RANDOM) from a chunk of several sentences, ([sentence], NO_PAIR) from a single sentence.

    The result has at most `max_length` pieces, special tokens included.
    """
    document, start, end = chunk
    if end - start == 1:
        return [_window(corpus.segment(start, end), max_length - special.count, rng)], NO_PAIR
    middle = int(rng.integers(start + 1, end))
    a, label = corpus.segment(start, middle), int(rng.random() < 0.5)
    other = (middle, end) if label == FOLLOWS else _elsewhere(corpus, document, int(corpus.lengths[middle:end].sum()), rng)
    return _cut(a, corpus.segment(*other), max_length - special.pair.count, rng), label


def _elsewhere(corpus: Documents, document: int, wanted: int, rng: np.random.Generator) -> tuple[int, int]:
    """(first sentence, sentence after the last) with at least `wanted` pieces from another document; all of a shorter document."""
    other = int(rng.integers(len(corpus.first) - 2))
    begin, end = corpus.first[other + (other >= document) :][:2].tolist()
    sizes = np.cumsum(corpus.lengths[begin:end])
    before = np.concatenate(([0], sizes[:-1]))
    starts = max(1, int((sizes[-1] - before >= wanted).sum()))  # sentences with enough pieces from there on
    start = int(rng.integers(starts))
    stop = int(np.searchsorted(sizes, before[start] + wanted)) + 1
    return begin + start, min(end, begin + stop)


def _cut(a: Segment, b: Segment, budget: int, rng: np.random.Generator) -> list[Segment]:
    """Cut A and B to at most `budget` pieces together: the longer one loses pieces, with even odds from its front or its back."""
    if len(a.ids) + len(b.ids) <= budget:
        return [a, b]
    shares = longest_first(len(a.ids), len(b.ids), budget)
    parts = zip((a, b), shares, strict=True)
    return [_without(part, left, rng.binomial(len(part.ids) - left, 0.5)) for part, left in parts]


def _window(segment: Segment, budget: int, rng: np.random.Generator) -> Segment:
    """The segment, or a random window of `budget` pieces."""
    over = len(segment.ids) - budget
    return segment if over <= 0 else _without(segment, budget, int(rng.integers(over + 1)))


def _without(segment: Segment, left: int, front: int) -> Segment:
    return Segment(segment.ids[front : front + left], segment.words[front : front + left])


def joined(parts: Sequence[Segment]) -> Segment:
    """Concatenate the parts; words of different parts get different numbers."""
    if len(parts) == 1:
        return parts[0]
    a, b = parts
    return Segment(np.concatenate((a.ids, b.ids)), np.concatenate((a.words, b.words + a.words[-1])))


def wrapped(special: Special, inputs: Ids, masked: tuple[Places, Places], parts: Sequence[Segment], label: int) -> Example:
    """Example of joined parts: [CLS] A [SEP] B [SEP] with token types 0 and 1, or [CLS] sentence [SEP]."""
    places, targets = masked
    if len(parts) == 1:
        return Example(special.wrap(inputs), label, (places + len(special.prefix), targets))
    length = len(parts[0].ids)
    before, between, behind = map(len, special.pair.ids)
    shift = before + np.where(places < length, 0, between)
    types = np.repeat([0, 1], [before + length + between, len(inputs) - length + behind])  # even if the tokenizer has one type
    return Example(special.pair.wrap(inputs[:length], inputs[length:]), label, (places + shift, targets), types)


def weighed(batch: Sequence[Example]) -> list[Example]:
    """Weight the pairs of a global batch so that the sum of their losses, divided by the predicted pieces, is their mean loss."""
    pairs = sum(example.label is not None and example.label != NO_PAIR for example in batch)
    pieces = max(1, sum(len(example.masked[1]) for example in batch if example.masked))
    return [replace(example, label_weight=pieces / pairs) for example in batch] if pairs else list(batch)
