"""Pairs of next-sentence prediction: even odds, within the budget, from the right documents, whatever the texts are like."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.batches.masking import corrupt
from trainables.batches.pack import Example
from trainables.batches.sentence_pairs import (
    FOLLOWS,
    NO_PAIR,
    RANDOM,
    Documents,
    Segment,
    chunks,
    documents,
    draw,
    joined,
    weighed,
    wrapped,
)
from trainables.batches.special_tokens import Ids, PairTokens, Special
from trainables.batches.tokenise import Pieces

PAIR = PairTokens(((2,), (3,), (3,)), ((0,), (0,), (1,)), (0, 1))
SPECIAL = Special((2,), (3,), (0,), (0,), 0, 0, 4, (0, 2, 3, 4), np.arange(5, 1000, dtype=np.int32), PAIR)


class Numbered(Pieces):
    """Sentences of given lengths, whose pieces are 1000 times the sentence's number and counted up; two pieces to a word."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(Path("nowhere"))
        self.lengths = np.array(lengths, dtype=np.int64)

    def __getitem__(self, index: int) -> Ids:
        return (1000 * (index + 1) + np.arange(self.lengths[index])).astype(np.int32)

    def words(self, index: int, first: int = 0, last: int | None = None) -> Ids:
        return (np.arange(self.lengths[index]) // 2 + 1).astype(np.int32)[first:last]


def made(texts: list[list[int]]) -> Documents:
    """Documents of sentences of these lengths."""
    return documents(Numbered([length for text in texts for length in text]), np.array([len(text) for text in texts]))


def owner(found: Documents) -> dict[int, int]:
    """{number of a sentence in the pieces: its document}."""
    return {
        int(number): document for document, (begin, end) in enumerate(pairwise(found.first)) for number in found.numbers[begin:end]
    }


TEXTS = st.lists(st.lists(st.integers(0, 30), min_size=0, max_size=7), min_size=2, max_size=8)


@given(texts=TEXTS, max_length=st.integers(8, 60), seed=st.integers(0, 99))
@settings(max_examples=200)
def test_what_always_holds(texts: list[list[int]], max_length: int, seed: int) -> None:
    found, rng = made(texts), np.random.default_rng(seed)
    if len(found.first) < 3:
        return
    cut, owners = chunks(found, max_length - 3), owner(found)
    covered = [sentence for _, start, end in cut.tolist() for sentence in range(start, end)]
    assert covered == list(range(len(found.numbers))), "every sentence is in one chunk"
    for chunk in map(tuple, cut.tolist()):
        parts, label = draw(found, chunk, SPECIAL, max_length, rng)
        sources = [{owners[int(piece) // 1000 - 1] for piece in part.ids} for part in parts]
        assert all(len(part.ids) for part in parts)
        assert all(len(part.ids) == len(part.words) for part in parts)
        assert all(np.all(np.diff(part.words) >= 0) for part in parts)
        assert sources[0] == {chunk[0]}
        assert (label == NO_PAIR) == (len(parts) == 1) == (chunk[2] - chunk[1] == 1)
        if label == FOLLOWS:
            assert sources[1] == sources[0]
            assert parts[0].ids[-1] < parts[1].ids[0]
        if label == RANDOM:
            assert len(sources[1]) == 1
            assert sources[1] != sources[0]
        whole = joined(parts)
        inputs, places, targets = corrupt(whole.ids, SPECIAL, 0.3, rng, whole.words)
        example = wrapped(SPECIAL, inputs, (places, targets), parts, label)
        assert len(example.ids) <= max_length
        assert example.masked is not None
        unmasked = wrapped(SPECIAL, whole.ids, (places, targets), parts, label).ids
        assert np.array_equal(unmasked[example.masked[0]], targets)
        if len(parts) == 2:
            assert example.types is not None
            a, b = (len(part.ids) for part in parts)
            assert unmasked.tolist() == [2, *parts[0].ids, 3, *parts[1].ids, 3]
            assert example.types.tolist() == [0] * (a + 2) + [1] * (b + 1)


@given(texts=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=4), min_size=4, max_size=8), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_pairs_are_balanced_however_many_texts_are_single_sentences(texts: list[list[int]], seed: int) -> None:
    found, rng = made([*texts, [3, 4], [5]]), np.random.default_rng(seed)
    cut = [tuple(chunk) for chunk in chunks(found, 30).tolist()]
    labels = [draw(found, cut[i % len(cut)], SPECIAL, 33, rng)[1] for i in range(3000)]
    pairs = [label for label in labels if label != NO_PAIR]
    assert len(pairs) >= 100
    assert np.mean(pairs) == pytest.approx(0.5, abs=4.5 * 0.5 / len(pairs) ** 0.5)


def test_the_longer_side_is_cut_and_length_tells_little() -> None:
    rng = np.random.default_rng(0)
    found = made([[int(n) for n in rng.integers(3, 20, rng.integers(2, 9))] for _ in range(300)])
    lengths: dict[int, list[int]] = {FOLLOWS: [], RANDOM: []}
    for chunk in map(tuple, chunks(found, 61).tolist()):
        (a, *b), label = draw(found, chunk, SPECIAL, 64, rng)
        if b:
            lengths[label].append(len(a.ids) + len(b[0].ids))
            assert len(a.ids) + len(b[0].ids) <= 61
    assert np.mean(lengths[RANDOM]) == pytest.approx(np.mean(lengths[FOLLOWS]), rel=0.12)
    short, long = made([[4, 200], [6, 6]]), np.random.default_rng(1)
    cut = [draw(short, (0, 0, 2), SPECIAL, 33, long) for _ in range(40)]
    assert {(len(a.ids), len(b.ids)) for (a, b), label in cut if label == FOLLOWS} == {(4, 26)}
    assert len({int(b.ids[0]) for (_, b), label in cut if label == FOLLOWS}) > 3, "from its front and from its back"


def test_a_long_single_sentence_is_seen_in_windows() -> None:
    found, rng = made([[50], [3, 3]]), np.random.default_rng(0)
    windows = [draw(found, (0, 0, 1), SPECIAL, 22, rng)[0][0] for _ in range(200)]
    assert {len(window.ids) for window in windows} == {20}
    assert {int(window.ids[0]) for window in windows} == set(range(1000, 1031))


@cache
def _example(label: int, pieces: int) -> Any:
    return Example(np.arange(9), label, (np.arange(pieces), np.arange(pieces)))


def test_weights_make_two_means_of_one_sum() -> None:
    batch = weighed([_example(FOLLOWS, 3), _example(NO_PAIR, 4), _example(RANDOM, 5)])
    assert [example.label_weight for example in batch] == [6.0] * 3
    assert [example.label_weight for example in weighed([_example(NO_PAIR, 4)])] == [1.0]
    assert joined([Segment(np.arange(2), np.array([1, 1])), Segment(np.arange(2), np.array([1, 2]))]).words.tolist() == [1, 1, 2, 3]
