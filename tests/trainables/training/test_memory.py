"""Which errors mean that memory ran out, what a pass holds, and how much there is."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import step_memory
from tests.trainables.encoders import examples_of, tiny_base
from trainables.heads.classifier import classifier
from trainables.tables.free_memory import GIB
from trainables.training import memory
from trainables.training.footprint import CPU_BYTES, LEAST_BYTES, Footprint
from trainables.training.memory import footprint, out_of_memory, room

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
        RuntimeError("NCCL error: unhandled cuda error\nLast error:\nFailed to CUDA calloc async 4194304 bytes"),
        RuntimeError("NCCL error\nLast error:\nFailed to CUDA host alloc 16 bytes".replace("host alloc", "host malloc")),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unable to mmap 8 bytes from file: Cannot allocate memory (12)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
)
def test_errors_that_mean_that_memory_ran_out(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "text",
    [
        "mat1 and mat2 shapes cannot be multiplied",
        "CUDA error: device-side assert triggered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_errors_that_mean_something_else(text: str) -> None:
    assert not out_of_memory(RuntimeError(text))


def test_memory_that_runs_out_where_nothing_can_be_repeated_is_told() -> None:
    with (
        pytest.raises(MemoryError, match="ran out while workers added their gradients; a smaller micro_batch"),
        memory.explained("while workers added their gradients"),
    ):
        raise RuntimeError("NCCL error: Failed to CUDA calloc 8 bytes")
    with pytest.raises(RuntimeError, match="remote process"), memory.explained("while workers added their gradients"):
        raise RuntimeError("NCCL error: remote process exited")


def test_a_footprint_counts_tokens_squares_and_targets() -> None:
    found = Footprint(token=10, square=2, target=100, reader=1)
    text, *_ = examples_of(tiny_base("bert"), (9,))
    assert text.masked is not None
    assert found.of(text) == 9 * 11 + 81 * 2 + 100 * len(text.masked[1])
    whole = replace(text, masked=None, fractions=(5, 4))
    assert found.of(whole) == 9 * 11 + (25 + 16) * 2
    assert found.of(replace(whole, features=np.zeros((9, 4), np.float32))) == 9 + 9 * 4 * 4
    assert found.tokens(11 * 50 + 2 * 50 * 50, 50) == 50
    assert found.tokens(1, 50) == 0


def test_the_estimate_is_near_to_what_a_step_takes() -> None:
    """In a process of its own: what other tests have left in this one's memory would change the measurement."""
    steps = ("short texts", "long texts", "masked language model", "recomputed")
    command = [sys.executable, step_memory.__file__, "--layers", "2", "--steps", *steps]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ratios = {name: float(ratio) for name, ratio in re.findall(r"^(.+?) +estimated .* ratio (.+)$", printed, re.MULTILINE)}
    assert ratios.keys() == set(steps)
    assert all(0.6 < ratio < 1.6 for ratio in ratios.values()), ratios


@pytest.mark.parametrize(
    ("free", "processes", "weights", "expected"),
    [
        (64 * GIB, 1, 0, CPU_BYTES),
        (64 * GIB, 8, 0, CPU_BYTES),  # the same bits with any number of trials beside it
        (2 * GIB, 1, 0, CPU_BYTES),
        (2 * GIB - 1, 1, 0, CPU_BYTES // 2),
        (2 * GIB, 2, 0, CPU_BYTES // 2),
        (3 * GIB, 1, GIB // 8, CPU_BYTES // 2),  # gradients and moments take 1.5 GiB of them
        (GIB // 100, 1, 0, LEAST_BYTES),
        (0, 4, GIB, LEAST_BYTES),
    ],
)
def test_the_room_on_a_cpu(
    free: int, processes: int, weights: int, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "available", lambda: (free, 128 * GIB))
    monkeypatch.setattr(memory, "_processes", lambda: processes)
    parameters = [torch.nn.Parameter(torch.empty(weights, device="meta"))]
    assert room(CPU, parameters) == expected
    assert ("may change the rounding" in caplog.text) == (expected < CPU_BYTES)


def test_the_room_on_a_gpu_is_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cache of this process holds and does not use is free as well."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5 * GIB)
    few, many = (torch.nn.Parameter(torch.empty(size, device="meta")) for size in (1, GIB // 3))
    assert room(torch.device("cuda"), [few]) == 32 * GIB  # of 45
    assert room(torch.device("cuda"), [many]) == 32 * GIB  # of 41
    assert room(torch.device("cuda"), [many, many]) == 16 * GIB


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A GPU of 80 GiB, of which 30 are free, and this process holds 5: [the fractions to which this process was bounded]."""
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5 * GIB)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    return fractions


@pytest.mark.parametrize(("share", "gib"), [(1, 16), (0.5, 16), (0.25, 8), (0.125, 2), (0.0625, 1 / 16)])
def test_the_room_on_a_gpu_is_within_the_share_of_the_process(share: float, gib: float, card: list[float]) -> None:
    """A quarter of 80 GiB, less half of one for the context and 5 that are in use, of which .8: 11.6 GiB, as a power of two."""
    assert room(torch.device("cuda"), [], share) == gib * GIB


def test_a_process_is_bounded_to_its_share(card: list[float]) -> None:
    """A process that runs one trial after the other is bounded anew by each."""
    for share in (0.25, 0.001, 1.0):
        memory.bound(torch.device("cuda"), share)
    memory.bound(CPU, 0.5)
    assert card == [pytest.approx(19.5 / 80), 0.0, 1.0]


@pytest.mark.parametrize(
    ("device", "packable", "squares"), [("cpu", True, 1), ("cuda", True, 0), ("cpu", False, 3), ("cuda", False, 3)]
)
def test_attention_keeps_probabilities_without_a_kernel(device: str, packable: bool, squares: int) -> None:
    base = tiny_base("bert")
    model = classifier(base, 2, "cls", 0.1, 0)
    layers, heads = base.layers + 1, base.config.num_attention_heads
    assert footprint(model, packable, torch.device(device)).square == 4 * layers * heads * squares
    assert (
        footprint(model, packable, torch.device(device), recomputes=True).token
        < footprint(model, packable, torch.device(device)).token
    )
    assert math.isfinite(footprint(model, packable, torch.device(device)).token)
