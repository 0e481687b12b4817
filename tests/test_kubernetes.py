"""clusters/kubernetes.yaml and clusters/Dockerfile: fields that KubeRay knows, closed pods, an image that installs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from study.cli import cli

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "clusters" / "Dockerfile"
CRD = "KUBERAY_CRD"
"""Variable that names a file with KubeRay's own schema, `ray.io_rayjobs.yaml`, for the complete check."""

# From KubeRay v1.7.0, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go: the fields that the template may use.
JOB = {
    *("entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec", "submissionMode"),
    *("activeDeadlineSeconds", "runtimeEnvYAML", "suspend", "entrypointNumCpus", "submitterConfig", "submitterPodTemplate"),
}
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling", "autoscalerOptions"}
HEAD = {"rayStartParams", "template", "serviceType", "resources", "labels"}
WORKERS = HEAD - {"serviceType"} | {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"}
CLOSED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@pytest.fixture(scope="module")
def template() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "clusters" / "kubernetes.yaml").read_text()))


@pytest.fixture(scope="module")
def job(template: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = template[1]["spec"]
    return spec


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["rayClusterSpec"]
    groups = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    return {"submitter": job["submitterPodTemplate"]["spec"], "head": cluster["headGroupSpec"]["template"]["spec"]} | groups


def test_fields_are_those_of_kuberay(template: list[dict[str, Any]], job: dict[str, Any]) -> None:
    assert [(each["apiVersion"], each["kind"]) for each in template] == [("v1", "PersistentVolumeClaim"), ("ray.io/v1", "RayJob")]
    cluster = job["rayClusterSpec"]
    assert job.keys() <= JOB
    assert cluster.keys() <= CLUSTER
    assert cluster["headGroupSpec"].keys() <= HEAD
    assert all(group.keys() <= WORKERS for group in cluster["workerGroupSpecs"])
    assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())


@pytest.mark.skipif(CRD not in os.environ, reason=f"{CRD} names no file with KubeRay's schema")
def test_the_whole_job_follows_kuberays_schema(template: list[dict[str, Any]]) -> None:
    """Unknown fields are errors here; the API server would drop them silently."""
    definition = yaml.load(Path(os.environ[CRD]).read_text(), Loader=yaml.CSafeLoader)
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    _close(schema)
    jsonschema.validate(template[1], schema)
    template[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imag"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="imag"):
        jsonschema.validate(template[1], schema)
    del template[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imag"]


def _close(schema: Any) -> None:
    """Forbid unknown fields, and let a number stand where Kubernetes takes a number or a text."""
    if isinstance(schema, dict):
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        if "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)


def test_no_pod_has_rights_and_only_volumes_can_be_written(job: dict[str, Any]) -> None:
    """The Pod Security Standard `restricted`, and a read-only root."""
    for name, pod in pods(job).items():
        user = pod["securityContext"]
        assert user["runAsNonRoot"], name
        assert user["runAsUser"] == user["fsGroup"] == 1000, "the user of the image"
        assert user["seccompProfile"]["type"] == "RuntimeDefault", name
        assert pod["automountServiceAccountToken"] is False, name
        (container,) = pod["containers"]
        assert container["securityContext"] == CLOSED, name
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts.values()) == volumes.keys(), name
        assert "emptyDir" in volumes[mounts["/tmp"]], "Ray's files"
        assert {each["name"]: each["value"] for each in container["env"]}["HOME"] == "/tmp", name
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_entry_point_resumes_from_the_volume(template: list[dict[str, Any]], job: dict[str, Any]) -> None:
    words = shlex.split(job["entrypoint"])
    assert words[:2] == ["study", "run"]
    command = cli.commands["run"].make_context("run", words[2:])
    claim, volumes = template[0], {"/study", "/input"}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in (pods(job)["head"], pods(job)["gpu"]):
        assert {"name": "study", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in pod["volumes"]
        assert volumes <= {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert all(str(command.params[name]).startswith("/study/") for name in ("out", "store"))
    assert str(command.params["study_file"]).startswith("/input/")
    assert command.params["address"] == "auto"
    assert job["backoffLimit"] > 0
    assert job["shutdownAfterJobFinishes"]


def test_the_head_computes_nothing_and_workers_have_a_gpu_each(job: dict[str, Any]) -> None:
    cluster = job["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert pods(job)["gpu"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert len({pod["containers"][0]["image"] for pod in pods(job).values()}) == 1


# The image -----------------------------------------------------------------------------------------------------------------------


def instructions(name: str) -> list[str]:
    """Arguments of every instruction of this name in the Dockerfile."""
    return re.findall(rf"^{name} (.*)", DOCKERFILE.read_text(), flags=re.M)


def test_dockerfile_is_sound() -> None:
    subprocess.run([Path(sys.executable).parent / "hadolint", DOCKERFILE], check=True)
    assert instructions("USER") == ["1000:1000"]
    assert all("-c constraints.txt" in step or "--no-deps" in step for step in instructions("RUN") if step.startswith("pip"))


def test_what_is_copied_is_let_through_and_nothing_else() -> None:
    copied = [name for step in instructions("COPY") if "--from" not in step for name in step.split()[:-1]]
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)
    assert all((ROOT / name).exists() for name in copied)


def test_steps_of_the_image_install_the_command(tmp_path: Path) -> None:
    """Its pip steps, run in order and without network, where everything but this package is installed in the pinned versions."""
    for name in {name for step in instructions("COPY") if "--from" not in step for name in step.split()[:-1]}:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    venv.create(tmp_path / "image", with_pip=False)
    (packages,) = (tmp_path / "image").glob("lib/python*/site-packages")
    (packages / "installed.pth").write_text(sysconfig.get_paths()["purelib"])
    pip = tmp_path / "image" / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{tmp_path}/image/bin/python" -m pip "$@"\n')
    pip.chmod(0o755)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PATH": f"{tmp_path}/image/bin:{os.environ['PATH']}"}
    steps = [step for step in instructions("RUN") if step.startswith("pip")]
    assert len(steps) == 3
    for step in steps:
        done = subprocess.run(["sh", "-c", step], cwd=tmp_path, env=os.environ | offline, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (packages / "study" / "configs" / "quickstart.yaml").exists()
    run = [tmp_path / "image" / "bin" / "study", "--help"]
    assert subprocess.run(run, capture_output=True, cwd="/", check=True).stdout
