"""TensorBoard: a folder with one event file for each run, with scalars and hyperparameters. Needs neither torch nor TensorFlow.

Events are appended. What a file holds is read from it, so that a repeated sending adds nothing. A torn event is cut off.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from analysis.trackers.tracked import TrackedRun, TrackedStudy

FOLDER = "tensorboard"
"""Default folder of the event files, in the run folder."""
HPARAMS = "_hparams_/"
"""Start of the tags of TensorBoard's hyperparameters."""


@contextmanager
def opened(at: str | None, folder: Path) -> Iterator[Callable[[TrackedStudy], int]]:
    """Yield the function that writes a study and returns the number of runs that have changed.

    `at` is a folder, by default `tensorboard` in the run folder. Raises ValueError for an address.
    """
    if at is not None and "://" in at:
        raise ValueError(f"tensorboard: {at!r} given; a local folder is expected")
    import tensorboard.compat.proto.event_pb2  # noqa: F401  # fail now if it cannot be imported

    yield partial(_send, Path(at) if at else folder / FOLDER)


def _send(base: Path, tracked: TrackedStudy) -> int:
    short = tracked.study.key[:8]
    named = base / f"{_folder_name(tracked.study.name)}-{short}"
    folder = next(base.glob(f"*-{short}"), named)  # the study may have been renamed since
    tags = [f"{split}/{tracked.metric}" for split in ("validation", "test")]
    changed = _append(folder, tracked.study, [_columns(tracked.dimensions, tags)])
    for run in tracked.runs:
        first = [_params(run)] if run.kind in ("search", "final") else []
        changed += _append(folder / _folder_name(run.name), run, first)
    return changed


def _folder_name(text: str) -> str:
    """A name without what could lead to another folder."""
    return re.sub(r"[^\w -]", "_", text)[:80]


def _append(folder: Path, run: TrackedRun, first: list[Any]) -> int:
    """Append the events that the file of a run lacks. Returns 1 if there are any, else 0."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    path = folder / f"events.out.tfevents.{int(run.began_s)}.finetune-study"
    events, size = _read(path)
    tags = [event.summary.value[0].tag for event in events if event.summary.value]
    sent = sum(not tag.startswith(HPARAMS) for tag in tags)
    new = [] if events else [Event(wall_time=run.began_s, file_version="brain.Event:2")]
    new += [] if events else [Event(wall_time=run.began_s, summary=summary) for summary in first]
    for point in run.points[sent:]:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        new.append(Event(wall_time=point.time_s, step=point.step, summary=Summary(value=values)))
    if first and run.status != "running" and run.kind != "study" and (end := _end(run)) not in [event.summary for event in events]:
        new.append(Event(wall_time=run.ended_s, summary=end))
    if not new:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.truncate(size)
        file.writelines(_framed(event.SerializeToString()) for event in new)
    return 1


def _params(run: TrackedRun) -> Any:
    """The hyperparameters of a trial."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    return hparams_pb({**run.params, "phase": run.kind, "seed": run.tags.get("seed", "")}, run.key, run.began_s)


def _columns(dimensions: Sequence[str], tags: Sequence[str]) -> Any:
    """The columns of the table of hyperparameters."""
    from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb

    return hparams_config_pb([HParam(name) for name in (*dimensions, "phase", "seed")], [Metric(tag) for tag in tags])


def _end(run: TrackedRun) -> Any:
    """The status of a trial that has ended; TensorBoard knows success and failure."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    status = api_pb2.STATUS_SUCCESS if run.status == "finished" else api_pb2.STATUS_FAILURE
    data = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=run.ended_s))
    about = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)])


# The format of event files: length, its checksum, event, its checksum -------------------------------------------------------------


def _framed(data: bytes) -> bytes:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def _read(path: Path) -> tuple[list[Any], int]:
    """(the whole events of a file, their size in bytes); nothing if it does not exist."""
    from tensorboard.compat.proto.event_pb2 import Event

    content, events, at = path.read_bytes() if path.exists() else b"", [], 0
    while at + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        if at + length + 16 > len(content):
            break
        events.append(Event.FromString(content[at + 12 : at + 12 + length]))
        at += length + 16
    return events, at
