"""Packed batches: the texts of a micro-batch side by side in one row, each attending to itself alone.

No compute is spent on padding, and the mathematics is that of a padded batch. Encoders that cannot be packed (the probe in
`packing_probe` finds out) get the same texts in padded groups of like length. Either way the encoder's answer is turned into
flat hidden states [T, H], all tokens of all texts in order, so that nothing behind it knows which path was taken.

Shapes: b texts, T tokens in all, L positions of a padded group, H hidden size, m predicted pieces.
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
"""Tokens that go through the encoder in one go where texts are in fractions."""


@dataclass(frozen=True)
class Example:
    """A text as the encoder sees it, with what it is trained towards."""

    ids: np.ndarray
    """Pieces with special tokens, int32 [length]."""
    label: int | np.ndarray | None = None
    """Class of the text, for fine-tuning; in a multi-label task 0 or 1 for each label, [labels]."""
    masked: tuple[np.ndarray, np.ndarray] | None = None
    """Positions within `ids` to predict and the pieces that belong there, for masked language modelling."""
    types: np.ndarray | None = None
    """Token types [length] of a pair of texts; None gives those of a single text."""
    label_weight: float = 1.0
    """What the loss over `label` counts, in units of what the batch's loss is a mean over."""
    fractions: tuple[int, ...] = ()
    """Lengths of the sequences that `ids` is made of, one behind the other; empty for a single one."""
    features: np.ndarray | None = None
    """What a frozen encoder says of it, float32, read from the disk when it is used; None where the encoder is to be run."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of each sequence."""
        return self.fractions or (len(self.ids),)

    @property
    def sequences(self) -> list[Example]:
        """What the encoder sees, each by itself."""
        return [Example(ids) for ids in np.split(self.ids, np.cumsum(self.fractions)[:-1])] if self.fractions else [self]


@dataclass(frozen=True)
class EncoderInput:
    """What one call of the encoder gets: a packed row [1, T], or a padded group [texts, L] with its attention mask."""

    input_ids: Tensor
    position_ids: Tensor | None
    token_type_ids: Tensor | None
    attention_mask: Tensor | None
    texts: tuple[int, ...]
    """Which texts of the batch it holds."""
    global_attention_mask: Tensor | None = None
    """1 at each text's [CLS]-like token, which attends to all others; for the encoders that take it."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch: b texts with T tokens. Where texts are in fractions, the encoder sees the `chunks` alone."""

    lengths: tuple[int, ...]
    """Tokens of each text, or of each fraction."""
    parts: tuple[EncoderInput, ...]
    """The encoder's calls: one packed row, or several padded groups."""
    order: Tensor | None
    """Padded only, int64 [T]: where each token lies in the concatenated, flattened parts."""
    pool_index: Tensor
    """int64 [b]: flat position of each text's [CLS]-like token, the first for BERT, the last for XLNet."""
    offsets: Offsets
    """What precedes this micro-batch in its global batch: places the bits of dropout."""
    labels: Tensor | None = None
    """int64 [b], or of a multi-label task [b, labels]."""
    label_weights: Tensor | None = None
    """float32 [b]; None where all are 1."""
    masked_index: Tensor | None = None
    """int64 [m]: flat positions to predict."""
    masked_targets: Tensor | None = None
    """int64 [m]: the pieces that belong there."""
    counts: tuple[int, ...] = ()
    """Fractions of each text; empty where texts are whole."""
    chunks: tuple[Batch, ...] = ()
    """The fractions in order, in batches of their own that are small enough for the memory."""
    features: Tensor | None = None
    """What a frozen encoder says of them, float32, a row for each text, fraction or piece; there are no `parts` then."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The batch on a device; from pinned memory the copy overlaps with what the device computes."""
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


def collate(examples: Sequence[Example], inputs: InputFormat, before: Sequence[Example] = ()) -> Batch:
    """One micro-batch of `examples`; `before` are the examples of the same global batch that stand before them.

    Raises ConfigError for a text that the encoder has no positions for.
    """
    lengths = [length for example in examples for length in example.lengths]
    if inputs.longest is not None and max(lengths) > inputs.longest:
        raise ConfigError([f"max_length: a text of {max(lengths)} pieces, but the encoder takes at most {inputs.longest}"])
    sequences = [sequence for example in examples for sequence in example.sequences]
    offsets = Offsets().after([length for example in before for length in example.lengths], len(before))
    labels = [example.label for example in examples if example.label is not None]
    about: dict[str, Any] = {"labels": torch.from_numpy(np.array(labels, dtype=np.int64)) if labels else None}
    weights = [example.label_weight for example in examples]
    about["label_weights"] = torch.tensor(weights) if any(weight != 1 for weight in weights) else None
    features = [example.features for example in examples if example.features is not None]
    if features:
        about["counts"] = tuple(len(example.lengths) for example in examples)
        about["features"] = torch.from_numpy(np.concatenate(features))
        return Batch(tuple(lengths), (), None, torch.empty(0, dtype=torch.int64), offsets, **about)
    if any(example.fractions for example in examples):
        chunks = tuple(_chunks(sequences, inputs, offsets))
        counts = tuple(len(example.lengths) for example in examples)
        return Batch(tuple(lengths), (), None, chunks[0].pool_index, offsets, counts=counts, chunks=chunks, **about)
    masked = [example.masked for example in examples]
    if any(pair is not None for pair in masked):
        starts = np.cumsum(lengths) - lengths
        about["masked_index"] = _joined([start + pair[0] for start, pair in zip(starts, masked, strict=True) if pair])
        about["masked_targets"] = _joined([pair[1] for pair in masked if pair])
    return replace(_encoded(sequences, inputs, offsets), **about)


def _encoded(sequences: Sequence[Example], inputs: InputFormat, offsets: Offsets) -> Batch:
    """What the encoder sees of some sequences."""
    lengths = np.array([len(sequence.ids) for sequence in sequences], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    first = _first(lengths, inputs)
    parts, order = _packed(sequences, lengths, inputs) if inputs.packable else _padded(sequences, lengths, starts, inputs)
    return Batch(tuple(lengths.tolist()), parts, order, torch.from_numpy(starts + first), offsets)


def _first(length: Any, inputs: InputFormat) -> Any:
    """Place of the [CLS]-like token in a text, or in several."""
    return 0 if inputs.special.prefix else length - 1


def _chunks(sequences: Sequence[Example], inputs: InputFormat, offsets: Offsets) -> Iterator[Batch]:
    """Fractions in order, in batches of at most CHUNK tokens."""
    chunk: list[Example] = []
    for sequence in [*sequences, None]:
        if chunk and (sequence is None or sum(len(each.ids) for each in chunk) + len(sequence.ids) > CHUNK):
            yield _encoded(chunk, inputs, offsets)
            offsets = offsets.after([len(each.ids) for each in chunk], texts=0)
            chunk = []
        if sequence is not None:
            chunk.append(sequence)


def _joined(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _packed(sequences: Sequence[Example], lengths: np.ndarray, inputs: InputFormat) -> tuple[tuple[EncoderInput, ...], None]:
    """All texts in one row [1, T], positions beginning anew with each."""
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
    """Positions of a text in a padded group: its length and less than eight or a quarter more, whatever stands beside it."""
    step = max(8, 1 << max(0, int(length - 1).bit_length() - 3))
    return -(-length // step) * step


def _padded(
    sequences: Sequence[Example], lengths: np.ndarray, starts: np.ndarray, inputs: InputFormat
) -> tuple[tuple[EncoderInput, ...], Tensor]:
    """Texts of like length side by side [texts, L], and where each token of each text then lies."""
    widths: dict[int, list[int]] = {}
    for text, length in enumerate(lengths.tolist()):
        widths.setdefault(padded_width(length), []).append(text)
    order = np.empty(int(lengths.sum()), dtype=np.int64)
    parts, begin = [], 0
    for width, texts in sorted(widths.items()):
        # Never as many texts as positions: the axis of the texts in any tensor is then plain from its size.
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
        position_ids=None,  # the model's own numbering knows padding
        token_type_ids=torch.from_numpy(types) if inputs.takes_types else None,
        attention_mask=torch.from_numpy(mask),
        texts=tuple(members),
        global_attention_mask=torch.from_numpy(attends_to_all) if inputs.takes_global else None,
    )


@dataclass(frozen=True)
class Offsets:
    """What stands before a micro-batch in its global batch."""

    texts: int = 0
    sequences: int = 0
    """Texts, or fractions of them."""
    tokens: int = 0
    squares: int = 0
    """Sum over the texts of their squared length, each in whole draws (four elements)."""

    def after(self, lengths: Sequence[int], texts: int | None = None) -> Offsets:
        """The place behind sequences of these lengths, which make up as many texts, or so many."""
        squares = sum(square_draws(length) for length in lengths)
        texts = len(lengths) if texts is None else texts
        return Offsets(self.texts + texts, self.sequences + len(lengths), self.tokens + sum(lengths), self.squares + squares)


def square_draws(length: int) -> int:
    """Draws of four elements that hold one head's attention [length, length]."""
    return -(-length * length // 4)
