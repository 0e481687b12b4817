"""GPUs that count: those that the variables leave visible and that answer."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray

from study.cluster import gpus, machine, ray_session, variables
from study.cluster.machine import check_resources
from study.cluster.ray_session import machine_for
from study.cluster.trial import resources as trial_resources
from study.definition.models import Resources, Study
from study.definition.study_file import load_study
from study.planning.check import check
from study.run import parts
from study.run.scribe import Scribe
from study.run.session import open_session
from tests.study.tiny import answer, records, refused, write_study
from trainables.settings.errors import ConfigError
from trainables.stages.inputs import Reader
from trainables.store.store import Store
from trainables.training import gpus as there


@pytest.mark.parametrize(
    ("value", "there", "expected"),
    [
        (None, 4, 4),
        (None, 0, 0),
        ("0", 4, 1),
        ("0", 0, 0),
        ("0,1", 4, 2),
        (" 0, 1", 4, 2),
        ("3,1", 4, 2),
        ("4", 4, 0),
        ("0,7,1", 4, 1),
        ("0,foo,1", 4, 1),
        ("foo", 4, 0),
        ("", 4, 0),
        (" ", 4, 0),
        ("-1", 4, 0),
        ("0,-1,1", 4, 1),
        ("NoDevFiles", 4, 0),
        ("none", 4, 0),
        ("0,0", 4, 0),
        ("0,1,0", 4, 0),
        ("00,1", 4, 2),
        ("GPU-8932f937-d72c", 4, 1),
        ("GPU-8932f937-d72c,GPU-1e2a", 4, 2),
        ("GPU-8932,GPU-8932", 4, 0),
        ("GPU-8932,0", 4, 1),
        ("GPU-8932", 0, 0),
        ("MIG-GPU-8932/1/0", 1, 1),
        ("MIG-8932,MIG-9", 1, 2),
        ("MIG-8932", 0, 0),
    ],
)
def test_variables_are_read_as_cuda_reads_them(value: str | None, there: int, expected: int) -> None:
    assert gpus.visible({} if value is None else {"CUDA_VISIBLE_DEVICES": value}, there) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 8),
        ({"HIP_VISIBLE_DEVICES": "0,1"}, 2),
        ({"ROCR_VISIBLE_DEVICES": "0,1,2"}, 3),
        ({"ROCR_VISIBLE_DEVICES": "4,5,6", "HIP_VISIBLE_DEVICES": "0,1"}, 2),
        ({"ROCR_VISIBLE_DEVICES": "4", "HIP_VISIBLE_DEVICES": "1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "2"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "2", "HIP_VISIBLE_DEVICES": "0,1"}, 2),
    ],
)
def test_variables_of_rocm(variables: dict[str, str], expected: int) -> None:
    assert gpus.visible(variables, 8, amd=True) == expected


class Torch:
    """What the other process says."""

    def __init__(self, stdout: str, stderr: str = "") -> None:
        self.stdout, self.stderr, self.asked = stdout, stderr, 0

    def __call__(self, *_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        self.asked += 1
        return subprocess.CompletedProcess([], 0, self.stdout, self.stderr)


@pytest.fixture
def torch_says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answers of a torch with GPUs, of which there are none here."""

    def says(*answer: Any, size: int = 80 * 10**9, without_tf32: tuple[str, ...] = (), **more: str) -> Torch:
        fields = dict(zip(("names", "why"), answer, strict=False)) | {"memory_bytes": size, "without_tf32": without_tf32}
        made = Torch(json.dumps(fields), **more) if answer else Torch("", **more)
        monkeypatch.setattr(gpus.subprocess, "run", made)
        gpus._answering.cache_clear()
        return made

    yield says
    gpus._answering.cache_clear()


def test_a_gpu_counts_where_it_answers(torch_says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,foo")
    made = torch_says(["NVIDIA H100"], "")
    assert machine_for(Resources(gpus=1)).gpus == 1
    assert machine_for(Resources(gpus=0.5)).gpus == 1
    assert made.asked == 1, "once for a process"
    assert gpus.memory_bytes() == 80 * 10**9
    check_resources(Resources(gpus=1), machine_for(Resources(gpus=1)))
    with pytest.raises(ConfigError, match=r"2 requested .* has 1 GPUs that answer \(CUDA_VISIBLE_DEVICES='0,foo'\)"):
        check_resources(Resources(gpus=2), machine_for(Resources(gpus=2)))


def test_tf32_on_a_card_before_ampere_is_refused_before_anything_starts(torch_says: Any, tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, baseline=False)).model_copy(update={"precision": "tf32"})
    study = study.model_copy(update={"resources": Resources(gpus=1)})
    torch_says(["Tesla T4", "Tesla T4"], "", without_tf32=("Tesla T4", "Tesla T4"))
    with pytest.raises(ConfigError) as caught:
        check(study, machine.Machine(((4, 2),), names=("Tesla T4",) * 2))
    assert caught.value.faults == (
        "precision: tf32 given, but Tesla T4 does not have it, only NVIDIA's GPUs from Ampere on; use float32",
    )


@pytest.mark.parametrize(
    ("answer", "stderr", "said"),
    [
        (([], "GPU 0: CUDA error: no kernel image is available for execution on the device"), "", "no kernel image"),
        (([], "The NVIDIA driver on your system is too old"), "", "too old"),
        ((), "ImportError: libcudart.so.12: cannot open shared object file\n", "libcudart.so.12"),
        ((), "", "its process ended without an answer"),
    ],
)
def test_why_no_gpu_answers_is_said(torch_says: Any, answer: tuple[Any, ...], stderr: str, said: str) -> None:
    torch_says(*answer, stderr=stderr)
    with pytest.raises(ConfigError) as caught:
        check_resources(Resources(gpus=1), machine_for(Resources(gpus=1)))
    (fault,) = caught.value.faults
    assert fault.startswith("resources.gpus: 1 requested for a trial, but this machine has 0 GPUs that answer")
    assert said in fault
    assert "0 runs on CPUs" in fault


def test_nobody_is_asked_where_no_gpu_is(torch_says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = torch_says([], "")
    assert machine_for(Resources(gpus=0)).gpus == machine.this_machine().gpus
    assert made.asked == 0
    monkeypatch.setattr(gpus, "counted", lambda: 0)
    assert machine_for(Resources()).gpus_for(Resources()) == 0, "auto"
    assert made.asked == 0


def test_auto_takes_a_gpu_for_every_worker_where_one_is(torch_says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "counted", lambda: 2)
    torch_says(["NVIDIA H100", "NVIDIA H100"], "")
    found = machine_for(Resources())
    assert (found.gpus, found.names, found.notices) == (2, ("NVIDIA H100", "NVIDIA H100"), [])
    found = machine.Machine(((16, 2),), names=found.names)
    assert found.gpus_for(Resources()) == 1
    assert found.computes_on(Resources()) == "2 NVIDIA H100, 1 a trial, 2 trials at a time"
    assert found.computes_on(Resources(gpus=0.5)) == "2 NVIDIA H100, 0.5 a trial, 4 trials at a time"
    assert found.computes_on(Resources(workers=2)) == "2 NVIDIA H100, 2 a trial, 1 trial at a time"
    assert found.computes_on(Resources(gpus=0, cpus=4)) == "16 CPU cores, 4 a trial, 4 trials at a time"
    check_resources(Resources(workers=2), found)
    with pytest.raises(
        ConfigError, match=r"resources.gpus: 3 workers with 1 each by auto requested for a trial, but .* has 2 GPUs"
    ):
        check_resources(Resources(workers=3), found)


def test_auto_never_leaves_a_gpu_aside_in_silence(torch_says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "counted", lambda: 1)
    torch_says([], "torch 2.13.0+cpu was built only for CPUs")
    found = machine_for(Resources())
    check_resources(Resources(), found)
    assert found.devices(Resources()).endswith("CPU cores" if found.cpus > 1 else "CPU core")
    assert found.notices == ["GPUs of this machine are not used: torch 2.13.0+cpu was built only for CPUs"]
    torch_says(["NVIDIA A100"], "GPU 1: CUDA error: out of memory")
    assert machine_for(Resources()).notices == ["GPUs of this machine are not used: GPU 1: CUDA error: out of memory"]
    torch_says([], "The NVIDIA driver on your system is too old")
    with pytest.raises(ConfigError) as caught:
        check_resources(Resources(), machine_for(Resources()))
    (fault,) = caught.value.faults
    assert fault.startswith("resources.gpus: auto, but none of the GPUs of this machine answers (The NVIDIA driver")
    assert "0 runs on CPUs" in fault


def test_this_torch_says_that_it_was_built_for_cpus_as_it_is_understood() -> None:
    import torch

    if torch.version.cuda or torch.version.hip:
        pytest.skip("torch was built for GPUs")
    assert there.ONLY_CPUS in there.answering()[1]


@pytest.mark.skipif(machine.this_machine().gpus > 0, reason="there is a GPU")
def test_a_study_is_refused_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path / "input", resources={"gpus": 1})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    said = refused(capsys, "run", path, "--out", tmp_path / "run", "--store", tmp_path / "store")
    assert "resources.gpus: 1 requested for a trial, but this machine has 0 GPUs that answer" in said
    assert "CUDA_VISIBLE_DEVICES='0'" in said
    assert records(tmp_path / "run") == []
    planned = answer(capsys, "plan", path, "--store", tmp_path / "store")
    assert "this machine would refuse the run: resources.gpus: 1 requested for a trial" in planned


def test_without_gpus_asked_for_trials_are_computed_on_the_cpu(tmp_path: Path) -> None:
    made = load_study(write_study(tmp_path, resources={"gpus": 0}))
    assert made.execution_for(keep_weights=True).device == "cpu", "also where there is a GPU"
    with pytest.raises(ValueError, match="auto"):
        made.model_copy(update={"resources": Resources()}).execution_for(keep_weights=True)
    wanted = made.model_copy(update={"resources": Resources(gpus=0.5)})
    assert wanted.execution_for(keep_weights=True).device == "cuda", "and never silently on the CPU"


def test_nodes_whose_gpus_do_not_answer_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Ray that was started with a GPU on a machine whose torch has none."""
    if machine.this_machine().gpus:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with variables.settled(joined=False), ray_session._local_cluster(machine.Machine(((2, 1),))):
        (node,) = ray.nodes()
        with pytest.raises(ConfigError, match="Ray is already running in this process"):
            ray_session.refuse_running_ray()
        assert gpus.check_cluster(ray, 2) == ()  # such a trial is not placed here, which another check refuses
        with pytest.raises(ConfigError) as caught:
            gpus.check_cluster(ray, ray_session._cluster(ray).gpus_for(Resources()))
        fault, way = caught.value.faults
        assert fault == f"resources.gpus: no GPU of node {node['NodeManagerAddress']} answers: {there.answering()[1]}"
        assert "resources.gpus: 0" in way
        monkeypatch.setattr(there, "answering", dies)
        with pytest.raises(ConfigError, match=r"no GPU of node .* answers: .*driver"):
            gpus.check_cluster(ray, 1)
        _check_placement(load_study(write_study(tmp_path, resources={})), tmp_path)


def _check_placement(given: Study, folder: Path) -> None:
    """With `gpus: auto` every trial, and every task of a study, gets one of the GPUs of the running Ray."""
    scribe = cast(Scribe, SimpleNamespace(rows=[]))
    session = open_session(given, folder, Store(folder / "store"), scribe, ray_session._cluster(ray), Reader())
    assert trial_resources(session.placement).required_resources == {"CPU": 1, "GPU": 1}
    assert ray.get(parts._task(session, variable, "CUDA_VISIBLE_DEVICES")) == "0"
    assert session.study.execution_for(keep_weights=True).device == "cuda"
    assert session.machine.computes_on(session.study.resources) == "1 GPU, 1 a trial, 1 trial at a time"
    assert session.to_resume == given, "a later session may find other GPUs"


def variable(name: str) -> str | None:
    return os.environ.get(name)


def dies() -> None:
    raise OSError("the driver is gone")
