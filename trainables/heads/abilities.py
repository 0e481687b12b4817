"""What can be done with an encoder, found out by trying it. torch is imported where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.encoder.load import Base


@dataclass(frozen=True)
class Abilities:
    """What an encoder offers."""

    packed: bool
    """Texts lie side by side in one row; else they are padded in groups of like length."""
    masked: bool
    """Masked language modelling: there is a head for it in transformers."""
    pairs: bool
    """Next-sentence prediction beside it: the two texts of a pair have token types of their own."""
    types: bool
    """The encoder takes token types."""
    layers: int
    blocks: int
    """Blocks found; one where all layers share their weights."""
    longest: int | None
    """Most tokens of a text, special ones included: the number of learned positions; None without such."""
    notices: tuple[str, ...] = ()


def abilities_of(base: Base) -> Abilities:
    """What the encoder of a base offers."""
    from transformers import AutoModelForMaskedLM

    from trainables.encoder.layers import blocks_of
    from trainables.encoder.weights import NEW_POOLER
    from trainables.heads.next_sentence import base_fault

    masked = type(base.config) in AutoModelForMaskedLM._model_mapping
    return Abilities(
        packed=base.packable,
        masked=masked,
        pairs=masked and base_fault(base) is None,
        types=base.takes_types,
        layers=base.layers,
        blocks=len(blocks_of(base.model, base.layers)),
        longest=base.longest,
        notices=base.notices + ((f"{NEW_POOLER}, for pooling pooled",) if base.folder and base.pooler is None else ()),
    )
