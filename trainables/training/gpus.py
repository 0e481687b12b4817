"""Which GPUs really answer here: counting device files or variables does not tell, a small computation does."""

from __future__ import annotations

import json


def answering() -> tuple[list[str], str]:
    """(names of the visible GPUs that compute, why others or all do not; empty where all do)."""
    import torch

    if not (torch.version.cuda or torch.version.hip):
        return [], f"torch {torch.__version__} was built for CPUs alone"
    names, faults = [], []
    try:
        if not torch.cuda.device_count():
            torch.cuda.init()  # says why
        for index in range(torch.cuda.device_count()):
            try:
                (torch.ones(2, device=f"cuda:{index}") * 2).sum().item()
                names.append(torch.cuda.get_device_name(index))
            except Exception as error:
                faults.append(f"GPU {index}: {_line(error)}")
    except Exception as error:
        faults.append(_line(error))
    return names, "; ".join(faults) or ("" if names else "CUDA finds no GPU")


def _line(error: Exception) -> str:
    return next((" ".join(line.split()) for line in str(error).splitlines() if line.strip()), type(error).__name__)


if __name__ == "__main__":
    print(json.dumps(answering()))
