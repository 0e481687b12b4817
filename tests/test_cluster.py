"""The templates of Ray's cluster launcher: valid for it, and closed to strangers. And the placeholders of all templates."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from trainables.store.store import Store

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


CLOUDS = [ROOT / "cluster.yaml", ROOT / "clusters" / "cluster-gcp.yaml"]
TEMPLATES = [*CLOUDS, ROOT / "clusters" / "cluster-local.yaml"]
in_clouds = pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.stem)


@pytest.fixture(params=TEMPLATES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def template(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def test_template_follows_rays_schema(template: dict[str, Any]) -> None:
    jsonschema.validate(template, SCHEMA)


def test_launcher_accepts_the_template(template: dict[str, Any]) -> None:
    """Ray's own steps before it calls AWS: defaults filled in, setup commands merged, everything checked."""
    prepared = prepare_config(copy.deepcopy(template))
    validate_config(prepared)
    assert prepared["worker_setup_commands"][: len(template["setup_commands"])] == template["setup_commands"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("provider"),
        lambda data: data.update(idle_timeout=10),
    ],
)
def test_a_damaged_template_is_refused(template: dict[str, Any], damage: Any) -> None:
    damage(template)
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError)):
        validate_config(prepare_config(template))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.update(head_node_type="heat"),
        lambda data: data["available_node_types"]["gpu"].update(min_workers=99),
    ],
)
@in_clouds
def test_damaged_node_types_are_refused(template: dict[str, Any], damage: Any) -> None:
    damage(template)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(template))


@in_clouds
def test_workers_are_spot_and_come_and_go(template: dict[str, Any]) -> None:
    head, gpu = template["available_node_types"]["head"], template["available_node_types"]["gpu"]
    assert template["head_node_type"] == "head"
    assert not head["resources"].get("GPU")
    assert "spot" not in str(head).lower(), "the head holds the run: it must not be taken away"
    bought = gpu["node_config"].get("InstanceMarketOptions", gpu["node_config"].get("scheduling"))
    assert bought.get("MarketType") == "spot" or bought.get("provisioningModel") == "SPOT"
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= template["max_workers"]
    assert template["idle_timeout_minutes"] > 0


def test_nobody_gets_in_without_the_token(template: dict[str, Any], path: Path) -> None:
    there = "~/.ray/auth_token" if template["provider"]["type"] == "local" else "/home/ubuntu/.ray/auth_token"
    assert template["file_mounts"][there] == "~/.ray/auth_token"
    (head,) = (command for command in template["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in path.read_text()


def test_every_shell_on_a_node_knows_token_store_and_package(
    template: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that write .bashrc, really run, twice as after `ray up` on a running cluster."""
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    (tmp_path / ".bashrc").touch()
    for command in [*template["initialization_commands"]] * 2:
        subprocess.run(["bash", "-c", command], env=home, check=True)
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == len(template["initialization_commands"])
    show = '. ~/.bashrc; echo "$RAY_AUTH_MODE $FINETUNE_STUDY_STORE $PATH"'
    said = subprocess.run(["bash", "-c", show], env=home, check=True, capture_output=True, text=True).stdout
    assert re.match(rf"token (s3:/|gs:/|)/\S+ {tmp_path}/finetune-study/venv/bin:", said)
    monkeypatch.setenv("FINETUNE_STUDY_STORE", str(tmp_path / "mine"))
    assert str(tmp_path / "mine") in Store.default().url


def test_commands_are_shell(template: dict[str, Any]) -> None:
    for name, commands in template.items():
        for command in commands if name.endswith("_commands") else ():
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_package_and_versions_are_the_tested_ones(template: dict[str, Any]) -> None:
    """Everything from constraints.txt; the wheel by its path, so that no index can slip another package in under its name."""
    installs = [command for command in template["setup_commands"] if "pip install" in command]
    assert all("-c constraints.txt" in command or "--no-deps" in command for command in installs)
    assert not [command for command in installs if re.search(r"(?<![-/\w])finetune-study\[", command)]
    pins = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==[\d.]+$", pins, flags=re.M), "a build tag such as +cpu would keep the GPUs idle"
    assert all(re.search(rf"^{name}==", pins, flags=re.M) for name in ("s3fs", "boto3", "gcsfs", "google-api-python-client"))


PAGES = {
    "cluster.yaml": "clusters.md",
    "clusters/cluster-gcp.yaml": "clusters.md",
    "clusters/cluster-local.yaml": "clusters.md",
    "clusters/slurm.sh": "slurm.md",
    "clusters/kubernetes.yaml": "kubernetes.md",
}


def test_every_template_has_a_page() -> None:
    there = {f"clusters/{path.name}" for path in (ROOT / "clusters").iterdir()} | {"cluster.yaml"}
    assert there == {*PAGES, "clusters/Dockerfile"}


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_every_placeholder_stands_in_its_page(name: str, page: str) -> None:
    """By its field or variable: `account`, `storageClassName`, `ImageId`, `FINETUNE_STUDY_STORE`."""
    lines = [line.strip() for line in (ROOT / name).read_text().splitlines()]
    fields = {_field(line) for line in lines if re.search(r"CHANGE\b", line) and not line.startswith(("# ", "if grep"))}
    assert len(fields) >= 5
    text = (ROOT / "docs" / page).read_text()
    assert not {field for field in fields if not re.search(rf"\b{field}\b", text)}


def _field(line: str) -> str:
    """The field or variable that a line sets."""
    found = re.match(r".*(?:export (\w+)=|(sourceImage):)|(?:- |#SBATCH --)?(\w+)[:=]", line)
    assert found, line
    return next(filter(None, found.groups()))
