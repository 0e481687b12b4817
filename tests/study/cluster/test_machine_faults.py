"""What is the machine's fault and what a trial's, how long is waited, when alike failures stop a study."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import torch

from analysis.records import record
from study.cluster import machine_faults, trial
from study.cluster.machine import Machine
from study.cluster.machine_faults import StudyStopped, alike, fault_of, poisons, signature, stops
from study.cluster.trial import persistent
from study.cluster.work import Ended, Work, ended, here
from study.run import parts, to_records
from study.run.screen import Screen
from study.run.scribe import Scribe
from study.run.session import Session
from tests.helpers import tiny_recipe
from tests.study.cluster.test_trial import Flaky
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.stages import run_recipe as runner
from trainables.stages import state_files
from trainables.store.files import explained
from trainables.store.store import Store, StoreError
from trainables.training.loop import Diverged


def system(number: int, path: str = "/data/x") -> OSError:
    return OSError(number, os.strerror(number), path)


def of_store(error: Exception) -> StoreError:
    with pytest.raises(StoreError) as caught, explained("s3://bucket/store"):
        raise error
    return caught.value


def of_text(kind: type[Exception], text: str) -> Exception:
    return kind(text)


def of_module(module: str, name: str, text: str) -> Exception:
    """An error as a library that is not installed here raises it."""
    made: type[Exception] = type(name, (Exception,), {"__module__": module})
    return made(text)


STANDING = {
    "disk": (system(errno.ENOSPC), "free some space"),
    "quota": (system(errno.EDQUOT), "free some space"),
    "read-only": (system(errno.EROFS), "writable"),
    "forbidden": (system(errno.EACCES), "writable"),
    "handles": (system(errno.EMFILE), "ulimit -n"),
    "threads": (RuntimeError("can't start new thread"), "ulimit"),
    "host memory": (system(errno.ENOMEM), "resources.concurrent"),
    "Rust": (RuntimeError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'), "free some space"),
    "store disk": (of_store(system(errno.ENOSPC)), ""),
    "store quota": (of_store(system(errno.EDQUOT)), ""),
    "store read-only": (of_store(system(errno.EROFS)), ""),
    "package": (ModuleNotFoundError("No module named 'peft'", name="peft"), "peft"),
    "library": (ImportError("libcudart.so.12: cannot open shared object file"), "install"),
    "cpu torch": (AssertionError("Torch not compiled with CUDA enabled"), "resources.gpus: 0"),
    "driver": (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"), "nvidia-smi"),
    "old driver": (RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."), "nvidia-smi"),
    "no driver": (RuntimeError("Found no NVIDIA driver on your system."), "nvidia-smi"),
    "mismatch": (RuntimeError("Failed to initialize NVML: Driver/library version mismatch"), "nvidia-smi"),
    "no gpu": (RuntimeError("No CUDA GPUs are available"), "nvidia-smi"),
    "no hip": (RuntimeError("No HIP GPUs are available"), "nvidia-smi"),
    "ordinal": (RuntimeError("CUDA error: invalid device ordinal\nCUDA kernel errors might be ..."), "nvidia-smi"),
    "kernel": (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "nvidia-smi"),
    "busy": (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "nvidia-smi"),
    "lost": (RuntimeError("CUDA error: GPU is lost"), "nvidia-smi"),
    "unknown": (RuntimeError("CUDA error: unknown error"), "nvidia-smi"),
    "Ray's killer": (ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."), "concurrent"),
    "Ray's disk": (ray.exceptions.OutOfDiskError("Local disk is full"), "free some space"),
}
PASSING = {
    "unreachable": system(errno.EHOSTUNREACH),
    "stale": system(errno.ESTALE),
    "input/output": system(errno.EIO),
    "vanished": system(errno.ENOENT),
    "refused": ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    "timeout": TimeoutError("timed out"),
    "http": of_module("httpx", "ConnectError", "[Errno -2] Name or service not known"),
    "bucket": of_store(of_module("botocore.exceptions", "EndpointConnectionError", "Could not connect to the endpoint URL")),
    "store away": of_store(system(errno.ENOTCONN)),
    "NCCL": RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:1691, unhandled system error"),
    "gloo": RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:12345"),
    "node": ray.exceptions.NodeDiedError("the node died"),
}
OF_THE_TRIAL = {
    "index": IndexError("index out of range in self"),
    "shape": RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x32 and 64x2)"),
    "assert": RuntimeError("CUDA error: device-side assert triggered"),
    "gpu memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "memory": MemoryError("a single text does not fit into memory: out of memory"),
    "input": ConfigError(["vocab_size: 10 given, but the tokenizer has 400"]),
    "diverged": Diverged(3, float("nan")),
    "weights": FileNotFoundError("no weights of abc in the store"),
    "nothing": KeyError("x"),
}


@pytest.mark.parametrize("name", STANDING)
def test_a_failure_that_stands_stops_at_once_with_a_way_out(name: str) -> None:
    error, advice = STANDING[name]
    flaky = Flaky(error)
    with pytest.raises(Ended) as caught:
        list(persistent(flaky, retries=3, patience_s=60))
    assert (caught.value.status, flaky.starts) == ("halted", 1)
    assert advice in caught.value.advice
    assert caught.value.reason.count("\n") == 0


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without waiting."""
    slept: list[float] = []
    monkeypatch.setattr(trial.time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("name", PASSING)
def test_a_failure_that_may_pass_is_waited_out(name: str, naps: list[float]) -> None:
    flaky = Flaky(PASSING[name], PASSING[name], PASSING[name])
    rows = list(persistent(flaky, retries=0, patience_s=60))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert naps == [1, 1, 2]


def test_patience_ends_and_begins_anew_with_every_row(naps: list[float]) -> None:
    with pytest.raises(Ended) as caught:
        list(persistent(Flaky(*[PASSING["stale"]] * 20), retries=5, patience_s=10))
    assert (caught.value.status, sum(naps), naps) == ("halted", 10, [1, 1, 2, 4, 2])
    naps.clear()
    with pytest.raises(Ended):
        list(persistent(Flaky(*[PASSING["stale"]] * 20), retries=5, patience_s=0))
    assert naps == []

    def hiccups() -> Iterator[dict[str, Any]]:
        for step in range(4):
            if len(naps) < step + 1:
                raise PASSING["stale"]
            yield {"step": step}

    assert len(list(persistent(hiccups, retries=0, patience_s=1))) == 4  # type: ignore[arg-type]
    assert naps == [1, 1, 1, 1]


@pytest.mark.parametrize("name", OF_THE_TRIAL)
def test_what_a_trial_does_itself_is_not_the_machines_fault(name: str) -> None:
    assert fault_of(OF_THE_TRIAL[name]) is None
    assert ended(OF_THE_TRIAL[name]).status in ("failed", "diverged")
    with pytest.raises(type(OF_THE_TRIAL[name])), stops():
        raise OF_THE_TRIAL[name]


def test_the_cause_counts_also_through_ray_and_another_process() -> None:
    outer = RuntimeError("could not save")
    outer.__cause__ = system(errno.ENOSPC)
    assert fault_of(outer) == machine_faults.ERRNO[errno.ENOSPC]
    task = ray.exceptions.RayTaskError("f", "Traceback ...", of_store(system(errno.EROFS)))
    assert fault_of(task.as_instanceof_cause()) is not None
    again = pickle.loads(pickle.dumps(STANDING["store disk"][0]))
    assert (type(again), str(again)) == (StoreError, str(STANDING["store disk"][0]))
    end = pickle.loads(pickle.dumps(ended(PASSING["NCCL"])))
    assert (end.status, end.passing, end.advice) == ("halted", True, machine_faults.PEERS)
    lost = ConfigError(["train.csv: Input/output error"])
    lost.__context__ = system(errno.EIO, "train.csv")
    assert fault_of(lost) is not None, "input that was sound when the study began"
    with pytest.raises(ConfigError), stops():
        raise lost


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: device-side assert triggered", True),
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA out of memory", False),
        ("index out of range", False),
    ],
)
def test_a_process_whose_gpu_is_poisoned_takes_no_other_trial(text: str, expected: bool) -> None:
    assert poisons(f"Traceback\nRuntimeError: {text}\n") is expected


# Alike ----------------------------------------------------------------------------------------------------------------------------


def ends(name: str, status: str, reason: str | None = None, phase: str = "search") -> dict[str, Any]:
    return {"event": "trial", "trial": name, "phase": phase, "status": status, "reason": reason, "setting": f"s{name}"}


def validated(name: str) -> dict[str, Any]:
    return {"event": "evaluation", "trial": name, "stage": "finetune", "split": "validation"}


FIRST = "IndexError: index 412 is out of bounds for /tmp/a/b with size 400 (stage finetune)"
SECOND = "IndexError: index 97 is out of bounds for /data/c with size 400 (stage finetune)"


@pytest.mark.parametrize(
    ("rows", "stopped"),
    [
        ([ends("t000", "failed", FIRST)], []),
        ([ends("t000", "failed", FIRST), ends("t001", "failed", SECOND)], ["t000", "t001"]),
        ([ends("t000", "failed", FIRST), ends("t001", "failed", "ValueError: x")], []),
        ([ends("t000", "failed", FIRST), ends("t001", "diverged", FIRST)], []),
        ([ends("t000", "failed", FIRST), ends("t001", "unfinished", SECOND)], []),
        ([ends("t000", "failed", FIRST), validated("t002"), ends("t001", "failed", SECOND)], []),
        ([ends("t000", "failed", FIRST), ends("t000", "started"), ends("t000", "failed", SECOND)], []),
        (
            [ends("t000", "failed", FIRST), ends("t001", "failed", "ValueError: x"), ends("t002", "failed", SECOND)],
            ["t000", "t002"],
        ),
        ([{**ends("t000", "failed", FIRST), "setting": "s"}, {**ends("t001", "failed", FIRST), "setting": "s"}], []),
    ],
)
def test_two_trials_that_fail_alike_at_their_beginning_stop_a_study_without_any_validation(
    rows: list[dict[str, Any]], stopped: list[str]
) -> None:
    assert [row["trial"] for row in alike(rows)] == stopped


def test_what_differs_between_trials_is_left_out_of_a_signature() -> None:
    assert signature(FIRST) == signature(SECOND)
    assert signature("RuntimeError: shapes (8x32 and 64x2)") == signature("RuntimeError: shapes (24x128 and 64x2)")
    assert signature("KeyError: 'a'") != signature("KeyError: 'b'")
    assert signature("OSError: x at 0x7f001234") == signature("OSError: x at 0x7f99")


# Where it is met ------------------------------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> Any:
    raise system(errno.ENOSPC, "/data/records")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A sitting without Ray at a study that nothing is asked of."""
    with open(os.devnull, "w") as nowhere:
        scribe = Scribe(record.Records(tmp_path / "records.jsonl", "x"), Screen(nowhere, "x"), [])
        return Session(None, tmp_path, Store(tmp_path / "store"), scribe, Machine(((1, 0),)), None)  # type: ignore[arg-type]


def test_the_bag_of_words_stops_the_study_where_the_machine_failed_and_only_then(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get", full)
    with pytest.raises(StudyStopped, match="No space left"):
        parts._record_baseline(session, object())
    said: list[str] = []
    monkeypatch.setattr(session.scribe, "note", said.append)
    monkeypatch.setattr(ray, "get", lambda _: [][0])
    parts._record_baseline(session, object())
    assert said == ["no bag of words: list index out of range"]


def test_a_process_that_died_of_memory_stops_the_study_and_of_something_else_does_not() -> None:
    died = ray.exceptions.RayActorError(error_msg="The actor died: Task was killed due to the node running low on memory.")
    status, reason, about = to_records._death(died)
    assert (status, about["advice"]) == ("halted", machine_faults.MEMORY)
    assert "low on memory" in reason
    assert to_records._death(ray.exceptions.RayActorError(error_msg="The actor died unexpectedly"))[0] == "failed"
    assert to_records._death(None)[0] == "failed"


def test_records_that_the_disk_does_not_take_stop_the_study(session: Session, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").symlink_to("/dev/full")
    with pytest.raises(StudyStopped) as caught:
        session.scribe.note("what nobody will read")
    assert "No space left on device" in caught.value.reason
    assert caught.value.advice == machine_faults.SPACE


def test_an_error_says_in_which_stage_and_line_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "train", lambda *_, **__: [][0])
    work = Work("t000", tiny_recipe(tmp_path), str(tmp_path / "store"), Execution(threads=1))
    with pytest.raises(Ended) as caught:
        list(persistent(partial(here, work), 0))
    assert caught.value.reason == "IndexError: list index out of range (stage finetune)"
    assert caught.value.where.startswith("trainables/stages/run_recipe.py, line ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where it may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_names_the_place_and_the_work_goes_on_once_there_is_space(small_disk: Path, tmp_path: Path) -> None:
    work = Work("t000", tiny_recipe(tmp_path), str(small_disk / "store"), Execution(threads=1))
    begin: Callable[[], Any] = partial(here, work)
    with pytest.raises(Ended) as caught:
        list(persistent(begin, retries=1, patience_s=60))
    assert caught.value.status == "halted"
    assert "No space left on device" in caught.value.reason
    assert str(small_disk) in caught.value.reason
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert [row["epoch"] for row in persistent(begin, retries=1)] == [1, 2]


def test_tensors_that_do_not_fit_name_their_file(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        state_files.saved({"x": torch.zeros(100_000)}, small_disk / "model.safetensors")
    assert caught.value.filename == str(small_disk / "model.safetensors")
