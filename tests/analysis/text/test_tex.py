"""LaTeX tables are compiled: with any names, width and length they compile without errors and fit the page."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

from analysis.records.run_folder import load
from analysis.results.claims import verdicts
from analysis.results.final_settings import Finals
from analysis.results.read_ablation import ledger
from analysis.tables import result_table
from analysis.tables.forms import latex
from analysis.tables.published_layout import layout
from analysis.text.tex import TexColumn, table, tex
from tests.analysis.ablations import TABLE2, build, table2_outcomes, wrong
from tests.analysis.made_records import make
from tests.analysis.tables.test_result_table import nasty

HOSTILE = "100 % of _x_ & #1 ^2 ~ \\input{/etc/passwd} {a} $5 <b> |c| \"q\" 'r' `s` é ñ ő ş ł ß 中文 Ж 🙂 ξ ≤ → ± – — ‑ “z” "
HOSTILE += "w" * 60
BOX_PT = 5.0
"""What a box may be too wide by: less than a letter."""


@pytest.fixture(scope="session")
def pdflatex() -> str:
    found = shutil.which("pdflatex")
    if found is None or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).returncode:
        pytest.skip("no pdflatex with booktabs; Debian and Ubuntu: sudo apt-get install texlive-latex-recommended")
    return found


def compile_tex(pdflatex: str, folder: Path, text: str) -> str:
    """Return the warnings and errors of the log, without harmless ones; the PDF is written beside it."""
    whole = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n\\input{table.tex}\n\\end{document}\n"
    (folder / "table.tex").write_text(text, encoding="utf-8")
    (folder / "whole.tex").write_text(whole, encoding="utf-8")
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "whole.tex"]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    log = (folder / "whole.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    assert (folder / "whole.pdf").stat().st_size > 1000
    assert not re.findall(r"(?m)^(?:!|LaTeX Warning: (?!Label)|Missing character).*", log)
    too_wide = [float(points) for points in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log)]
    assert max(too_wide, default=0.0) < BOX_PT
    return log


def test_a_study(pdflatex: str, finished: Path, tmp_path: Path) -> None:
    compile_tex(pdflatex, tmp_path, result_table.latex(Finals(load(finished))))
    compile_tex(pdflatex, tmp_path, result_table.latex(Finals(load(make(tmp_path / "nasty", edit=nasty)))))
    compile_tex(pdflatex, tmp_path, result_table.latex(Finals(load(make(tmp_path / "begun", part="started")))))


def test_an_ablation_with_hostile_names(pdflatex: str, tmp_path: Path) -> None:
    rows = [{"row": HOSTILE, "set": {}}, {"row": "é, ü, ß", "set": {}}, {"row": "=1+1", "set": {}}]
    about = TABLE2 | {"name": HOSTILE, "title": HOSTILE * 4, "settings": rows, "notes": [HOSTILE] * 5, "changes": [HOSTILE] * 3}
    about["claims"] = [{"says": HOSTILE, "better": {"row": HOSTILE}, "worse": {"row": "=1+1"}}]
    outcomes = {("imdb", row["row"]): [wrong(60 + i, s) for s in range(2)] for i, row in enumerate(rows)}
    found = ledger(build(tmp_path / "run", about, outcomes))  # type: ignore[arg-type]
    text = latex(found, layout(found), verdicts(found))
    compile_tex(pdflatex, tmp_path, text)
    assert re.sub(r"(?m)^%.*$", "", text).isascii()


def test_an_ablation_beside_published_numbers(pdflatex: str, tmp_path: Path) -> None:
    found = ledger(build(tmp_path / "run", TABLE2, table2_outcomes(), finished=False))
    compile_tex(pdflatex, tmp_path, latex(found, layout(found), verdicts(found)))


@pytest.mark.parametrize(("tasks", "rows"), [(12, 3), (3, 120)])
def test_a_table_larger_than_a_page(pdflatex: str, tmp_path: Path, tasks: int, rows: int) -> None:
    cells = [["9.62 $\\pm$ 0.36 (3)", "5.42"]] * rows
    columns = [TexColumn(f"task_{i}, learning rate 2e-05", cells, ("ours", "paper")) for i in range(tasks)]
    text = table([f"row {i}" for i in range(rows)], columns, ["Caption."], ["Note."])
    log = compile_tex(pdflatex, tmp_path, text)
    assert text.count(r"\begin{tabular}") > 1
    assert all(text.count(f"row {i} &") >= 1 for i in range(rows))
    assert text.count(r"\caption{(continued)}") == text.count(r"\begin{table}") - 1
    assert text.count("Note.") == 1
    assert "Float too large" not in log


def test_every_letter_that_is_not_named_by_its_code_is_set(pdflatex: str, tmp_path: Path) -> None:
    letters = [chr(c) for c in range(0x20, 0x2600) if unicodedata.category(chr(c))[0] in "LPSN" and "codepoint" not in tex(chr(c))]
    assert len(letters) > 250
    compile_tex(pdflatex, tmp_path, "\n\n".join(tex(letter) for letter in letters))


def test_other_scripts_are_named_by_their_code() -> None:
    assert tex("中é") == r"\codepoint{4E2D}\'{e}"
    assert r"\providecommand{\codepoint}" in table(["中"], [], ["c"])
    assert r"\codepoint" not in table(["é"], [], ["c"])
    assert tex("e\u0301") == r"\'{e}"


def test_a_long_word_may_be_broken() -> None:
    assert tex("w" * 30) == r"wwwwwwwwwwww\allowbreak{}wwwwwwwwwwww\allowbreak{}wwwwww"
    assert "allowbreak" not in tex("short words " * 20)
