"""Sum gradients over the ranks while the backward pass still runs.

Gradients are summed in buckets, those of the last parameters first: they are ready first. Every rank starts the same buckets in
the same order, whatever it computes: a bucket starts when it is ready and all before it have started, and `start_all` starts the
others, with zeros for what this rank did not reach or, out of memory, not compute. So no rank waits for a bucket that another
does not start, and if memory ran out on any of them, all drop the sums and repeat the step. The buckets' memory is obtained once,
before the first pass: within a pass there may be none left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import Parameter

from trainables.training.world import World

BUCKET = 1 << 23
"""Elements of a bucket, about: large enough for the bandwidth of the network, small enough to begin early."""


@dataclass(frozen=True, eq=False)
class _Bucket:
    parameters: tuple[Parameter, ...]
    flat: torch.Tensor
    parts: tuple[torch.Tensor, ...]
    """Views of `flat`, one for each parameter."""


class GradientSums:
    """The sums of one step after the other. With a single rank nothing happens.

    `sometimes`: parameters that some earlier step did not reach. A run that is resumed needs them: the place of a gradient in the
    buckets decides in which order more than two ranks add it, and so its last bit.
    """

    def __init__(self, world: World, sometimes: Iterable[Parameter] = ()) -> None:
        self._world = world
        self._buckets: list[_Bucket] = []
        self._planned: list[int] = []
        self._sometimes = set(map(id, sometimes))
        self._ready: set[int] = set()
        self._works: list[Any] = []

    def begin(self, parameters: Sequence[Parameter]) -> None:
        """Begin a step with these parameters, the same on every rank, or repeat it."""
        self._wait()
        if self._world.size == 1:
            return
        last_first = parameters[::-1]
        # What some steps do not reach is summed last, else it would hold up all the others.
        planned = sorted(last_first, key=lambda parameter: id(parameter) in self._sometimes)
        if self._planned != (names := [id(parameter) for parameter in planned]):
            self._buckets = []  # frees their memory first
            self._planned, self._buckets = names, _buckets(planned)

    def reached_sometimes(self, parameter: Parameter) -> bool:
        """Whether some step did not reach it."""
        return id(parameter) in self._sometimes

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """Within the block is the last backward pass of the step: buckets start as they get ready."""
        handles = [
            parameter.register_post_accumulate_grad_hook(self._arrived) for it in self._buckets for parameter in it.parameters
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _arrived(self, parameter: torch.Tensor) -> None:
        if id(parameter) in self._ready:
            raise RuntimeError("a gradient came twice in one backward pass: its first part may be summed already")
        self._ready.add(id(parameter))
        while self._next is not None and all(id(member) in self._ready for member in self._next.parameters):
            self._start(self._next)

    @property
    def _next(self) -> _Bucket | None:
        return self._buckets[len(self._works)] if len(self._works) < len(self._buckets) else None

    def _start(self, bucket: _Bucket) -> None:
        for parameter, part in zip(bucket.parameters, bucket.parts, strict=True):
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(parameter.grad)
        self._works.append(dist.all_reduce(bucket.flat, async_op=True))

    def start_all(self) -> None:
        """Start what has not started. Called by every rank, whether its passes succeeded or not."""
        while self._next is not None:
            self._start(self._next)

    def finish(self, reached: dict[Parameter, bool]) -> None:
        """Wait for the sums and make them the gradients of the parameters that some text of any rank `reached`.

        The others keep none: with a gradient of zeros, decay and momentum would move them.
        """
        self._wait()
        self._sometimes |= {id(parameter) for parameter, some in reached.items() if not some}
        for bucket in self._buckets:
            for parameter, part in zip(bucket.parameters, bucket.parts, strict=True):
                if reached[parameter]:
                    parameter.grad = torch.empty_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad.copy_(part)

    def _wait(self) -> None:
        for work in self._works:
            work.wait()
        self._works, self._ready = [], set()


def _buckets(parameters: Sequence[Parameter]) -> list[_Bucket]:
    members: list[list[Parameter]] = []
    for parameter in parameters:
        if not members or sum(member.numel() for member in members[-1]) >= BUCKET:
            members.append([])
        members[-1].append(parameter)
    return [_bucket(each) for each in members]


def _bucket(parameters: Sequence[Parameter]) -> _Bucket:
    sizes = [parameter.numel() for parameter in parameters]
    flat = torch.empty(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
    parts = [part.view(parameter.shape) for part, parameter in zip(flat.split(sizes), parameters, strict=True)]
    return _Bucket(tuple(parameters), flat, tuple(parts))
