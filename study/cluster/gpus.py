"""GPUs of a machine: how many seem to be visible, and, where a study asks for some, how many really answer to torch."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainables.settings.errors import ConfigError

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
ANSWER_WITHIN_S = 300.0


def visible(environment: Mapping[str, str], there: int, amd: bool = False) -> int:
    """How many of the `there` GPUs of a machine the variables leave visible, as CUDA or ROCm reads them.

    A list ends at the first entry that is no number of a GPU and no UUID; with an entry twice it is empty.
    """
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if amd else ("CUDA_VISIBLE_DEVICES",)
    given = [environment[name] for name in names if name in environment]
    if amd and len(given) > 1 and "CUDA_VISIBLE_DEVICES" in environment and "HIP_VISIBLE_DEVICES" in environment:
        given.pop()  # HIP's own goes first
    for text in given:
        there = _listed(text, there)
    return there


def _listed(text: str, there: int) -> int:
    """How many GPUs of so many a list of them names."""
    found: list[str] = []
    kind = next((prefix for prefix in ("GPU-", "MIG-") if text.strip().startswith(prefix)), None)
    for entry in map(str.strip, text.split(",")):
        if kind is None:
            number = re.match(r"[+]?(\d+)", entry)  # CUDA reads 1st as 1
            if number is None or int(number[1]) >= there:
                break
            entry = str(int(number[1]))
        elif not entry.startswith(kind):
            break
        if entry in found:
            return 0
        found.append(entry)
    return len(found) if kind == "MIG-" and there else min(len(found), there)


def counted() -> int:
    """GPUs that this process may see, by device files and variables: what costs nothing to know."""
    nvidia = sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))
    amd = 0 if nvidia else _of_amd()
    return visible(os.environ, nvidia or amd, amd=bool(amd))


def _of_amd() -> int:
    found = 0
    for path in Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        with contextlib.suppress(OSError):
            found += re.search(r"^simd_count [1-9]", path.read_text(), re.MULTILINE) is not None
    return found


def answering() -> tuple[list[str], str]:
    """(names of the GPUs that compute something for torch, why others or all do not), asked in a process of its own, once."""
    return _asked(tuple(os.environ.get(name) for name in VARIABLES))


@lru_cache(maxsize=1)  # a process that imports torch takes seconds
def _asked(variables: tuple[str | None, ...]) -> tuple[list[str], str]:
    command = [sys.executable, "-m", "trainables.training.gpus"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_WITHIN_S, check=False)
        names, why = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return [], f"the GPU did not answer within {ANSWER_WITHIN_S:.0f} s"
    except (OSError, ValueError, IndexError):
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] if "done" in locals() else []
        return [], f"torch cannot be asked: {said[-1] if said else 'its process ended without an answer'}"
    return names, why


def given() -> str:
    """`CUDA_VISIBLE_DEVICES='0,1'`: the variables that hide GPUs, as they are set here."""
    return ", ".join(f"{name}={os.environ[name]!r}" for name in VARIABLES if name in os.environ)


def check_cluster(ray: Any, resources: Any) -> None:
    """Raises ConfigError for each node of the joined cluster that has GPUs to share out, none of which answers."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from trainables.training import gpus

    asked = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("GPU", 0) >= resources.gpus:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, num_gpus=resources.gpus)(gpus.answering).options(scheduling_strategy=there)
            asked[task.remote()] = node["NodeManagerAddress"]
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_WITHIN_S) if asked else ([], [])  # others may be in use
    answers = {asked[task]: _answer(ray, task) for task in ready}
    if faults := [f"resources.gpus: no GPU of node {name} answers: {why}" for name, (names, why) in answers.items() if not names]:
        raise ConfigError([*faults, "mend or leave out these nodes, or set resources.gpus: 0"])


def _answer(ray: Any, task: Any) -> tuple[list[str], str]:
    """What a node says of its GPUs, as `answering`; a process that dies of the question is an answer too."""
    try:
        names, why = ray.get(task)
    except ray.exceptions.RayError as error:
        return [], " ".join(str(error).split())[:300]
    return names, why
