"""The session of a study on a running Ray, which all parts of the study share."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from study.cluster.machine import Machine
from study.cluster.work import Placement
from study.definition.models import Resources, Study
from study.run.scribe import Row, Scribe
from trainables.stages.inputs import Reader
from trainables.store.garbage import RAY
from trainables.store.store import Store


@dataclass
class Session:
    """One session of a study on a running Ray, with the objects that every part needs."""

    study: Study
    """With `auto` resolved: the GPUs for this session, the precision for the whole run."""
    run_dir: Path
    store: Store
    scribe: Scribe
    machine: Machine
    placement: Placement
    reader: Reader = field(default_factory=Reader)
    """Of the study's data, in this process."""
    given: Resources | None = None
    """Resources as the study file gives them; None: those of `study`."""

    @property
    def to_resume(self) -> Study:
        """The study as the run folder keeps it: a later session may find other GPUs."""
        return self.study.model_copy(update={"resources": self.given or self.study.resources})

    @cached_property
    def board(self) -> Any:
        """The actor of the switchboard, which work under Ray Train needs; started at the first use."""
        import ray

        from study.cluster.switchboard import Switchboard

        return ray.remote(num_cpus=0)(Switchboard).remote()

    @property
    def rows(self) -> list[Row]:
        """All records so far."""
        return self.scribe.rows

    def clear_away(self) -> None:
        """Remove the files that Ray wrote; they are not read again."""
        shutil.rmtree(self.run_dir / "ray", ignore_errors=True)
        if self.placement.storage.startswith(self.store.url):
            with suppress(OSError):
                self.store.files.remove(f"{RAY}/{self.placement.storage.rpartition('/')[2]}")


def open_session(study: Study, run_dir: Path, store: Store, scribe: Scribe, machine: Machine, reader: Reader) -> Session:
    """Open a session on the running Ray."""
    resources, gpus = study.resources, machine.gpus_for(study.resources)
    under_train = resources.execution == "train" or (resources.execution == "auto" and resources.workers > 1)
    # On one node the run folder; several nodes see only the store.
    several = len(machine.nodes) > 1
    storage = f"{store.url}/{RAY}/{uuid4().hex}" if several else str((run_dir / "ray").absolute())
    placement = Placement(resources.workers, resources.cpus, gpus, under_train, storage, 1, resources.patience_seconds)
    return Session(study.on(gpus), run_dir, store, scribe, machine, placement, reader, resources)
