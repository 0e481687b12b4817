"""Random bits of dropout as a pure function of seed, step and position in the global batch: a resume needs no random state.

On the CPU they are also a function of the site: the dropped elements depend neither on the split of a batch into micro-batches or
over workers, nor on earlier computations. A *site* is one application of dropout in a forward pass, numbered in the order of the
calls. The bits of a site are one PCG64DXSM stream (O'Neill 2014), reached by jumping ahead. Fifteen bits decide on an element, so p
is exact to 1/32768, and kept elements are scaled by the exact rate. A decision is a sign: negative drops. Signs avoid casts from
booleans, which cost CPUs more than the random numbers.

On an accelerator torch's own dropout draws from the device's default generator, which is seeded for every micro-batch. The
distribution is the same; which elements drop out depends on the micro-batch and on the kernels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from trainables.kernels.generators import default_generator, numbers_from

if TYPE_CHECKING:
    from trainables.batches.pack import Batch, EncoderInput

LEVELS = 1 << 15
LANES = 0x0001_0001_0001_0001
"""A one in all four 16-bit lanes of a draw."""
SITE = 1 << 80
"""Distance between the streams of two sites in draws: more than any batch needs."""
TEXT = 1 << 40
"""Distance between the texts of a padded batch within a site, in draws."""
SITES = 1 << 12
"""More sites than any encoder has."""
CHUNK = 1 << 16
"""Elements processed at a time, so that they stay in a core's cache."""


class Stream:
    """The bits of one forward pass of one micro-batch."""

    def __init__(self, seed: int, step: int, batch: Batch, site: int = -1) -> None:
        self.batch = batch
        self.site = site
        self.rows: Tensor | None = None
        """int64 [r]: the tokens of an input with r rows, where the last block computes only these; None: no such input."""
        self._key = (seed, step)
        self._generator = np.random.PCG64DXSM(np.random.SeedSequence((seed, step)))
        self._draw = np.random.Generator(self._generator)
        self._start = self._generator.state
        device = batch.pool_index.device
        self.generator = default_generator(device) if accelerated(device) else None
        """The generator from which an accelerator draws; None on the CPU."""

    def part(self, batch: Batch, site: int) -> Stream:
        """The stream of a part of this micro-batch, after `site`."""
        return Stream(*self._key, batch, site)

    def seek(self, draw: int) -> None:
        """Move to a draw of the current site; a draw decides on four elements."""
        self._generator.state = self._start
        self._generator.advance(self.site * SITE + draw)

    def signs(self, count: int, p: float) -> Tensor:
        """int16 [count], positive where an element is kept, negative where it is dropped; consumes whole draws."""
        draws = self._draw.integers(0, 1 << 64, -(-count // 4), dtype=np.uint64)
        # Fifteen random bits plus the threshold: the carry into the sign bit is the decision. No carry crosses a lane.
        np.bitwise_and(draws, np.uint64((LEVELS - 1) * LANES), out=draws)
        np.add(draws, np.uint64(threshold(p) * LANES), out=draws)
        return torch.from_numpy(draws.view(np.int16)[:count])


def accelerated(device: torch.device) -> bool:
    """Whether a device has kernels and random numbers of its own; on the CPU they are ours."""
    return device.type != "cpu"


def threshold(p: float) -> int:
    """Number of dropped levels among 32768."""
    return min(round(p * LEVELS), LEVELS - 1)


def scale(p: float) -> float:
    """Factor of kept elements: the inverse of the exact rate."""
    return LEVELS / (LEVELS - threshold(p))


_stream: Stream | None = None
_replaced: _Replaced | None = None


def current() -> Stream | None:
    """The current stream; None outside `dropout_bits`, where nothing is dropped."""
    return _stream


@contextmanager
def dropout_bits(seed: int, step: int, batch: Batch) -> Iterator[None]:
    """Within the block, dropout is a function of `seed`, `step` and the position of `batch` in its global batch.

    Outside of such a block nothing is dropped. Afterwards the device's generator goes on where it was before.
    """
    stream, place = Stream(seed, step, batch), (seed, step, batch.offsets.sequences)
    device_seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)
    with _drawn_from(stream), numbers_from(stream.generator, device_seed):
        yield


@contextmanager
def _drawn_from(stream: Stream | None) -> Iterator[None]:
    global _stream
    before, _stream = _stream, stream
    try:
        yield
    finally:
        _stream = before


def same_bits() -> AbstractContextManager[None]:
    """Within the block, dropout gets the bits that it would get at the time of this call: for a later recomputation.

    Torch's `checkpoint` could restore only the generators of those devices that it finds among its arguments.
    """
    stream, mode = _stream, _replaced
    state = None if stream is None or stream.generator is None else stream.generator.get_state()
    return _once_more(stream, mode, -1 if stream is None else stream.site, None if mode is None else mode.part, state)


@contextmanager
def _once_more(
    stream: Stream | None, mode: _Replaced | None, site: int, part: EncoderInput | None, state: Tensor | None
) -> Iterator[None]:
    with _drawn_from(stream), _replacing(mode):
        if stream is None:
            yield
            return
        reached, stream.site = stream.site, site
        if mode is not None:
            reached_part, mode.part = mode.part, part
        try:
            with numbers_from(stream.generator, state):
                yield
        finally:
            stream.site = reached
            if mode is not None:
                mode.part = reached_part


def in_parts(function: Callable[[Batch], Tensor], parts: Sequence[Batch]) -> list[Tensor]:
    """Apply `function` to every part of a micro-batch, on the CPU with the bits of a single pass over the whole micro-batch.

    If there are several parts, only the results are kept: the backward pass recomputes the parts one by one, so that memory holds
    one at a time.
    """
    outer, site = _stream, -1 if _stream is None else _stream.site

    def one(part: Batch) -> Tensor:
        if outer is None:
            return function(part)
        stream = outer.part(part, site)
        with _drawn_from(stream):
            result = function(part)
        outer.site = stream.site
        return result

    if len(parts) == 1 or not torch.is_grad_enabled():
        return [one(part) for part in parts]
    return [checkpoint(one, part, **recomputing(lambda: (nullcontext(), same_bits()))) for part in parts]


def recomputing(contexts: Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]) -> dict[str, Any]:
    """Arguments of torch's `checkpoint`; `contexts` gives those of the first computation and of the second one."""
    return {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}


class Dropout(nn.Module):
    """Replacement of nn.Dropout in a packed pass: same rate, bits from the current stream.

    Its input has one row of the last axis per token of the micro-batch, or per text.
    """

    def __init__(self, p: float, per_text: bool = False) -> None:
        super().__init__()
        self.p = p
        self.per_text = per_text

    def forward(self, x: Tensor) -> Tensor:
        if _stream is None or not self.training or threshold(self.p) == 0:
            return x
        _stream.site += 1
        if accelerated(x.device):
            return nn.functional.dropout(x, self.p)
        offsets, rows = _stream.batch.offsets, _stream.rows
        first = offsets.texts if self.per_text else offsets.tokens
        some = rows is not None and not self.per_text and x.numel() == len(rows) * x.shape[-1]
        dropped: Tensor = _Dropped.apply(x, _stream, self.p, first, rows if some else None)  # type: ignore[no-untyped-call]
        return dropped


class _Dropped(torch.autograd.Function):
    """x * keep * scale, in chunks that fit into the cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stream: Stream, p: float, first_row: int, chosen: Tensor | None) -> Tensor:
        width = x.shape[-1]
        draws = -(-width // 4)  # per row
        rows = x.reshape(-1, width)
        out, keep = torch.empty_like(rows), torch.empty_like(rows)
        stream.seek(first_row * draws)
        step = max(1, CHUNK // width)
        of_chosen = None
        if chosen is not None:  # all up to the last one are drawn: faster than a jump to each
            of_chosen = stream.signs((int(chosen.numpy()[-1]) + 1) * draws * 4, p).view(-1, draws * 4).index_select(0, chosen)
        for i in range(0, len(rows), step):
            part = rows[i : i + step]
            if of_chosen is None:
                signs = stream.signs(len(part) * draws * 4, p).view(len(part), draws * 4)[:, :width]
            else:
                signs = of_chosen[i : i + step, :width]
            torch.mul(part, keep[i : i + step].copy_(signs).clamp_(0, 1), out=out[i : i + step]).mul_(scale(p))
        ctx.save_for_backward(keep)
        ctx.scale = scale(p)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (keep,) = ctx.saved_tensors
        rows = grad.reshape(keep.shape)
        out = torch.empty_like(keep)
        step = max(1, CHUNK // keep.shape[-1])
        for i in range(0, len(rows), step):
            torch.mul(rows[i : i + step], keep[i : i + step], out=out[i : i + step]).mul_(ctx.scale)
        return out.view(grad.shape), None, None, None, None


class _Replaced(TorchFunctionMode):
    """Replaces every call of torch's dropout in a padded pass; the bits depend on the text, not on its place in the padding."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self.part: EncoderInput | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not nn.functional.dropout:
            return func(*args, **kwargs)
        bound = inspect.signature(nn.functional.dropout).bind(*args, **kwargs)
        bound.apply_defaults()
        x, p, training = (bound.arguments[name] for name in ("input", "p", "training"))
        return self.dropped(x, p) if training and p > 0 else x

    def dropped(self, x: Tensor, p: float) -> Tensor:
        stream, part = self.stream, self.part
        stream.site += 1
        if accelerated(x.device):
            return nn.functional.dropout(x, p)
        assert part is not None
        axis = text_axis(x.shape, len(part.texts))
        if axis is None:  # shared by all texts
            return x * self.keep(x.numel(), p, 0).view(x.shape) * scale(p)
        moved = x.movedim(axis, 0)
        first, count = stream.batch.offsets.sequences + 1, x.numel() // len(part.texts)
        keep = torch.stack([self.keep(count, p, (first + text) * TEXT) for text in part.texts])
        return x * keep.view(moved.shape).movedim(0, axis) * scale(p)

    def keep(self, count: int, p: float, draw: int) -> Tensor:
        self.stream.seek(draw)
        return self.stream.signs(count, p) > 0


def text_axis(shape: Sequence[int], texts: int) -> int | None:
    """Axis of a tensor in a padded pass that runs over the texts; None for a tensor that all share, such as a table of positions.

    Attention [texts * heads, ...] may have folded its heads into this axis; in XLNet the texts are the second axis.
    """
    if shape[0] == texts:
        return 0
    if len(shape) < 3:
        return None
    return 1 if shape[1] == texts else 0 if shape[0] % texts == 0 else None


@contextmanager
def replaced_dropout(uneven: bool = False) -> Iterator[Callable[[EncoderInput], None]]:
    """Torch's own dropout takes bits of the current stream; call the yielded function before every part of a padded batch.

    With `uneven`, parts may have different numbers of sites; the sites after the parts do not depend on these.
    """
    if _stream is None:
        yield lambda part: None
        return
    first, mode = _stream.site, _Replaced(_stream)

    def begin(part: EncoderInput) -> None:
        mode.part, mode.stream.site = part, first

    with _replacing(mode):
        yield begin
    if uneven:
        mode.stream.site = first + SITES


@contextmanager
def _replacing(mode: _Replaced | None) -> Iterator[None]:
    """Within the block, `mode`, if any, replaces torch's own dropout."""
    global _replaced
    if mode is None:
        yield
        return
    before, _replaced = _replaced, mode
    try:
        with mode:
            yield
    finally:
        _replaced = before
