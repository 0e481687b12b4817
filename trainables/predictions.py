"""What was predicted for each text, as a parquet file. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Array = np.ndarray[Any, Any]


def write(path: Path, labels: Array, given: Array, probabilities: Array) -> Path:
    """One row per text: index, label, prediction, probabilities [classes].

    `labels` and `given` are classes [n], or of a multi-label task 0/1 [n, labels]: label and prediction are then lists, the places
    of the labels that a text has and is given.
    """
    columns = {
        "index": np.arange(len(labels)),
        "label": pa.array(_places(labels)),
        "prediction": pa.array(_places(given)),
        "probabilities": list(probabilities.astype(np.float32)),
    }
    pq.write_table(pa.table(columns), path)
    return path


def _places(labels: Array) -> Any:
    if labels.ndim == 1:
        return labels
    return pa.array([np.flatnonzero(row).tolist() for row in labels], pa.list_(pa.int64()))
