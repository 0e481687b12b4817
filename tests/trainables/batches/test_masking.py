"""Masked language modelling: rates, whole words, what is never masked, and sequences cut from documents."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import reviews
from trainables.batches.masking import chunks, corrupt
from trainables.batches.special_tokens import PairTokens, Special, special_tokens
from trainables.batches.tokenise import Pieces, pieces
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.settings.errors import ConfigError

PAIR = PairTokens(((2,), (3,), (3,)), ((0,), (0,), (1,)), (0, 1))
SPECIAL = Special((2,), (3,), (0,), (0,), 0, 0, 4, (0, 2, 3, 4), np.arange(5, 1000, dtype=np.int32), PAIR)
"""As BERT's, with 1 the unknown piece and an ordinary vocabulary of 5..999."""
TEXTS = [text for text, _ in reviews()]


@cache
def tokenizer() -> Any:
    return train_wordpiece(TEXTS, 600)


def text_of(length: int, rng: np.random.Generator) -> Any:
    return rng.integers(5, 1000, length, dtype=np.int32)


@pytest.mark.parametrize(("length", "whole_word"), [(7, False), (40, False), (126, False), (40, True), (126, True)])
def test_rates_over_100k_pieces(length: int, whole_word: bool) -> None:
    """Short texts too: rounding 15 % of 7 pieces must not shift the rate."""
    rng = np.random.default_rng(0)
    total = drawn = masked = replaced = kept = 0
    while total < 100_000:
        ids = text_of(length, rng)
        words = np.cumsum(rng.random(length) < 0.7).astype(np.int32) if whole_word else None
        inputs, positions, targets = corrupt(ids, SPECIAL, 0.15, rng, words)
        assert np.array_equal(ids[positions], targets)
        total, drawn = total + length, drawn + len(positions)
        masked += int((inputs[positions] == 4).sum())
        kept += int((inputs[positions] == targets).sum())
        replaced += int(((inputs[positions] != targets) & (inputs[positions] != 4)).sum())
    assert drawn / total == pytest.approx(0.15, rel=0.01)
    assert masked / drawn == pytest.approx(0.8, abs=0.01)
    assert replaced / drawn == pytest.approx(0.1, abs=0.01)
    assert kept / drawn == pytest.approx(0.1, abs=0.01)


def test_every_place_is_drawn_equally_often() -> None:
    rng, counts = np.random.default_rng(1), np.zeros(20)
    for _ in range(5000):
        counts[corrupt(text_of(20, rng), SPECIAL, 0.15, rng)[1]] += 1
    assert counts / 5000 == pytest.approx(np.full(20, 0.15), abs=0.025)


def test_random_pieces_come_from_the_whole_ordinary_vocabulary() -> None:
    rng = np.random.default_rng(2)
    ids = np.full(50_000, 7, dtype=np.int32)
    inputs, positions, _ = corrupt(ids, SPECIAL, 0.5, rng)
    random = inputs[positions][(inputs[positions] != 4) & (inputs[positions] != 7)]
    assert random.min() == 5
    assert random.max() == 999
    assert len(np.unique(random)) > 850


@given(length=st.integers(1, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 1000), whole=st.booleans())
@settings(max_examples=200)
def test_what_always_holds(length: int, share: float, seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 12, length, dtype=np.int32)  # a third of them special or unknown
    words = np.cumsum(rng.random(length) < 0.5).astype(np.int32) if whole else None
    before, state = ids.copy(), rng.bit_generator.state
    inputs, positions, targets = corrupt(ids, SPECIAL, share, rng, words)
    allowed = ~np.isin(ids, SPECIAL.reserved)
    assert np.array_equal(ids, before)
    assert (inputs.dtype, positions.dtype, targets.dtype) == (np.int32, np.int64, np.int64)
    assert np.array_equal(targets, ids[positions])
    assert np.all(np.diff(positions) > 0)
    assert np.all(allowed[positions])
    assert len(positions) >= bool(allowed.any())
    untouched = np.setdiff1d(np.arange(length), positions)
    assert np.array_equal(inputs[untouched], ids[untouched])
    assert not np.isin(inputs[positions], [0, 2, 3]).any()
    if words is not None:
        drawn = np.isin(words, words[positions]) & allowed
        assert np.array_equal(np.flatnonzero(drawn), positions)
    again = np.random.default_rng()
    again.bit_generator.state = state
    assert all(
        np.array_equal(a, b) for a, b in zip((inputs, positions, targets), corrupt(ids, SPECIAL, share, again, words), strict=True)
    )


def test_nothing_to_predict_and_nothing_to_mask_with() -> None:
    rng = np.random.default_rng(0)
    assert len(corrupt(np.array([3, 3], np.int32), SPECIAL, 0.15, rng)[1]) == 0  # a text that reads "[SEP] [SEP]"
    without = Special((), (), (), (), 0, 0, None, (0,), SPECIAL.ordinary, PAIR)
    with pytest.raises(ConfigError, match="no mask token"):
        corrupt(np.array([5], np.int32), without, 0.15, rng)


def corpus(tmp_path: Path, texts: list[str]) -> Pieces:
    return pieces(texts, tokenizer(), tmp_path, str(hash(tuple(texts))))


@pytest.mark.parametrize("budget", [1, 7, 30, 10_000])
def test_sequences_lose_nothing(budget: int, tmp_path: Path) -> None:
    found = corpus(tmp_path, [*TEXTS[:60], "", " ".join(TEXTS)])
    sequences = chunks(found, budget)
    assert np.array_equal(np.concatenate([ids for ids, _ in sequences]), np.concatenate(list(found)))
    lengths = [len(ids) for ids, _ in sequences]
    assert 0 < min(lengths) <= max(lengths) <= budget
    assert len(sequences) == sum(-(-length // budget) for length in found.lengths)
    assert all(len(ids) == len(words) for ids, words in sequences[:50])


def test_a_long_document_is_cut_evenly_and_words_stay_known(tmp_path: Path) -> None:
    found = corpus(tmp_path, [" ".join(TEXTS)])
    lengths = [len(ids) for ids, _ in chunks(found, 100)]
    assert max(lengths) - min(lengths) <= 1
    ids, words = chunks(found, 100)[3]
    assert tokenizer().decode(ids[words == words[50]]).replace("#", "").isalnum() or len(ids[words == words[50]]) == 1
    special = special_tokens(tokenizer())
    inputs, positions, _ = corrupt(ids, special, 0.15, np.random.default_rng(0), words)
    assert set(words[positions]).isdisjoint(words[np.setdiff1d(np.arange(len(ids)), positions)])
    assert len(inputs) == len(ids)


def test_sequences_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sequences of 0 pieces"):
        chunks(corpus(tmp_path, TEXTS[:2]), 0)
