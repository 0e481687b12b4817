"""`precision: auto` is decided by a measurement."""

from __future__ import annotations

import pytest
import torch

from trainables.training import precision, world
from trainables.training.runtime import Runtime


@pytest.mark.parametrize(("gain", "expected"), [(2.9, "bfloat16"), (1.2, "float32"), (0.4, "float32")])
def test_auto_follows_the_measured_gain_on_a_cpu(monkeypatch: pytest.MonkeyPatch, gain: float, expected: str) -> None:
    monkeypatch.setattr(precision, "cpu_speedup", lambda: gain)
    assert precision.resolve("auto", "cpu") == expected


def test_a_given_precision_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_speedup", lambda: pytest.fail("measured"))
    assert precision.resolve("float32", "cpu") == "float32"
    assert precision.resolve("bfloat16", "cpu") == "bfloat16"


def test_measurement_is_a_ratio_and_made_once() -> None:
    assert 0.01 < precision.cpu_speedup() < 100
    assert precision.cpu_speedup() == precision.cpu_speedup()


def test_device() -> None:
    assert precision.pick_device("cpu") == torch.device("cpu")
    assert precision.pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_float32_on_a_gpu_is_not_rounded_to_tf32() -> None:
    """Neither in products nor in LSTMs nor in convolutions, whatever an image or an earlier user of the process has set."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    Runtime(torch.device("cpu"), world.current(), autocast=False)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert "tf32" not in (torch.backends.cudnn.rnn.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
