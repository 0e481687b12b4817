"""Find the CPUs and GPUs of the machine or cluster, and check that a study's trials fit on it."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.cluster import gpus
from trainables.settings.errors import ConfigError
from trainables.tables.free_memory import GIB, available


@dataclass(frozen=True)
class Machine:
    """The resources to distribute."""

    nodes: tuple[tuple[float, float], ...]
    """(CPUs, GPUs) of every node."""
    lacks: str = ""
    """Reason why GPUs may not answer; empty if they do."""
    names: tuple[str, ...] = ()
    """Names of the GPUs; empty if nobody asked them."""
    unused: str = ""
    """Reason why some GPUs that are there are not used; empty if all are."""
    joined: bool = False
    """Whether it is a Ray cluster that was joined, not this machine."""

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(gpus for _, gpus in self.nodes)

    @property
    def hardware(self) -> str:
        """Describe it: `AMD EPYC 9B14, 2 CPU cores, 23 GiB of memory, x86_64`; a joined cluster by what its nodes offer."""
        if self.joined:
            nodes = f"{len(self.nodes)} node{'s' * (len(self.nodes) != 1)}"
            return f"Ray cluster of {nodes} with {self.cpus:g} CPUs and {self.gpus:g} GPUs"
        memory, parts = available(), [processor(), f"{self.cpus:g} CPU core{'s' * (self.cpus != 1)}"]
        parts += [f"{memory[1] / GIB:.0f} GiB of memory"] if memory else []
        parts += [f"{gpus.memory_bytes() / GIB:.0f} GiB of memory on a GPU"] if self.names else []
        return ", ".join([*parts, platform.machine()])

    @property
    def notices(self) -> list[str]:
        """Notices on GPUs that are not used."""
        return [f"GPUs of this machine are not used: {self.unused}"] if self.unused else []

    def places(self, cpus: float, gpus: float = 0) -> int:
        """Return how many workers fit at a time. No worker spans two nodes, and no fraction of a GPU spans two GPUs."""

        def on_gpus(there: float) -> float:
            if not gpus:
                return math.inf
            return there // gpus if gpus >= 1 else int(there) * int(1 / gpus + 1e-9)

        return sum(int(min(has_cpus // cpus, on_gpus(has_gpus))) for has_cpus, has_gpus in self.nodes)

    def all_for_one(self, cpus: float, gpus: float) -> tuple[int, float, float]:
        """Return (workers, CPUs, GPUs of each) for work that runs alone: on every GPU, else on every node with enough CPUs.

        Where trials share a GPU, a worker has a whole one: two workers of the same work cannot share it.
        """
        if gpus:
            whole = max(1.0, gpus)
            return self.places(cpus, whole), cpus, whole
        workers, size = max(((sum(has >= size for has, _ in self.nodes), size) for size, _ in self.nodes if size), key=math.prod)
        return workers, size, 0.0

    def gpus_for(self, resources: Any) -> float:
        """Return the GPUs of one worker; with `auto` one if there are any."""
        if resources.gpus == "auto":
            return 1.0 if self.gpus else 0.0
        return float(resources.gpus)

    def trials(self, resources: Any) -> int:
        """Return how many trials run at a time, so few that none waits for workers while it blocks others."""
        fit = self.places(resources.cpus, self.gpus_for(resources)) // int(resources.workers)
        return max(1, min(fit, int(resources.concurrent or fit)))

    def devices(self, resources: Any) -> str:
        """Name what trials are computed on: `2 CPU cores`, `8 NVIDIA H100`."""
        count, unit = (self.gpus, "GPU") if self.gpus_for(resources) else (self.cpus, "CPU core")
        known = " and ".join(dict.fromkeys(self.names)) if unit == "GPU" else ""
        return f"{count:g} {known or unit + 's' * (count != 1)}"

    def computes_on(self, resources: Any) -> str:
        """Describe how trials are placed: `2 CPU cores, 1 a trial, 2 trials at a time`."""
        each, at_once = (self.gpus_for(resources) or resources.cpus) * resources.workers, self.trials(resources)
        return f"{self.devices(resources)}, {each:g} a trial, {at_once} trial{'s' * (at_once != 1)} at a time"


def this_machine() -> Machine:
    """Return the CPUs that this process may use (affinity and cgroup quota) and the GPUs it may see. Imports no torch, no ray."""
    cpus = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = max(1, min(cpus, int(quota) // int(period)))
    return Machine(((cpus, gpus.counted()),))


def processor() -> str:
    """Return the model of this machine's processor as Linux names it; `unknown processor` if it does not."""
    with contextlib.suppress(OSError):
        names = re.findall(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if names:
            return str(names[0]).strip()
    return "unknown processor"


def check_resources(resources: Any, machine: Machine, where: str = "this machine") -> None:
    """Raise ConfigError with every resource of which one trial needs more than `machine` has."""
    faults = []
    gpus, chosen = machine.gpus_for(resources), " by auto" if resources.gpus == "auto" else ""
    if chosen and machine.lacks and not machine.gpus:
        faults.append(f"resources.gpus: auto, but none of the GPUs of {where} answers ({machine.lacks}); 0 runs on CPUs")
    for name, unit, amount in (("cpus", "CPUs", resources.cpus), ("gpus", "GPUs", gpus)):
        there = getattr(machine, name)
        if amount * resources.workers > there:
            request = f"{resources.workers} workers with {amount:g} each" if resources.workers > 1 else f"{amount:g}"
            request += chosen if name == "gpus" else ""
            why = f" that answer ({machine.lacks}); 0 runs on CPUs" if name == "gpus" and machine.lacks else ""
            faults.append(f"resources.{name}: {request} requested for a trial, but {where} has {there:g} {unit}{why}")
    if not faults and machine.places(resources.cpus, gpus) < resources.workers:
        nodes = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in machine.nodes)
        request = f"{resources.workers} workers with {resources.cpus} CPUs and {gpus:g} GPUs each"
        faults.append(f"resources.workers: {request} requested for a trial, but the nodes of {where} have {nodes}")
    if faults:
        raise ConfigError(faults)
