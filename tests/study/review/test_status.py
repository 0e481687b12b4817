"""How far an ablation is, by its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.review.status import show
from tests.analysis.ablations import TABLE2, build, table2_outcomes
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


def test_no_run_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        show(tmp_path)
