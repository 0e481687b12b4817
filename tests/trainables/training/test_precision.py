"""`precision: auto` is decided by a measurement."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainables.settings.errors import ConfigError
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
    Runtime(torch.device("cpu"), world.current())
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert "tf32" not in (torch.backends.cudnn.rnn.fp32_precision, torch.backends.cudnn.conv.fp32_precision)


CARDS = {(9, 0): "bfloat16", (8, 0): "bfloat16", (7, 5): "float16", (7, 0): "float16", (6, 1): "float32"}


@pytest.mark.parametrize(("capability", "expected"), CARDS.items())
def test_auto_on_a_gpu_follows_its_tensor_cores(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And TF32 is refused where they lack it."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability[0]))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert precision.resolve("auto", "cuda") == expected
    if expected == "bfloat16":
        assert precision.resolve("tf32", "cuda") == "tf32"
    else:
        with pytest.raises(ConfigError, match="tf32 given, but this machine's a card does not have it"):
            precision.resolve("tf32", "cuda")
    with pytest.raises(ConfigError, match="tf32 given, but a CPU does not have it"):
        precision.resolve("tf32", "cpu")


def test_tf32_is_of_products_of_matrices_and_of_its_own_passes_alone() -> None:
    """Work in float32 that is done meanwhile, such as vectors of texts, does not end it, and is not rounded."""
    asked, other = Runtime(torch.device("cpu"), world.current(), "tf32"), Runtime(torch.device("cpu"), world.current())
    for runtime, rounded in ((asked, True), (other, False), (asked, True), (other, False)):
        with runtime.autocast():
            assert not torch.is_autocast_enabled("cpu")
        assert torch.backends.cuda.matmul.allow_tf32 == rounded
        assert not torch.backends.cudnn.allow_tf32
