"""Input format of an encoder: special tokens, positions, token types, packed rows or padded batches."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.batches.special_tokens import Special


@dataclass(frozen=True, eq=False, kw_only=True)
class InputFormat:
    """Format of an encoder's batches."""

    special: Special
    """Special tokens around a text."""
    packable: bool
    """Whether texts may be packed into one row; else they are padded."""
    position_start: int
    """Position id of a text's first token: 0, or the padding id plus one for RoBERTa-like encoders."""
    takes_types: bool
    """Whether the encoder takes token type ids."""
    longest: int | None
    """Largest number of tokens of a text: the number of learned positions; None without learned positions."""
    takes_global: bool = False
    """Whether the encoder takes a mask of tokens with global attention (Longformer)."""
