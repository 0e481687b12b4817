"""Which kernel is chosen, and that its calls are what torch declares for GPUs."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from tests.trainables.cpu_kernels import registered
from trainables.kernels import calls
from trainables.kernels.choice import chosen, survey

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "width", "windowed", "name"),
    [
        (torch.bfloat16, 64, False, "flash"),
        (torch.float16, 26, True, "flash"),
        (torch.bfloat16, 264, False, "efficient"),
        (torch.float32, 64, False, "efficient"),
        (torch.float32, 64, True, "plain"),
        (torch.float64, 64, False, "plain"),
    ],
)
def test_the_fastest_kernel_that_was_written_for_the_inputs(dtype: torch.dtype, width: int, windowed: bool, name: str) -> None:
    with registered():
        choice = chosen(CPU, dtype, width, windowed, True)
    assert (choice.name, choice.notices) == (name, ())
    assert (choice.attend is None) == (name == "plain")


def test_a_kernel_that_fails_is_replaced_with_a_notice() -> None:
    with registered("raises"):
        choice = chosen(CPU, torch.bfloat16, 64, False, True)
    assert (choice.name, choice.attend) == ("plain", None)
    why = "RuntimeError: no kernel image is available for execution on the device; computed by plain attention"
    assert choice.notices == tuple(
        f"attention on cpu: torch's {name} kernel failed its test (bfloat16, heads of 64, dropout): {why}"
        for name in ("flash", "efficient")
    )


def test_dropout_that_is_wrong_does_not_exclude_a_kernel_without_dropout() -> None:
    with registered("drops alike in all heads"):
        found = survey(CPU, torch.float32)
    assert {case: name for case, (name, _) in found.items()} == {
        "full": "efficient",
        "with dropout": "plain",
        "in windows": "plain",
        "in windows with dropout": "plain",
    }
    assert [bool(notices) for _, notices in found.values()] == [False, True, False, False]


def test_an_operation_that_torch_does_not_have_is_replaced() -> None:
    """On a CPU torch has neither; the same answer as for a version of torch without them."""
    chosen.cache_clear()
    choice = chosen(CPU, torch.bfloat16, 64, False, False)
    chosen.cache_clear()
    assert choice.name == "plain"
    assert all("NotImplementedError" in notice for notice in choice.notices)
    assert len(choice.notices) == 2


def test_the_caller_s_modes_do_not_reach_the_test() -> None:
    """Within a checkpointed block, under autocast and in inference mode, and only once."""
    x = torch.ones(2, requires_grad=True)

    def block(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            assert chosen(CPU, torch.float32, 8, False, True).name == "efficient"
        return x.sin().sin()

    with registered() as kernels:
        checkpoint(block, x, use_reentrant=False).sum().backward()
        once = kernels.calls["efficient"]
        with torch.inference_mode():
            block(x)
            assert kernels.calls["efficient"] == once
            chosen.cache_clear()
            block(x)
            assert kernels.calls["efficient"] == 2 * once


@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("width", [26, 64, 256])
@pytest.mark.parametrize(
    ("attend", "dtype", "window"),
    [(calls.flash, torch.bfloat16, None), (calls.flash, torch.float16, 5), (calls.efficient, torch.float32, None)],
)
def test_the_calls_are_as_torch_declares_them_for_gpus(
    attend: object, dtype: torch.dtype, window: int | None, width: int, p: float
) -> None:
    """Torch's own rules for shapes: on tensors that claim to be on a GPU, and with gradients on tensors without data."""
    with FakeTensorMode(), torch.no_grad():
        q, k, v = (torch.empty(9, 4, width, dtype=dtype, device="cuda") for _ in range(3))
        out = attend(q, k, v, torch.empty(3, dtype=torch.int32, device="cuda"), 6, 0.2, window, p)  # type: ignore[operator]
        assert (out.shape, out.dtype, out.device.type) == ((9, 4, width), dtype, "cuda")
    if attend is calls.efficient:  # torch's own rule for its backward pass lacks an argument
        return
    leaves = [torch.empty(9, 4, width, dtype=dtype, device="meta", requires_grad=True) for _ in range(3)]
    out = attend(*leaves, torch.empty(3, dtype=torch.int32, device="meta"), 6, 0.2, window, p)  # type: ignore[operator]
    assert [x.shape for x in torch.autograd.grad(out.sum(), leaves)] == [(9, 4, width)] * 3
