"""Artifacts that are not results of training (features, scores, logits): all ranks compute them together, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.store import garbage
from trainables.store.store import Store
from trainables.training.world import World


def once(
    store: Store, world: World, name: str, manifest: Mapping[str, Any], file: str, make: Callable[[Path], Mapping[str, Path]]
) -> Path:
    """Path of a file of an artifact, which is loaded, or computed under a claim on its name and published with this manifest.

    All ranks call this together. All of them call `make` with a folder of their own; it returns {file: its path}, of which only
    that of rank 0 is used.
    """
    while world.broadcast(world.leads and store.get(name, (file,)) is None):
        with world.claimed(store, name, (file,)) as owned:
            if owned:
                began = time.perf_counter()
                with store.writing() as folder:
                    files = make(folder)
                    if world.leads:
                        store.publish(name, {**manifest, "seconds": time.perf_counter() - began}, dict(files), move=True)
    artifact = store.get(name)
    assert artifact is not None, f"artifact {name} vanished from the store"
    garbage.used(store.files, artifact.folder)
    return artifact.path(file)
