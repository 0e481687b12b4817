"""What the scribe makes of what happens."""

from __future__ import annotations

import io
from pathlib import Path

from analysis.records.record import Records, read
from study.run.screen import Screen
from study.run.scribe import Scribe

ROW = {"stage": "pretrain", "stage_name": "pretrain", "stage_id": "a" * 32, "step": 1, "split": "train", "train_loss": 2.0}


def test_a_notice_of_a_stage_is_said_once_in_a_run(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for said_before in (False, True):  # the second time in a later session
        out = io.StringIO()
        scribe = Scribe(Records(path, "tiny"), Screen(out, "tiny"), read(path)[0])
        for step in (1, 2):
            scribe.shared(ROW | {"step": step, "source": "computed", "notices": ["a new head", "a padded family"]})
        assert out.getvalue().count("note: a new head") == (not said_before)
    assert [row["text"] for row in read(path)[0] if row["event"] == "notice"] == ["a new head", "a padded family"]
    assert len([row for row in read(path)[0] if row["event"] == "evaluation"]) == 2
