"""Special tokens that a tokenizer puts around a text, and around and between the texts of a pair."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trainables.settings.errors import ConfigError

Tokenizer = Any
"""A transformers tokenizer. It must not change after its first use here."""
Ids = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Special:
    """Special tokens of a tokenizer, and the parts of its vocabulary that masking needs."""

    prefix: tuple[int, ...]
    """Ids before the text: [CLS] for BERT, none for XLNet."""
    suffix: tuple[int, ...]
    """Ids after the text: [SEP] for BERT, <sep> <cls> for XLNet."""
    prefix_types: tuple[int, ...]
    """Token types of the prefix."""
    suffix_types: tuple[int, ...]
    """Token types of the suffix."""
    text_type: int
    """Token type of the text."""
    pad: int
    mask: int | None
    """None if the tokenizer has no mask token."""
    reserved: tuple[int, ...]
    """Ids that represent no text: all special ones except the unknown piece. They are never predicted."""
    ordinary: Ids = field(compare=False, repr=False)
    """The vocabulary without special ids, ascending: random replacements are drawn from it."""
    pair: PairTokens
    """Special tokens of a pair of texts."""

    @property
    def count(self) -> int:
        """Number of special tokens of a text."""
        return len(self.prefix) + len(self.suffix)

    def wrap(self, ids: Ids) -> Ids:
        """A text's pieces with its special tokens, int32 [len(ids) + count]."""
        return np.concatenate((np.array(self.prefix, np.int32), ids, np.array(self.suffix, np.int32))).astype(np.int32)


def special_tokens(tokenizer: Tokenizer) -> Special:
    """Special tokens as the tokenizer itself adds them. Raises ConfigError if it changes the texts' pieces when it adds them."""
    (prefix, suffix), (prefix_types, suffix_types), (text_type,) = _added(tokenizer, 1)
    special = set(tokenizer.all_special_ids)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0  # never attended to
    return Special(
        prefix=prefix,
        suffix=suffix,
        prefix_types=prefix_types,
        suffix_types=suffix_types,
        text_type=text_type,
        pad=pad,
        mask=tokenizer.mask_token_id,
        reserved=tuple(sorted(special - {tokenizer.unk_token_id})),
        ordinary=np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int32),
        pair=PairTokens(*_added(tokenizer, 2)),
    )


def _added(tokenizer: Tokenizer, texts: int) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """(ids before, between and after this number of texts, their token types, the token types of the texts)."""
    whole = tokenizer(*["a text"] * texts, return_token_type_ids=True)
    ids, types = list(whole["input_ids"]), list(whole["token_type_ids"])
    text = list(tokenizer("a text", add_special_tokens=False)["input_ids"])
    gaps, text_types, at = [], [], 0
    for _ in range(texts):
        start = next((i for i in range(at, len(ids) - len(text) + 1) if ids[i : i + len(text)] == text), None)
        if not text or start is None:
            raise ConfigError(
                [f"the tokenizer {type(tokenizer).__name__} changes a text's pieces when it adds special tokens: {ids}, {text}"]
            )
        gaps.append(slice(at, start))
        text_types.append(types[start])
        at = start + len(text)
    gaps.append(slice(at, None))
    return tuple(tuple(ids[gap]) for gap in gaps), tuple(tuple(types[gap]) for gap in gaps), tuple(text_types)


Types = np.ndarray[Any, np.dtype[np.int8]]


@dataclass(frozen=True)
class PairTokens:
    """Special tokens of a pair: BERT's [CLS] a [SEP] b [SEP], RoBERTa's <s> a </s></s> b </s>, XLNet's a <sep> b <sep> <cls>."""

    ids: tuple[tuple[int, ...], ...]
    """Before the first text, between the two, after the second."""
    types: tuple[tuple[int, ...], ...]
    """Their token types."""
    text_types: tuple[int, ...]
    """Token types of the two texts."""

    @property
    def count(self) -> int:
        """Number of special tokens of a pair."""
        return sum(map(len, self.ids))

    def wrap(self, a: Ids, b: Ids) -> Ids:
        """The pieces of both texts with their special tokens, int32 [len(a) + len(b) + count]."""
        before, between, behind = (np.array(ids, np.int32) for ids in self.ids)
        return np.concatenate((before, a, between, b, behind))

    def types_of(self, a: int, b: int) -> Types:
        """Token types of a wrapped pair with `a` and `b` pieces, int8 [a + b + count]."""
        (before, between, behind), (first, second) = self.types, self.text_types
        return np.array([*before, *[first] * a, *between, *[second] * b, *behind], dtype=np.int8)

    def of_one_type(self) -> PairTokens:
        """The same for an encoder with a single token type, which separates the texts only by the tokens between them."""
        return replace(self, types=tuple((0,) * len(ids) for ids in self.ids), text_types=(0, 0))
