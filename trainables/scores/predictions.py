"""Write predictions as a parquet file, and read them. Imports no torch."""

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


def read(path: Path) -> tuple[Array, Array]:
    """(labels, probabilities [n, classes]) of such a file; labels are classes [n], or in a multi-label task 0/1 [n, labels].

    Raises ValueError, KeyError or pyarrow's errors for another file.
    """
    table = pq.read_table(path, columns=["label", "probabilities"])
    probabilities = np.array(table["probabilities"].to_pylist(), dtype=np.float32)
    places = table["label"].to_pylist()
    if not pa.types.is_list(table.schema.field("label").type):
        return np.array(places, dtype=np.int64), probabilities
    labels = np.zeros(probabilities.shape, dtype=np.int64)
    for row, mine in enumerate(places):
        labels[row, mine] = 1
    return labels, probabilities


def _places(labels: Array) -> Any:
    if labels.ndim == 1:
        return labels
    return pa.array([np.flatnonzero(row).tolist() for row in labels], pa.list_(pa.int64()))
