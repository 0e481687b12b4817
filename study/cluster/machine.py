"""The CPUs and GPUs of the machine or cluster, and whether a study's trials fit on it."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.cluster import gpus
from trainables.settings.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """What can be shared out: the (CPUs, GPUs) of each node."""

    nodes: tuple[tuple[float, float], ...]
    lacks: str = ""
    """Why GPUs may not answer."""

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(gpus for _, gpus in self.nodes)

    def places(self, cpus: float, gpus: float = 0) -> int:
        """How many workers fit at a time. None lies across two nodes, and no fraction of a GPU across two GPUs."""

        def on_gpus(there: float) -> float:
            if not gpus:
                return math.inf
            return there // gpus if gpus >= 1 else int(there) * int(1 / gpus + 1e-9)

        return sum(int(min(has_cpus // cpus, on_gpus(has_gpus))) for has_cpus, has_gpus in self.nodes)

    def all_for_one(self, cpus: float, gpus: float) -> tuple[int, float]:
        """(workers, CPUs of each) for work that comes alone: one on every GPU, else one on every node that has enough CPUs."""
        if gpus:
            return self.places(cpus, gpus), cpus
        return max(((sum(has >= each for has, _ in self.nodes), each) for each, _ in self.nodes if each), key=math.prod)

    def trials(self, resources: Any) -> int:
        """How many trials run at a time: never so many that one waits for workers while it holds others up."""
        fit = self.places(resources.cpus, resources.gpus) // int(resources.workers)
        return max(1, min(fit, int(resources.concurrent or fit)))


def this_machine() -> Machine:
    """CPUs that this process may use (affinity and cgroup quota) and GPUs that it may see. Needs neither torch nor ray."""
    cpus = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = max(1, min(cpus, int(quota) // int(period)))
    return Machine(((cpus, gpus.counted()),))


def check_resources(resources: Any, machine: Machine, where: str = "this machine") -> None:
    """Raises ConfigError with each resource of which one trial asks more than there is."""
    faults = []
    for name, unit in (("cpus", "CPUs"), ("gpus", "GPUs")):
        each, there = getattr(resources, name), getattr(machine, name)
        if each * resources.workers > there:
            asked = f"{resources.workers} workers with {each:g} each" if resources.workers > 1 else f"{each:g}"
            why = f" that answer ({machine.lacks}); 0 runs on CPUs" if name == "gpus" and machine.lacks else ""
            faults.append(f"resources.{name}: {asked} asked for a trial, but {where} has {there:g} {unit}{why}")
    if not faults and machine.places(resources.cpus, resources.gpus) < resources.workers:
        nodes = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in machine.nodes)
        asked = f"{resources.workers} workers with {resources.cpus} CPUs and {resources.gpus:g} GPUs each"
        faults.append(f"resources.workers: {asked} asked for a trial, but the nodes of {where} have {nodes}")
    if faults:
        raise ConfigError(faults)
