"""Features that an encoder supports, determined by loading and testing it. torch is imported only if it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.encoder.load import Base


@dataclass(frozen=True)
class Abilities:
    """Features of an encoder."""

    packed: bool
    """Texts are packed into one row; else they are padded in groups of similar length."""
    masked: bool
    """Masked language modelling: transformers has a head for it."""
    pairs: bool
    """Next-sentence prediction: the two texts of a pair have different token types."""
    types: bool
    """The encoder takes token types."""
    layers: int
    blocks: int
    """Number of blocks; one if all layers share their weights."""
    longest: int | None
    """Largest number of tokens of a text, special ones included: the number of learned positions; None without them."""
    notices: tuple[str, ...] = ()


def abilities_of(base: Base) -> Abilities:
    """Features of the encoder of a base."""
    from transformers import AutoModelForMaskedLM

    from trainables.encoder.layers import blocks_of
    from trainables.encoder.load import bfloat16_notices
    from trainables.encoder.weights import NEW_POOLER
    from trainables.heads.next_sentence import base_fault

    new_pooler = (f"{NEW_POOLER}, for pooling pooled",) if base.folder and base.pooler is None else ()
    masked = type(base.config) in AutoModelForMaskedLM._model_mapping
    return Abilities(
        packed=base.packable,
        masked=masked,
        pairs=masked and base_fault(base) is None,
        types=base.takes_types,
        layers=base.layers,
        blocks=len(blocks_of(base.model, base.layers)),
        longest=base.longest,
        notices=(*base.notices, *bfloat16_notices(base), *new_pooler),
    )
