"""Packed batches: the texts of a micro-batch are concatenated in one row, and a text attends only to itself.

Packing saves the compute for padding and gives the same results as a padded batch. Encoders that cannot be packed (see
`encoder/packing_probe.py`) get the same texts in padded groups of similar length. In both cases the encoder's output becomes flat
hidden states [T, H], all tokens of all texts in order, so that later code does not depend on the format.

Shapes: b texts, T tokens in total, L positions of a padded group, H hidden size, m predicted pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.batches.input_format import InputFormat
from trainables.settings.errors import ConfigError

CHUNK = 1 << 14
"""Largest number of tokens per call of the encoder if texts are split into fractions."""


@dataclass(frozen=True)
class Example:
    """A text as the encoder reads it, with its training targets."""

    ids: np.ndarray
    """Pieces with special tokens, int32 [length]."""
    label: int | np.ndarray | None = None
    """Class of the text, for fine-tuning; in a multi-label task 0 or 1 per label, [labels]."""
    masked: tuple[np.ndarray, np.ndarray] | None = None
    """(positions in `ids` to predict, the original pieces there), for masked language modelling."""
    types: np.ndarray | None = None
    """Token types [length] of a pair of texts; None: those of a single text."""
    label_weight: float = 1.0
    """Weight of the loss over `label`, relative to the units over which the batch's loss is a mean."""
    fractions: tuple[int, ...] = ()
    """Lengths of the sequences that are concatenated in `ids`; empty for a single one."""
    features: np.ndarray | None = None
    """Cached outputs of a frozen encoder, float32, read from disk on use; None: the encoder runs."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of each sequence."""
        return self.fractions or (len(self.ids),)

    @property
    def sequences(self) -> list[Example]:
        """The sequences that the encoder reads, one Example per sequence."""
        return [Example(ids) for ids in np.split(self.ids, np.cumsum(self.fractions)[:-1])] if self.fractions else [self]


@dataclass(frozen=True)
class EncoderInput:
    """Input of one call of the encoder: a packed row [1, T], or a padded group [texts, L] with its attention mask."""

    input_ids: Tensor
    position_ids: Tensor | None
    token_type_ids: Tensor | None
    attention_mask: Tensor | None
    texts: tuple[int, ...]
    """Indices of its texts in the batch."""
    global_attention_mask: Tensor | None = None
    """1 at the [CLS]-like token of a text, which has global attention; only for encoders that take it."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch: b texts with T tokens. If texts are split into fractions, the encoder reads only the `chunks`."""

    lengths: tuple[int, ...]
    """Number of tokens per text, or per fraction."""
    parts: tuple[EncoderInput, ...]
    """The encoder's calls: one packed row, or several padded groups."""
    order: Tensor | None
    """Padded only, int64 [T]: position of the tokens in the concatenated, flattened parts."""
    pool_index: Tensor
    """int64 [b]: flat positions of the texts' [CLS]-like tokens, the first token for BERT, the last for XLNet.

    Empty without `parts`.
    """
    offsets: Offsets
    """Position of this micro-batch in its global batch, which determines the bits of dropout."""
    ends: Tensor
    """int32 [len(lengths) + 1]: 0, and the end of every sequence."""
    labels: Tensor | None = None
    """int64 [b], or in a multi-label task [b, labels]."""
    label_weights: Tensor | None = None
    """float32 [b]; None if all are 1."""
    masked_index: Tensor | None = None
    """int64 [m]: flat positions to predict."""
    masked_targets: Tensor | None = None
    """int64 [m]: the original pieces there."""
    counts: tuple[int, ...] = ()
    """Number of fractions per text; empty if texts are not split."""
    chunks: tuple[Batch, ...] = ()
    """The fractions in order, in batches that fit into memory."""
    features: Tensor | None = None
    """Cached outputs of a frozen encoder, float32, one row per text, fraction or piece; then there are no `parts`."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The batch on a device; from pinned memory the copy overlaps with computation."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> Batch:
        parts = tuple(_changed(part, change) for part in self.parts)
        chunks = tuple(chunk._each(change) for chunk in self.chunks)
        changed: Batch = _changed(replace(self, parts=parts, chunks=chunks), change)
        return changed


def _changed(record: Any, change: Any) -> Any:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return replace(record, **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)})


def collate(examples: Sequence[Example], inputs: InputFormat, before: Sequence[Example] = (), chunk: int | None = None) -> Batch:
    """Build one micro-batch of `examples`; `before` are the preceding examples of the same global batch.

    `chunk`: largest number of tokens per call of the encoder if texts are split into fractions; by default CHUNK.
    Raises ConfigError for a text with more tokens than the encoder has positions.
    """
    lengths = [length for example in examples for length in example.lengths]
    if inputs.longest is not None and max(lengths) > inputs.longest:
        raise ConfigError([f"max_length: a text of {max(lengths)} pieces, but the encoder takes at most {inputs.longest}"])
    sequences = [sequence for example in examples for sequence in example.sequences]
    offsets = Offsets().after([length for example in before for length in example.lengths], len(before))
    labels = [example.label for example in examples if example.label is not None]
    fields_of_texts: dict[str, Any] = {"labels": torch.from_numpy(np.array(labels, dtype=np.int64)) if labels else None}
    weights = [example.label_weight for example in examples]
    fields_of_texts["label_weights"] = torch.tensor(weights) if any(weight != 1 for weight in weights) else None
    features = [example.features for example in examples if example.features is not None]
    if features or any(example.fractions for example in examples):
        fields_of_texts["counts"] = tuple(len(example.lengths) for example in examples)
        if features:
            fields_of_texts["features"] = torch.from_numpy(np.concatenate(features))
        else:
            fields_of_texts["chunks"] = tuple(_chunks(sequences, inputs, offsets, CHUNK if chunk is None else chunk))
        return Batch(tuple(lengths), (), None, torch.empty(0, dtype=torch.int64), offsets, ends_of(lengths), **fields_of_texts)
    masked = [example.masked for example in examples]
    if any(pair is not None for pair in masked):
        starts = np.cumsum(lengths) - lengths
        fields_of_texts["masked_index"] = _joined([start + pair[0] for start, pair in zip(starts, masked, strict=True) if pair])
        fields_of_texts["masked_targets"] = _joined([pair[1] for pair in masked if pair])
    return replace(_encoded(sequences, inputs, offsets), **fields_of_texts)


def _encoded(sequences: Sequence[Example], inputs: InputFormat, offsets: Offsets) -> Batch:
    """Batch with the encoder's inputs for some sequences."""
    lengths = np.array([len(sequence.ids) for sequence in sequences], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    first = _first(lengths, inputs)
    parts, order = _packed(sequences, lengths, inputs) if inputs.packable else _padded(sequences, lengths, starts, inputs)
    return Batch(tuple(lengths.tolist()), parts, order, torch.from_numpy(starts + first), offsets, ends_of(lengths))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, for a GPU by way of page-locked memory, so that nothing waits for the copy."""
    return (tensor if device.type == "cpu" else tensor.pin_memory()).to(device, non_blocking=True)


def ends_of(lengths: Sequence[int] | np.ndarray) -> Tensor:
    """int32 [len(lengths) + 1]: 0, and the end of every sequence of these lengths."""
    return torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32))


def _first(length: Any, inputs: InputFormat) -> Any:
    """Position of the [CLS]-like token in a text of this length; also for an array of lengths."""
    return 0 if inputs.special.prefix else length - 1


def _chunks(sequences: Sequence[Example], inputs: InputFormat, offsets: Offsets, most: int) -> Iterator[Batch]:
    """Fractions in order, in batches of at most `most` tokens, or of one fraction."""
    chunk: list[Example] = []
    for sequence in [*sequences, None]:
        if chunk and (sequence is None or sum(len(member.ids) for member in chunk) + len(sequence.ids) > most):
            yield _encoded(chunk, inputs, offsets)
            offsets = offsets.after([len(member.ids) for member in chunk], texts=0)
            chunk = []
        if sequence is not None:
            chunk.append(sequence)


def _joined(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _packed(sequences: Sequence[Example], lengths: np.ndarray, inputs: InputFormat) -> tuple[tuple[EncoderInput, ...], None]:
    """All texts in one row [1, T]; positions restart at every text."""
    ids = np.concatenate([sequence.ids for sequence in sequences]).astype(np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths]) + inputs.position_start
    types = np.concatenate([_types(sequence, inputs) for sequence in sequences], dtype=np.int64) if inputs.takes_types else None
    part = EncoderInput(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(positions)[None],
        token_type_ids=None if types is None else torch.from_numpy(types)[None],
        attention_mask=None,
        texts=tuple(range(len(sequences))),
    )
    return (part,), None


def token_types(length: int, inputs: InputFormat) -> np.ndarray:
    """Token type ids of a text of `length` pieces with its special tokens."""
    special = inputs.special
    middle = length - len(special.prefix_types) - len(special.suffix_types)
    return np.array([*special.prefix_types, *[special.text_type] * middle, *special.suffix_types], dtype=np.int64)


def _types(example: Example, inputs: InputFormat) -> np.ndarray:
    return token_types(len(example.ids), inputs) if example.types is None else example.types


def padded_width(length: int) -> int:
    """Width of the padded group for a text of this length: less than eight positions, or a quarter, longer than the text.

    It does not depend on the other texts.
    """
    step = max(8, 1 << max(0, int(length - 1).bit_length() - 3))
    return -(-length // step) * step


def _padded(
    sequences: Sequence[Example], lengths: np.ndarray, starts: np.ndarray, inputs: InputFormat
) -> tuple[tuple[EncoderInput, ...], Tensor]:
    """(padded groups [texts, L] of texts of similar length, positions int64 [T] of all tokens in the flattened groups)."""
    widths: dict[int, list[int]] = {}
    for text, length in enumerate(lengths.tolist()):
        widths.setdefault(padded_width(length), []).append(text)
    order = np.empty(int(lengths.sum()), dtype=np.int64)
    parts, begin = [], 0
    for width, texts in sorted(widths.items()):
        # Never as many texts as positions, so that the size of an axis shows whether it runs over texts.
        for members in [texts[:-1], texts[-1:]] if len(texts) == width else [texts]:
            parts.append(_group(sequences, lengths, members, width, inputs))
            for row, text in enumerate(members):
                length = lengths[text]
                order[starts[text] : starts[text] + length] = np.arange(length) + begin + row * width
            begin += width * len(members)
    return tuple(parts), torch.from_numpy(order)


def _group(
    sequences: Sequence[Example], lengths: np.ndarray, members: Sequence[int], width: int, inputs: InputFormat
) -> EncoderInput:
    ids = np.full((len(members), width), inputs.special.pad, dtype=np.int64)
    mask = np.zeros((len(members), width), dtype=np.int64)
    types = np.zeros((len(members), width), dtype=np.int64)
    attends_to_all = np.zeros((len(members), width), dtype=np.int64)
    for row, text in enumerate(members):
        length = int(lengths[text])
        attends_to_all[row, _first(length, inputs)] = 1
        ids[row, :length] = sequences[text].ids
        mask[row, :length] = 1
        types[row, :length] = _types(sequences[text], inputs)
    return EncoderInput(
        input_ids=torch.from_numpy(ids),
        position_ids=None,  # the model's own numbering handles padding
        token_type_ids=torch.from_numpy(types) if inputs.takes_types else None,
        attention_mask=torch.from_numpy(mask),
        texts=tuple(members),
        global_attention_mask=torch.from_numpy(attends_to_all) if inputs.takes_global else None,
    )


@dataclass(frozen=True)
class Offsets:
    """Counts of everything before a micro-batch in its global batch."""

    texts: int = 0
    sequences: int = 0
    """Texts, or fractions of them."""
    tokens: int = 0
    squares: int = 0
    """Sum of the squared lengths of the texts, every summand in whole draws (four elements)."""

    def after(self, lengths: Sequence[int], texts: int | None = None) -> Offsets:
        """Offsets after sequences of these lengths, which form `texts` texts; by default one per sequence."""
        squares = sum(square_draws(length) for length in lengths)
        texts = len(lengths) if texts is None else texts
        return Offsets(self.texts + texts, self.sequences + len(lengths), self.tokens + sum(lengths), self.squares + squares)


def square_draws(length: int) -> int:
    """Number of draws of four elements for one head's attention [length, length]."""
    return -(-length * length // 4)
