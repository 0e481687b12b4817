"""Environment variables that control Ray: those that a study sets, those of other origin that it removes, and notices on them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the launcher has its own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records are the one log
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no error rate, and must not stop the study
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tuner.restore is not used
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a study file mean the same everywhere
    "RAY_TRAIN_V2_ENABLED": "1",
    # Measured: 12 s instead of 19 s until a nested run's first row (the controller polls, the watcher is one more process).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
}
"""Always set, since trials, records and resume depend on them."""
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Waiting threads spin by default: with one core busy otherwise, steps were measured to take 3 to 5 times as long.
    "OMP_WAIT_POLICY": "passive",
}
"""Set unless they are set already: they change no result."""
STEERING = ("TUNE_", "RAY_TRAIN_", "RAY_TUNE_", "RAY_AIR_")
"""Prefixes of variables that change how Ray runs trials."""
KEPT = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_BACKEND_LOG_LEVEL", "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE")
"""Variables of other origin that a local Ray keeps. None in lower case: an invalid value there ends the process silently."""
ADDRESS = "RAY_ADDRESS"
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable that Ray sets for the command of `ray job submit`."""


def others(joined: bool) -> list[str]:
    """Return the variables of other origin that a study removes: those that control trials, for a local Ray all of Ray's."""
    begins = STEERING if joined else (*STEERING, "RAY_")
    return sorted(name for name in os.environ if name.startswith(begins) and name not in RAY and name not in KEPT)


@contextlib.contextmanager
def settled(joined: bool) -> Iterator[None]:
    """Within the block set the study's variables and remove those of other origin. Afterwards all are as before."""
    calm = {name: value for name, value in QUIET.items() if name not in os.environ}
    with changed(calm | RAY | dict.fromkeys(others(joined))):
        yield


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """After the block the environment is as before, whatever libraries have set when they were imported."""
    before = dict(os.environ)
    try:
        yield
    finally:
        _set({name: before.get(name) for name in {*os.environ, *before} if os.environ.get(name) != before.get(name)})


@contextlib.contextmanager
def changed(values: Mapping[str, str | None]) -> Iterator[None]:
    """Within the block set variables to these values; None removes a variable."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def notices(address: str | None) -> list[str]:
    """Return notices on variables that are set and ignored."""
    cluster = os.environ.get(ADDRESS, "")
    if address is not None or cluster in ("", "local"):
        return []
    where = "this runs inside a Ray job, and " if IN_A_JOB in os.environ else ""
    join = "auto" if where or "://" in cluster else cluster  # ray:// and http:// are not for drivers
    return [f"{where}{ADDRESS}={cluster} is not used: a Ray of the study's own starts here; --address {join} joins that cluster"]
