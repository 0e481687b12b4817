"""Start or join Ray for one study, on this machine or an existing cluster, and clean up afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.cluster import gpus, variables
from study.cluster.machine import Machine, check_resources, this_machine
from study.cluster.processes import MARK, Interrupts, die, kill_processes, processes
from trainables.settings.errors import ConfigError
from trainables.training.gpus import ONLY_CPUS

if TYPE_CHECKING:
    from trainables.store.store import Store
PREFIX = "ft-study-"
"""Prefix of the folders of local clusters."""
BASES = ("/tmp", "/var/tmp", "/dev/shm")
"""Parent folders of these, the first writable one is used. Paths of sockets must stay under 107 characters."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Size of Ray's object store: rows are small and weights go through our store; Ray's default is 30 % of the memory."""


def machine_for(resources: Any) -> Machine:
    """Return this machine; if the study needs GPUs, only with those on which torch can compute.

    With `gpus: auto` nobody is asked where no GPU is, and a torch that was built only for CPUs leaves GPUs unused.
    """
    machine, auto = this_machine(), resources.gpus == "auto"
    if not resources.gpus or (auto and not machine.gpus):
        return machine
    names, why = gpus.answering()
    if auto and ONLY_CPUS in why:
        return Machine(((machine.cpus, 0),), unused=why)
    lacks = "; ".join(filter(None, (why, gpus.hiding())))
    return Machine(((machine.cpus, len(names)),), lacks, tuple(names), why if names else "")


@contextlib.contextmanager
def ray_session(resources: Any, address: str | None) -> Iterator[Machine]:
    """Start Ray here, or join it at `address`, for the length of the block; yield its resources.

    Raises ConfigError if a trial needs more than Ray has, or if no cluster answers.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(variables.settled(joined=address is not None))
        if address is None:
            machine = machine_for(resources)
            check_resources(resources, machine)
            stack.enter_context(_local_cluster(machine))
        else:
            _join(address)
            import ray

            stack.callback(ray.shutdown)
            if resources.wait_minutes:
                stack.enter_context(_requested(ray, resources))
            machine = _cluster(ray)
            hint = "" if resources.wait_minutes else " (one that grows by itself: set resources.wait_minutes)"
            check_resources(resources, machine, f"the cluster at {address}{hint}")
            if each := machine.gpus_for(resources):
                machine = replace(machine, names=gpus.check_cluster(ray, each))
        yield machine


@contextlib.contextmanager
def _local_cluster(machine: Machine) -> Iterator[None]:
    """Start a cluster of this process's own, with all its files in one temporary folder: nothing goes to HOME or /tmp/ray."""
    for base in BASES:
        remove_stale(base)
    if (place := writable_base()) is None:
        raise ConfigError([f"none of {', '.join(BASES)} can be written: Ray needs one of them for the short paths of its sockets"])
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    inside = {MARK: str(folder), "TMPDIR": str(folder / "t"), "PYTHONWARNINGS": "ignore"}
    tempfile.gettempdir()  # caches the folder for this process before TMPDIR changes
    with open(folder / "lock", "w") as lock, variables.changed({**inside, **_authentication()}):
        fcntl.flock(lock, fcntl.LOCK_EX)  # held as long as this process lives, see remove_stale
        try:
            (folder / "t").mkdir()
            import ray

            ray.init(
                address="local",
                num_cpus=int(machine.cpus),
                num_gpus=int(machine.gpus),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                runtime_env=_quoted_python() or None,
                _temp_dir=str(folder / "r"),
            )
            yield
        finally:
            with contextlib.suppress(Exception):
                import ray

                _kill_autoscaler(str(folder))
                ray.shutdown()
            kill_processes(str(folder))
            shutil.rmtree(folder, ignore_errors=True)


def writable_base() -> str | None:
    """Return the first writable folder of BASES; None without one."""
    return next((base for base in BASES if os.access(base, os.W_OK | os.X_OK)), None)


def _quoted_python() -> dict[str, Any]:
    """Runtime environment with the interpreter quoted, if its path needs that; else empty.

    Ray starts workers with variables of their own, such as Train's, by a shell line in which it quotes everything but the
    interpreter: without quotes, those workers never start. On a cluster the interpreter must have this path on every node.
    """
    quoted = shlex.quote(sys.executable)
    return {"py_executable": quoted} if quoted != sys.executable else {}


@cache  # Ray reads the variables once in a process: all its studies need the same
def _authentication() -> Mapping[str, str]:
    """Variables for token authentication with a token in memory, else Ray would write one to HOME. Ray reads them on import."""
    if "ray" not in sys.modules:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {"RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32))}


def refuse_running_ray() -> None:
    """Raise ConfigError if this process has started or joined Ray already: a study needs a Ray of its own, and ends it."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        raise ConfigError(["Ray is already running in this process, and a study starts its own: call ray.shutdown() before"])


def _join(address: str) -> None:
    """Connect to an existing cluster. Raises ConfigError at once if none answers: Ray itself would try for minutes."""
    option = f"--address {address}"
    if address == "auto" and (address := _auto()) != "auto":
        option += f" ({address})"
    host, _, port = address.rpartition(":")
    if address != "auto":
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, ValueError) as error:
            hint = "give HOST:PORT of the head node, as `ray start --head` prints it, or auto on a node of the cluster"
            raise ConfigError([f"{option}: no Ray cluster there: {error}; {hint}"]) from None
    import ray

    try:
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": variables.QUIET | variables.RAY} | _quoted_python())
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"{option}: the Ray cluster there refuses the connection: {reason[:300]}"]) from None


def _auto() -> str:
    """The address that `auto` means to Ray: RAY_ADDRESS, else a cluster of this machine; `auto` if there is none."""
    named = os.environ.get(variables.ADDRESS) or "auto"
    if named != "auto":
        return named
    from ray._private.services import canonicalize_bootstrap_address

    with contextlib.suppress(ConnectionError):
        return str(canonicalize_bootstrap_address("auto") or "auto")
    return "auto"


@contextlib.contextmanager
def _requested(ray: Any, resources: Any) -> Iterator[None]:
    """Request resources for `concurrent` trials from an autoscaler and wait up to `wait_minutes`; release them afterwards."""
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    count = resources.workers * (resources.concurrent or 1)
    until = time.monotonic() + 60 * resources.wait_minutes
    request_resources(bundles=[bundle] * count)
    try:
        while time.monotonic() < until:
            there = ray.cluster_resources()
            if all(there.get(name, 0) >= amount * count for name, amount in bundle.items()):
                break
            time.sleep(2)
        yield
    finally:
        with contextlib.suppress(Exception):
            request_resources(bundles=[])


def _cluster(ray: Any) -> Machine:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Machine(tuple((has.get("CPU", 0), has.get("GPU", 0)) for has in alive), joined=True)


def check_seen(store: Store, paths: Iterable[str]) -> None:
    """Raise ConfigError with every local path, and the store if it is a folder, that a node of the joined cluster lacks."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def missing(wanted: list[str]) -> list[str]:
        return [path for path in wanted if not os.path.exists(path)]

    wanted, probe = {path: path for path in paths}, f"seen/{secrets.token_hex(8)}"
    if "://" not in store.url:  # another node may have a folder of the same name, but not this file in it
        store.files.write(probe, b"")
        wanted[f"{store.url}/{probe}"] = f"the store {store.url}"
    try:
        faults = []
        for node in (node for node in ray.nodes() if node["Alive"]):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            lacks = ray.get(ray.remote(num_cpus=0)(missing).options(scheduling_strategy=there).remote(list(wanted)))
            faults += [f"{wanted[path]}: node {node['NodeManagerAddress']} of the cluster does not see it" for path in lacks]
    finally:
        store.files.remove(probe)
        store.files.prune("seen")
    if faults:
        raise ConfigError([*faults, "give URLs (s3://..., gs://...) or folders that all nodes mount; give the store with --store"])


def remove_stale(base: str) -> None:
    """Remove the folders and processes of local clusters whose driver was killed, so that their lock is free."""
    for folder in Path(base).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(folder / "lock") as lock:
            if os.fstat(lock.fileno()).st_uid != os.getuid():
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kill_processes(str(folder))
            shutil.rmtree(folder, ignore_errors=True)


def _kill_autoscaler(session: str) -> None:
    """End the autoscaler of a local cluster: it is not needed, and Ray's shutdown would wait a second for it."""
    for pid in processes(session):
        with contextlib.suppress(OSError):
            if b"/autoscaler/_private/monitor.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


class Shared:
    """Signals and Ray for several studies in one process: Ray starts with the first study that needs it and ends with the block.

    The block is interrupted `session_hours` after `began`, a time of `time.monotonic`.
    """

    def __init__(self, session_hours: float | None = None, began: float | None = None) -> None:
        self.interrupts = Interrupts(die, session_hours, began)
        self._stack = contextlib.ExitStack()
        self._machine: Machine | None = None

    def __enter__(self) -> Shared:
        self._stack.enter_context(self.interrupts)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @contextlib.contextmanager
    def session(self, resources: Any, address: str | None) -> Iterator[Machine]:
        """Like `ray_session`, but Ray keeps running after the block. Raises ConfigError if a trial needs more than Ray has."""
        if self._machine is None:
            self._machine = self._stack.enter_context(ray_session(resources, address))
        else:
            where = f"the cluster at {address}" if address else "this machine"
            check_resources(resources, self._machine, where)
        yield self._machine
