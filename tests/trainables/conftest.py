"""Devices: tests that take `device` run on the CPU, and again on a CUDA device where one works (`pytest -m gpu`)."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from trainables.training.gpus import answering


@cache
def without_gpu() -> str | None:
    """Why no CUDA device works; None if one does."""
    names, why = answering()
    return None if names else why


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device, with the reason, where none works."""
    if item.get_closest_marker("gpu") and (why := without_gpu()):
        pytest.skip(why)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, then the first CUDA device."""
    return torch.device(request.param)
