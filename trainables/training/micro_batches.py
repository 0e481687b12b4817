"""Split a step's share of the batch into micro-batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from trainables.batches.input_format import InputFormat
from trainables.batches.pack import CHUNK, Batch, Example, collate
from trainables.training import memory
from trainables.training.footprint import Footprint

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Limit:
    """What a micro-batch may hold."""

    footprint: Footprint
    texts: int
    """Number of texts; 0: any."""
    bytes: float
    """Estimated bytes of several texts."""
    pass_bytes: float
    """Estimated bytes of the fractions of long texts in one call of the encoder."""

    def split(self, examples: Sequence[Example]) -> Iterator[range]:
        """Ranges of consecutive texts that are within the limit, or of one text."""
        start, size = 0, 0
        for i, example in enumerate(examples):
            cost = self.footprint.of(example)
            if i > start and (size + cost > self.bytes or i - start == self.texts):
                yield range(start, i)
                start, size = i, 0
            size += cost
        if len(examples) > start:
            yield range(start, len(examples))

    def chunk(self, examples: Sequence[Example]) -> int:
        """Largest number of tokens per call of the encoder for texts in fractions."""
        return min(CHUNK, self.footprint.tokens(self.pass_bytes, max(max(example.lengths) for example in examples)))

    def below(self, examples: Sequence[Example]) -> Limit:
        """The limit after memory ran out at these texts: what half of them holds. So as many shorter texts pass at once."""
        costs, middle = [self.footprint.of(example) for example in examples], len(examples) // 2
        if middle:
            half: float = max(sum(costs[:middle]), sum(costs[middle:]))
        else:  # the fractions of a text, which passed in calls of the encoder
            half = min(self.pass_bytes, *costs) / 2
        return replace(self, bytes=min(self.bytes, half), pass_bytes=min(self.pass_bytes, half))


@dataclass(frozen=True)
class MicroBatch:
    """Some texts of a step."""

    examples: Sequence[Example]
    batch: Batch

    @property
    def divisible(self) -> bool:
        """Whether smaller passes of the encoder are possible."""
        return len(self.examples) > 1 or any(len(chunk.lengths) > 1 for chunk in self.batch.chunks)


@dataclass(frozen=True)
class Share:
    """A rank's texts of a step, in micro-batches, in page-locked memory where a GPU reads them."""

    parts: tuple[MicroBatch, ...]
    limit: Limit


@dataclass(frozen=True)
class Lack:
    """Memory ran out in a step of this rank."""

    examples: Sequence[Example]
    """The texts of the micro-batch."""
    divisible: bool
    """Whether smaller passes are possible."""
    text: str


def prepare(before: Sequence[Example], examples: Sequence[Example], inputs: InputFormat, limit: Limit, pinned: bool) -> Share:
    """Build the micro-batches of `examples`; `before` are the texts of the global batch that come before them."""
    parts = []
    for texts in limit.split(examples):
        some = examples[texts.start : texts.stop]
        batch = collate(some, inputs, [*before, *examples[: texts.start]], limit.chunk(some))
        parts.append(MicroBatch(some, batch.pin_memory() if pinned else batch))
    return Share(tuple(parts), limit)


def in_halves(function: Callable[[Sequence[T]], R], items: Sequence[T]) -> list[tuple[Sequence[T], R]]:
    """[(items, their result)]: of all items at once, or, where memory runs out, of their halves. In their order.

    Raises MemoryError if a single item does not fit.
    """
    try:
        return [(items, function(items))]
    except (MemoryError, RuntimeError) as error:
        if not memory.out_of_memory(error):
            raise
        if len(items) == 1:
            raise MemoryError(f"a single text does not fit into memory: {error}") from error
    memory.release()
    middle = len(items) // 2
    return [*in_halves(function, items[:middle]), *in_halves(function, items[middle:])]
