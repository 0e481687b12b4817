"""Weights & Biases: the study is the group of its runs, whose identities stay the same (`resume="allow"`).

A row of the history is one point, and its number the step: W&B tells how many rows a run has. Without a connection
(`WANDB_MODE=offline`) nothing tells, so the ledger in the run folder counts them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.trackers.ledger import FOLDER, Ledger
from analysis.trackers.tracked import TrackedRun, TrackedStudy

PROJECT = "finetune-study"
"""Name of the project, unless WANDB_PROJECT is set."""
STEP = "optimizer_step"
"""Metric that the others are drawn over."""
CODES = {"finished": 0, "killed": 0, "failed": 1}
"""Exit codes of runs: W&B shows those with another one than 0 as failed."""


@contextmanager
def opened(at: str | None, folder: Path) -> Iterator[Callable[[TrackedStudy], int]]:
    """Yield the function that sends a study and returns the number of runs that have changed.

    `at` is the address of a server, by default WANDB_BASE_URL or W&B's own. Runs of unfinished trials stay open until the end.
    """
    import wandb

    settings = wandb.Settings(
        **({"base_url": at} if at else {}),
        **dict.fromkeys(("x_disable_stats", "x_disable_meta", "disable_git", "disable_code", "silent"), True),
        x_save_requirements=False,
        console="off",
        init_timeout=60,
    )
    ledger, running = Ledger(folder, "wandb", at), dict[str, Any]()

    def send(tracked: TrackedStudy) -> int:
        return sum(_run(wandb, settings, ledger, running, tracked, run) for run in (tracked.study, *tracked.runs))

    try:
        yield send
    finally:
        for run in running.values():
            run.finish(exit_code=1)


def _run(wandb: Any, settings: Any, ledger: Ledger, running: dict[str, Any], tracked: TrackedStudy, run: TrackedRun) -> int:
    """Send one run. Returns 1 if anything has changed, else 0."""
    state = f"{run.state()} {tracked.files_digest()}" if run.kind == "study" else run.state()
    if ledger.state(run.key) == state:
        return 0
    there = running.pop(run.key, None) or wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        id=run.key,
        name=run.name,
        group=f"{tracked.study.name}-{tracked.study.key[:8]}",
        job_type=run.kind,
        resume="allow",
        reinit="create_new",
        config=dict(run.params),
        dir=os.environ.get("WANDB_DIR") or str(tracked.folder / FOLDER),
        settings=settings,
    )
    there.config.update(run.params | run.tags, allow_val_change=True)
    there.define_metric("*", step_metric=STEP)
    sent = ledger.points(run.key) if there.offline else there.step
    for number, point in enumerate(run.points[sent:], start=sent):
        there.log({STEP: point.step, "_timestamp": point.time_s, **point.values}, step=number)
    there.summary.update({"state": run.tags["state"], **run.results})
    if run.kind == "study":
        files = wandb.Artifact(f"report-{run.key}", type="report")
        for name in tracked.files:
            files.add_file(str(tracked.folder / name), name)
        there.log_artifact(files)
    if run.status == "running":
        running[run.key] = there
    else:
        there.finish(exit_code=CODES[run.status])
    ledger.write(run.key, len(run.points), state)
    return 1
