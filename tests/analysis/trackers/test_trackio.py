"""Trackio: read from its local database what was sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.trackers.tracked import read
from tests.analysis.made_records import make
from tests.helpers import TEXTS

pytest.importorskip("trackio", reason="pip install 'finetune-study[trackio]'")
CODE = """
import json, sys
from pathlib import Path
from analysis.trackers.send import send
changed = [send(Path(sys.argv[1]), "trackio") for _ in range(2)]
import trackio
from trackio.sqlite_storage import SQLiteStorage
project = json.loads((Path(sys.argv[1]) / "tracked" / "trackio.json").read_text())["default"]["project"][1]
logs = {run.name: SQLiteStorage.get_logs(project, run.name) for run in trackio.Api().runs(project)}
groups = {run.name: run.config["_Group"] for run in trackio.Api().runs(project)}
print(json.dumps([changed, logs, groups]))
"""


def test_every_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: Trackio reads the place of its database when it is imported."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "database"))
    run = tmp_path / "run"
    for part in ("search", "finished"):
        if run.exists():
            (run / "records.jsonl").unlink()
        make(run, part=part, trials=2, seeds=1, diverged=None, failed=None)
        command = [sys.executable, "-c", CODE, str(run)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=TEXTS.parent.parent)
        assert done.returncode == 0, done.stderr
        changed, logs, groups = json.loads([line for line in done.stdout.splitlines() if line.startswith("[[")][-1])
        assert changed[0] > 0 == changed[1]
    for each in read(run).runs:
        rows = logs[each.name]
        assert groups[each.name] == each.kind
        assert [row["step"] for row in rows] == [point.step for point in each.points]
        assert all(point.values.items() <= row.items() for point, row in zip(each.points, rows, strict=True))
