"""Detect the GPUs that work, by a small computation on each: device files and environment variables are not proof."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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


def uuid(device: torch.device | int) -> str:
    """The UUID of a GPU, as CUDA reports it; empty if it is unknown."""
    import torch

    return str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))


def _line(error: Exception) -> str:
    return next((" ".join(line.split()) for line in str(error).splitlines() if line.strip()), type(error).__name__)


if __name__ == "__main__":
    print(json.dumps(answering()))
