"""Nearest texts by cosine, exactly: k nearest neighbours of many queries among many candidates in bounded memory.

Vectors of unit length are rounded to whole multiples of 2^-24, the precision of float32. Products of two such numbers, and any sum
of them that a cosine needs, are whole multiples of 2^-48 below 2^53 of them: float64 holds them exactly. So a cosine has the same
bits in whatever order it is summed up, by any library, in chunks of any size; of equal ones the candidate that stands first is
nearer. What can differ between machines is the vectors themselves. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainables.baseline import SIGN, WORD

Indices = np.ndarray[Any, np.dtype[np.int64]]
Rows = Any
"""Vectors of unit length as rows: an array or a memory-mapped file [n, width], or a sparse matrix in CSR form. A zero one is alike
to none."""

SCALE = 2.0**24
BLOCK, CHUNK = 512, 8192
"""Queries and candidates that are compared at a time: some 150 MB."""


def nearest(queries: Rows, candidates: Rows, neighbours: int, block: int = BLOCK, chunk: int = CHUNK) -> Indices:
    """Places of all candidates that are among the `neighbours` nearest of at least one query, ascending.

    Keeps the best of each query so far and looks at the candidates once for each block of queries.
    """
    chosen = np.zeros(candidates.shape[0], dtype=bool)
    for start in range(0, queries.shape[0], block):
        mine = _whole(queries[start : start + block])
        scores, places = np.empty((mine.shape[0], 0)), np.empty((mine.shape[0], 0), dtype=np.int64)
        for first in range(0, candidates.shape[0], chunk):
            found = _products(mine, _whole(candidates[first : first + chunk]))
            here = np.broadcast_to(np.arange(first, first + found.shape[1]), found.shape)
            scores, places = np.hstack((scores, found)), np.hstack((places, here))
            keep = _largest(scores, neighbours)
            scores, places = (each[keep].reshape(len(each), -1) for each in (scores, places))
        chosen[places] = True
    return np.flatnonzero(chosen)


def _whole(rows: Rows) -> Rows:
    """Rows in units of 2^-24, float64."""
    rows = rows.astype(np.float64) * SCALE
    if isinstance(rows, np.ndarray):
        return np.rint(rows)
    rows.data = np.rint(rows.data)
    return rows


def _products(queries: Rows, candidates: Rows) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Cosines in units of 2^-48, [queries, candidates]."""
    found = queries @ candidates.T
    return found if isinstance(found, np.ndarray) else np.asarray(found.toarray())


def _largest(scores: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where the `count` largest of each row stand, equal ones from the left: as many in each row."""
    if scores.shape[1] <= count:
        return np.ones(scores.shape, dtype=bool)
    edge = np.partition(scores, -count, axis=1)[:, [-count]]
    above, level = scores > edge, scores == edge
    room = count - above.sum(axis=1, keepdims=True)
    return np.asarray(above | (level & (level.cumsum(axis=1) <= room)))


def tfidf(candidates: Sequence[str], queries: Sequence[str]) -> tuple[Rows, Rows]:
    """(candidates, queries) as TF-IDF of their words, fitted on both together; single signs where no query holds a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    token = WORD if any(re.search(WORD, text) for text in queries) else SIGN
    rows = TfidfVectorizer(token_pattern=token, sublinear_tf=True).fit_transform([*candidates, *queries])
    rows = rows.astype(np.float32)
    return rows[: len(candidates)], rows[len(candidates) :]
