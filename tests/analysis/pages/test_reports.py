"""Reports of one run and of several: the same formats for studies and ablations, the same bytes from the same records."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.pages import output, reports
from analysis.text import plain_data
from study import cli
from tests.analysis.ablations import TABLE2, build, table2_outcomes, wrong
from tests.analysis.made_records import make
from tests.analysis.pages.test_ablation_page import files
from tests.analysis.pages.test_study_page import Outline
from tests.analysis.tables.test_forms import NASTY, nasty
from tests.analysis.text.test_tex import compile_tex, pdflatex  # noqa: F401

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parents[1] / "golden"
FORMS = ("table.txt", "table.md", "table.tex", "cells.csv", "report.json", "provenance.csv", "page.txt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished study, an unfinished one, and an ablation."""
    folder = tmp_path_factory.mktemp("runs")
    make(folder / "study", trials=4)
    make(folder / "begun", part="search", trials=4)
    build(folder / "table2", TABLE2, table2_outcomes(), finished=False)
    return folder


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


class Visible(HTMLParser):
    """Collects the visible texts of a page, one per line."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("style", "script", "svg")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("style", "script", "svg")

    def handle_data(self, data: str) -> None:
        self.lines += [" ".join(data.split())] if data.strip() and not self.hidden else []


def golden(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the files of a report that are compared with recorded ones; of the page its visible text."""
    for name in FORMS:
        if name == "page.txt":
            yield name, "\n".join(Visible((folder / "report.html").read_text(encoding="utf-8")).lines) + "\n"
        else:
            yield name, (folder / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["study", "table2", "overview"])
def test_golden(runs: Path, tmp_path: Path, kind: str) -> None:
    """After an intended change, write the new text of the form to the golden file, and read the difference."""
    given = ["study", "begun", "table2"] if kind == "overview" else [kind]
    reports.write([runs / name for name in given], tmp_path)
    for name, text in golden(tmp_path):
        assert text == (GOLDEN / kind / name).read_text(encoding="utf-8"), f"{kind}/{name}"


@pytest.mark.parametrize("name", ["study", "table2"])
def test_a_format_means_the_same_for_both(runs: Path, tmp_path: Path, name: str) -> None:
    always = {"table.txt", "provenance.csv"}
    csv_files = {"cells.csv", "labels.csv", "confusions.csv", "lengths.csv", "calibration.csv"}
    csv_files |= {"results.csv", "trials.csv", "tasks.csv"} if name == "study" else set()
    for form, wanted in {"csv": csv_files, "json": {"report.json"}, "md": {"table.md"}, "tex": {"table.tex"}}.items():
        made = reports.write([runs / name], tmp_path / form, [form])
        assert made.page == tmp_path / form
        assert {file for file in files(tmp_path / form) if not file.startswith("figures/")} == always | wanted
    with pytest.raises(ValueError, match="format docx: there are html, md"):
        reports.write([runs / name], tmp_path / "no", ["docx"])
    assert not (tmp_path / "no").exists()


def test_a_study_has_a_ledger_too(runs: Path, tmp_path: Path) -> None:
    reports.write([runs / "study"], tmp_path)
    rows = csv_rows(tmp_path / "cells.csv")
    assert [row["row"] for row in rows] == ["best 1", "best 2, papers' setting", "bag of words"]
    best = rows[0]
    results = [row for row in csv_rows(tmp_path / "results.csv") if row["split"] == "test" and row["label"] == "best 1"]
    assert float(best["mean"]) == pytest.approx(sum(float(row["error_rate_percent"]) for row in results) / 3)
    assert (best["seeds"], best["state"], best["mark"], best["kind"], best["scale"]) == ("3", "complete", "chosen", "study", "")
    assert 0 <= float(best["interval_low"]) < float(best["mean"]) < float(best["interval_high"])
    assert rows[-1]["mean"] == "20.5"
    assert rows[-1]["interval_low"] == ""
    provenance = csv_rows(tmp_path / "provenance.csv")
    assert len(provenance) == 2 * 3 + 1
    assert provenance[0]["again"] == "study trace RUN 'best 1' --task sls_imdb --seed 0"
    assert (runs / "study" / provenance[0]["predictions"]).is_file()
    assert all(row["stage_ids"] for row in provenance[:-1])
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["answer"]["headline"].endswith("with the chosen setting")
    assert [cell["mean"] for cell in data["cells"]] == [float(row["mean"]) for row in rows]


def test_several_runs_in_one_report(runs: Path, tmp_path: Path) -> None:
    names = ["study", "table2", "begun"]
    made = reports.write([runs / name for name in names], tmp_path / "out")
    assert made.page == tmp_path / "out" / "report.html"
    assert made.lost == ()
    for name in names:
        alone = reports.write([runs / name], tmp_path / "alone" / name).page.parent
        assert files(alone) == files(tmp_path / "out" / name)
    cells = csv_rows(tmp_path / "out" / "cells.csv")
    each = [row for name in names for row in csv_rows(tmp_path / "out" / name / "cells.csv")]
    assert [{key: value for key, value in row.items() if key != "run"} for row in cells] == each
    assert [row["row"] for row in cells if row["run"] == "begun"] == ["bag of words"]  # the search has no finals
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [run["run"] for run in data["runs"]] == names
    assert [run["finished"] for run in data["runs"]] == [True, False, False]
    assert "No final is complete" in " ".join(data["runs"][2]["missing"])
    outline = Outline((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert all(ask.startswith("a href=") and (tmp_path / "out" / ask[7:].partition("#")[0]).is_file() for ask in outline.asks)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))


def test_several_runs_of_one_seed_have_no_spread(tmp_path: Path) -> None:
    for name, count in (("one", 80), ("two", 42)):
        about = TABLE2 | {"seeds": 1, "tasks": {"imdb": TABLE2["tasks"]["imdb"]}}
        build(tmp_path / name, about, {("imdb", "head-only"): [wrong(count)], ("imdb", "tail-only"): [wrong(40)]})
    page = reports.write([tmp_path / "one", tmp_path / "two"], tmp_path / "out").page
    for file in (page, page.with_name("table.md"), page.with_name("table.txt"), page.with_name("table.tex")):
        said = " ".join(file.read_text(encoding="utf-8").split())
        assert "in percent, one seed each, whose spread is unknown (number of seeds)." in said, file.name
        assert "±" not in said, file.name
        assert r"\pm" not in said, file.name


def test_the_same_records_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "copy")
    for place, out in ((runs, "a"), (tmp_path / "copy", "b")):
        reports.write([place / "study", place / "table2"], tmp_path / out)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_another_processor_gives_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    """Matrix products differ in the last bits between processors: here those of the oldest OpenBLAS kernel."""
    given = [str(runs / "study"), str(runs / "table2")]
    reports.write([Path(run) for run in given], tmp_path / "here")
    there = [sys.executable, "-m", "analysis", *given, "--out", str(tmp_path / "there")]
    subprocess.run(there, env=os.environ | {"OPENBLAS_CORETYPE": "Prescott"}, cwd=ROOT, check=True, capture_output=True)
    assert files(tmp_path / "there") == files(tmp_path / "here")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (0.1 + 0.2, 0.3),
        (4506406420.7249, 4506406400.0),
        ([1, (2 / 3, True)], [1, [0.66666667, True]]),
        ({"a": {"b": -1e-300 / 3}}, {"a": {"b": -3.3333333e-301}}),
        ("0.30000000000000004", "0.30000000000000004"),
        (10**17 + 1, 10**17 + 1),
        (None, None),
    ],
)
def test_numbers_are_written_with_eight_digits(given: object, written: object) -> None:
    assert json.loads(plain_data.json_text(given)) == written
    assert json.loads(plain_data.json_text({"x": given}))["x"] == written


def test_tables_are_written_with_eight_digits_too() -> None:
    assert plain_data.csv_text(["a", "b"], [{"a": 1 / 3, "b": 123456789012}]) == "a,b\n0.33333333,123456789012\n"


def test_unusable_runs_are_named_and_the_others_are_used(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ablation.yaml").write_text("[", encoding="utf-8")
    (tmp_path / "folder" / "records.jsonl").mkdir(parents=True)
    wrong_ones = [tmp_path / name for name in ("empty", "broken", "folder", "none")]
    given = [runs / "study", *wrong_ones, runs / "study" / ".." / "study"]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["report", *map(str, given), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "4 of 5 folders could not be used." in said
    assert all(f"left out: {path}" in said for path in wrong_ones)
    assert "study is given twice and counts once." in said
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "4 of 5 folders could not be used." in page
    assert [path.name for path in sorted((tmp_path / "out").iterdir()) if path.is_dir()] == ["study"]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", *map(str, wrong_ones), "--out", str(tmp_path / "no")])
    said = capsys.readouterr().err
    assert all(f"{path}" in said for path in wrong_ones)
    assert "Traceback" not in said
    assert not (tmp_path / "no").exists()


def test_runs_of_one_name_lie_beside_each_other(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "study", tmp_path / "other" / "study")
    reports.write([runs / "study", tmp_path / "other" / "study"], tmp_path / "out")
    assert {row["run"] for row in csv_rows(tmp_path / "out" / "cells.csv")} == {"study", "study-2"}
    assert (tmp_path / "out" / "study-2" / "report.html").exists()


def test_a_run_folder_is_not_written_over(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(runs)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", str(runs / "study"), str(runs / "table2"), "--out", str(runs)])
    assert "would go into the run folder itself; give another folder" in capsys.readouterr().err
    assert files(runs) == before


def test_settings_of_several_runs_stand_side_by_side(runs: Path, tmp_path: Path) -> None:
    outcomes = {("imdb", row): [wrong(50 + s, s) for s in range(3)] for row in ("head-only", "head+tail")}
    only = TABLE2 | {"tasks": {"imdb": TABLE2["tasks"]["imdb"]}}
    build(tmp_path / "again", only, outcomes)  # type: ignore[arg-type]
    reports.write([runs / "table2", tmp_path / "again"], tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    head = next(line for line in text.splitlines() if line.startswith("|  |"))
    assert head == r"|  | imdb, table2 (error %) | imdb, again (error %) | sls\_yelp, table2 (error %) |"
    assert "| head-only | 20.00 ± 1.00 (3) | 12.75 ± 0.25 (3) | 15.00 (1 of 3, 1 diverged) |" in text
    reports.write([runs / "study", runs / "table2"], tmp_path / "apart", ["md"])
    assert "|  |" not in (tmp_path / "apart" / "table.md").read_text(encoding="utf-8")


def test_everything_of_several_is_escaped(runs: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    outcomes = {("imdb", row): [wrong(60, s) for s in range(2)] for row in (NASTY, "=HYPERLINK(1)")}
    build(tmp_path / "a & b <i> #1", nasty(), outcomes)  # type: ignore[arg-type]
    reports.write([runs / "study", tmp_path / "a & b <i> #1"], tmp_path / "out")
    made = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert all("\x1b" not in text for text in made.values())
    assert made["report.html"].count("<script>") == 1
    assert 'href="a%20%26%20b%20%3Ci%3E%20%231/report.html"' in made["report.html"]
    assert r"\<script\>" in made["table.md"]
    assert not any(cell.startswith("=") for row in csv.reader(io.StringIO(made["cells.csv"])) for cell in row)
    assert max(map(len, made["table.txt"].splitlines())) <= 80
    compile_tex(request.getfixturevalue("pdflatex"), tmp_path, made["table.tex"])


def test_from_the_shell(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        cli.main(["report", str(runs / "study"), str(runs / "table2"), "--format", "md"])
    assert capsys.readouterr().out == "report: report\n"
    assert (tmp_path / "report" / "table.md").exists()
    assert main([str(runs / "study"), str(runs / "table2"), "--out", str(tmp_path / "b"), "--format", "csv"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 study, 1 ablation. 7 of 9 cells have a number, on sls_imdb, imdb, sls_yelp.")
    assert max(map(len, said.splitlines()[:-1])) <= 80


def test_pdfs_come_last(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", str(runs / "study"), str(runs / "table2"), "--out", str(tmp_path / "out"), "--format", "pdf,csv"])
    assert "needs Chromium or Chrome" in capsys.readouterr().err
    assert all((tmp_path / "out" / name / "report.html").exists() for name in (".", "study", "table2"))


def test_formats_are_checked_before_anything_is_read() -> None:
    assert reports.formats(None) == output.FORMATS
    assert reports.formats(" csv,pdf ") == ("csv", "pdf")
    for given in ("", ",", "docx", "csv,docx"):
        with pytest.raises(ValueError, match="there are html, md, tex, csv, json, txt, pdf"):
            reports.formats(given)
