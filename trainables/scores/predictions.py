"""What was predicted for each text, as a parquet file. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Array = np.ndarray[Any, Any]


def write(path: Path, labels: Array, given: Array, probabilities: Array, pieces: Array | None = None) -> Path:
    """One row per text: index, label, prediction, probabilities [classes], and where it is known pieces.

    `labels` and `given` are classes [n], or of a multi-label task 0/1 [n, labels]: label and prediction are then lists, the places
    of the labels that a text has and is given. `pieces` [n] is the length of each text before any cut, special tokens included, as
    `max_length` counts; of a pair that of both texts together. A bag of words has none: the column is then left out.
    """
    columns: dict[str, Any] = {
        "index": np.arange(len(labels)),
        "label": pa.array(_places(labels)),
        "prediction": pa.array(_places(given)),
        "probabilities": list(probabilities.astype(np.float32)),
    }
    if pieces is not None:
        columns["pieces"] = np.asarray(pieces, dtype=np.int64)
    pq.write_table(pa.table(columns), path)
    return path


def _places(labels: Array) -> Any:
    if labels.ndim == 1:
        return labels
    return pa.array([np.flatnonzero(row).tolist() for row in labels], pa.list_(pa.int64()))
