"""The processes that train one stage together: a single process, or the ranks of an initialised torch.distributed group.

The global batch does not depend on their number: every rank takes its share of it, and gradients are summed once per step.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from trainables.settings.errors import ConfigError
from trainables.training import gpus

if TYPE_CHECKING:
    from trainables.store.store import Store

T = TypeVar("T")
TELL_S = 10.0
"""Seconds after which ranks that wait for a claim hear of it again; torch's groups give up after 600 to 1800."""


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

    def share(self, sizes: Sequence[int], in_order: bool = True) -> tuple[list[int], list[int]]:
        """(texts of the ranks before this one, texts of this rank) of a global batch, by their `sizes` in tokens.

        `in_order`: every rank has texts that follow each other, those whose middle lies in its part of the tokens. Else the longest
        text first, to the rank with the fewest tokens, which is more even.
        """
        sizes = [max(1, size) for size in sizes]
        shares = _in_order(sizes, self.size) if in_order or self.size == 1 else _longest_first(sizes, self.size)
        return [text for share in shares[: self.rank] for text in share], shares[self.rank]

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
        """Rank 0 claims a stage for all ranks. Yields False if another process has finished it, with the files in `needs`.

        While rank 0 waits for that process, it tells the others so: a group gives up a rank that is silent for too long.
        """
        if not self.leads:
            answer: bool | None = None
            while answer is None:
                answer = self.broadcast(answer)
            yield answer
            return
        last = time.monotonic()

        def tell() -> None:
            nonlocal last
            if time.monotonic() - last >= TELL_S:
                self.broadcast(None)
                last = time.monotonic()

        with store.claim(name, needs=needs, meanwhile=tell) as claim:
            yield self.broadcast(claim is not None)

    def check_devices(self, device: str) -> None:
        """Raises ConfigError on every rank if two of them have the same device, by its UUID; empty: unknown."""
        holders: dict[str, list[int]] = {}
        for rank, uuid in enumerate(self.gather(device)):
            holders.setdefault(uuid, []).append(rank)
        faults = [
            f"workers {', '.join(map(str, ranks))} of a trial have the same GPU ({uuid}), and each needs one of its own:"
            " ask for whole GPUs (resources.gpus: 1) or for fewer workers (resources.workers)"
            for uuid, ranks in holders.items()
            if uuid and len(ranks) > 1
        ]
        if faults:
            raise ConfigError(faults)


def _in_order(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    shares: list[list[int]] = [[] for _ in range(ranks)]
    total, end = sum(sizes), 0
    for text, size in enumerate(sizes):
        end += size
        shares[(2 * end - size) * ranks // (2 * total)].append(text)
    return shares


def _longest_first(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for text in sorted(range(len(sizes)), key=lambda text: -sizes[text]):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + sizes[text], rank))
        shares[rank].append(text)
    return [sorted(share) for share in shares]


def current() -> World:
    """The world of this process: the initialised torch.distributed group, else this process alone.

    Raises ConfigError on every rank where two ranks would use NCCL on the same GPU, which fails only later and without saying so.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return World()
    host = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    world = World(dist.get_rank(), dist.get_world_size(), host)
    if dist.get_backend() == "nccl":
        world.check_devices(gpus.uuid(torch.cuda.current_device()))
    return world
