"""Paths and addresses without home folders, user names and passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.records.record import Records, read
from analysis.text import places
from study.definition.paths import outward, portable
from study.definition.study_file import load_study
from tests.study.tiny import write_study


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/export/people/ann")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("FileNotFoundError: '/home/me/p/x.csv'", "FileNotFoundError: '~/p/x.csv'"),
        ("/export/people/ann/p: none", "~/p: none"),
        ("/export/people/anna/p", "/export/people/anna/p"),
        ("no /scratch/ann/x.csv, /scratch/y", "no /scratch/user/x.csv, /scratch/y"),
        ("(" + "/".join(["", "Users", "me", "x|"]) + "/".join(["", "root", "y)"]), "(~/x|~/y)"),
        ("../../home/me/x", "~/x"),
        ("/net/home/me/x and file:///home/me/a", "~/x and file://~/a"),
        (r"\texttt{/home/me/x}", r"\texttt{~/x}"),
        (r'{"reason": "lost\n/home/me/x"}', r'{"reason": "lost\n~/x"}'),
        ("<p>/home/me/x</p> &#39;/home/me/x&#39;", "<p>~/x</p> &#39;~/x&#39;"),
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("https://me:pass@host/home/me/y", "https://host/home/me/y"),
        ("rate 3/4, good/home/garden, and/or, a@b.c", "rate 3/4, good/home/garden, and/or, a@b.c"),
        ("https://example.org/home/me", "https://example.org/home/me"),
    ],
)
def test_home_folders_and_user_names_are_removed(text: str, shown: str) -> None:
    assert places.shareable(text) == shown


@pytest.mark.parametrize(
    ("home", "shown"),
    [
        ("/export/people/ann/", "~/p /export/people/anna /scratch/user"),
        ("/", "/export/people/ann/p /export/people/anna /scratch/ann"),
        ("/nonexistent", "/export/people/ann/p /export/people/anna /scratch/ann"),
    ],
)
def test_the_home_of_the_process_is_hidden(monkeypatch: pytest.MonkeyPatch, home: str, shown: str) -> None:
    monkeypatch.setenv("HOME", home)
    assert places.shareable("/export/people/ann/p /export/people/anna /scratch/ann") == shown


@pytest.mark.parametrize(
    ("path", "folder", "written"),
    [
        ("/export/people/ann/p/data/x.csv", "/export/people/ann/p/runs/r", "../../data/x.csv"),
        ("/export/people/ann/data/x.csv", "/export/people/ann/runs/r", "~/data/x.csv"),
        ("/export/people/ann/data/x.csv", "/scratch/runs/r", "~/data/x.csv"),
        ("/data/set/x.csv", "/scratch/runs/r", "/data/set/x.csv"),
        ("/tmp/x.csv", "/tmp/p/runs/r", "/tmp/x.csv"),
        ("/tmp/p/q/x.csv", "/tmp/p/q/runs/r", "../../x.csv"),
    ],
)
def test_a_path_is_written_so_that_it_can_be_moved(path: str, folder: str, written: str) -> None:
    assert outward(path, Path(folder)) == written


def test_a_path_through_a_link_stays_absolute(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep" / "runs").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "elsewhere" / "deep" / "runs")
    file = str(tmp_path / "x.csv")
    assert outward(file, tmp_path / "runs" / "r") == file


def test_the_copy_of_a_study_loads_back_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, run = write_study(tmp_path / "input", store="s3://key:secret@bucket/x"), tmp_path / "run"
    study = load_study(path)
    text = portable(study, run).to_yaml()
    assert "secret" not in text
    assert str(tmp_path) not in text
    run.mkdir()
    (run / "study.yaml").write_text(text)
    monkeypatch.chdir("/")
    again = load_study(run / "study.yaml")
    assert again.tasks == study.tasks
    assert again.differences(study) == []
    assert again.store == "s3://bucket/x"


def test_records_contain_no_user_names(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.jsonl", "x")
    records.append("notice", text="/home/me/a is empty; s3://k:s@b is not")
    records.append("trial", trial="t000", status="failed", reason="OSError: '/export/people/ann/b'", label="/home/me/ label")
    rows = read(tmp_path / "records.jsonl")[0]
    assert (rows[0]["text"], rows[1]["reason"]) == ("~/a is empty; s3://b is not", "OSError: '~/b'")
    assert rows[1]["label"] == "/home/me/ label", "what the user calls a thing stays"
