"""The repository as a whole: walls between the layers, what is shipped, what the documents promise."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from packaging.version import Version

from study.ablations.ablation_file import load, shipped
from study.ablations.grid import grid
from study.cli import cli
from study.definition.study_file import load_study
from study.survey.documents import DOCUMENTS as DOCUMENTS_MADE
from tests.helpers import ray_elsewhere, shared_ray

ROOT = Path(__file__).parent.parent
LAYERS = ("trainables", "study", "analysis")
FORBIDDEN = {
    "trainables": {"ray", "study", "analysis"},
    "study": {"torch"},
    "analysis": {"ray", "torch", "trainables", "study", "transformers", "datasets"},
}
"""What the files of a layer may not import, not even inside a function."""
HEAVY = ("torch", "ray", "transformers", "datasets", "pandas", "sklearn", "optuna", "matplotlib", "pyarrow")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def sources(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def modules(layer: str) -> list[str]:
    """Importable names of a layer's files; `__main__` runs when imported and stays out."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources(layer)]
    return [name.removesuffix(".__init__") for name in names if not name.endswith(".__main__")]


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def repository_files() -> list[Path]:
    """Files under version control, or all that look like it where git does not answer."""
    git = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if git.returncode == 0 and git.stdout:
        return [path for name in git.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [
        path for layer in (*LAYERS, "tests", "docs") for path in (ROOT / layer).rglob("*") if path.suffix in (".py", ".md", ".yaml")
    ]


# Layers --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_no_file_imports_across_the_wall(layer: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(layer)
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN[layer]
    }
    assert sources(layer)
    assert not found


def tree() -> dict[str, list[str]]:
    """{layer: its wings, lowest first} as the README shows them."""
    block = re.search(r"^## The tree\n.*?^```text\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S)
    assert block, "README.md has no tree"
    shown: dict[str, list[str]] = {}
    for line in block[1].splitlines():
        entry = line.split()[0]
        if not line.startswith(" "):
            layer = entry.removesuffix("/")
        elif entry.endswith("/") and (ROOT / layer / entry / "__init__.py").is_file():
            shown.setdefault(layer, []).append(entry.removesuffix("/"))
    return shown


@pytest.mark.parametrize("layer", LAYERS)
def test_every_wing_stands_in_the_readme_and_says_what_it_is_for(layer: str) -> None:
    there = {path.parent for path in (ROOT / layer).glob("*/__init__.py")}
    assert {wing.name for wing in there} == set(tree()[layer])
    for wing in there:
        assert 3 <= len([path for path in wing.glob("*.py") if path.name != "__init__.py"]) <= 14, wing
        assert len((ast.get_docstring(ast.parse((wing / "__init__.py").read_text(encoding="utf-8"))) or "").split()) > 10, wing
        assert len(ast.parse((wing / "__init__.py").read_text(encoding="utf-8")).body) == 1, "no re-exports"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_wing_imports_only_wings_below_it(layer: str) -> None:
    order, wrong = tree()[layer], []
    for path in sources(layer):
        wing = path.relative_to(ROOT / layer).parts[0]
        for name in imports(path) if wing in order else ():
            package, _, rest = name.partition(".")
            if package == layer and rest.split(".")[0] not in order[: order.index(wing) + 1]:
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_no_file_imports_itself_through_others() -> None:
    """Not even for types, or inside a function."""
    names = {name for layer in LAYERS for name in modules(layer)}
    graph: dict[str, set[str]] = {}
    for layer in LAYERS:
        for path in sources(layer):
            own = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[own] = {name if name in names else name.rpartition(".")[0] for name in imports(path)} & names - {own}
    TopologicalSorter(graph).prepare()


IMPORT_ALL = """
import importlib, sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is behind the wall", name=name)
sys.meta_path.insert(0, Wall())
for name in {names}:
    importlib.import_module(name)
"""


@pytest.mark.parametrize(
    ("layer", "blocked"),
    [
        ("trainables", {"ray", "study", "analysis"}),
        ("study", {"torch", "transformers"}),
        ("analysis", {"ray", "torch", "trainables", "study", "transformers", "datasets", "optuna", "sklearn"}),
    ],
)
def test_layer_is_imported_whole_without_what_it_must_not_need(layer: str, blocked: set[str]) -> None:
    """Through everything that it imports in turn."""
    code = IMPORT_ALL.format(blocked=sorted(blocked), names=modules(layer))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr


def loaded_after(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has imported after running the code."""
    code = f"import atexit, sys\natexit.register(lambda: print([name for name in {HEAVY} if name in sys.modules]))\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return loaded


def test_help_imports_nothing_heavy() -> None:
    """`study --help` answers at once because nothing big is imported for it."""
    assert loaded_after("from study.cli import main; main(['--help'])") == []


@pytest.mark.parametrize(
    "name",
    [
        "trainables.settings.recipe",
        "trainables.store.store",
        "trainables.encoder.checkpoint",
        "study.definition.study_file",
        "study.api",
        "analysis.records.record",
        "study.planning.plan",
    ],
)
def test_module_is_light(name: str) -> None:
    assert not {"torch", "ray", "transformers", "datasets", "optuna", "matplotlib"} & set(loaded_after(f"import {name}"))


# What is shipped -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "study" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_study_is_valid(path: Path) -> None:
    study = load_study(path)
    assert study.name
    assert load_study_text(study.to_yaml()) == study


def load_study_text(text: str) -> Any:
    from trainables.settings.plain_yaml import parse_yaml

    return load_study(parse_yaml(text))


def test_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """Texts, study files, templates and markers of typing are package data: a wheel without them would install and then fail."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for layer in LAYERS:
        shutil.copytree(ROOT / layer, tmp_path / layer, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("finetune_study-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.split("/")[0] in LAYERS}
    there = {str(path.relative_to(tmp_path)) for layer in LAYERS for path in (tmp_path / layer).rglob("*") if path.is_file()}
    assert packed == there
    assert {f"{layer}/py.typed" for layer in LAYERS} <= packed


RAY_WITH_VARIABLES = """
import ray, sys
from ray.cluster_utils import Cluster
from study.definition.models import Resources
from study.cluster.ray_session import ray_session
cluster = Cluster()
if sys.argv[1] == "joined":
    cluster.add_node(num_cpus=1, include_dashboard=False)
with ray_session(Resources(), cluster.address):
    which = ray.remote(num_cpus=1)(lambda: sys.executable).options(runtime_env={"env_vars": {"A": "1"}})
    print(ray.get(which.remote(), timeout=60))
cluster.shutdown()
"""


@pytest.mark.parametrize("cluster", ["its own", "joined"])
def test_ray_works_in_a_path_with_a_space(tmp_path: Path, cluster: str) -> None:
    """The interpreter lies there, a worker has variables of its own, as under Ray Train; no other Ray is disturbed."""
    environment = tmp_path / "a b" / "environment"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text("\n".join([sysconfig.get_paths()["purelib"], str(ROOT)]))
    python, before = environment / "bin" / "python", shared_ray()
    with tempfile.TemporaryDirectory(prefix="sp-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command, variables = [python, "-c", RAY_WITH_VARIABLES, cluster], os.environ | ray_elsewhere(Path(folder))
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, env=variables)
    assert done.stdout.splitlines()[-1:] == [str(python)], done.stderr
    assert shared_ray() == before


def test_lowest_versions_are_those_of_the_project() -> None:
    """And what is tested together is none of them lower."""
    done = subprocess.run([sys.executable, ROOT / ".ci" / "lowest.py"], capture_output=True, text=True, check=True)
    lowest = dict(line.split("==") for line in done.stdout.splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.split(r"[\[<>=]", each)[0] for each in project["dependencies"]} <= set(lowest)
    assert {"peft", "pytest", "s3fs"} <= set(lowest)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert [name for name in lowest if name in pinned and Version(pinned[name]) < Version(lowest[name])] == []


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    private = re.compile(r"(?<![\w.:/~-])/(?:work|root|Users|mnt)/\w|(?<![\w.:/~-])/home/(?!ubuntu/|ray/|me/)\w")
    found = []
    for path in repository_files():
        if path.suffix in (".png", ".csv"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found += [f"{path.relative_to(ROOT)}:{number}: {line.strip()}"] if private.search(line) else []
    assert not found


def test_constraints_pin_one_version_each() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), (
        "a local path, an extra or a CPU-only build has slipped in"
    )
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(names) == len(set(names))
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [each for extra in project["optional-dependencies"].values() for each in extra]
    missing = [each for each in wanted if re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", each)[0]).lower() not in names]
    assert not missing, "constraints.txt does not say which version was tested"


# Documents -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS_MADE)
def test_generated_documents_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == DOCUMENTS_MADE[name](), "run: make docs"


def commands(path: Path) -> list[str]:
    """Shell commands of the fenced blocks of a document; of a cluster template those of its opening comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        lines = [
            line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ") and not line.startswith("#    ")
        ]
    else:
        blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, flags=re.M | re.S)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


TEMPLATES = [ROOT / "cluster.yaml", *sorted((ROOT / "clusters").glob("cluster-*.yaml"))]
ALL_COMMANDS = [(path.name, command) for path in [*DOCUMENTS, *TEMPLATES] for command in commands(path)]
TAKEN_AS_GIVEN = {
    *("aws", "cat", "cd", "chmod", "curl", "docker", "echo", "export", "gcloud", "git", "grep", "kubectl", "ls", "sbatch", "ssh"),
    *("unzip", "watch"),
}
"""Programs of others whose options are not checked."""


def test_documents_show_commands() -> None:
    shown = {name for name, _ in ALL_COMMANDS}
    assert {"README.md", "CONTRIBUTING.md", "clusters.md", "cluster.yaml"} <= shown


@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS)
def test_documented_command_exists_with_these_options(name: str, command: str) -> None:
    for part in command.split("&&"):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            del words[0]  # FOO=bar in front of a command
        if words:
            check(words)


def check(words: list[str]) -> None:
    """Fails unless the program knows this subcommand and these options."""
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    match program:
        case "study":
            parse(cli, rest)
            overrides = [value for option, value in pairwise(rest) if option == "--set"]
            if rest[0] in ("plan", "reproduce") and rest[1] in shipped():
                scales = [value for option, value in pairwise(rest) if option == "--scale"]
                assert grid(load(rest[1]), *scales, overrides=overrides, placeholders=True)
                return
            load_study(ROOT / "study" / "configs" / "quickstart.yaml", overrides)
        case "ray":
            from ray.scripts.scripts import cli as ray_cli

            if parse(ray_cli, rest) == "exec":
                check(shlex.split(rest[-1]))  # what is run on the head
        case "make":
            targets = [word for word in rest if "=" not in word] or ["study"]
            known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
            assert set(targets) <= set(known)
        case "python" | "python3":
            if rest[0] == "-c":
                compile(rest[1], "documented command", "exec")
                return
            assert rest[0] == "-m"
            spec = importlib.util.find_spec(rest[1])
            assert spec is not None
            assert spec.submodule_search_locations is None or importlib.util.find_spec(f"{rest[1]}.__main__")
        case "pip" | "ruff" | "mypy" | "pytest" | "pre-commit" | "optuna-dashboard":
            assert importlib.util.find_spec(program.replace("-", "_")) is not None
        case _:
            assert program in TAKEN_AS_GIVEN, f"unknown program {program!r}"


def parse(group: click.Group, words: list[str]) -> str:
    """Parse a command line without running it; returns the name of the subcommand. Click's errors name the wrong option."""
    with click.Context(group) as outer:
        if words and words[0].startswith("-"):
            group.make_context("study", words[:], resilient_parsing=True)
            return ""
        name, command, rest = group.resolve_command(outer, words[:])
        assert command is not None
        flags = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = [word.split("=")[0] for word in rest if word.startswith("--") and " " not in word]
        assert set(given) <= flags | {"--help"}, f"{name} has {', '.join(sorted(flags))}"
        command.make_context(str(name), rest, parent=outer, resilient_parsing=True)
    return str(name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_studies_in_documents_are_valid(path: Path) -> None:
    """A ```yaml block with a task is a whole study file."""
    from trainables.settings.plain_yaml import parse_yaml

    for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S):
        data = parse_yaml(block, path.name)
        if "task" in data:
            load_study(data)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


def test_files_that_the_readme_recommends_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("Read first")[2].partition("## ")[0]
    named = re.findall(r"^\d+\. `(.*?)`", text, flags=re.M)
    assert 6 <= len(named) <= 10
    assert not [name for name in named if not (ROOT / name).is_file()]
