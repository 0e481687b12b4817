"""What a session says before it computes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from analysis.records import record
from study.cluster.machine import Machine
from study.definition.study_file import load_study
from study.run import parts
from study.run.screen import Screen
from study.run.scribe import Scribe
from study.run.session import open_session
from tests.study.tiny import records, write_study
from trainables.stages.inputs import Reader
from trainables.store.store import Store

ON_CPU, ON_GPU = "2 CPU cores, 1 a trial, 1 trial at a time", "1 NVIDIA H100, 1 a trial, 1 trial at a time"


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (None, []),
        (ON_CPU, []),
        ("2 CPU cores, 2 a trial, 1 trial at a time", []),  # the same devices, used differently
        (ON_GPU, ["computes on 2 CPU cores; the last session computed on 1 NVIDIA H100; precision stays float32"]),
    ],
)
def test_a_resume_on_other_devices_is_a_notice(before: str | None, told: list[str], tmp_path: Path) -> None:
    out, earlier = io.StringIO(), [{"event": "plan", "computes_on": before}] if before else []
    scribe = Scribe(record.Records(tmp_path / "records.jsonl", "tiny"), Screen(out, "tiny"), [*earlier])
    study, store = load_study(write_study(tmp_path / "input")), Store(tmp_path / "store")
    session = open_session(study, tmp_path, store, scribe, Machine(((2, 0),)), Reader())
    assert parts._say_where(session) == ON_CPU
    assert f"computes on {ON_CPU}\n" in out.getvalue()
    assert [row["text"] for row in records(tmp_path, "notice")] == told
