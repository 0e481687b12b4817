"""Attention within the texts of a packed row, registered with transformers as an attention implementation.

transformers' models run unmodified: they pass queries, keys and values [1, heads, T, d] of the packed row to `packed_attention`,
which takes the boundaries of the texts from the current layout. On an accelerator a kernel of torch's computes it, if one passes
its test (`kernels/choice.py`). Otherwise it is computed by matrix products over groups of texts of similar length. Their dropout is
stored as the sign of a probability: one array holds both, and neither forward nor backward casts a boolean.

Shapes: T tokens of all texts, h heads of d channels, g texts of a group, W positions of its longest text, R queries of a text: all
its tokens, or in the last block those that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from trainables.batches import pack
from trainables.encoder import dropout as bits
from trainables.kernels.calls import KERNELS
from trainables.kernels.choice import PLAIN, Choice, chosen

NAME = "packed_texts"
RAN = "packed_attention_ran"
"""Attribute of an attention module with the choices of kernels that it ran on an accelerator, in order: {choice: None}."""
WASTE = 1 << 12
"""Padded cells [W, W] of one head that a group may add: up to here they cost less than a further group."""
CELLS = 1 << 16
"""Largest number of cells of one head in a group of several texts: more would not fit into the cache."""
WASTE_ACCELERATED = 1 << 17
"""The same on an accelerator, where a further group costs about fifteen launches of kernels in each direction."""
CELLS_ACCELERATED = 1 << 20
"""The same on an accelerator: what a group holds beside its probabilities stays small against the memory."""
AT_ONCE = 1 << 20
"""Largest number of dropout decisions drawn at once for all texts: more would not fit into the cache."""


@dataclass(frozen=True, eq=False)
class Padding:
    """Index tables between the packed row and the padded form [g, W] of a group of several texts."""

    rows: Tensor
    """int64 [g * W]: token at every place; at padding, the first token of the text."""
    tokens: Tensor
    """int64 [n]: the group's tokens."""
    places: Tensor
    """int64 [n]: their places."""
    real: Tensor | None
    """bool [g, W]: false at padding; None without padding."""


@dataclass(frozen=True, eq=False)
class Group:
    """Texts of similar length that attend in one call; a single text is a slice of the row and is not copied."""

    texts: tuple[int, ...]
    width: int
    start: int
    """First token of the first text."""
    padding: Padding | None
    """None for a single text."""

    def take(self, x: Tensor) -> Tensor:
        """[T, h, d] to [g * h, W, d]."""
        if self.padding is None:
            return x[self.start : self.start + self.width].transpose(0, 1)
        h, d = x.shape[1:]
        return x.index_select(0, self.padding.rows).view(-1, self.width, h, d).transpose(1, 2).reshape(-1, self.width, d)

    def take_gradient(self, x: Tensor) -> Tensor:
        """Like `take`, with zeros at padding, whose output was not used."""
        taken = self.take(x)
        if self.padding is not None and self.padding.real is not None:
            taken.view(len(self.texts), -1, *taken.shape[1:]).mul_(self.padding.real.to(x.dtype)[:, None, :, None])
        return taken

    def put(self, x: Tensor, out: Tensor) -> None:
        """Write [g * h, W, d] into `out` [T, h, d]."""
        if self.padding is None:
            out[self.start : self.start + self.width].copy_(x.transpose(0, 1))
            return
        h, d = out.shape[1:]
        flat = x.view(-1, h, self.width, d).transpose(1, 2).reshape(-1, h, d)
        out.index_copy_(0, self.padding.tokens, flat.index_select(0, self.padding.places))


@dataclass(frozen=True, eq=False)
class Pair:
    """Texts that attend in one call, and the tokens of them that ask: all, or in the last block those that the head reads."""

    keys: Group
    queries: Group
    """`keys` itself if all tokens ask, else a group of the same texts over the tokens that do."""
    places: Tensor
    """int64 [g, R], or [1, R] if the same in all texts: position of each query in its text; at padding, that of the first."""


class PackedLayout:
    """Boundaries and groups of the texts in a packed row, for one pass of the encoder."""

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu", rows: Tensor | None = None) -> None:
        self.lengths = tuple(lengths)
        self.device = torch.device(device)
        self.rows = rows
        """int64 [r], ascending: the tokens that are read of the last block's output; None: all (`last_block.py`)."""
        self.stops = False
        """Whether the next attention only hands over its keys and values, by raising `Reached`."""
        self.known: Reached | None = None
        """Keys and values of all tokens, for queries of `rows` alone."""
        self.narrowed = False
        """Whether `rows` are all that the last block computed."""
        self.calls = 0
        self._biases: dict[Any, Tensor | None] = {}

    @cached_property
    def groups(self) -> list[Group]:
        """Texts of similar length together, long texts alone."""
        starts = np.cumsum(self.lengths) - self.lengths
        limits = (WASTE_ACCELERATED, CELLS_ACCELERATED) if bits.accelerated(self.device) else (WASTE, CELLS)
        return [_group(members, self.lengths, starts, self.device) for members in grouped(self.lengths, *limits)]

    @cached_property
    def whole(self) -> list[Pair]:
        """All tokens ask."""
        starts = pack.ends_of(self.lengths).long()
        return [Pair(group, group, _places(group, starts, None, self.device)) for group in self.groups]

    @cached_property
    def narrow(self) -> list[Pair]:
        """Only `rows` ask; groups without any are left out."""
        assert self.rows is not None
        starts = pack.ends_of(self.lengths).long()
        first = torch.searchsorted(self.rows, starts).numpy()
        counts, first = np.diff(first), first[:-1].clip(max=len(self.rows) - 1)
        asked = [(group, _group(group.texts, counts, first, self.device)) for group in self.groups if counts[[*group.texts]].any()]
        return [Pair(group, queries, _places(queries, starts, self.rows, self.device)) for group, queries in asked]

    @cached_property
    def draws(self) -> list[int]:
        """int [b + 1]: dropout draws of one head before every text of the micro-batch, and the total."""
        return [0, *np.cumsum([pack.square_draws(length) for length in self.lengths]).tolist()]

    @cached_property
    def longest(self) -> int:
        """Length of the longest text: from the host, a device is not waited for."""
        return max(self.lengths)

    @cached_property
    def ends(self) -> Tensor:
        """int32 [b + 1]: the starts of the texts and the end of the last one."""
        return pack.sent(pack.ends_of(self.lengths), self.device)

    def bias(self, pair: Pair, heads: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask [g * h, 1 or R, W]: minus infinity at masked positions. Shared by all layers.

        Only a group with padding stores it whole, which is at most `heads` times CELLS; else all texts and heads share one.
        """
        window = window if window is not None and window < pair.keys.width else None
        key = (pair, heads, window, dtype)
        if key not in self._biases:
            self._biases[key] = _bias(pair, heads, window, dtype, self.device)
        return self._biases[key]


def grouped(lengths: Sequence[int], most_waste: int = WASTE, most_cells: int = CELLS) -> list[list[int]]:
    """Group texts, the longest first: padding and size, in cells of one head, are limited."""
    groups: list[list[int]] = []
    waste = width = 0
    for text in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        waste += width**2 - lengths[text] ** 2
        if not groups or waste > most_waste or (len(groups[-1]) + 1) * width**2 > most_cells:
            groups.append([])
            waste, width = 0, lengths[text]
        groups[-1].append(text)
    return groups


def _group(members: Sequence[int], lengths: Sequence[int] | np.ndarray, starts: np.ndarray, device: torch.device) -> Group:
    width, start = int(max(lengths[text] for text in members)), int(starts[members[0]])
    if len(members) == 1:
        return Group(tuple(members), width, start, None)
    place = np.arange(width)
    real = place < np.array([lengths[text] for text in members])[:, None]  # [g, W]
    cells = starts[list(members)][:, None] + np.where(real, place, 0)
    tables = (cells.ravel(), cells[real], np.flatnonzero(real))
    rows, tokens, places = (pack.sent(torch.from_numpy(index), device) for index in tables)
    some = None if real.all() else pack.sent(torch.from_numpy(real), device)
    return Group(tuple(members), width, start, Padding(rows, tokens, places, some))


def _places(queries: Group, starts: Tensor, rows: Tensor | None, device: torch.device) -> Tensor:
    """Positions of queries in their texts, which begin at `starts`; `rows` are the tokens that ask, None: all."""
    if rows is None and (queries.padding is None or queries.padding.real is None):
        return torch.arange(queries.width, device=device)[None]
    if queries.padding is None:
        tokens = torch.arange(queries.start, queries.start + queries.width)
    else:
        tokens = queries.padding.rows
    tokens = tokens if rows is None else rows.index_select(0, tokens)
    first, end = (pack.sent(starts[torch.tensor(queries.texts) + i], device)[:, None] for i in (0, 1))
    # A text of which no token asks has another's for padding.
    return tokens.view(-1, queries.width).clamp(first, end - 1) - first


def _bias(pair: Pair, heads: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    keys = pair.keys
    real = keys.padding.real if keys.padding else None
    if real is None and window is None:
        return None
    seen = torch.ones(1, 1, 1, keys.width, dtype=torch.bool, device=device)
    if window is not None:
        seen = ((pair.places[:, :, None] - torch.arange(keys.width, device=device)).abs() < window)[:, None]  # [1 or g, 1, R, W]
    if real is not None:  # padding asks like a text's first query, and so attends to something: softmax gives no NaN
        seen = seen & real[:, None, None, :]
    bias = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, float("-inf"))
    return bias.expand(len(keys.texts), heads, -1, -1).reshape(-1, *bias.shape[2:])


_layout: PackedLayout | None = None


@contextmanager
def packed(lengths: Sequence[int], device: torch.device | str = "cpu", rows: Tensor | None = None) -> Iterator[PackedLayout]:
    """Within the block, attention is restricted to texts of these lengths; of the last block's output `rows` are read.

    On an accelerator, whose kernels take the queries of all tokens, all are computed.
    """
    on_cpu = torch.device(device).type == "cpu" and not bits.accelerated(torch.device(device))
    layout, stream = PackedLayout(lengths, device, rows if on_cpu else None), bits.current()
    if stream is not None:
        stream.rows = layout.rows
    with laid_out(layout):
        yield layout


def current() -> PackedLayout | None:
    """The current layout; None outside `packed`."""
    return _layout


@contextmanager
def laid_out(layout: PackedLayout | None) -> Iterator[None]:
    """Within the block, attention uses this layout."""
    global _layout
    before, _layout = _layout, layout
    try:
        yield
    finally:
        _layout = before


class Reached(Exception):
    """An attention was reached whose result is not wanted; `key` and `value` [1, heads, T, d] are its inputs."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value


def keys_and_values(layout: PackedLayout, block: Callable[[], Any]) -> Reached:
    """Keys and values of the attention that `block` calls first; nothing is computed behind them."""
    layout.stops = True
    try:
        block()
    except Reached as reached:
        return Reached(reached.key, reached.value)  # without the traceback, which holds all local variables
    finally:
        layout.stops = False
    raise RuntimeError("the last block did not call its attention")


@contextmanager
def asked_by_rows(layout: PackedLayout, known: Reached) -> Iterator[None]:
    """Within the block, queries are those of the layout's rows; keys and values are known."""
    layout.known, layout.narrowed = known, True
    try:
        yield
    finally:
        layout.known = None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of [1, h, T, d] within the texts of the current layout. Returns [1, T, h, d], as transformers expects."""
    assert _layout is not None, "packed attention outside `packed`"
    if _layout.stops:
        raise Reached(key, value)
    known = _layout.known
    if known is not None:
        key, value = known.key, known.value
    _layout.calls += 1
    if attention_mask is not None:
        raise ValueError("packed attention takes no mask")
    if key.shape[1] != query.shape[1]:  # grouped queries
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    # `squeeze`, not x[0]: the backward pass of an index fills a tensor with zeros and copies the gradient into it.
    q, k, v = (x.squeeze(0).transpose(0, 1).to(dtype) for x in (query, key, value))  # [T, h, d]
    stream = bits.current() if bits.threshold(dropout) else None
    if stream is not None:
        stream.site += 1
    scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window is not None and sliding_window < _layout.longest else None
    with torch.autocast(device, enabled=False):
        if bits.accelerated(query.device):
            choice = chosen(query.device, dtype, q.shape[-1], window is not None, stream is not None)
            module.__dict__.setdefault(RAN, {})[choice] = None
            if choice.attend is not None:
                p = 0.0 if stream is None else dropout
                return choice.attend(q, k, v, _layout.ends, _layout.longest, scaling, window, p)[None], None
        out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            q, k, v, _layout, _layout.whole if known is None else _layout.narrow, scaling, window, dropout, stream
        )
    return out[None], None


def try_kernels(model: nn.Module, config: Any, dtype: torch.dtype) -> None:
    """Test now what training on an accelerator will use, which would else take some of its first step's time."""
    device = next(model.parameters()).device
    if not bits.accelerated(device):
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    drops = any(bits.threshold(module.p) for module in model.modules() if isinstance(module, bits.Dropout))
    for windowed in {False, bool(getattr(config, "sliding_window", None))}:
        for dropping in {False, drops}:
            chosen(device, dtype, width, windowed, dropping)


def ran_before(model: nn.Module, names: Collection[object]) -> None:
    """Note kernels that computed what the model reads, as if they had run in it; unknown names are left out."""
    known = (PLAIN, *(kernel.name for kernel in KERNELS))
    model.__dict__.setdefault(RAN, {}).update({Choice(name, None, ()): None for name in known if name in names})


def ran_in(model: nn.Module) -> tuple[list[str], list[str]]:
    """(names of the kernels of packed attention that ran in a model on an accelerator, notices about those that failed)."""
    ran = dict.fromkeys(choice for module in model.modules() for choice in getattr(module, RAN, ()))
    return sorted({choice.name for choice in ran}), list(dict.fromkeys(notice for choice in ran for notice in choice.notices))


class _Attention(torch.autograd.Function):
    """softmax(scaling * q k') v within every pair of groups, with dropout on the probabilities."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layout: PackedLayout,
        pairs: Sequence[Pair],
        scaling: float,
        window: int | None,
        p: float,
        stream: bits.Stream | None,
    ) -> Tensor:
        heads, out, kept = q.shape[1], q.new_empty(q.shape), []
        signs = iter(()) if stream is None else _signs(layout, pairs, heads, stream, p, q.dtype)
        for pair in pairs:
            gq, gk, gv = pair.queries.take(q), pair.keys.take(k), pair.keys.take(v)
            bias = layout.bias(pair, heads, window, q.dtype)
            probabilities = _scores(gq, gk, bias, scaling).softmax(-1)  # [g * h, R, W]
            if stream is None:
                pair.queries.put(torch.bmm(probabilities, gv), out)
            else:
                probabilities.copysign_(next(signs))
                pair.queries.put(torch.bmm(_kept(probabilities), gv).mul_(bits.scale(p)), out)
            if any(ctx.needs_input_grad):
                kept.append(probabilities)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.pairs, ctx.scaling = pairs, scaling
        ctx.whole = len(pairs) == len(layout.groups)  # else some texts, of which nothing is read, have gradients of zero
        ctx.scale = None if stream is None else bits.scale(p)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        empty = torch.empty_like if ctx.whole else torch.zeros_like
        gradients = [empty(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
        scale = ctx.scale or 1.0
        for pair, signed in zip(ctx.pairs, kept, strict=True):
            gq, gk, gv = pair.queries.take(q), pair.keys.take(k), pair.keys.take(v)
            go = pair.queries.take_gradient(grad)
            dropped = signed if ctx.scale is None else _kept(signed)
            pair.keys.put(torch.bmm(dropped.transpose(1, 2), go).mul_(scale), gradients[2])
            inner = torch.bmm(go, gv.transpose(1, 2))  # gradient of the dropped probabilities, without the scale
            if ctx.scale is not None:
                inner = torch.ops.aten.threshold_backward(inner, signed, 0)
                signed = torch.abs(signed, out=dropped)
            inner = torch._softmax_backward_data(inner, signed, -1, signed.dtype)
            pair.queries.put(_product(inner, gk, ctx.scaling * scale), gradients[0])
            pair.keys.put(_product(inner.transpose(1, 2), gq, ctx.scaling * scale), gradients[1])
        return (*gradients, None, None, None, None, None, None)


def _signs(
    layout: PackedLayout, pairs: Sequence[Pair], heads: int, stream: bits.Stream, p: float, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Yield [g * h, R, W] for every pair, negative where a probability drops out.

    A text's bits depend neither on its group nor on the queries that ask.
    """
    if bits.accelerated(layout.device):
        for pair in pairs:
            shape = (len(pair.keys.texts) * heads, pair.queries.width, pair.keys.width)
            levels = torch.empty(shape, dtype=torch.int16, device=layout.device)
            yield levels.random_(0, bits.LEVELS).sub_(bits.threshold(p)).to(dtype)
        return
    first, per_draw = stream.batch.offsets.squares * heads, 4 * heads
    together = None
    if layout.draws[-1] * per_draw <= AT_ONCE:  # the bits of all texts are contiguous
        stream.seek(first)
        together = stream.signs(layout.draws[-1] * per_draw, p)
    for pair in pairs:
        texts, queries, width = pair.keys.texts, pair.queries.width, pair.keys.width
        signs = torch.zeros(len(texts), heads, queries, width, dtype=torch.int16) if pair.keys.padding else None
        for row, text in enumerate(texts):
            length, draw = layout.lengths[text], layout.draws[text]
            count = heads * length * length
            if together is None:
                stream.seek(first + draw * heads)
                own = stream.signs(count, p)
            else:
                own = together[draw * per_draw : draw * per_draw + count]
            own = own.view(heads, length, length)
            if pair.queries is not pair.keys:
                own = own.index_select(1, pair.places[row])
            if signs is not None:
                signs[row, :, : own.shape[1], :length] = own
        whole = own if signs is None else signs.flatten(0, 1)
        # A 16-bit float has its sign bit where the integer has it; the other bits do not matter.
        yield whole.view(dtype) if dtype.itemsize == 2 else whole.to(dtype)


def _kept(signed: Tensor) -> Tensor:
    """The positive elements, and zero in place of the others. As integers, since CPUs convert 16-bit floats to compare them."""
    return signed.view(torch.int16).relu().view(signed.dtype) if signed.itemsize == 2 else signed.relu()


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    if bias is None:
        return _product(q, k.transpose(1, 2), scaling)
    return torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scaling)


def _product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """factor * a b, scaled within the product."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=factor)


def no_mask(**kwargs: Any) -> None:
    """No mask: the layout replaces it."""


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, no_mask)
