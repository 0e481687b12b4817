"""GPUs that count: those that the variables leave visible and that answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from study.cluster import gpus, machine, ray_session, variables
from study.cluster.machine import check_resources
from study.cluster.ray_session import machine_for
from study.definition.models import Resources
from study.definition.study_file import load_study
from tests.study.tiny import answer, records, refused, write_study
from trainables.settings.errors import ConfigError
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

    def says(*answer: Any, size: int = 80 * 10**9, **more: str) -> Torch:
        made = Torch(json.dumps([*answer, size]), **more) if answer else Torch("", **more)
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


def test_nobody_is_asked_where_no_gpu_is(torch_says: Any) -> None:
    made = torch_says([], "")
    assert machine_for(Resources()).gpus == machine.this_machine().gpus
    assert made.asked == 0


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
    made = load_study(write_study(tmp_path))
    assert made.execution_for(keep_weights=True).device == "cpu", "also where there is a GPU"
    wanted = made.model_copy(update={"resources": Resources(gpus=0.5)})
    assert wanted.execution_for(keep_weights=True).device == "cuda", "and never silently on the CPU"


def test_nodes_whose_gpus_do_not_answer_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that was started with a GPU on a machine whose torch has none."""
    import ray

    if machine.this_machine().gpus:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with variables.settled(joined=False), ray_session._local_cluster(machine.Machine(((2, 1),))):
        (node,) = ray.nodes()
        gpus.check_cluster(ray, Resources(gpus=2))  # such a trial is not placed here, which another check refuses
        with pytest.raises(ConfigError) as caught:
            gpus.check_cluster(ray, Resources(gpus=1))
        fault, way = caught.value.faults
        assert fault == f"resources.gpus: no GPU of node {node['NodeManagerAddress']} answers: {there.answering()[1]}"
        assert "resources.gpus: 0" in way
        monkeypatch.setattr(there, "answering", dies)
        with pytest.raises(ConfigError, match=r"no GPU of node .* answers: .*driver"):
            gpus.check_cluster(ray, Resources(gpus=1))


def dies() -> None:
    raise OSError("the driver is gone")
