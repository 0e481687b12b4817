"""Everything that this project claims of a GPU, on the GPU of this machine: tests, throughput, trials per hour, in nine minutes.

    make gpu                                                   with .venv, or with the Python that is there: make gpu PYTHON=python3
    python -m benchmarks.gpu [--device cuda|cpu] [--parts tests throughput trials] [--out FOLDER]

`tests` are the tests marked `gpu`, `throughput` is `benchmarks/throughput.py`, `trials` is `benchmarks/trials.py`, with a BERT-base
of random weights. Nothing is downloaded, and neither Ray, Optuna nor `datasets` is needed. Each part has a time limit; what it did
not reach is named. All results go to one JSON file, with versions, card, driver, date and commit. `--device cpu` tries the script
itself with tiny sizes; its numbers mean nothing.

Exit codes: 0, everything was measured and every test passed; 1, a part failed or did not finish; 2, no CUDA device works, a
package is missing or the file cannot be written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "numpy", "safetensors", "pyarrow", "pydantic", "accelerate", "flash_attn", "triton", "peft")
NEEDED = ("torch", "transformers", "numpy", "safetensors", "fsspec", "pyarrow", "pydantic", "yaml", "accelerate", "pytest")
"""Modules without which a part cannot begin."""
ON_GPU = ["--device", "cuda", "--encoder", "base", "--precision", "bfloat16"]
TINY = ["--device", "cpu", "--encoder", "tiny"]


@dataclass(frozen=True)
class Part:
    """A command that writes its results to a file."""

    module: str
    on_gpu: list[str]
    on_cpu: list[str]
    seconds: int
    """Its time limit, and what earlier parts did not need."""
    result: str
    """The option that names the file."""
    read: Callable[[Path], Any]
    missing: Callable[[Any], list[str]]
    """What a result lacks or shows as wrong."""


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_tests(path: Path) -> Any:
    """{outcome: number}, the failed tests with the first line of their message, the reasons of skips with their number."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed, skips = {}, dict[str, int]()
    for case in cases:
        for outcome in case:
            text = (outcome.get("message") or "").partition("\n")[0]
            if outcome.tag in ("failure", "error"):
                failed[f"{case.get('classname')}::{case.get('name')}"] = text
            elif outcome.tag == "skipped":
                skips[text] = skips.get(text, 0) + 1
    passed = len(cases) - len(failed) - sum(skips.values())
    return {"passed": passed, "failed": failed, "skipped": skips}


def wrong_tests(result: Any) -> list[str]:
    return [f"{name}: {text}" for name, text in result["failed"].items()] + ([] if result["passed"] else ["no test passed"])


def wrong_throughput(result: Any) -> list[str]:
    """Workloads without a measurement, and contestants that failed: our own among them or not."""
    left = [f"{name}: not measured" for name, found in result.items() if not found["rounds"]]
    faults = (
        f"{name}, {contestant}: {medians['fault']}"
        for name, found in result.items()
        for contestant, medians in found["medians"].items()
        if "fault" in medians
    )
    return [*left, *faults]


def wrong_trials(result: Any) -> list[str]:
    return [f"{count} side by side: not measured" for count, found in result.items() if found is None]


TESTS = ["-q", "-p", "no:cacheprovider", "--tb=short", "--durations=5", "-o", "timeout=100"]
PARTS = {
    "tests": Part(
        "pytest",
        [*TESTS, "-m", "gpu", "tests/trainables/on_device"],
        [*TESTS, "-m", "not gpu and not slow", "tests/trainables/training/test_gpus.py"],
        170,
        "--junitxml",
        read_tests,
        wrong_tests,
    ),
    "throughput": Part(
        "benchmarks.throughput",
        [*ON_GPU, "--what", "train", "predict", "--texts", "long", "short", "--batch", "24", "256", "--steps", "60", "12"],
        [*TINY, "--texts", "short", "--batch", "2", "--steps", "1", "--rounds", "1"],
        240,
        "--json",
        read_json,
        wrong_throughput,
    ),
    "trials": Part(
        "benchmarks.trials",
        [*ON_GPU, "--side-by-side", "1", "2", "4", "8"],
        [*TINY, "--side-by-side", "1", "--trials", "1"],
        120,
        "--json",
        read_json,
        wrong_trials,
    ),
}
"""{name: part}, in order of importance."""
GRACE = 30
"""Seconds before its limit at which a part that can stop by itself begins nothing more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; write and print their results. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    options = parser.parse_args(arguments)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"{sys.executable} lacks these packages: {', '.join(missing)}.", file=sys.stderr)
        return 2
    cards, reason = working_cards(options.device)
    if options.device == "cuda" and not cards:
        print(f"No CUDA device works here: {reason.rstrip('.')}.", file=sys.stderr)
        return 2
    deadline = time.monotonic() + sum(PARTS[name].seconds for name in options.parts)
    report: dict[str, Any] = {"about": about(options.device, cards), "parts": {}}
    stem = re.sub(r"[^a-z0-9]+", "-", f"{(cards or ['cpu'])[0]} {report['about']['date'][:19]}".lower())
    try:
        path = new_file(options.out, stem, ".json", json.dumps(report, indent=1))
    except OSError as error:
        print(f"Results cannot be written: {error.filename}: {error.strerror}; choose another folder (--out).", file=sys.stderr)
        return 2
    for name in options.parts:
        print(f"== {name}", flush=True)
        later = options.parts[options.parts.index(name) + 1 :]
        left = deadline - time.monotonic() - sum(PARTS[each].seconds for each in later)
        report["parts"][name] = run(PARTS[name], options.device, left)
        path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print("\n".join(summary(report)))
    print(f"results: {path}")
    return int(any(part["faults"] for part in report["parts"].values()))


def new_file(folder: Path, stem: str, suffix: str, text: str) -> Path:
    """A new file with this text; numbered if another run has begun in the same second. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
            return path
        except FileExistsError:
            number += 1


def working_cards(device: str) -> tuple[list[str], str]:
    """(names of the CUDA devices that work, why others do not), asked in a process of its own, which leaves no context."""
    if device == "cpu":
        return [], ""
    command = [sys.executable, "-m", "trainables.training.gpus"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    if done.returncode:
        return [], (done.stderr.strip().splitlines() or ["no answer"])[-1]
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["names"], answer["why"]


def environment() -> dict[str, str]:
    """This process's environment, in which the checkout comes first on Python's path and nothing asks a network."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def run(part: Part, device: str, limit: float) -> dict[str, Any]:
    """{result, seconds, faults} of a part, whose output is shown; ended with all its processes when its time is over."""
    start = time.monotonic()
    if limit < GRACE:
        return {"result": None, "seconds": 0.0, "faults": ["not begun: the time was over"]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result"
        stops = ["--seconds", f"{limit - GRACE:.0f}"] if part.result == "--json" else []
        sizes = part.on_gpu if device == "cuda" else part.on_cpu
        command = [sys.executable, "-m", part.module, *sizes, part.result, str(path), *stops]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True)
        try:
            code, ended = process.wait(timeout=limit), []
        except subprocess.TimeoutExpired:
            code, ended = 0, [f"not finished within {limit:.0f} s"]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        result = part.read(path) if path.exists() else None
    faults = ended + ([f"{part.module} ended with exit code {code}"] if code else [])
    faults += part.missing(result) if result is not None else ["no result"] if not faults else []
    return {"result": result, "seconds": round(time.monotonic() - start, 1), "faults": faults}


def about(device: str, cards: list[str]) -> dict[str, Any]:
    """Versions, machine, date and commit."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": said("git", "rev-parse", "HEAD"),
        "changed_files": len((said("git", "status", "--porcelain") or "").splitlines()),
        "device": device,
        "cards": cards,
        "driver": (said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "").partition("\n")[0] or None,
        "cuda": said(sys.executable, "-c", "import torch; print(torch.version.cuda)") if cards else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: version_of(name) for name in PACKAGES},
    }


def said(*command: str) -> str | None:
    """What a command prints; None where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def summary(report: dict[str, Any]) -> list[str]:
    """The table at the end: a line for each part, then what is wrong."""
    lines = ["", f"{', '.join(report['about']['cards']) or report['about']['device']}, commit {report['about']['commit']}"]
    for name, part in report["parts"].items():
        lines.append(f"{name:<12} {part['seconds']:6.1f} s  {'ok' if not part['faults'] else 'FAILED'}  {counts(part['result'])}")
        lines += [f"  {fault}" for fault in part["faults"]]
    return lines


def counts(result: Any) -> str:
    """The tests in numbers; skips with their reasons."""
    if not isinstance(result, dict) or "passed" not in result:
        return ""
    skips = "".join(f", {number} skipped ({reason})" for reason, number in result["skipped"].items())
    return f"{result['passed']} passed, {len(result['failed'])} failed{skips}"


if __name__ == "__main__":
    sys.exit(main())
