"""One trial in plain PyTorch: settings, data, packed batches, the training loop, the store. Knows no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.export.load import LoadedModel


def load(folder: str | Path, device: str = "auto") -> LoadedModel:
    """Load a model that `study export` wrote: `load(folder).predict(texts)`. See `trainables.export.load`."""
    from trainables.export.load import load as load_folder  # torch is imported only if it is used

    return load_folder(folder, device)
