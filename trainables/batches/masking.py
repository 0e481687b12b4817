"""Masked language modelling: choose the predicted pieces and their replacements, and cut documents into sequences.

Devlin et al. 2019, section 3.1: 15 % of the pieces are predicted; of these 80 % become [MASK], 10 % a random piece, 10 % stay.
Masks are drawn again at every visit (dynamic masking: Liu et al. 2019, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

from trainables.batches.special_tokens import Ids, Special
from trainables.batches.tokenise import Pieces
from trainables.settings.errors import ConfigError

Places = np.ndarray[Any, np.dtype[np.int64]]
MASKED, REPLACED = 0.8, 0.1
"""Shares of the predicted pieces that become [MASK] and that become a random piece; the others stay as they are."""


def corrupt(
    pieces: Ids, special: Special, share: float, rng: np.random.Generator, word_ids: Ids | None = None
) -> tuple[Ids, Places, Places]:
    """(inputs [n], positions [m] ascending, targets [m]) of a sequence of n pieces without special tokens.

    The expected share of predicted pieces is exactly `share`, and at least one piece is predicted; with `word_ids` [n], whole
    words. Special pieces ([SEP] spelled out in a text) are never predicted. Raises ConfigError for a tokenizer without a mask
    token.
    """
    return corrupt_at(_draw(np.flatnonzero(~np.isin(pieces, special.reserved)), word_ids, share, rng), pieces, special, rng)


def corrupt_at(positions: Places, pieces: Ids, special: Special, rng: np.random.Generator) -> tuple[Ids, Places, Places]:
    """Like `corrupt`, for these positions."""
    if special.mask is None:
        raise ConfigError(["the tokenizer has no mask token: this encoder cannot be pre-trained with masked language modelling"])
    inputs, targets = pieces.copy(), pieces[positions].astype(np.int64)
    fate = rng.random(len(positions))
    replaced = (fate >= MASKED) & (fate < MASKED + REPLACED)
    inputs[positions[fate < MASKED]] = special.mask
    inputs[positions[replaced]] = rng.choice(special.ordinary, int(replaced.sum()))
    return inputs, positions, targets


def _draw(candidates: Places, word_ids: Ids | None, share: float, rng: np.random.Generator) -> Places:
    """Positions to predict. Words are taken in random order until the share is reached; the word that exceeds it is taken with the
    probability that makes the expectation exact. Without `word_ids`, every piece is a word."""
    if not len(candidates):
        return candidates
    words = np.arange(len(candidates)) if word_ids is None else np.unique(word_ids[candidates], return_inverse=True)[1]
    lengths = np.bincount(words)
    order = rng.permutation(len(lengths))
    filled = np.cumsum(lengths[order])
    wanted = share * len(candidates)
    count = int(np.searchsorted(filled, wanted, side="right"))
    left = wanted - (filled[count - 1] if count else 0)
    count += bool(rng.random() * lengths[order[count]] < left)
    taken = np.zeros(len(lengths), dtype=bool)
    taken[order[: max(1, count)]] = True
    return candidates[taken[words]]


def marked(logits: np.ndarray[Any, Any], share: float) -> Places:
    """Positions of a sequence's marked pieces, ascending: those with a logit [n] above 0, but at most `share` of all predictable
    pieces, then those with the largest logits (Gu et al. 2020). Pieces that are never predicted have the logit -inf."""
    positive = np.flatnonzero(logits > 0)
    most = max(1, int(share * np.isfinite(logits).sum() + 1e-9))
    return np.sort(positive[np.argsort(-logits[positive], kind="stable")[:most]])


def as_many(logits: np.ndarray[Any, Any], share: float, rng: np.random.Generator) -> Places:
    """Control: as many random positions of a sequence as are `marked`, ascending."""
    return np.sort(rng.choice(np.flatnonzero(np.isfinite(logits)), len(marked(logits, share)), replace=False))


class Chunks(Sequence[tuple[Ids, Ids]]):
    """(pieces, word numbers) of every sequence, cut from the documents on access."""

    def __init__(self, pieces: Pieces, budget: int) -> None:
        self.pieces = pieces
        parts = -(-pieces.lengths // budget)  # sequences per document; 0 for an empty one
        self.document = np.repeat(np.arange(len(parts)), parts)
        self.part = np.arange(len(self.document)) - np.repeat(np.cumsum(parts) - parts, parts)
        self.parts = parts

    def __len__(self) -> int:
        return len(self.document)

    @overload
    def __getitem__(self, index: int) -> tuple[Ids, Ids]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Ids, Ids]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Ids, Ids] | list[tuple[Ids, Ids]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        document, start, end = (int(column[index]) for column in self.places)
        return self.pieces[document][start:end], self.pieces.words(document, start, end)

    @cached_property
    def places(self) -> tuple[Places, Places, Places]:
        """(document, first piece, piece after the last) of every sequence, each [sequences]."""
        length, parts = self.pieces.lengths[self.document], self.parts[self.document]
        return self.document, length * self.part // parts, length * (self.part + 1) // parts


def chunks(pieces: Pieces, budget: int) -> Chunks:
    """Cut documents into sequences of at most `budget` pieces, without loss.

    A long document is cut into the least number of sequences, of equal length, so that there is no short remainder without context.
    """
    if budget < 1:
        raise ValueError(f"sequences of {budget} pieces")
    return Chunks(pieces, budget)
