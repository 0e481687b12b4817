"""Trackio: a study is a project, and the phase of a trial its group. Without an address all stays in Trackio's local database.

Runs are found again by their names. The ledger in the run folder counts the points that were sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.trackers.ledger import Ledger
from analysis.trackers.tracked import TrackedRun, TrackedStudy


@contextmanager
def opened(at: str | None, folder: Path) -> Iterator[Callable[[TrackedStudy], int]]:
    """Yield the function that sends a study and returns the number of runs that have changed.

    `at` is the address of a Trackio server (with TRACKIO_WRITE_TOKEN) or the name of a Space; None: the local database.
    """
    import trackio

    ledger = Ledger(folder, "trackio", at)
    where = {} if at is None else {"server_url": at} if "://" in at else {"space_id": at}

    def send(tracked: TrackedStudy) -> int:
        name = re.sub(r"[^A-Za-z0-9_-]", "-", tracked.study.name)[:60]
        project = ledger.note("project", f"{name}-{tracked.study.key[:8]}")
        return sum(_run(trackio, ledger, project, where, run) for run in (tracked.study, *tracked.runs))

    yield send


def _run(trackio: Any, ledger: Ledger, project: str, where: dict[str, str], run: TrackedRun) -> int:
    """Send one run. Returns 1 if anything has changed, else 0."""
    sent, state = ledger.points(run.key), run.state()
    new, results = run.points[sent:], run.results
    if ledger.state(run.key) == state:
        return 0
    config = {**run.params, **run.tags}
    there = trackio.init(
        project,
        name="study" if run.kind == "study" else run.name,
        group=run.kind,
        config=config,
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
        **where,
    )
    for point in new:
        there.log(dict(point.values), step=point.step)
    if results:
        there.log(dict(results), step=0)
    there.finish()
    ledger.write(run.key, len(run.points), state)
    return 1
