"""What an encoder takes as input: special tokens, positions, token types, packed rows or padded batches."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.batches.special_tokens import Special


@dataclass(frozen=True, eq=False, kw_only=True)
class InputFormat:
    """What batches for an encoder look like."""

    special: Special
    """The special tokens round a text."""
    packable: bool
    """Whether texts may be packed into one row; else they are padded."""
    position_start: int
    """Position id of a text's first token: 0, or the padding id plus one for RoBERTa-like encoders."""
    takes_types: bool
    """Whether the encoder takes token type ids."""
    longest: int | None
    """Most tokens of a text: the number of its learned positions; None without such."""
    takes_global: bool = False
    """Whether the encoder can be told which tokens attend to all others and are attended to by all (Longformer)."""
