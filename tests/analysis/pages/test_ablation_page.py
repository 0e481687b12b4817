"""The report of an ablation: from runs in any state, without network access, with the same bytes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.pages import ablation_page, output, pdf, reports
from analysis.results.read_ablation import ledger
from study import cli
from tests.analysis.ablations import TABLE2, TEXTS, build, table2_outcomes, write_predictions, wrong
from tests.analysis.figures.test_paper_figures import FIGURE3, figure3
from tests.analysis.pages.test_study_page import Outline

CSV = ("cells.csv", "labels.csv", "confusions.csv", "lengths.csv", "calibration.csv")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("table2") / "run", TABLE2, table2_outcomes())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_requested_formats_are_written(run: Path, tmp_path: Path) -> None:
    always = {"provenance.csv", "table.txt"}
    assert reports.write([run], tmp_path / "all").page == tmp_path / "all" / "report.html"
    assert set(files(tmp_path / "all")) == always | {"report.html", "table.md", "table.tex", "report.json", *CSV}
    assert reports.write([run], tmp_path / "md", ["md"]).page == tmp_path / "md"
    assert set(files(tmp_path / "md")) == always | {"table.md"}
    with pytest.raises(ValueError, match="format docx: there are html, md"):
        reports.write([run], tmp_path / "no", ["docx"])
    assert (tmp_path / "all" / "table.txt").read_text() == ablation_page.text(run)


def test_the_same_records_give_the_same_bytes_wherever_they_lie(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "elsewhere")
    reports.write([run], tmp_path / "a")
    code = "import sys; from pathlib import Path; from analysis.pages import reports"
    code += "; reports.write([Path(sys.argv[1])], Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(tmp_path / "elsewhere"), str(tmp_path / "b")]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(command, check=True, timeout=120, env=environment)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_figures_of_an_earlier_state_are_removed(tmp_path: Path) -> None:
    figure3(tmp_path)
    page = reports.write([tmp_path / "run"]).page
    assert "figures/against-0.svg" in files(page.parent)
    build(tmp_path / "empty", FIGURE3, {})
    reports.write([tmp_path / "empty"], page.parent)
    assert "figures/against-0.svg" not in files(page.parent)


@pytest.mark.parametrize("state", ["nothing", "going on", "whole"])
def test_the_page_is_whole_and_asks_for_nothing(tmp_path: Path, state: str) -> None:
    outcomes = {} if state == "nothing" else table2_outcomes()
    page = reports.write([build(tmp_path / "run", TABLE2, outcomes, finished=state == "whole")]).page
    text = page.read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == []
    assert outline.asks == []
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.headings[0] == 1
    assert all(deeper - one <= 1 for one, deeper in zip(outline.headings, outline.headings[1:], strict=False))
    assert ("has not finished" in text) == (state != "whole")
    assert text.count('href="#cell-') == (0 if state == "nothing" else 5)
    for target in {part.partition('"')[0] for part in text.split('href="#')[1:]}:
        assert target in outline.ids


def test_the_answer_comes_first(run: Path) -> None:
    text = reports.write([run]).page.read_text(encoding="utf-8")
    headline = text.index("At scale smoke: 1 claim supported, 2 undecided at this size</h1>")
    places = [text.index(f'<section id="{name}"') for name in ("claims", "table", "details", "provenance", "rerun")]
    assert [headline, *places] == sorted([headline, *places])


def test_from_the_shell(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--out", str(tmp_path / "a"), "--format", "md"]) == 0
    assert "head+tail beats head-only: supported" in capsys.readouterr().out
    assert (tmp_path / "a" / "table.md").exists()
    assert main([str(run), "--format", "docx"]) == 2
    assert "there are html" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit, match="0"):
        cli.main(["report", str(run), str(run), "--format", "csv,md", "--out", str(tmp_path / "b")])
    assert (tmp_path / "b" / "run" / "cells.csv").exists()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", str(tmp_path)])
    assert "neither records.jsonl nor ablation.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", str(run), str(run)])
    assert "undecided" in capsys.readouterr().out


def test_without_a_browser_there_is_no_pdf_but_a_way(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(pdf.NoBrowser, match=r"needs Chromium or Chrome.*or open .*report.html in a browser and print it"):
        reports.write([run], tmp_path / "out", ["pdf"])
    assert (tmp_path / "out" / "report.html").exists()


def test_a_failing_browser_is_reported(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chromium").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "chromium").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pdf.NoBrowser, match="ended with 7"):
        reports.write([run], tmp_path / "out", ["pdf"])


def test_every_form_states_that_there_is_one_seed(tmp_path: Path) -> None:
    outcomes = {("imdb", row): [wrong(count)] for row, count in (("head-only", 80), ("tail-only", 42), ("head+tail", 40))}
    about = TABLE2 | {"seeds": 1, "tasks": {"imdb": TABLE2["tasks"]["imdb"]}}
    page = reports.write([build(tmp_path / "run", about, outcomes)], names=[*output.FORMATS, "txt"]).page  # type: ignore[arg-type]
    made = {path.name: " ".join(path.read_text(encoding="utf-8").split()) for path in page.parent.iterdir()}
    for name in ("report.html", "table.md", "table.tex", "report.json", "table.txt"):
        assert "One seed only: the spread over seeds is unknown, and no interval is given." in made[name], name
        assert "in one seed only, so that its spread is unknown" in made[name], name
        assert "95 % interval" not in made[name], name
        assert "one seed each, whose spread is unknown (number of seeds)" in made[name], name
        assert "±" not in made[name], name
    data = json.loads((page.parent / "report.json").read_text())
    assert {(cell["seeds"], cell["sd"], cell["interval_low"]) for cell in data["cells"]} == {(1, None, None)}
    assert {(claim["verdict"], claim["interval"], claim["p"]) for claim in data["claims"]} == {("undecided", None, None)}
    rows = list(csv.DictReader(io.StringIO((page.parent / "cells.csv").read_text())))
    assert {(row["seeds"], row["sd"], row["interval_low"], row["interval_high"]) for row in rows} == {("1", "", "", "")}


def test_predictions_of_another_number_of_classes_are_reported(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    truth = np.arange(TEXTS) % 5
    write_predictions(folder / "imdb", "f00", truth, truth)
    found = ledger(folder)
    said = "\n".join(found.problems)
    assert "imdb/f00: the test predictions give another score than the records" in said
    assert "imdb: seeds of head-only were tested on different texts, so that it is not compared" in said
    assert found.cells[0].mean == 20.0


def test_a_report_that_cannot_be_written_is_an_error(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", str(run), "--out", str(tmp_path / "file")])
    assert "give a folder that can be written" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_a_read_only_or_full_disk_is_an_error(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=False).returncode:
        pytest.skip("no mount here")
    try:
        for words in ("No space left on device", "Read-only file system"):
            with pytest.raises(SystemExit, match="2"):
                cli.main(["report", str(run), "--out", str(folder)])
            assert f"{words}; give a folder that can be written" in capsys.readouterr().err
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)
