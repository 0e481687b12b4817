"""TensorBoard: read back with its own loader what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.trackers.send import send
from analysis.trackers.tracked import read
from tests.analysis.made_records import make

pytest.importorskip("tensorboard", reason="pip install 'finetune-study[tensorboard]'")


def loaded(folder: Path) -> Any:
    """The accumulator of one folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def contents(folder: Path) -> dict[str, bytes]:
    """{path: content} of the event files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("events.*")}


def test_scalars_and_hyperparameters(tmp_path: Path, finished: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    assert send(finished, "tensorboard", str(tmp_path)) > 0
    (folder,) = tmp_path.iterdir()
    tracked = read(finished)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        run.name for run in tracked.runs if run.points or run.params
    }
    for run in tracked.runs:
        if not run.points:
            continue
        accumulator = loaded(folder / run.name)
        for name in {name for point in run.points for name in point.values}:
            expected = [(p.step, p.time_s, pytest.approx(p.values[name], rel=1e-6)) for p in run.points if name in p.values]
            assert [(each.step, each.wall_time, each.value) for each in accumulator.Scalars(name)] == expected
    data = loaded(folder / "t000").SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    info = metadata.parse_session_start_info_plugin_data(data)
    assert info.hparams["finetune.learning_rate"].number_value == 2e-5
    assert info.hparams["finetune.truncation"].string_value == "head+tail"
    end = metadata.parse_session_end_info_plugin_data(
        loaded(folder / "t005").SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    )
    assert end.status == 2, "a diverged trial is a failure"
    columns = metadata.parse_experiment_plugin_data(loaded(folder).SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content)
    assert [each.name for each in columns.hparam_infos][:2] == ["finetune.learning_rate", "finetune.xi"]
    assert [each.name.tag for each in columns.metric_infos] == ["validation/error_rate_percent", "test/error_rate_percent"]


def test_a_repeated_sending_adds_only_what_is_new(tmp_path: Path) -> None:
    """Also where the process was killed while it wrote: the torn event is written again."""
    run, at = make(tmp_path / "run", part="search", trials=3), tmp_path / "events"
    assert send(run, "tensorboard", str(at)) > 0
    half = contents(at)
    assert send(run, "tensorboard", str(at)) == 0
    assert contents(at) == half
    path = next(at.rglob("t000/events.*"))
    path.write_bytes(path.read_bytes()[:-20])
    (run / "records.jsonl").unlink()
    make(run, trials=3)
    assert send(run, "tensorboard", str(at)) > 0
    whole = tmp_path / "whole"
    send(run, "tensorboard", str(whole))
    assert contents(at) == contents(whole)
    with pytest.raises(ValueError, match="a local folder is expected"):
        send(run, "tensorboard", "s3://bucket/logs")
