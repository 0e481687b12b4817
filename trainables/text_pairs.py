"""Pairs of texts: what a tokenizer puts round and between them, and how many pieces of each are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trainables.tokenise import Ids

Types = np.ndarray[Any, np.dtype[np.int8]]


@dataclass(frozen=True)
class PairTokens:
    """Special tokens of a pair: BERT's [CLS] a [SEP] b [SEP], RoBERTa's <s> a </s></s> b </s>, XLNet's a <sep> b <sep> <cls>."""

    ids: tuple[tuple[int, ...], ...]
    """Before the first text, between the two, behind the second."""
    types: tuple[tuple[int, ...], ...]
    """Their token types."""
    text_types: tuple[int, ...]
    """Token types of the two texts."""

    @property
    def count(self) -> int:
        """Special tokens of a pair."""
        return sum(map(len, self.ids))

    def wrap(self, a: Ids, b: Ids) -> Ids:
        """The pieces of both texts with their special tokens, int32 [len(a) + len(b) + count]."""
        before, between, behind = (np.array(ids, np.int32) for ids in self.ids)
        return np.concatenate((before, a, between, b, behind))

    def types_of(self, a: int, b: int) -> Types:
        """Token types of that, for texts of `a` and `b` pieces."""
        (before, between, behind), (first, second) = self.types, self.text_types
        return np.array([*before, *[first] * a, *between, *[second] * b, *behind], dtype=np.int8)

    def of_one_type(self) -> PairTokens:
        """The same for an encoder that knows a single token type: it tells the texts by what stands between them."""
        return replace(self, types=tuple((0,) * len(ids) for ids in self.ids), text_types=(0, 0))


def longest_first(a: int, b: int, budget: int) -> tuple[int, int]:
    """How many of `a` and `b` pieces are kept so that both fit into `budget`: one at a time goes from the longer text.

    Where both are equally long the second loses the piece, as in BERT's own code and in transformers' `truncate_sequences`. (The
    `tokenizers` library divides the same, but an odd piece stays with the text that was the longer one, or with the second.)
    """
    if a + b <= budget:
        return a, b
    kept = min(a, max(budget - b, -(-budget // 2)))
    return kept, budget - kept
