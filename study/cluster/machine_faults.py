"""Which failures are the machine's and not a trial's, and what to do about them. By types and texts: imports neither torch nor Ray.

A failure of the machine, or one that meets every trial alike, stops the study. No trial counts as failed for it, and the same
command goes on once its cause is gone. Memory that runs out within a process is the trial's own: smaller settings may fit.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.settings.errors import ConfigError
from trainables.store.store import StoreError

Row = dict[str, Any]
ALIKE = 2
"""So many trials with the same failure before their first validation stop a study in which no trial was validated."""


@dataclass(frozen=True)
class Fault:
    """A failure of the machine: what to do, and whether it may pass by itself, as a network's does."""

    advice: str
    passing: bool = False


class StudyStopped(BaseException):
    """The study stops before its end: the reason, and what to do before the same command goes on.

    No Exception: Tune takes one that a callback raises for a failure of the trial.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason, advice)
        self.reason, self.advice = reason, advice


SPACE, WRITABLE = "free some space", "make it writable"
HANDLES = "raise the limit on open files and processes (ulimit -n, ulimit -u), or lower resources.concurrent"
GPU = "see `nvidia-smi` and `study doctor`; with resources.gpus: 0 trials run on CPUs"
PEERS = "see that the workers and their machines reach each other"
MEMORY = "lower resources.concurrent or resources.micro_batch, set resources.gradient_checkpointing, or close other programs"
REACH = "see that it is there and can be reached"
CLUSTER = "see that the machines of the cluster and their disks are well"

ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), Fault(SPACE)),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), Fault(WRITABLE)),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.EAGAIN), Fault(HANDLES)),
    errno.ENOMEM: Fault(MEMORY),
}
"""What the system says. Any other error number may pass: a share that is away, a file that comes back with it."""

PHRASES = {
    Fault(SPACE): "no space left on device|storagefull|disk quota exceeded|out of disk",
    Fault(WRITABLE): "read-only file system",
    Fault(HANDLES): "too many open files|can't start new thread|resource temporarily unavailable",
    Fault(GPU): """no kernel image is available|(not|without|n't) (been )?(compiled|built) with cuda|no nvidia driver|no usable gpu
        |driver on your system is too old|driver version is insufficient|driver/library version mismatch
        |no (cuda|hip) gpus are available|no (cuda|rocm)-capable device|invalid device ordinal|busy or unavailable
        |system not yet initialized|fallen off the bus|device kernel image is invalid|unsupported (ptx|toolchain)
        |forward compatibility was attempted|uncorrectable (nvlink|ecc)|cudagetdevicecount|hiperrornobinaryforgpu|gpu is lost
        |unable to determine the device handle|cuda error: (unknown|initialization) error""",
    Fault(PEERS, passing=True): r"""\bnccl\b|nccl(system|remote|unhandled)\w*error|processgroup\w+|\bgloo\b|socket ?timeout
        |connection (closed|reset) by peer|wait timeout after \d+ms""",
    Fault(REACH, passing=True): "input/output error|stale file handle|transport endpoint is not connected",
    Fault(MEMORY): "node (was |is )?(running )?low on memory|memory pressure|memory usage threshold",
}
TEXTS = [(re.compile(re.sub(r"\n\s*", "", phrases), re.IGNORECASE), fault) for fault, phrases in PHRASES.items()]
"""What drivers, libraries and Ray say in errors of their own kinds."""

NETWORK = {"aiohttp", "botocore", "gcsfs", "httpcore", "httpx", "requests", "s3fs", "urllib3"}
OF_RAY = {
    "OutOfMemoryError": Fault(MEMORY),
    "OutOfDiskError": Fault(SPACE),
    **dict.fromkeys(
        ("NodeDiedError", "ObjectLostError", "OwnerDiedError", "RaySystemError", "LocalRayletDiedError", "ActorUnavailableError"),
        Fault(CLUSTER, passing=True),
    ),
    "RuntimeEnvSetupError": Fault(CLUSTER),
}


def fault_of(error: BaseException) -> Fault | None:
    """The machine's fault behind an error, or None where the trial itself is to blame: by the error and what caused it."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if fault := _fault(at):
            return fault
        cause = getattr(at, "cause", None)  # Ray's errors of tasks
        at = cause if isinstance(cause, BaseException) else at.__cause__
    return None


def _fault(error: BaseException) -> Fault | None:
    if isinstance(error, StoreError):  # says itself what to do
        standing = getattr(error.__cause__, "errno", None) in ERRNO or any(pattern.search(str(error)) for pattern, _ in TEXTS[:2])
        return Fault("", passing=not standing)
    if isinstance(error, ConfigError):  # of input that was sound when the study began
        lost = error.__cause__ or error.__context__
        return _fault(lost) if isinstance(lost, OSError) else None
    if isinstance(error, ImportError):
        return Fault(f"install what is missing{f' ({error.name})' if error.name else ''}, on every machine of the study")
    if isinstance(error, BrokenPipeError):  # of the terminal
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return ERRNO.get(error.errno, Fault(REACH, passing=True))
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    if found := next((OF_RAY[name] for module, name in kinds if module == "ray" and name in OF_RAY), None):
        return found
    if isinstance(error, (ConnectionError, TimeoutError)) or NETWORK & {module for module, _ in kinds}:
        return Fault(REACH, passing=True)
    return next((fault for pattern, fault in TEXTS if pattern.search(str(error))), None)


def poisons(error_text: str) -> bool:
    """Whether a process whose GPU said this can compute nothing any more: CUDA gives the same error to all that comes after."""
    signs = r"device-side assert|illegal memory access|unspecified launch failure|misaligned address|illegal instruction"
    return re.search(signs, error_text, re.IGNORECASE) is not None


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Raises StudyStopped in place of an error of the block that is the machine's fault. Wrong input stays what it is."""
    try:
        yield
    except Exception as error:
        wrong = isinstance(error, ConfigError) and not isinstance(error, StoreError)
        fault = None if wrong else fault_of(error)
        if fault is None:
            raise
        raise StudyStopped(said(error), fault.advice) from error


def said(error: BaseException) -> str:
    """An error in one line: its type, unless its text is written for the user, and the last line that it says."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if isinstance(error, StoreError):
        return lines[-1] if lines else "the store cannot be used"
    return f"{type(error).__name__}: {lines[-1]}"[:500] if lines else type(error).__name__


def signature(reason: str) -> str:
    """A reason without what differs between trials that fail alike: numbers, paths and addresses."""
    without = re.sub(r"(?<![\w.])[\w.~-]*(/[^\s'\",:;)]+)+", "<path>", reason)
    return re.sub(r"0x[0-9a-fA-F]+|[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", "<n>", without)


def alike(rows: Sequence[Row]) -> list[Row]:
    """Records of the search's trials that failed alike at their very beginning, if that stops the study; else none.

    They do where two of different settings failed for the same reason before their first validation, and no trial of the study has
    been validated yet: one that was shows that the study can run, and that the failing settings are to blame.
    """
    if any(row["event"] == "evaluation" and row.get("trial") and row.get("stage") == "finetune" for row in rows):
        return []
    last = {row["trial"]: row for row in rows if row["event"] == "trial" and row.get("phase") == "search"}
    groups: dict[str, list[Row]] = {}
    for row in last.values():
        if row["status"] == "failed" and row.get("reason"):
            groups.setdefault(signature(row["reason"]), []).append(row)
    return next((group for group in groups.values() if len({row.get("setting") for row in group}) >= ALIKE), [])
