"""Joules from counters: fake trees of Linux's counters, a fake NVML, and the loop that adds them up. This machine may have none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import tiny_recipe
from trainables.settings.execution import Execution
from trainables.stages import run_recipe
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store
from trainables.training import energy
from trainables.training.energy import Packages, added, gpu, packages, silent, used
from trainables.training.loop import Position

RANGE = 262_143_328_850
"""Of a usual package, microjoules."""


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def zone(folder: Path, number: str, microjoules: int, name: str = "package-0", whole: int = RANGE) -> Path:
    made = folder / number
    made.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", whole)):
        (made / file).write_text(f"{value}\n")
    return made / "energy_uj"


def test_packages_are_added_and_their_parts_and_the_platform_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 1_000_000), zone(tmp_path, "intel-rapl:1", 5_000_000, "package-1")
    others = [zone(tmp_path, "intel-rapl:0:0", 0, "core"), zone(tmp_path, "intel-rapl:2", 0, "psys")]
    others.append(zone(tmp_path, "intel-rapl-mmio:0", 0))
    found = Packages(tmp_path)
    assert found.joules() == 0
    first.write_text("3500000\n")
    second.write_text("6000000\n")
    for other in others:
        other.write_text("99000000\n")
    assert found.joules() == pytest.approx(3.5)
    assert found.joules() == pytest.approx(3.5), "a second reading counts nothing twice"


def test_a_counter_that_begins_anew_counts_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", RANGE - 2_000_000)
    found = Packages(tmp_path)
    for reading, joules in ((1_000_000, 3.0), (RANGE - 1_000_000, 3.0 + RANGE / 1e6 - 2), (0, 3.0 + RANGE / 1e6 - 1)):
        counter.write_text(f"{reading}\n")
        assert found.joules() == pytest.approx(joules)


def test_after_too_long_without_a_reading_nothing_is_known(tmp_path: Path) -> None:
    counter, clock = zone(tmp_path, "intel-rapl:0", 0), Clock()
    found = Packages(tmp_path, clock)
    clock.now = 262
    counter.write_text("1000000")
    assert found.joules() == 1
    clock.now += 263
    assert found.joules() is None
    clock.now += 1
    assert found.joules() is None


@pytest.mark.parametrize("harm", ["gone", "forbidden", "nonsense", "empty"])
def test_a_counter_that_fails_midway(tmp_path: Path, harm: str) -> None:
    counter, good = zone(tmp_path, "intel-rapl:0", 0), zone(tmp_path, "intel-rapl:1", 0, "package-1")
    found = Packages(tmp_path)
    good.write_text("5000000")
    assert found.joules() == 5
    break_it(counter, harm)
    assert found.joules() is None
    good.write_text("6000000")
    assert found.joules() is None, "what is not known once is not known later"


def break_it(counter: Path, harm: str) -> None:
    """`forbidden` is a folder in the file's place: root may read every file."""
    if harm in ("gone", "forbidden"):
        counter.unlink()
    if harm == "forbidden":
        counter.mkdir()
    if harm in ("nonsense", "empty"):
        counter.write_text("none of your business" if harm == "nonsense" else "")


def test_a_counter_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter, read = zone(tmp_path, "intel-rapl:0", 7), Path.read_text

    def refused(self: Path, *given: Any, **more: Any) -> str:
        if self == counter:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *given, **more)

    monkeypatch.setattr(Path, "read_text", refused)  # as for anyone but root, which tests may be run by
    assert Packages(tmp_path).joules() is None


@pytest.mark.parametrize("folder", ["nowhere", "empty", "a file"])
def test_a_machine_without_counters(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").write_text("")
    with packages(tmp_path / folder) as found:
        assert found.joules() is None


def test_without_a_known_range_a_difference_is_not_taken(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 0)
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").unlink()
    assert Packages(tmp_path).joules() is None


def test_a_thread_reads_while_nobody_asks(tmp_path: Path) -> None:
    counter, aside = zone(tmp_path, "intel-rapl:0", 0), tmp_path / "aside"

    def at(reading: int) -> None:
        aside.write_text(str(reading))
        aside.replace(counter)  # never half, as the kernel's own files are

    with packages(tmp_path, every_s=0.001) as found:
        at(RANGE - 1)
        while found._last == {counter.parent: 0}:
            time.sleep(0.001)
        at(10)  # a second round is not seen in one reading at the end
        while found._last == {counter.parent: RANGE - 1}:
            time.sleep(0.001)
        at(RANGE - 1)
        assert found.joules() == pytest.approx((2 * RANGE - 1) / 1e6)


# GPUs -----------------------------------------------------------------------------------------------------------------------------


class Nvml:
    """NVML as ctypes sees it: functions that fill what a pointer points to and return 0."""

    def __init__(self, joules: dict[str, list[int]], mig: dict[str, int] | None = None, fails_after: int = 10**9) -> None:
        self.millijoules, self.mig, self.left = joules, mig or {}, fails_after
        self.names = list(joules)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        if uuid.decode() not in self.names:
            return 6  # NVML_ERROR_NOT_FOUND
        handle._obj.value = 1 + self.names.index(uuid.decode())
        return 0

    def nvmlDeviceGetMigMode(self, handle: Any, now: Any, pending: Any) -> int:
        name = self.names[handle.value - 1]
        if name not in self.mig:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        now._obj.value = self.mig[name]
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:
        self.left -= 1
        if self.left < 0:
            return 15  # NVML_ERROR_GPU_IS_LOST
        value._obj.value = self.millijoules[self.names[handle.value - 1]].pop(0)
        return 0


A, B = "3f2a0000-0000-0000-0000-00000000000a", "3f2a0000-0000-0000-0000-00000000000b"


def test_the_counter_is_that_of_the_gpu_with_this_uuid() -> None:
    nvml = Nvml({f"GPU-{A}": [1000, 3500], f"GPU-{B}": [2**40]})
    one, other = gpu(A, nvml), gpu(f"GPU-{B}", nvml)
    assert (one(), other(), one()) == (1.0, 2**40 / 1000, 3.5)


def test_gpus_that_do_not_tell() -> None:
    counts = {f"GPU-{A}": [1, 2, 3, 4]}
    assert gpu(B, Nvml(counts))() is None, "no such GPU, as the UUID of a MIG part"
    assert gpu("", Nvml(counts))() is None
    assert gpu(A, Nvml(counts, mig={f"GPU-{A}": 1}))() is None, "a part of a GPU has no counter of its own"
    assert gpu(A, Nvml(counts, mig={f"GPU-{A}": 0}))() == 0.001
    assert gpu(A, object())() is None, "a driver without these functions"
    lost = gpu(A, Nvml(counts, fails_after=1))
    assert (lost(), lost()) == (0.002, None)


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


def test_a_state_of_an_older_version_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, store = tiny_recipe(tmp_path), Store(str(tmp_path / "store"))
    counting(monkeypatch)
    monkeypatch.setattr(run_recipe, "asdict", lambda at: {k: v for k, v in vars(at).items() if k != "energy_j"})
    next(row for row in run_recipe.run(made, store) if row["stage"] == "finetune")
    assert [row.get("energy_j") for row in run_recipe.run(made, store) if row["stage"] == "finetune"][1:] == [None] * 1
    assert Position().energy_j == 0.0


def test_only_a_whole_gpu_has_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml({f"GPU-{A}": [7000]})
    monkeypatch.setattr(energy, "_nvml", lambda: nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"uuid": A}))
    cuda = torch.device("cuda", 0)
    assert run_recipe._joules(cuda, Execution())() == 7
    assert run_recipe._joules(cuda, Execution(whole_gpu=False)) is silent
    assert run_recipe._joules(torch.device("cpu"), Execution()) is silent
