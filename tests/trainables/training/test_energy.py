"""Joules from counters: a fake NVML under NVIDIA's own binding, and the loop that adds them up. This machine may have none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ctypes import POINTER, c_void_p, cast
from pathlib import Path
from typing import Any

import pynvml
import pytest
import torch

from tests.helpers import tiny_recipe
from trainables.settings.execution import Execution
from trainables.stages import run_recipe
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store
from trainables.training.energy import added, gpu, silent, used


class Nvml:
    """NVML as ctypes sees it: functions that fill what a pointer points to and return 0."""

    def __init__(self, joules: dict[str, list[int]], mig: dict[str, int] | None = None, fails_after: int = 10**9) -> None:
        self.millijoules, self.mig, self.left = joules, mig or {}, fails_after
        self.names = list(joules)

    def nvmlInitWithFlags(self, flags: int) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:
        if uuid.value.decode() not in self.names:
            return 6  # NVML_ERROR_NOT_FOUND
        cast(handle, POINTER(c_void_p))[0] = 1 + self.names.index(uuid.value.decode())
        return 0

    def nvmlDeviceGetMigMode(self, handle: Any, now: Any, pending: Any) -> int:
        name = self._name(handle)
        if name not in self.mig:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        now._obj.value = self.mig[name]
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:
        self.left -= 1
        if self.left < 0:
            return 15  # NVML_ERROR_GPU_IS_LOST
        value._obj.value = self.millijoules[self._name(handle)].pop(0)
        return 0

    def _name(self, handle: Any) -> str:
        return self.names[(cast(handle, c_void_p).value or 0) - 1]


A, B = "3f2a0000-0000-0000-0000-00000000000a", "3f2a0000-0000-0000-0000-00000000000b"


@pytest.fixture
def under(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Puts a driver under NVIDIA's binding."""

    def put(nvml: Any) -> None:
        monkeypatch.setattr(pynvml, "nvmlLib", nvml)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    return put


def test_the_counter_is_that_of_the_gpu_with_this_uuid(under: Callable[[Any], None]) -> None:
    under(Nvml({f"GPU-{A}": [1000, 3500], f"GPU-{B}": [2**40]}))
    one, other = gpu(A), gpu(f"GPU-{B}")
    assert (one(), other(), one()) == (1.0, 2**40 / 1000, 3.5)


WHOLE = f"GPU-{A}"


@pytest.mark.parametrize(
    ("uuid", "nvml", "joules"),
    [
        pytest.param(B, Nvml({WHOLE: [1]}), None, id="no such GPU, as the UUID of a MIG part"),
        pytest.param("", Nvml({WHOLE: [1]}), None, id="no UUID"),
        pytest.param(A, Nvml({WHOLE: [1]}, mig={WHOLE: 1}), None, id="a part of a GPU has no counter of its own"),
        pytest.param(A, Nvml({WHOLE: [1]}, mig={WHOLE: 0}), 0.001, id="a GPU that could be parted and is not"),
        pytest.param(A, Nvml({WHOLE: [1]}), 0.001, id="a GPU that cannot be parted"),
        pytest.param(A, Nvml({WHOLE: [1]}, fails_after=0), None, id="a GPU before Volta"),
        pytest.param(A, object(), None, id="a driver without these functions"),
    ],
)
def test_gpus_that_tell_and_that_do_not(under: Callable[[Any], None], uuid: str, nvml: Any, joules: float | None) -> None:
    under(nvml)
    assert gpu(uuid)() == joules


def test_a_gpu_that_is_lost(under: Callable[[Any], None]) -> None:
    under(Nvml({WHOLE: [1, 2]}, fails_after=1))
    counter = gpu(A)
    assert (counter(), counter()) == (0.001, None)


def test_without_nvidias_driver(under: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    under(None)
    monkeypatch.setattr(pynvml, "CDLL", missing)
    assert gpu(A) is silent


def test_without_nvidias_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with PyTorch and without nvidia-ml-py trains all the same."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu(A) is silent


def test_differences() -> None:
    assert used(2.0, 5.5) == 3.5
    assert used(None, 5.0) is used(5.0, None) is used(5.0, 4.0) is None
    assert added(1.0, 2.0, 0.0) == 3.0
    assert added(1.0, None) is None
    assert silent() is None


# In training ----------------------------------------------------------------------------------------------------------------------


def counting(monkeypatch: pytest.MonkeyPatch, per_reading: float | None = 5.0) -> None:
    """A GPU whose counter goes up at each reading."""
    total = [1000.0]

    def joules() -> float | None:
        total[0] += per_reading or 0
        return total[0] if per_reading else None

    monkeypatch.setattr(run_recipe, "_joules", lambda device, execution: joules)


def manifest(store: Store, made: Any) -> dict[str, Any]:
    artifact = store.get(nodes(Inputs(made))[-1].stage_id)
    assert artifact is not None
    return artifact.manifest


def test_rows_and_the_artifact_have_what_was_used_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting(monkeypatch)
    made, store = tiny_recipe(tmp_path), Store(str(tmp_path / "store"))
    rows = [row["energy_j"] for row in run_recipe.run(made, store) if row["stage"] == "finetune"]
    assert rows == [5.0 * place for place in range(1, len(rows) + 1)]
    assert manifest(store, made)["energy_j"] == rows[-1]


def test_a_resume_adds_up_and_what_was_not_known_stays_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, store = tiny_recipe(tmp_path), Store(str(tmp_path / "store"))
    counting(monkeypatch)

    def sitting() -> Any:
        return (row for row in run_recipe.run(made, store) if row["stage"] == "finetune")

    assert next(sitting())["energy_j"] == 5
    again = list(sitting())
    assert [(row["source"], row["energy_j"]) for row in again[:2]] == [("loaded", 5.0), ("computed", 10.0)]

    blind = Store(str(tmp_path / "blind"))
    store = blind
    counting(monkeypatch, None)
    assert "energy_j" not in next(sitting())
    counting(monkeypatch)
    assert all("energy_j" not in row for row in sitting())
    assert manifest(store, made)["energy_j"] is None


def test_only_a_whole_gpu_has_a_counter(under: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    under(Nvml({WHOLE: [7000]}))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"uuid": A}))
    cuda = torch.device("cuda", 0)
    assert run_recipe._joules(cuda, Execution())() == 7
    assert run_recipe._joules(cuda, Execution(gpu_share=0.5)) is silent
    assert run_recipe._joules(torch.device("cpu"), Execution()) is silent
