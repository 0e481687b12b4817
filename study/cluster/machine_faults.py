"""Tell failures of the machine from failures of a trial, by types and texts of errors, and advise. Imports neither torch nor Ray.

A failure of the machine, or one common to all trials, stops the study. No trial counts as failed then, and the study can be
resumed after the repair. Out of memory within a process counts as the trial's failure: smaller settings may fit.
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
"""Number of trials with the same failure before their first validation that stops a study without any validated trial."""


@dataclass(frozen=True)
class Fault:
    """A failure of the machine: advice, and whether it may pass by itself, as a network failure does."""

    advice: str
    passing: bool = False


class StudyStopped(BaseException):
    """Raised when the study stops early: the reason, and what to do before it is resumed.

    Not an Exception, since Tune treats an Exception from a callback as a failure of the trial.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason, advice)
        self.reason, self.advice = reason, advice


SPACE, WRITABLE = "free some space", "make it writable"
HANDLES = "raise the limit on open files and processes (ulimit -n, ulimit -u), or lower resources.concurrent"
GPU = "see `nvidia-smi` and `study doctor`; with resources.gpus: 0 trials run on CPUs"
PEERS = "check that the workers and their machines can reach each other"
MEMORY = "lower resources.concurrent or resources.micro_batch, set resources.gradient_checkpointing, or close other programs"
REACH = "check that it exists and can be reached"
CLUSTER = "check the machines of the cluster and their disks"

ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), Fault(SPACE)),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), Fault(WRITABLE)),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.EAGAIN), Fault(HANDLES)),
    errno.ENOMEM: Fault(MEMORY),
}
"""{error number: fault}. Any other error number may pass by itself, such as that of a network share."""

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
"""[(pattern, fault)] for error texts of drivers, libraries and Ray."""

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
    """Return the machine's fault behind an error or its causes; None if the trial itself failed."""
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
    if isinstance(error, StoreError):  # its message contains the advice
        standing = getattr(error.__cause__, "errno", None) in ERRNO or any(pattern.search(str(error)) for pattern, _ in TEXTS[:2])
        return Fault("", passing=not standing)
    if isinstance(error, ConfigError):  # the input was valid when the study began
        lost = error.__cause__ or error.__context__
        return _fault(lost) if isinstance(lost, OSError) else None
    if isinstance(error, ImportError):
        return Fault(f"install what is missing{f' ({error.name})' if error.name else ''}, on every machine of the study")
    if isinstance(error, BrokenPipeError):  # the terminal's
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return ERRNO.get(error.errno, Fault(REACH, passing=True))
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    if of_ray := next((OF_RAY[name] for module, name in kinds if module == "ray" and name in OF_RAY), None):
        return of_ray
    if isinstance(error, (ConnectionError, TimeoutError)) or NETWORK & {module for module, _ in kinds}:
        return Fault(REACH, passing=True)
    return next((fault for pattern, fault in TEXTS if pattern.search(str(error))), None)


def poisons(error_text: str) -> bool:
    """Whether a process with this GPU error can no longer compute: CUDA then fails every later call with the same error."""
    signs = r"device-side assert|illegal memory access|unspecified launch failure|misaligned address|illegal instruction"
    return re.search(signs, error_text, re.IGNORECASE) is not None


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Replace errors of the block that are the machine's fault by StudyStopped; ConfigErrors pass unchanged."""
    try:
        yield
    except Exception as error:
        wrong = isinstance(error, ConfigError) and not isinstance(error, StoreError)
        fault = None if wrong else fault_of(error)
        if fault is None:
            raise
        raise StudyStopped(one_line(error), fault.advice) from error


def one_line(error: BaseException) -> str:
    """Format an error in one line: its type, unless its text is written for the user, and the last line of its text."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if isinstance(error, StoreError):
        return lines[-1] if lines else "the store cannot be used"
    return f"{type(error).__name__}: {lines[-1]}"[:500] if lines else type(error).__name__


def signature(reason: str) -> str:
    """Replace numbers, paths and addresses in a reason, which differ between trials with the same failure."""
    without = re.sub(r"(?<![\w.])[\w.~-]*(/[^\s'\",:;)]+)+", "<path>", reason)
    return re.sub(r"0x[0-9a-fA-F]+|[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", "<n>", without)


def alike(rows: Sequence[Row]) -> list[Row]:
    """Return the records of search trials that failed alike at their beginning, if that stops the study; else an empty list.

    It does if trials of ALIKE different settings failed for the same reason before their first validation and no trial of the study
    has been validated. A validated trial shows that the study can run, so that the failing settings are the cause.
    """
    if any(row["event"] == "evaluation" and row.get("trial") and row.get("stage") == "finetune" for row in rows):
        return []
    last = {row["trial"]: row for row in rows if row["event"] == "trial" and row.get("phase") == "search"}
    groups: dict[str, list[Row]] = {}
    for row in last.values():
        if row["status"] == "failed" and row.get("reason"):
            groups.setdefault(signature(row["reason"]), []).append(row)
    return next((group for group in groups.values() if len({row.get("setting") for row in group}) >= ALIKE), [])
