"""The report of a study: from runs in any state, without network access, with the same bytes, without torch and ray."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis.pages import reports, study_page
from analysis.records.run_folder import load
from analysis.results import final_settings
from analysis.results.final_settings import Finals
from analysis.results.origin import origin
from tests.analysis.made_records import Story, make
from tests.analysis.tables.test_result_table import nasty


class Outline(HTMLParser):
    """Collects headings, ids, open tags, and everything that could cause a network request."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.asks: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.scripts += tag == "script"
        self.ids += [about["id"] or ""] if "id" in about else []
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = about.get(name)
            if value and not value.startswith(("#", "data:,")):
                self.asks.append(f"{tag} {name}={value}")
        assert not [name for name in about if name.startswith("on")], f"inline handler in {tag}"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(folder: Path, out: Path) -> str:
    """Return the text of the page without markup."""
    page = reports.write([folder], out).page.read_text(encoding="utf-8")
    page = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_writes_everything(finished: Path, tmp_path: Path) -> None:
    page = reports.write([finished], tmp_path / "out").page
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert page == tmp_path / "out" / "report.html"
    tables = [
        "calibration.csv",
        "confusions.csv",
        "labels.csv",
        "lengths.csv",
        "report.html",
        "results.csv",
        "table.md",
        "table.tex",
    ]
    names = sorted([*tables, "cells.csv", "provenance.csv", "report.json", "table.txt", "tasks.csv", "trials.csv"])
    assert [name for name in files if not name.startswith("figures/")] == names
    assert "figures/history.svg" in files


def test_final_settings_are_reckoned_once_for_a_whole_report(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reckoned: list[Any] = []

    def counted(reckon: Callable[..., Any], run: Any, *more: Any) -> Any:
        reckoned.append(reckon)
        return reckon(run, *more)

    each = [final_settings.settings, final_settings.comparisons, final_settings.baseline_interval]
    for function in each:
        monkeypatch.setattr(final_settings, function.__name__, partial(counted, function))
    for files in study_page.read(finished).files.values():
        for text in files.values():
            text()
    assert sorted(map(id, reckoned)) == sorted(map(id, each))


def test_the_same_records_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from analysis.pages import reports"
    code += "; reports.write([Path(sys.argv[1])], Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(finished), str(tmp_path / "b")]
    reports.write([finished], tmp_path / "a")
    subprocess.run(
        command, check=True, timeout=120, env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    )
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path


def test_the_page_is_sound_and_asks_for_nothing(finished: Path, tmp_path: Path) -> None:
    page = reports.write([finished], tmp_path).page.read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.open == []
    assert outline.asks == []
    assert outline.scripts == 1
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert "default-src 'none'" in page


def test_a_large_study_stays_under_three_megabytes(large: Path, tmp_path: Path) -> None:
    assert reports.write([large], tmp_path).page.stat().st_size < 3_000_000


def test_the_answer_comes_first(finished: Path, tmp_path: Path) -> None:
    headline, sentence = study_page.answer(Finals(load(finished)))
    assert re.fullmatch(r"\d+\.\d % test error with the chosen setting", headline)
    assert sentence.startswith("On sls_imdb, best 1 errs on ")
    for part in ("over 3 seeds", "over the 200 test texts", "the papers' setting", "the bag of words", "noise"):
        assert part in sentence
    assert text_of(finished, tmp_path).index(headline) < 200


@pytest.mark.parametrize(
    ("changes", "headline", "said"),
    [
        ({"part": "started"}, "No result yet", "No trial has begun."),
        ({"part": "search"}, "No test result yet", "finals have not been run"),
        ({"part": "search", "only_failures": True}, "No result yet", "12 begun: 12 failed"),
        ({"part": "finals"}, "No test result yet", "the test split has not been read"),
        ({"part": "selected"}, "No test result yet", "Test scores of some finals are missing"),
        ({"seeds": 1}, "test error with the chosen setting", "One seed only"),
        ({"equal": True}, "test error with the chosen setting", "same score on validation"),
        ({"baseline": False}, "test error with the chosen setting", "There is no bag of words"),
        ({"study_file": False}, "test error with the chosen setting", "contains no study file"),
        ({"predictions": False}, "test error with the chosen setting", "test texts"),
        (
            {"trials": 1, "diverged": None, "failed": None},
            "test error with the chosen setting",
            "Too few validated trials: 1;",
        ),
    ],
)
def test_the_page_of_any_state_of_a_run_lists_what_is_missing(
    tmp_path: Path, changes: dict[str, object], headline: str, said: str
) -> None:
    text = text_of(make(tmp_path / "run", **changes), tmp_path / "out")
    assert headline in text
    assert said in text


def test_an_empty_run_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"")
    assert "No result yet" in text_of(tmp_path, tmp_path / "out")


def test_every_beginning_of_the_records_gives_a_page(finished: Path, tmp_path: Path) -> None:
    """A report can be written at any time, also after a crash in the middle of a line."""
    whole = (finished / "records.jsonl").read_bytes()
    shutil.copy(finished / "study.yaml", tmp_path)
    for share in (0.01, 0.1, 0.3, 0.5, 0.66, 0.8, 0.9, 0.97):
        (tmp_path / "records.jsonl").write_bytes(whole[: int(share * len(whole))])
        run = load(tmp_path)
        matter = study_page.Importance({}, 0)
        Outline(study_page.page(Finals(run), matter, {}))


def test_texts_of_a_user_stay_text(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", edit=nasty)
    (folder / "study.yaml").write_text((folder / "study.yaml").read_text() + "\nnote: </code><script>alert(2)</script>\n")
    page = reports.write([folder]).page.read_text(encoding="utf-8")
    assert Outline(page).scripts == 1
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_figures_of_an_earlier_state_go(finished: Path, tmp_path: Path) -> None:
    reports.write([finished], tmp_path)
    old = tmp_path / "figures" / "dimension-17.svg"
    old.write_text("<svg/>")
    reports.write([finished], tmp_path)
    assert not old.exists()


def test_reading_changes_nothing_in_the_run(finished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    reports.write([finished], tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_sharing_is_counted_from_the_records(finished: Path) -> None:
    from analysis.results.sharing import saved, tree

    run = load(finished)
    found = saved(run)
    assert found is not None
    own = sum(trial.tokens for trial in run.trials)
    steps = [trial.params["pretrain.steps"] for trial in run.trials if trial.tokens]
    assert found.pretrain_shared == 200 * 880  # one trajectory, as far as its last milestone
    assert found.pretrain_unshared == sum(steps) * 880
    assert found.unshared == own + found.pretrain_unshared
    assert found.shared < own + found.pretrain_shared  # finals with the search's seed are the search's own trials
    (trajectory,) = tree(run).children
    assert [node.title for node in trajectory.children] == ["50 steps", "100 steps", "200 steps"]
    assert "from the store" in trajectory.children[0].facts


def test_a_stage_without_milestones_is_one_run(tmp_path: Path) -> None:
    from analysis.results.sharing import tree

    several = {"stage_id": "ab", "trajectory_id": "ab", "kind": "multitask", "name": "multitask", "steps": 18, "status": "computed"}
    run = load(make(tmp_path, edit=lambda s: s.write("stage", **several)))
    assert "multitask: one run" in [child.title for child in tree(run).children]


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "ray", "transformers", "optuna", "trainables", "datasets", "pydantic"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
from analysis.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_works_without_torch_and_ray(finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, str(finished), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "best 1" in done.stdout
    assert f"report: {tmp_path}/report.html" in done.stdout
    assert (tmp_path / "table.tex").exists()


def test_no_run_folder_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "analysis", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "neither records.jsonl nor ablation.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_versions_that_change_between_sessions_are_both_named(tmp_path: Path) -> None:
    def edit(story: Story) -> None:
        story.write("study", status="resumed", versions={"torch": "2.14.0"}, commit="f" * 40 + "+")

    found = dict(origin(load(make(tmp_path, edit=edit))).lines)
    assert found["torch"] == "2.13.0, then 2.14.0"
    assert found["commit"].endswith("ffffffffffff+ (with changes)")
