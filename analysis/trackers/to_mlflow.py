"""MLflow: the study is a run, its trials are runs below it. Runs are found again by the tag `finetune_study.key`.

Every batch of metrics holds the number of points sent so far as a tag, in one transaction, so that a repeated sending adds nothing.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from analysis.trackers.tracked import Point, TrackedRun, TrackedStudy

EXPERIMENT = "finetune-study"
"""Name of the experiment, unless MLFLOW_EXPERIMENT_NAME is set."""
OWN = "finetune_study"
"""Prefix of the tags by which runs are found again."""
STATUSES = {"finished": "FINISHED", "killed": "KILLED", "failed": "FAILED"}
MOST_METRICS, MOST_PARAMS, MOST_TEXT = 1000, 100, 500
"""Limits of MLflow for one batch, and of the length of a text on older servers."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Defaults for a server that does not answer; MLflow's own are several minutes."""


@contextmanager
def opened(at: str | None, folder: Path) -> Iterator[Callable[[TrackedStudy], int]]:
    """Yield the function that sends a study and returns the number of runs that have changed.

    `at` is a tracking URI; None: MLFLOW_TRACKING_URI, else MLflow's default, `sqlite:///mlflow.db` in the working directory.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    yield partial(_send, MlflowClient(tracking_uri=at), {})


def _send(client: Any, known: dict[str, Any], tracked: TrackedStudy) -> int:
    """Send all runs that have changed; `known` keeps {key: run} between two calls."""
    experiment = _experiment(client)
    if not known:
        known |= _existing(client, experiment, tracked.study.key)
    try:
        parent, changed = _run(client, experiment, known, tracked.study, {"mlflow.source.name": "finetune-study"})
        changed += _files(client, known, tracked)
        below = {"mlflow.parentRunId": parent, f"{OWN}.study": tracked.study.key}
        return changed + sum(_run(client, experiment, known, run, below)[1] for run in tracked.runs)
    except Exception:
        known.clear()  # what has arrived is not known: ask again next time
        raise


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _existing(client: Any, experiment: str, study: str) -> dict[str, Any]:
    """{key: run} of the runs of a study that an earlier session sent."""
    found: dict[str, Any] = {}
    for tag in ("key", "study"):
        token: str | None = None
        while token != "":
            page = client.search_runs([experiment], f"tags.`{OWN}.{tag}` = '{study}'", max_results=1000, page_token=token)
            found |= {run.data.tags[f"{OWN}.key"]: run for run in page}
            token = page.token or ""
    return found


def _run(client: Any, experiment: str, known: dict[str, Any], run: TrackedRun, tags: Mapping[str, str]) -> tuple[str, int]:
    """Send one run. Returns (its id at MLflow, 1 if anything has changed, else 0)."""
    there = known.get(run.key)
    if there is None:
        own = {f"{OWN}.key": run.key, **tags}
        there = client.create_run(experiment, start_time=_ms(run.began_s), tags=own, run_name=run.name)
    run_id, sent, state = there.info.run_id, int(there.data.tags.get(f"{OWN}.points", 0)), run.state()
    if there.data.tags.get(f"{OWN}.state") == state:
        known[run.key] = there
        return run_id, 0
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(_name(k), str(v)[:MOST_TEXT]) for k, v in run.params.items() if _name(k) not in there.data.params]
    for start in range(0, len(params), MOST_PARAMS):
        client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
    for points, count in _batches(run.points, sent):
        metrics = [Metric(_name(k), v, _ms(point.time_s), point.step) for point in points for k, v in point.values.items()]
        client.log_batch(run_id, metrics=metrics, tags=[RunTag(f"{OWN}.points", str(count))])
    results = {k: v for k, v in run.results.items() if there.data.metrics.get(_name(k)) != v}
    client.log_batch(
        run_id,
        metrics=[Metric(_name(k), v, _ms(run.ended_s), 0) for k, v in results.items()],
        tags=[RunTag(_name(k), v[:MOST_TEXT]) for k, v in run.tags.items()],
    )
    if run.status in STATUSES:
        client.set_terminated(run_id, STATUSES[run.status], _ms(run.ended_s))
    else:
        client.update_run(run_id, status="RUNNING")
    client.update_run(run_id, name=run.name)
    client.set_tag(run_id, f"{OWN}.state", state)
    known[run.key] = client.get_run(run_id)
    return run_id, 1


def _batches(points: Sequence[Point], sent: int) -> Iterator[tuple[list[Point], int]]:
    """Yield (points of one batch, number of points sent with it) of those that were not sent."""
    batch: list[Point] = []
    for count, point in enumerate(points[sent:], start=sent + 1):
        batch.append(point)
        following = points[count].values if count < len(points) else None
        if following is None or sum(len(each.values) for each in batch) + len(following) > MOST_METRICS:
            yield batch, count
            batch = []


def _files(client: Any, known: dict[str, Any], tracked: TrackedStudy) -> int:
    """Send the files of the study as artifacts, if their content has changed. Returns 1 if it has."""
    run, digest = known[tracked.study.key], tracked.files_digest()
    if run.data.tags.get(f"{OWN}.files") == digest:
        return 0
    for name in tracked.files:
        folder = str(PurePosixPath(name).parent)
        client.log_artifact(run.info.run_id, str(tracked.folder / name), None if folder == "." else folder)
    client.set_tag(run.info.run_id, f"{OWN}.files", digest)
    known[tracked.study.key] = client.get_run(run.info.run_id)
    return 1


def _name(text: str) -> str:
    """A name that MLflow accepts."""
    return re.sub(r"[^\w./: -]", "_", text)[:250]


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
