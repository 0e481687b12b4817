"""The command line: what it answers, how fast, and with which exit code."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from study.commands import exits
from tests.study.tiny import ROOT, answer, environment, inside, refused, study, study_here, write_study
from tests.trainables.families import checkpoint


def test_help_loads_nothing_heavy() -> None:
    """What takes longer than half a second to answer is the import of one of these."""
    done = study("--help")
    assert done.returncode == 0
    assert "130  interrupted" in done.stdout
    heavy = {"torch", "ray", "optuna", "transformers", "pydantic", "rich"}
    code = f"import sys; import study.cli; print(sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["run", "plan", "status", "report", "doctor", "tasks", "overlap"])
def test_every_command_explains_itself_and_its_exit_codes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Usage: study " + name in answer(capsys, name, "--help")


def test_all_faults_of_a_study_file_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_study(tmp_path, budgett={}, search={"sampler": "tpee"}, budget={"trials": 0})
    said = refused(capsys, "run", path, "--out", tmp_path / "run")
    assert "budgett: unknown field; did you mean 'budget'?" in said
    assert "search.sampler" in said
    assert "tpe" in said
    assert "budget.trials" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tasks.reviews.train=missing.csv"], ["missing.csv"]),
        (["resources.cpus=4096"], ["4096", "CPUs"]),
        (["resources.gpus=64"], ["64", "GPUs"]),
        (["nonsense"], ["path=value"]),
    ],
)
def test_wrong_input_ends_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    path = write_study(tmp_path)
    said = refused(capsys, "run", path, "--out", tmp_path / "run", *(part for text in overrides for part in ("--set", text)))
    assert all(word in said for word in words), said
    assert not (tmp_path / "run" / "records.jsonl").exists()


def test_a_folder_that_is_no_run_folder_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_study(tmp_path / "mine")
    before = path.read_bytes()
    assert "no run folder" in refused(capsys, "run", path, "--out", path.parent)
    assert path.read_bytes() == before


def test_no_study_no_run_no_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "missing.yaml" in refused(capsys, "run", tmp_path / "missing.yaml")
    assert "no run folder" in refused(capsys, "status", tmp_path)
    assert "no run folder" in refused(capsys, "report", tmp_path)
    assert "No such command" in refused(capsys, "rum")


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    done = study_here("run", path, "--out", tmp_path / "run", "--address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr
    assert "no Ray cluster there" in done.stderr


def test_plan_computes_nothing_and_starts_no_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path)
    said = answer(capsys, "plan", path, "--store", tmp_path / "store")
    assert "4 trials" in said
    assert "missing" in said
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_an_encoder_that_is_not_what_it_seems_is_refused_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "encoder"))
    path = write_study(tmp_path, encoder={"folder": str(folder)})
    assert inside(capsys, "plan", path, "--store", tmp_path / "store")[0] == 0
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"vocab_size": 500}))
    for command in (("plan", path), ("run", path, "--out", tmp_path / "run"), ("encoders", folder)):
        said = refused(capsys, *command, *(() if command[0] == "encoders" else ("--store", tmp_path / "store")))
        assert "embeddings.word_embeddings.weight is [400, 32] in the file, but [500, 32] by config.json (vocab_size 500)" in said
    assert not (tmp_path / "run" / "records.jsonl").exists()
    state = load_file(folder / "model.safetensors")
    save_file({f"module.{name}": value for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))
    for command in (("plan", path, "--store", tmp_path / "store"), ("encoders", folder)):
        code, text, error = inside(capsys, *command)
        assert code == 0
        assert "begin with 'module.', which" in " ".join((text + error).split())


def test_several_ablations_in_one_plan(tmp_path: Path) -> None:
    given = ("--scale", "paper", "--tasks", "imdb", "--gpu", "H100", "--store", tmp_path / "store")
    done = study("plan", "table2", "table3", "table2", *given)
    assert done.returncode == 0, done.stderr
    assert "table2-paper" in done.stdout
    assert "new here" in done.stdout
    assert "between them" in done.stdout
    assert "GPU-hours of one H100" in done.stdout
    assert sum("cells in" in line for line in done.stdout.splitlines()) == 2, "a name that is given twice is planned once"
    assert not (tmp_path / "store").exists()


def test_a_study_is_planned_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "must all be ablations" in refused(capsys, "plan", "table2", write_study(tmp_path))


def test_python_m_study_is_the_command() -> None:
    installed = Path(sys.executable).with_name("study")
    if not installed.exists():
        pytest.skip("the console script is made by the installation")
    both = [
        subprocess.run([*start, "--version"], capture_output=True, text=True, cwd=ROOT, env=environment(), check=True).stdout
        for start in ([str(installed)], [sys.executable, "-m", "study"])
    ]
    assert both[0] == both[1]
    assert both[0].startswith("study, version ")


def test_a_full_disk_comes_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    error = exits.Unexpected("study.log")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert exits.unexpected(error) == 1
    assert "No space left on device; free some space, then run the same command again to resume" in capsys.readouterr().err
