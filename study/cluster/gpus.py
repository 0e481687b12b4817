"""Count the GPUs of a machine: those visible by device files and variables, and those on which torch can compute."""

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
    """Return how many of the `there` GPUs of a machine the variables leave visible, as CUDA or ROCm interprets them.

    A list ends at the first entry that is neither the number of a GPU nor a UUID; a repeated entry makes it empty.
    """
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if amd else ("CUDA_VISIBLE_DEVICES",)
    lists = [environment[name] for name in names if name in environment]
    if amd and len(lists) > 1 and "CUDA_VISIBLE_DEVICES" in environment and "HIP_VISIBLE_DEVICES" in environment:
        lists.pop()  # HIP's own variable takes precedence
    for text in lists:
        there = _listed(text, there)
    return there


def _listed(text: str, there: int) -> int:
    """Number of GPUs that a list names, of `there` GPUs."""
    entries: list[str] = []
    kind = next((prefix for prefix in ("GPU-", "MIG-") if text.strip().startswith(prefix)), None)
    for entry in map(str.strip, text.split(",")):
        if kind is None:
            number = re.match(r"[+]?(\d+)", entry)  # CUDA reads 1st as 1
            if number is None or int(number[1]) >= there:
                break
            entry = str(int(number[1]))
        elif not entry.startswith(kind):
            break
        if entry in entries:
            return 0
        entries.append(entry)
    return len(entries) if kind == "MIG-" and there else min(len(entries), there)


def counted() -> int:
    """Count the GPUs that this process may see, by device files and variables, which is fast."""
    nvidia = sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))
    amd = 0 if nvidia else _of_amd()
    return visible(os.environ, nvidia or amd, amd=bool(amd))


def _of_amd() -> int:
    count = 0
    for path in Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        with contextlib.suppress(OSError):
            count += re.search(r"^simd_count [1-9]", path.read_text(), re.MULTILINE) is not None
    return count


def answering() -> tuple[list[str], str]:
    """Return (names of the GPUs on which torch can compute, why others cannot), tested once in a process of its own."""
    answer = _answering(_settings())
    return answer["names"], answer["why"]


def memory_bytes() -> int:
    """Return the memory of the smallest GPU that this process may see, in bytes; 0 if none answers."""
    return int(_answering(_settings())["memory_bytes"])


def without_tf32() -> list[str]:
    """Return the names of the GPUs that this process may see and that lack TF32."""
    return list(_answering(_settings())["without_tf32"])


def _settings() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in VARIABLES)


@lru_cache(maxsize=1)  # a process that imports torch takes seconds
def _answering(variables: tuple[str | None, ...]) -> dict[str, Any]:
    answer, fault = _asked("trainables.training.gpus")
    return answer or {"names": [], "why": fault, "memory_bytes": 0, "without_tf32": []}


def attention_kernels() -> tuple[dict[str, dict[str, tuple[str, list[str]]]], str]:
    """Return ({number format: {inputs: (kernel of packed attention on the first GPU, notices)}}, why there is no answer)."""
    answer, fault = _asked("trainables.kernels.choice")
    return answer or {}, fault


def _asked(module: str) -> tuple[Any, str]:
    """(what a program of `trainables` prints as JSON, in a process of its own; why it printed nothing)."""
    command = [sys.executable, "-m", module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_WITHIN_S, check=False)
        return json.loads(done.stdout.splitlines()[-1]), ""
    except subprocess.TimeoutExpired:
        return None, f"the GPU did not answer within {ANSWER_WITHIN_S:.0f} s"
    except (OSError, ValueError, IndexError):
        errors = [line.strip() for line in done.stderr.splitlines() if line.strip()] if "done" in locals() else []
        return None, f"torch cannot be run: {errors[-1] if errors else 'its process ended without an answer'}"


def hiding() -> str:
    """Format the variables that hide GPUs, as set here: `CUDA_VISIBLE_DEVICES='0,1'`."""
    return ", ".join(f"{name}={os.environ[name]!r}" for name in VARIABLES if name in os.environ)


def check_cluster(ray: Any, each: float) -> tuple[str, ...]:
    """Return the names of the GPUs of the joined cluster on whose nodes a worker with `each` GPUs can run.

    GPUs in use have no name. Raises ConfigError with every node that offers GPUs, none of which answers.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from trainables.training import gpus

    tasks = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("GPU", 0) >= each:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, num_gpus=each)(gpus.answering).options(scheduling_strategy=there)
            tasks[task.remote()] = node["NodeManagerAddress"]
    ready, _ = (
        ray.wait(list(tasks), num_returns=len(tasks), timeout=ANSWER_WITHIN_S) if tasks else ([], [])
    )  # GPUs in use do not answer in time
    answers = {tasks[task]: _answer(ray, task) for task in ready}
    if faults := [f"resources.gpus: no GPU of node {name} answers: {why}" for name, (names, why) in answers.items() if not names]:
        raise ConfigError([*faults, "repair or exclude these nodes, or set resources.gpus: 0"])
    return tuple(name for names, _ in answers.values() for name in names)


def _answer(ray: Any, task: Any) -> tuple[list[str], str]:
    """The result of `answering` on a node; if its process dies, the error is the reason."""
    try:
        names, why = ray.get(task)
    except ray.exceptions.RayError as error:
        return [], " ".join(str(error).split())[:300]
    return names, why
