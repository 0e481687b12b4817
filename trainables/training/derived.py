"""Artifacts that no training leaves (features, scores, logits): made once, by all ranks together, for whoever asks."""

from __future__ import annotations

import tempfile
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
    """A file of an artifact: loaded, or made under a claim on its name and published with this manifest.

    All ranks ask together. `make` is called by all of them with a folder of their own; what it returns, {file: its path}, counts
    on rank 0 alone.
    """
    while world.broadcast(world.leads and store.get(name, (file,)) is None):
        with world.claimed(store, name, (file,)) as owned:
            if owned:
                began = time.perf_counter()
                with tempfile.TemporaryDirectory(dir=store.local_cache("writing")) as folder:
                    files = make(Path(folder))
                    if world.leads:
                        store.publish(name, {**manifest, "seconds": time.perf_counter() - began}, dict(files), move=True)
    artifact = store.get(name)
    assert artifact is not None, f"artifact {name} vanished from the store"
    garbage.used(store.files, artifact.folder)
    return artifact.path(file)
