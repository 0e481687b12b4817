"""The processes that train one stage together: a single process, or the ranks of an initialised torch.distributed group.

The global batch does not depend on their number: every rank takes its share of it, and gradients are summed once per step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from trainables.store.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank and number of the processes, and the group over which they exchange host-side values."""

    rank: int = 0
    size: int = 1
    host_group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes to the store."""
        return self.rank == 0

    def share(self, batch: Sequence[T]) -> tuple[int, Sequence[T]]:
        """(offset, texts) of this rank's contiguous part of a global batch."""
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

    def any(self, *flags: bool) -> list[bool]:
        """For every flag, whether it is set on any rank. Exchanged on the host, without waiting for an accelerator."""
        if self.size == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.float32)
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.host_group)
        return [bool(value) for value in values.tolist()]

    @contextmanager
    def claimed(self, store: Store, name: str, needs: Sequence[str] = ()) -> Iterator[bool]:
        """Rank 0 claims a stage for all ranks. Yields False if another process has finished it, with the files in `needs`."""
        if not self.leads:
            yield self.broadcast(False)
            return
        with store.claim(name, needs=needs) as claim:
            yield self.broadcast(claim is not None)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter], bucket: int = 2**25) -> None:
        """Sum the gradients of these parameters over the ranks, in flat buckets of about `bucket` elements."""
        if self.size == 1:
            return
        pending: list[torch.Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:  # all ranks must sum the same parameters, even a rank without a text
                parameter.grad = torch.zeros_like(parameter)
            pending.append(parameter.grad)
            if sum(gradient.numel() for gradient in pending) >= bucket:
                _sum(pending)
                pending = []
        if pending:
            _sum(pending)


def _sum(gradients: list[torch.Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def current() -> World:
    """The world of this process: the initialised torch.distributed group, else this process alone."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return World()
    host = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    return World(dist.get_rank(), dist.get_world_size(), host)
