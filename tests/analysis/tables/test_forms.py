"""Text, Markdown, LaTeX, CSV and JSON of an ablation's table."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.pages import output, reports
from analysis.results.claims import verdicts
from analysis.results.ledger import Ledger
from analysis.results.read_ablation import ledger
from analysis.tables import forms
from analysis.tables.published_layout import layout
from tests.analysis.ablations import TABLE2, build, table2_outcomes, wrong

FORMS = {
    "table.txt": lambda found: forms.text(found, layout(found), verdicts(found)),
    "table.md": lambda found: forms.markdown(found, layout(found), verdicts(found)),
    "table.tex": lambda found: forms.latex(found, layout(found), verdicts(found)),
    "cells.csv": lambda found: forms.csv(found, layout(found)),
    "report.json": lambda found: forms.as_json(found, layout(found), verdicts(found)),
    "provenance.csv": forms.provenance_csv,
}


@pytest.fixture(scope="module")
def table2(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return ledger(build(tmp_path_factory.mktemp("table2") / "run", TABLE2, table2_outcomes(), finished=False))


def test_the_terminal_form_fits_80_columns(table2: Ledger, tmp_path: Path) -> None:
    tasks = {f"task_{i}": {"known": f"task_{i}", "published": "IMDb"} for i in range(8)}
    outcomes = {(t, row): [wrong(60 + i, s) for s in range(3)] for i, t in enumerate(tasks) for row in ("head-only", "tail-only")}
    wide = ledger(build(tmp_path / "run", TABLE2 | {"tasks": tasks}, outcomes))  # type: ignore[arg-type]
    for found in (table2, wide):
        said = FORMS["table.txt"](found)
        assert max(map(len, said.splitlines())) <= 80
    assert said.count("head-only  ") > 1  # in several parts
    assert all(f"task_{i} (for IMDb)" in said for i in range(8))


def balanced(tex: str) -> None:
    """Check LaTeX: environments and braces are closed, and special characters are escaped."""
    tex = re.sub(r"^%.*$", "", tex, flags=re.MULTILINE)
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", tex):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    bare = re.sub(r"\\[\\{}&%$#_]", "", tex)
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"[#_]", bare)
    tables = re.findall(r"\\begin\{tabular\}\{(?:l|p\{12em\})(r*)\}.*?\\midrule(.*?)\\bottomrule", tex, flags=re.DOTALL)
    assert tables
    for columns, body in tables:
        for line in body.strip().splitlines():
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns)


def test_latex_is_whole(table2: Ledger) -> None:
    balanced(FORMS["table.tex"](table2))


def test_csv_is_tidy(table2: Ledger) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMS["cells.csv"](table2))))
    assert len(rows) == 6
    by_cell = {(row["task"], row["row"]): row for row in rows}
    best = by_cell["imdb", "head+tail"]
    assert (float(best["mean"]), float(best["sd"]), best["seeds"], best["published"], best["mark"]) == (
        10.0,
        1.0,
        "3",
        "5.42",
        "best",
    )
    assert by_cell["imdb", "tail-only"]["mark"] == "level"
    assert by_cell["imdb", "head-only"]["mark"] == ""
    states = {row: by_cell["sls_yelp", row]["state"] for row in ("head-only", "tail-only", "head+tail")}
    assert states == {"head-only": "unfinished", "tail-only": "diverged", "head+tail": "missing"}
    assert by_cell["sls_yelp", "head-only"]["interval_low"] == ""  # one seed has no interval


def test_json_and_csv_have_the_same_content(table2: Ledger) -> None:
    data = json.loads(FORMS["report.json"](table2))
    rows = list(csv.DictReader(io.StringIO(FORMS["cells.csv"](table2))))
    assert [cell["mean"] for cell in data["cells"]] == [float(row["mean"]) if row["mean"] else None for row in rows]
    assert [claim["verdict"] for claim in data["claims"]] == ["supported", "undecided", "undecided"]


def test_provenance_has_a_row_for_each_cell_and_seed(table2: Ledger) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMS["provenance.csv"](table2))))
    assert len(rows) == 3 * 3 + 3 + 3 + 1
    first = rows[0]
    assert (first["seed"], first["score"], first["study"], first["trial"]) == ("0", "20.0", "imdb", "f00")
    assert first["predictions"] == "imdb/predictions/f00-test.parquet"
    assert all(re.fullmatch("[0-9a-f]{32}", row["stage_ids"]) for row in rows[:9])
    assert first["again"] == "study trace RUN head-only --task imdb --seed 0"
    assert rows[-1]["status"] == "missing"
    assert {row["command"] for row in rows} == {"study reproduce table2 --scale smoke"}


NASTY = "<script>alert('x')</script> & $x_1$ \\input{/etc/passwd} \x1b[31mred\x1b[0m | `code` *b*"


def nasty() -> dict[str, Any]:
    """TABLE2 with names that contain special characters."""
    settings = [{"row": NASTY, "set": {}}, {"row": "=HYPERLINK(1)", "set": {}}]
    claims = [{"says": NASTY, "better": {"row": NASTY}, "worse": {"row": "=HYPERLINK(1)"}}]
    return TABLE2 | {"name": NASTY, "title": NASTY, "settings": settings, "claims": claims, "notes": [NASTY], "changes": [NASTY]}


def test_everything_is_escaped(tmp_path: Path) -> None:
    outcomes = {("imdb", row): [wrong(60, s) for s in range(2)] for row in (NASTY, "=HYPERLINK(1)")}
    folder = build(tmp_path / "run", nasty(), outcomes)  # type: ignore[arg-type]
    page = reports.write([folder], names=output.FORMATS).page
    made = {path.name: path.read_text(encoding="utf-8") for path in page.parent.iterdir()}
    assert all("\x1b" not in text for text in made.values())
    assert made["report.html"].count("<script>") == 1
    assert "&lt;script&gt;alert" in made["report.html"]
    assert r"\<script\>" in made["table.md"]
    assert r"\`code\` \*b\*" in made["table.md"]
    balanced(made["table.tex"])
    assert r"\input{" not in re.sub(r"^%.*$", "", made["table.tex"], flags=re.MULTILINE)
    assert not any(cell.startswith("=") for row in csv.reader(io.StringIO(made["cells.csv"])) for cell in row)
    assert json.loads(made["report.json"])["cells"][1]["row"] == "=HYPERLINK(1)"
