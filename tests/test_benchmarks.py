"""The measurements on a GPU, tried on the CPU: what they write, and that nothing that fails or is left out goes unsaid."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, trials

ROOT = Path(__file__).parent.parent


def results(folder: Path) -> Any:
    (path,) = folder.glob("cpu-*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_all_parts_on_the_cpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    found = results(tmp_path)
    about, parts = found["about"], found["parts"]
    assert {"date", "commit", "changed_files", "device", "cards", "driver", "python", "packages"} <= about.keys()
    assert about["packages"]["torch"]
    assert list(parts) == ["tests", "throughput", "trials"]
    assert all(part["faults"] == [] and part["seconds"] > 0 for part in parts.values())
    assert parts["tests"]["result"]["passed"] >= 3
    (workload,) = parts["throughput"]["result"].values()
    (measured,) = workload["rounds"]
    assert measured["products_flops"] > 0
    assert {"ours", "Trainer", "Trainer by length"} <= measured["contestants"].keys() == workload["medians"].keys()
    for contestant in workload["medians"].values():
        assert contestant["tokens_per_s"] > 0
        assert 0 < contestant["utilisation"] < 1
        assert contestant["joules_per_token"] is contestant["peak_memory_gib"] is None
    assert parts["trials"]["result"]["1"]["trials_per_hour"] > 0
    said = capfd.readouterr().out
    assert f"{parts['tests']['result']['passed']} passed, 0 failed" in said
    assert str(next(tmp_path.glob("cpu-*.json"))) in said


FILE = """
import pytest, time

def test_good(): pass

def test_bad(): assert 1 == 2, "one is not two"

@pytest.mark.skip(reason="no second card")
def test_left(): pass
"""


def test_a_part_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_some.py").write_text(FILE, encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    failing = replace(gpu.PARTS["tests"], on_cpu=["-q", "-c", "/dev/null", str(tmp_path / "test_some.py")])
    monkeypatch.setattr(gpu, "PARTS", {"tests": failing, "trials": replace(gpu.PARTS["trials"], module="broken")})
    assert gpu.main(["--device", "cpu", "--parts", "tests", "trials", "--out", str(tmp_path)]) == 1
    parts = results(tmp_path)["parts"]
    assert parts["tests"]["result"]["passed"] == 1
    assert parts["tests"]["result"]["skipped"] == {"no second card": 1}
    assert any("test_bad: AssertionError: one is not two" in fault for fault in parts["tests"]["faults"])
    assert parts["trials"]["faults"] == ["broken ended with exit code 3"]
    said = capfd.readouterr().out
    assert "1 passed, 1 failed, 1 skipped (no second card)" in said
    assert len(re.findall(r"^(?:tests|trials) .* FAILED", said, flags=re.M)) == 2


def ended(pid: str) -> bool:
    """Whether a process is gone, or waits for nothing but its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_a_part_without_end_is_ended_with_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    (tmp_path / "endless.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "child.wait()\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    endless = replace(gpu.PARTS["trials"], module="endless")
    assert gpu.run(endless, "cpu", 3.0)["faults"] == ["not finished within 3 s"]
    for _ in range(100):
        if ended(pid.read_text()):
            break
        time.sleep(0.05)
    assert ended(pid.read_text())
    assert gpu.run(endless, "cpu", 0.1)["faults"] == ["not begun: the time was over"]


def test_what_was_not_reached_is_named() -> None:
    measured = {"medians": {"Trainer": {"fault": "CUDA out of memory"}}, "rounds": [{}]}
    assert gpu.wrong_throughput({"train long 24": measured, "predict short 24": {"medians": {}, "rounds": []}}) == [
        "predict short 24: not measured",
        "train long 24, Trainer: CUDA out of memory",
    ]
    assert gpu.wrong_trials({"1": trials.row(2, 4.0, [1.0, 2.0]), "8": None}) == ["8 side by side: not measured"]
    assert trials.row(2, 4.0, [1.0, 2.0]) == {"trials": 2, "seconds": 4.0, "trials_per_hour": 1800.0, "memory_gib": 3.0}


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.main(["--parts", "trials"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("No CUDA device works here: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "NEEDED", ("torch", "no_such_package", "json"))
    assert gpu.main(["--device", "cpu"]) == 2
    assert capsys.readouterr().err == f"{sys.executable} lacks these packages: no_such_package.\n"


@pytest.mark.parametrize("place", ["a file", "/proc/no-such-place"])
def test_a_folder_that_takes_no_results_is_told_before_anything_is_measured(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").touch()
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path / place)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"Results cannot be written: {tmp_path / place}: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_runs_of_the_same_second_have_a_file_each(tmp_path: Path) -> None:
    paths = [gpu.new_file(tmp_path / "results", "cpu-1", ".json", text) for text in "abc"]
    assert [path.name for path in paths] == ["cpu-1.json", "cpu-1-2.json", "cpu-1-3.json"]
    assert [path.read_text() for path in paths] == ["a", "b", "c"]


BARE = """
import importlib, sys
class Hidden:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {hidden} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hidden(finder) for finder in sys.meta_path]
for name in {names}:
    importlib.import_module(name)
"""
ABSENT = (
    "ray",
    "optuna",
    "datasets",
    "matplotlib",
    "hypothesis",
    "sklearn",
    "peft",
    "sentencex",
    "pynvml",
    "pandas",
    "jinja2",
    "s3fs",
)


def test_all_of_it_is_imported_without_what_a_machine_with_a_gpu_may_lack() -> None:
    """As on a machine that has PyTorch, transformers, pyarrow, pydantic and pytest."""
    tests = [f"tests.trainables.on_device.{path.stem}" for path in (ROOT / "tests/trainables/on_device").glob("*.py")]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "trainables").rglob("*.py")
        if path.name != "__main__.py"
    ]
    names = [
        "tests.conftest",
        "tests.trainables.conftest",
        *tests,
        *modules,
        "benchmarks.gpu",
        "benchmarks.throughput",
        "benchmarks.trials",
    ]
    code = BARE.format(hidden=ABSENT, names=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
