"""Estimate the memory of training from the shape of an encoder: what a pass keeps, what a device has for it. Imports no torch.

The loop bounds its micro-batches with it, and plans predict them with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainables.tables.free_memory import GIB

if TYPE_CHECKING:
    from trainables.batches.pack import Example

CPU_BYTES = GIB
"""What a pass may hold on a CPU: larger ones are not faster there. A constant, so that a seed has the same bits with any memory."""
LEAST_BYTES = GIB // 16
"""What a pass may hold however little memory there is: a smaller one would not save the process."""
USABLE = 0.8
"""Share of a GPU's free memory that passes may hold: the rest is for workspaces, fragments and what the estimate misses."""
CONTEXT_BYTES = GIB // 2
"""What a process is taken to hold on a GPU beside its tensors: its context, loaded kernels and workspaces."""
FLOAT = 4
"""Bytes of a float32, in which most is kept; under autocast a part has half of it."""
OWED = 3 * FLOAT
"""Bytes that training adds for each trained weight: its gradient and Adam's two moments."""


@dataclass(frozen=True)
class Footprint:
    """Estimated bytes that a forward pass keeps for the backward pass."""

    token: int
    """Per token: states of the encoder's layers."""
    square: int = 0
    """Per squared length of a sequence: probabilities of attention."""
    target: int = 0
    """Per predicted piece: logits over the vocabulary."""
    reader: int = 0
    """Per token: states of a biLSTM on the encoder's output."""

    def of(self, example: Example) -> int:
        """Bytes for a text, or for its fractions if all pass at once; for cached features those of the head alone."""
        tokens = len(example.ids)
        if example.features is not None:
            return example.features.nbytes + tokens * self.reader
        targets = 0 if example.masked is None else len(example.masked[1])
        return self.bytes_of(example.lengths, targets)

    def bytes_of(self, lengths: tuple[int, ...], targets: int = 0) -> int:
        """Bytes for sequences of these lengths with this number of predicted pieces."""
        squares = sum(length**2 for length in lengths)
        return sum(lengths) * (self.token + self.reader) + squares * self.square + targets * self.target

    def tokens(self, size: float, longest: int) -> int:
        """Number of tokens in sequences of at most this length that `size` bytes hold."""
        return int(min(size, 2**60) // (self.token + self.reader + longest * self.square))


def footprint_of(
    config: Any, *, squares: int, layers: int | None = None, recomputes: bool = False, predicts: bool = False, units: int = 0
) -> Footprint:
    """The footprint of a model on an encoder with this transformers configuration, of which it runs the lowest `layers` blocks.

    `squares`: see `kept_squares`; `recomputes`: with gradient checkpointing; `predicts`: with a masked language model's head;
    `units`: those of its LSTMs in each direction.

    Of a layer are kept: 10 H (its input, queries, keys, values, the attended states, and the masks of dropout and inputs of the
    norms after both parts) and 2 I (before and after the activation). One more layer stands for what the backward pass computes.
    Measured for MiniLM's shape in float32, the estimate is 0.83 to 1.08 of what a step adds to the memory of the process
    (benchmarks/step_memory.py); in bfloat16 it is 1.3 to 1.6. A last block that computes
    only what is read keeps almost a layer less, which is not subtracted.
    """
    width, layers = config.hidden_size, layers or config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    layer = 10 * width + 2 * inner
    heads = getattr(config, "num_attention_heads", 0) * squares
    token, square = ((layers + 1) * layer, (layers + 1) * heads) if not recomputes else (layers * width + 2 * layer, 2 * heads)
    # Logits, their logarithm and both gradients.
    target = 4 * config.vocab_size if predicts else 0
    # Gates, cells and states of both directions, their gradients, and the padded copies.
    reader = 20 * units
    return Footprint(FLOAT * token, FLOAT * square, FLOAT * target, FLOAT * reader)


def kept_squares(packable: bool, on_gpu: bool) -> int:
    """Number of arrays [heads, length, length] that a layer keeps: three in transformers' own attention, none in a GPU's kernel."""
    if not packable:
        return 3
    return 0 if on_gpu else 1


def room_on_gpu(free: float, owed: float) -> int:
    """Bytes that a pass may hold on a GPU with this many free bytes, of which training will take `owed`."""
    return power_of_two(USABLE * (free - owed))


def room_on_cpu(free: float, owed: float) -> int:
    """Bytes that a pass may hold on a CPU in a process with this many free bytes, of which training will take `owed`."""
    return min(CPU_BYTES, power_of_two((free - owed) / 2))


def granted(total: float, share: float = 1.0) -> float:
    """Bytes that the tensors of a process may take on a GPU with `total` bytes, of which it has a `share`."""
    return share * total - CONTEXT_BYTES


def power_of_two(size: float) -> int:
    """The largest that is no more than `size`, at least LEAST_BYTES."""
    return 1 << (max(int(size), LEAST_BYTES).bit_length() - 1)
