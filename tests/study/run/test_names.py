"""Names that shells, globs and URLs read in their own way: a local path is what it says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from study.definition.study_file import load_study
from tests.study.tiny import answer, inside, records, study_here, tiny_study
from trainables.settings.file_names import is_local
from trainables.store.files import open_files
from trainables.tables.table_files import read_file

NAMES = (
    "a?b",
    "a::b",
    "a%20b",
    "a#b",
    "{a}",
    "a*b",
    "[ab]",
    "a \"b' c",
    "äöü",
    "-a",
    "a\nb",
    "~a",
    "$HOME",
    "a\\b",
    "file:a",
    "..a",
)


@pytest.mark.parametrize("name", NAMES)
def test_plan_with_such_a_name_everywhere(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    data = tiny_study(folder, name=name, store=f"store {name}")
    files = data["tasks"].pop("reviews")
    shutil.move(files["train"], folder / f"{name}.csv")
    for other in ("axb.csv", "a.csv", "b.csv"):  # what a pattern would find as well
        (folder / other).write_text("text,label\nanother,0\n", encoding="utf-8")
    data |= {"tasks": {name: files | {"train": f"{name}.csv"}}, "task": name}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    monkeypatch.chdir(folder)
    answer(capsys, "plan", "--", f"{name}.yaml")
    answer(capsys, "tasks", "--stats", "--", f"{name}.csv")
    code, _, said = inside(capsys, "status", "--", name)
    assert (code, said.startswith("error: ")) == (2, True)
    read = load_study(Path(f"{name}.yaml"))
    assert read.tasks[name].train == str(folder / f"{name}.csv")
    assert len(read_file(f"{name}.csv", ["text"])[0]) == 60
    files_of_store = open_files(str(folder / f"store {name}"))
    files_of_store.write("x", b"1")
    assert (folder / f"store {name}" / "x").read_bytes() == b"1"


@pytest.fixture(scope="module")
def oddly_named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """(the folder of a whole study with such names, of whose two trials one diverges; what the command said)."""
    folder = tmp_path_factory.mktemp("names") / "a?b::c #1 {x} *\n'\""
    folder.mkdir()
    # In float32 an epsilon of 1e-300 is none: Adam divides 0 by 0 for the embeddings of words that a batch has not.
    less = {"budget": {"trials": 2}, "final": {"top_k": 1, "seeds": 1}, "baseline": False, "search": {"sampler": "grid"}}
    data = tiny_study(folder, name="ä*b", space={"finetune.epsilon": {"choice": [1e-6, 1e-300]}}, **less)
    (folder / "s*.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return folder, study_here("run", folder / "s*.yaml", "--out", folder / "r::%20?", "--store", folder / "[s]")


def test_a_whole_study_with_such_names(oddly_named: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = oddly_named
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(folder / "r::%20?", "study")[-1]["status"] == "finished"
    assert (folder / "r::%20?" / "report" / "report.html").exists()
    assert (folder / "[s]").is_dir()


def test_trials_that_diverge_are_recorded_and_do_not_stop_the_study(
    oddly_named: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = oddly_named
    assert done.returncode == 0, done.stdout + done.stderr
    trials = records(folder / "r::%20?", "trial")
    ends = {row["params"]["finetune.epsilon"]: row for row in trials if row["phase"] == "search"}
    assert ends[1e-6]["status"] == "complete"
    assert ends[1e-300]["status"] == "diverged"
    assert "step" in ends[1e-300]["reason"]
    assert "diverged" in done.stdout
    assert {row["setting"] for row in trials if row["phase"] == "final"} == {ends[1e-6]["setting"]}


@pytest.mark.parametrize(("url", "local"), [("a::b", True), ("/a?b", True), ("s3://a/b", False), ("zip://a.csv::b.zip", False)])
def test_what_is_a_path_of_this_machine(url: str, local: bool) -> None:
    assert is_local(url) is local
