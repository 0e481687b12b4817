"""The test of kernels lets right ones pass and finds wrong ones, on kernels for the CPU behind torch's own operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.trainables.cpu_kernels import WRONG, WRONG_WITH_DROPOUT, registered
from trainables.encoder import attention, dropout
from trainables.encoder.dropout import Stream
from trainables.kernels import self_test
from trainables.kernels.calls import KERNELS

CPU = torch.device("cpu")
CALLS = {kernel.name: kernel.attend for kernel in KERNELS}
flash_and_efficient = pytest.mark.parametrize(
    ("name", "dtype", "windowed"), [("flash", torch.bfloat16, True), ("efficient", torch.float32, False)]
)


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize(
    ("name", "dtype", "width", "windowed"),
    [
        ("flash", torch.bfloat16, 64, False),
        ("flash", torch.bfloat16, 26, True),
        ("flash", torch.float16, 256, True),
        ("efficient", torch.float32, 26, False),
        ("efficient", torch.bfloat16, 64, False),
        ("efficient", torch.float32, 264, False),
    ],
)
def test_right_kernels_pass(name: str, dtype: torch.dtype, width: int, windowed: bool, dropping: bool) -> None:
    """Heads of 26 channels are padded. Nobody else's random numbers change."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with registered() as kernels:
        assert self_test.fault(CALLS[name], CPU, dtype, width, windowed, dropping) is None
    assert kernels.calls[name] > 0
    assert torch.equal(torch.get_rng_state(), state)


@flash_and_efficient
@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_kernels_are_found(wrong: str, dropping: bool, name: str, dtype: torch.dtype, windowed: bool) -> None:
    with registered(wrong):
        assert self_test.fault(CALLS[name], CPU, dtype, 64, windowed, dropping)


EXPECTED = {
    "drops nothing": "it drops 0.0% at a rate of 25%",
    "does not scale": "kept probabilities differ by 2.5e-01",
    "drops too much": "it drops 32",
    "drops otherwise in the backward pass": "its gradients of the queries, under its own dropout, differ",
    "draws from no generator": "the same random numbers give another dropout",
}


@flash_and_efficient
@pytest.mark.parametrize("wrong", WRONG_WITH_DROPOUT)
def test_wrong_dropout_is_found(wrong: str, name: str, dtype: torch.dtype, windowed: bool) -> None:
    """Such kernels are right without dropout, and are used there."""
    with registered(wrong):
        assert self_test.fault(CALLS[name], CPU, dtype, 64, windowed, dropping=False) is None
        found = self_test.fault(CALLS[name], CPU, dtype, 64, windowed, dropping=True)
    assert found
    assert EXPECTED.get(wrong, "texts, heads or calls share their dropout") in found


@pytest.mark.parametrize(("dropping", "message"), [(False, "its outputs differ"), (True, "it attends to what must not be seen")])
def test_a_window_that_is_off_by_one_is_found(dropping: bool, message: str) -> None:
    with registered("has a wider window"):
        assert message in str(self_test.fault(CALLS["flash"], CPU, torch.bfloat16, 64, True, dropping))


def test_a_lack_of_memory_is_no_fault_of_a_kernel() -> None:
    def attend(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        self_test.fault(attend, CPU, torch.float32, 8, False, False)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_attention_with_a_device_s_random_numbers_passes_too(
    dtype: torch.dtype, dropping: bool, windowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropout, "accelerated", lambda device: True)

    def plain(q: Any, k: Any, v: Any, ends: Any, longest: int, scaling: float, window: int | None, p: float) -> Any:
        layout = attention.PackedLayout(ends.diff().tolist())
        stream = object.__new__(Stream) if p else None  # nothing of it is read
        return attention._Attention.apply(q, k, v, layout, layout.whole, scaling, window, p, stream)

    assert self_test.fault(plain, CPU, dtype, 24, windowed, dropping) is None
