"""Detect the GPUs that work, by a small computation on each: device files and environment variables are not proof."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


AMPERE = (8, 0)
"""Compute capability of the first GPUs with TF32 and bfloat16."""
ONLY_CPUS = "was built only for CPUs"
"""Part of the reason that a torch without support for GPUs gives."""


def answering() -> tuple[list[str], str]:
    """(names of the visible GPUs that work, why the others do not; empty if all work)."""
    import torch

    if not (torch.version.cuda or torch.version.hip):
        return [], f"torch {torch.__version__} {ONLY_CPUS}"
    names, faults = [], []
    try:
        if not torch.cuda.device_count():
            torch.cuda.init()  # raises the reason
        for index in range(torch.cuda.device_count()):
            try:
                (torch.ones(2, device=f"cuda:{index}") * 2).sum().item()
                names.append(torch.cuda.get_device_name(index))
            except Exception as error:
                faults.append(f"GPU {index}: {_line(error)}")
    except Exception as error:
        faults.append(_line(error))
    return names, "; ".join(faults) or ("" if names else "CUDA finds no GPU")


def memory_bytes() -> int:
    """Memory of the smallest visible GPU in bytes, in use or not; 0 if there is none or it does not answer."""
    import torch

    try:
        return min((torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())), default=0)
    except Exception:  # `answering` says why
        return 0


def has_tf32(device: torch.device | int | None = None) -> bool:
    """Whether a GPU, by default the current one, multiplies in TF32: NVIDIA's do from Ampere on."""
    import torch

    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= AMPERE


def without_tf32() -> list[str]:
    """Names of the visible GPUs that lack TF32; empty if none answers."""
    import torch

    try:
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()) if not has_tf32(i)]
    except Exception:  # `answering` says why
        return []


def uuid(device: torch.device | int) -> str:
    """The UUID of a GPU, as CUDA reports it; empty if it is unknown."""
    import torch

    return str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))


def _line(error: Exception) -> str:
    return next((" ".join(line.split()) for line in str(error).splitlines() if line.strip()), type(error).__name__)


if __name__ == "__main__":
    names, why = answering()
    print(json.dumps({"names": names, "why": why, "memory_bytes": memory_bytes(), "without_tf32": without_tf32()}))
