"""The processes that train one stage together: one, or the ranks of an initialised torch.distributed group.

The global batch is the same whatever their number: every rank takes its share of it, gradients are summed once per step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from trainables.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank and number of the processes, and the group over which they exchange host-side facts."""

    rank: int = 0
    size: int = 1
    host_group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes to the store."""
        return self.rank == 0

    def share(self, batch: Sequence[T]) -> tuple[int, Sequence[T]]:
        """This rank's contiguous part of a global batch, and the offset where it begins."""
        bounds = [len(batch) * rank // self.size for rank in (self.rank, self.rank + 1)]
        return bounds[0], batch[bounds[0] : bounds[1]]

    def broadcast(self, value: T) -> T:
        """Rank 0's value on every rank. Values are the plain data of this program: numbers, strings, lists."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.host_group)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order of rank."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value, group=self.host_group)
        return box

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank. Asked on the host: no accelerator waits for it."""
        if self.size == 1:
            return flag
        value = torch.tensor([float(flag)])
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.host_group)
        return bool(value.item())

    @contextmanager
    def claimed(self, store: Store, name: str, needs: Sequence[str] = ()) -> Iterator[bool]:
        """Rank 0 claims a stage for all ranks; False when someone else finished it meanwhile, with the files that it `needs`."""
        if not self.leads:
            yield self.broadcast(False)
            return
        with store.claim(name, needs=needs) as claim:
            yield self.broadcast(claim is not None)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter], bucket: int = 2**25) -> None:
        """Sum gradients over the ranks, in flat buckets of about `bucket` elements.

        A parameter that no text of any rank reached has none after it as before, so that no optimizer moves it.
        """
        if self.size == 1:
            return
        pending: list[torch.nn.Parameter] = []
        for parameter in parameters:
            pending.append(parameter)
            if sum(each.numel() for each in pending) >= bucket:
                _sum(pending)
                pending = []
        if pending:
            _sum(pending)


def _sum(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sum the gradients of these parameters over the ranks, which agree on what is summed, also where one had no text.

    How many ranks have a gradient travels in the same buffer. It is read where one is missing alone: else a GPU would be waited for.
    """
    given = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    reached = given[0].new_tensor([float(parameter.grad is not None) for parameter in parameters])
    flat = torch.cat([reached, *(gradient.reshape(-1) for gradient in given)])
    dist.all_reduce(flat)
    reached, *sums = flat.split([len(parameters), *(gradient.numel() for gradient in given)])
    missing = [i for i, parameter in enumerate(parameters) if parameter.grad is None]
    there = dict(zip(missing, reached[missing].tolist(), strict=True)) if missing else {}
    for i, (parameter, gradient, total) in enumerate(zip(parameters, given, sums, strict=True)):
        if there.get(i, 1):
            parameter.grad = gradient.copy_(total.view_as(gradient))


def current() -> World:
    """The world of this process: the initialised torch.distributed group, else this process alone."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return World()
    host = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    return World(dist.get_rank(), dist.get_world_size(), host)
