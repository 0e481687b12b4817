"""Test on small random inputs whether a kernel computes attention, its gradients and its dropout rightly.

The kernels are private to torch and differ by GPU, number format and version. A wrong one raises no error: it would train something
else in silence. Dropout is read off the kernel itself: if queries and keys are zero, all probabilities of a text are alike, and
with an identity in place of the values the output is the mask. This mask must have the right rate and scale, and differ between
texts, heads and calls; with other inputs and the same random numbers, outputs and gradients must be those of the textbook under
this mask.

Shapes: T tokens of all texts, h heads of d channels, l tokens of one text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from trainables.kernels import textbook
from trainables.kernels.generators import default_generator, numbers_from

LENGTHS = (70, 33, 33, 150, 1)
"""Two neighbours are equally long, so that their masks can be compared; one text is longer than the tiles of 128 positions."""
HEADS = 3
WINDOW = 3
RATE = 0.25
LEVELS = 256
"""Flash decides on an element by eight random bits: its rate is exact to 1/256."""
SIGMAS = 6
"""Largest deviation of the share of dropped elements, in standard deviations: beyond it lies one of a billion right kernels."""
ALIKE = 0.9
"""Largest share of elements in which two independent masks agree; the expectation is 0.625."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-4, torch.float16: 2**-7}
"""Largest deviation from float64, relative to the largest element: eight roundings of a 16-bit number."""
NAMES = ("outputs", "gradients of the queries", "gradients of the keys", "gradients of the values")


def fault(
    attend: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, width: int, windowed: bool, dropping: bool
) -> str | None:
    """Why a kernel must not be used for these inputs; None if it is right. Other users' random states are not changed.

    Raises torch.OutOfMemoryError, which says nothing about the kernel.
    """
    window = WINDOW if windowed else None
    ends = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    # Not the usual scaling, so that the test sees a kernel that ignores it.
    call = partial(attend, ends=ends, longest=max(LENGTHS), scaling=2 * width**-0.5, window=window)
    generator = default_generator(device)
    try:
        with numbers_from(generator, 1):
            if not dropping:
                return _difference(partial(call, p=0.0), device, dtype, width, window)
            state = generator.get_state()
            read = _read(call, device, dtype, width, window)
            next_call = _read(call, device, dtype, width, window)
            generator.set_state(state)
            again = _read(call, device, dtype, width, window)
            generator.manual_seed(2)
            other = _read(call, device, dtype, width, window)
            if reason := _fault_of_masks(read, again, next_call, other, dtype, window):
                return reason
            generator.set_state(state)
            return _difference(partial(call, p=RATE), device, dtype, width, window, [mask > 0.5 for mask in read])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever torch raises, the next kernel is tried
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _difference(
    call: Callable[..., Tensor],
    device: torch.device,
    dtype: torch.dtype,
    width: int,
    window: int | None,
    kept: Sequence[Tensor] | None = None,
) -> str | None:
    """What differs from the textbook on random inputs, if anything."""
    draw = torch.Generator().manual_seed(0)
    q, k, v, weight = (torch.randn(sum(LENGTHS), HEADS, width, generator=draw).to(dtype) for _ in range(4))
    computed = _with_gradients(call, [x.to(device) for x in (q, k, v)], weight.to(device))
    plain = partial(
        textbook.attention,
        lengths=LENGTHS,
        scaling=2 * width**-0.5,
        window=window,
        kept=kept,
        factor=1.0 if kept is None else 1 / (1 - RATE),
    )
    expected = _with_gradients(plain, [x.double() for x in (q, k, v)], weight.double())
    for name, one, other in zip(NAMES, computed, expected, strict=True):
        difference = float((one.cpu().double() - other).abs().max() / other.abs().max())
        if not difference <= TOLERANCE[dtype]:  # also if it is no number
            with_dropout = "" if kept is None else ", under its own dropout,"
            return f"its {name}{with_dropout} differ by {difference:.1e} of the largest one"
    return None


def _with_gradients(call: Callable[..., Tensor], inputs: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, weight)]


def _read(call: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, width: int, window: int | None) -> list[Tensor]:
    """[h, l, l] of each text: one where the next call keeps a probability, zero where it drops it."""
    generator = default_generator(device)
    state, parts = generator.get_state(), []
    zero = torch.zeros(sum(LENGTHS), HEADS, width, dtype=dtype, device=device)
    place = torch.cat([torch.arange(length) for length in LENGTHS])
    for first in range(0, max(LENGTHS), width):  # an output has room for `width` columns of the mask
        generator.set_state(state)
        columns = (place[:, None] == torch.arange(first, first + width)).to(dtype)  # [T, d]
        parts.append(call(zero, zero, columns[:, None].expand(-1, HEADS, -1).to(device), p=RATE).cpu().double())
    masks = []
    for text in torch.cat(parts, dim=-1).split(list(LENGTHS)):
        length = len(text)
        seen = textbook.visible(length, window).sum(-1)[:, None]  # probabilities are one over it
        masks.append(text.transpose(0, 1)[..., :length] * seen * (1 - RATE))
    return masks


def _fault_of_masks(
    read: Sequence[Tensor],
    again: Sequence[Tensor],
    next_call: Sequence[Tensor],
    other: Sequence[Tensor],
    dtype: torch.dtype,
    window: int | None,
) -> str | None:
    """What is wrong with dropout. The masks of a call, of one from the same random state, of the next, of one from another seed."""
    seen = [textbook.visible(length, window).expand(HEADS, -1, -1) for length in LENGTHS]
    values = torch.cat([mask[where] for mask, where in zip(read, seen, strict=True)])
    if any(bool((mask[~where] != 0).any()) for mask, where in zip(read, seen, strict=True)):
        return "it attends to what must not be seen"
    off = float((values - (values > 0.5).double()).abs().max())
    if not off <= TOLERANCE[dtype]:
        return f"with dropout, kept probabilities differ by {off:.1e} from their share over 1 - {RATE}"
    rate, bound = float((values < 0.5).double().mean()), SIGMAS * (RATE * (1 - RATE) / len(values)) ** 0.5 + 1 / LEVELS
    if not abs(rate - RATE) <= bound:
        return f"it drops {rate:.1%} at a rate of {RATE:.0%}"
    if not all(torch.equal(one, two) for one, two in zip(read, again, strict=True)):
        return "the same random numbers give another dropout"
    # A text's masks of all heads and calls, and those of the other text of the same length: all are drawn independently.
    twins = [text for text, length in enumerate(LENGTHS) if LENGTHS.count(length) > 1]
    drawn = (
        torch.cat([masks[text] for masks in (read, next_call, other) for text in twins])[:, seen[twins[0]][0]] > 0.5
    )  # [n, cells]
    alike = (drawn[:, None] == drawn).double().mean(-1).fill_diagonal_(0)
    if float(alike.max()) > ALIKE:
        return "texts, heads or calls share their dropout"
    return None
