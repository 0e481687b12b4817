"""Write predictions as a parquet file. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Array = np.ndarray[Any, Any]


def write(path: Path, labels: Array, predicted: Array, probabilities: Array, pieces: Array | None = None) -> Path:
    """Write one row per text: index, label, prediction, probabilities [classes], and pieces if known.

    `labels` and `predicted` are classes [n], or in a multi-label task 0/1 [n, labels]: the columns are then lists of the indices of
    a text's labels. `pieces` [n] is the length of the texts before truncation, special tokens included, as `max_length` counts; for
    a pair, of both texts together. Without `pieces`, as for a bag of words, there is no such column.
    """
    columns: dict[str, Any] = {
        "index": np.arange(len(labels)),
        "label": pa.array(_places(labels)),
        "prediction": pa.array(_places(predicted)),
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
