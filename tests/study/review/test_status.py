"""How far an ablation is, by its folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from study.review.status import look, show
from tests.analysis.ablations import TABLE2, build, table2_outcomes
from tests.study.tiny import ROOT
from trainables.settings.errors import ConfigError


def test_an_ablation_has_a_line_for_each_study(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    lines = show(folder).splitlines()
    studies = sorted(path.parent.name for path in folder.glob("*/records.jsonl"))
    assert lines[0].endswith(": not running")
    assert len(lines) == 1 + len(studies)
    assert all("search " in line and "finals " in line for line in lines[1:])
    (folder / studies[0] / "records.jsonl").unlink()
    assert f"  {studies[0]}: not begun" in show(folder).splitlines()


def test_the_progress_of_an_ablation_as_data(tmp_path: Path) -> None:
    folder = build(tmp_path / "run", TABLE2, table2_outcomes())
    found = json.loads(json.dumps(look(folder)))
    assert (found["kind"], found["state"], found["process"]) == ("ablation", "not running", None)
    begun = [part for part in found["studies"] if part["state"] != "not begun"]
    assert [part["folder"] for part in begun] == sorted(path.parent.name for path in folder.glob("*/records.jsonl"))
    for part in begun:
        assert part["finals"]["begun"] == sum(trial["phase"] == "final" for trial in part["trials"])


def test_every_key_of_the_progress_is_explained(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "resume-sharing-selection.md").read_text(encoding="utf-8")
    section = page[page.index("## Progress as JSON") : page.index("## Selection")]
    explained = set(re.findall(r"`(\w+)`", section))
    first = {name for line in section.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    found = look(build(tmp_path / "run", TABLE2, table2_outcomes()))
    part = found["studies"][0]
    assert set(part) - {"folder"} == first
    assert set(found) | set(part) | {key for name in ("search", "finals") for key in part[name]} <= explained
    assert set(part["trials"][0]) <= explained


def test_no_run_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        show(tmp_path)
