"""Variables of somebody else's environment: none changes a study in silence, none breaks it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from study.cluster import variables
from tests.helpers import ray_elsewhere, shared_ray
from tests.study.tiny import environment, refused, write_study

JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "gcs://gone.zip"}, "metadata": {"job_submission_id": "1"}}'}
FOREIGN = JOB | {
    "RAY_ADDRESS": "10.255.255.1:6379",
    "RAY_NAMESPACE": "theirs",
    "RAY_RUNTIME_ENV": '{"pip": ["no-such-package"]}',
    "RAY_RUNTIME_ENV_HOOK": "no.such.hook",
    "RAY_TMPDIR": "/proc/nowhere",
    "RAY_JOB_ID": "01000000",
    "RAY_CLIENT_MODE": "1",
    "RAY_REDIS_ADDRESS": "10.255.255.1:6379",
    "RAY_AUTH_MODE": "disabled",
    "RAY_AUTH_TOKEN": "",
    "RAY_gcs_server_request_timeout_seconds": "soon",
    "RAY_num_workers_soft_limit": "many",
    "RAY_memory_usage_threshold": "abc",
    "RAY_grpc_enable_http_proxy": "1",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1000",
    "TUNE_MAX_PENDING_TRIALS_PG": "none",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "all_proxy": "http://127.0.0.1:9",
}

SESSION = """
import os
from study.definition.models import Resources
from study.cluster.ray_session import ray_session
before = dict(os.environ)
with ray_session(Resources(), None):
    import ray
    seen = ray.remote(num_cpus=1)(lambda: {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "TUNE_"))})
    found = ray.get(seen.options(runtime_env={"env_vars": {"A": "1"}}).remote(), timeout=60)
    for name in ("RAY_ADDRESS", "RAY_RUNTIME_ENV", "TUNE_MAX_PENDING_TRIALS_PG", "RAY_CHDIR_TO_TRIAL_DIR", "RAY_AUTH_MODE"):
        print(name, os.environ.get(name), found.get(name))
    print(len(ray.nodes()), ray.get_runtime_context().namespace == "theirs")
theirs = [name for name in before if before[name] != os.environ.get(name)]
print(*sorted(theirs))
"""


def test_a_ray_of_its_own_starts_whatever_is_set(tmp_path: Path) -> None:
    """As on a pod of KubeRay, inside a Ray job, behind a proxy: a task runs on this machine, and all is as it was afterwards."""
    before = shared_ray()
    done = subprocess.run(
        [sys.executable, "-c", SESSION], env=environment(**FOREIGN), capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines == [
        "RAY_ADDRESS None None",
        "RAY_RUNTIME_ENV None None",
        "TUNE_MAX_PENDING_TRIALS_PG None None",
        "RAY_CHDIR_TO_TRIAL_DIR 0 0",
        "RAY_AUTH_MODE token token",
        "1 False",
    ]
    assert shared_ray() == before


@pytest.mark.parametrize(
    ("given", "address", "said"),
    [
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, None, "--address 10.0.0.1:6379 joins that cluster"),
        ({"RAY_ADDRESS": "auto"}, None, "--address auto joins that cluster"),
        ({"RAY_ADDRESS": "ray://head:10001"}, None, "--address auto joins that cluster"),
        ({"RAY_ADDRESS": "http://head:8265"}, None, "--address auto joins that cluster"),
        ({"RAY_ADDRESS": "10.0.0.1:6379"} | JOB, None, "this runs inside a Ray job, and RAY_ADDRESS=10.0.0.1:6379 is not used"),
        ({"RAY_ADDRESS": "local"}, None, ""),
        ({"RAY_ADDRESS": ""}, None, ""),
        ({}, None, ""),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, "auto", ""),
    ],
)
def test_a_cluster_that_is_not_joined_is_told(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], address: str | None, said: str
) -> None:
    for name in ("RAY_ADDRESS", variables.IN_A_JOB):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    told = variables.notices(address)
    assert len(told) == bool(said)
    assert said in "".join(told)


def test_what_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RAY_ODD",
        "RAY_BACKEND_LOG_LEVEL",
        "RAY_TRAIN_ODD",
        "TUNE_ODD",
        "FINETUNE_STUDY_STORE",
        "RAYS",
        "TUNE_RESULT_BUFFER_LENGTH",
    ):
        monkeypatch.setenv(name, "1")
    alone, joined = set(variables.others(joined=False)), set(variables.others(joined=True))
    assert {"RAY_ODD", "RAY_TRAIN_ODD", "TUNE_ODD"} <= alone
    assert joined >= {"RAY_TRAIN_ODD", "TUNE_ODD"}
    assert not joined & {"RAY_ODD", "RAY_AUTH_MODE"}
    assert not alone & {"RAY_BACKEND_LOG_LEVEL", "FINETUNE_STUDY_STORE", "RAYS", "TUNE_RESULT_BUFFER_LENGTH"}
    before = dict(os.environ)
    with variables.settled(joined=False):
        assert "RAY_ODD" not in os.environ
        assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "1"
        assert os.environ["TUNE_RESULT_BUFFER_LENGTH"] == variables.RAY["TUNE_RESULT_BUFFER_LENGTH"]
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", os.environ["TOKENIZERS_PARALLELISM"])
    assert {name: os.environ.get(name) for name in before} == before


@pytest.mark.parametrize("value", ["local", "127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_auto_joins_what_ray_address_names_or_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, value: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    said = refused(capsys, "run", write_study(tmp_path), "--out", tmp_path / "run", "--store", tmp_path / "s", "--address", "auto")
    assert f"--address auto ({value}): no Ray cluster there" in said


def test_auto_does_not_wait_for_a_cluster_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its address stays in Ray's folder when the machine was switched off; Ray itself would try for minutes."""
    monkeypatch.setenv("RAY_TMPDIR", ray_elsewhere(tmp_path / "ray")["RAY_TMPDIR"])
    (tmp_path / "ray" / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)  # nor one that another test runs
    said = refused(capsys, "run", write_study(tmp_path), "--out", tmp_path / "run", "--store", tmp_path / "s", "--address", "auto")
    assert re.search(r"--address auto \([\d.]+:1\): no Ray cluster there", said)  # loopback by its name in the network
