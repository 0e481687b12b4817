"""Tiny encoders of the families without a tokenizer: random weights and random pieces, as the probe and the heads take them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from transformers import AutoConfig

from tests.trainables.families import FAMILIES, strong
from trainables.batches.pack import Example
from trainables.batches.special_tokens import PairTokens, Special
from trainables.encoder import load
from trainables.encoder.load import Base

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 100,
    "max_position_embeddings": 300,
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 2,
    "cls_token_id": 3,
    "sep_token_id": 2,
}
PAD_ONE = ("roberta", "xlm-roberta", "mpnet")
"""Those whose padding piece has the number 1."""


def tiny_config(kind: str, **changes: Any) -> Any:
    pad = {"pad_token_id": 1} if kind in PAD_ONE else {}
    fields = {name: value for name, value in (COMMON | pad | FAMILIES[kind].fields | changes).items() if value is not None}
    return AutoConfig.for_model(kind, **fields)


@cache
def tiny_base(kind: str, **changes: Any) -> Base:
    """An encoder with weights large enough that mixing up texts shows."""
    config = tiny_config(kind, **changes)
    return load.base_of(strong(config), special_of(kind, config.pad_token_id))


def special_of(kind: str, pad: int) -> Special:
    """Special tokens as the family puts them: round the text, for XLNet behind it."""
    ends = ((), (2, 3), (), (0, 2)) if kind == "xlnet" else ((3,), (2,), (0,), (0,))
    bert, xlnet = (((3,), (2,), (2,)), ((0,), (0,), (1,))), (((), (2,), (2, 3)), ((), (0,), (1, 2)))
    return Special(
        *ends,
        text_type=0,
        pad=pad,
        mask=4,
        reserved=(0, 1, 2, 3, 4),
        ordinary=np.arange(5, 100, dtype=np.int32),
        pair=PairTokens(*(xlnet if kind == "xlnet" else bert), (0, 1)),
    )


def examples_of(base: Base, lengths: Sequence[int], seed: int = 0) -> list[Example]:
    """Random texts of these lengths, special tokens included, in three classes, with a piece or two to predict."""
    rng = np.random.default_rng(seed)
    found = []
    for length in lengths:
        ids = base.special.wrap(rng.integers(5, 100, max(0, length - 2)).astype(np.int32))[:length]
        places = np.unique(rng.integers(0, length, 2))
        found.append(Example(ids, int(rng.integers(3)), (places, rng.integers(5, 100, len(places)))))
    return found
