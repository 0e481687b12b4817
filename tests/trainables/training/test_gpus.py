"""Which GPUs answer, with torch's own functions replaced: there need be no GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainables.training import gpus


def test_a_torch_for_cpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    names, why = gpus.answering()
    assert names == []
    assert torch.__version__ in why


def test_each_gpu_is_tried_and_the_first_line_says_why_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones

    def on(*size: int, device: str) -> Any:
        if device == "cuda:1":
            raise RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might be reported later")
        return ones(*size)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(torch, "ones", on)
    assert gpus.answering() == (["card 0"], "GPU 1: CUDA error: no kernel image is available")


def test_a_driver_that_is_too_old_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "init", fails)
    assert gpus.answering() == ([], "The NVIDIA driver on your system is too old")


def test_the_memory_of_the_smallest_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials may run on any of them."""
    sizes = [80, 24, 48]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=sizes[index]))
    assert gpus.memory_bytes() == 24
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert gpus.memory_bytes() == 0


def test_cards_before_ampere_lack_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"V100": (7, 0), "A100": (8, 0), "T4": (7, 5), "H100": (9, 0)}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: list(cards)[index])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: list(cards.values())[index])
    assert gpus.without_tf32() == ["V100", "T4"]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert gpus.without_tf32() == list(cards)
