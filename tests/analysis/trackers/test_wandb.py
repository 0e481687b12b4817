"""Weights & Biases without a connection: read from its files what `wandb sync` would send."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.trackers.send import send
from analysis.trackers.tracked import read
from tests.analysis.made_records import make

pytest.importorskip("wandb", reason="pip install 'finetune-study[wandb]'")
BLOCK = 1 << 15


def stored(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: the log format of LevelDB after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def history(run: Path, name: str) -> list[dict[str, Any]]:
    """Rows of the history of a run, over all its files."""
    rows = []
    for path in sorted((run / "tracked" / "wandb").glob(f"offline-run-*-{name}/*.wandb")):
        for each in stored(path):
            if each.WhichOneof("record_type") == "history":
                names = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in each.history.item}
                rows.append(names | {"row": each.history.step.num})
    return rows


def test_sent_twice_and_after_more_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    run = make(tmp_path / "run", part="search", trials=1, diverged=None, failed=None, baseline=False)
    assert send(run, "wandb") > 0
    assert send(run, "wandb") == 0
    (run / "records.jsonl").unlink()
    make(run, trials=1, seeds=1, diverged=None, failed=None, baseline=False)
    assert send(run, "wandb") == 2, "the study and its final; the trial has not changed"
    for each in read(run).runs:
        rows = history(run, each.key)
        assert [row["row"] for row in rows] == list(range(len(each.points)))
        assert [row["optimizer_step"] for row in rows] == [point.step for point in each.points]
        assert [row["_timestamp"] for row in rows] == [point.time_s for point in each.points]
        assert all(point.values.items() <= row.items() for point, row in zip(each.points, rows, strict=True))
    (path,) = (run / "tracked").rglob("*-f00/*.wandb")
    begun = next(each.run for each in stored(path) if each.WhichOneof("record_type") == "run")
    assert (begun.display_name, begun.job_type) == ("f00", "final")
    assert begun.run_group.startswith("quickstart-")
    assert not [path for path in run.rglob("*") if path.is_file() and b"0123456789" * 4 in path.read_bytes()], "the key is nowhere"
