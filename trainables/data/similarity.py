"""Exact k nearest neighbours by cosine, of many queries among many candidates, in bounded memory.

Vectors of unit length are rounded to multiples of 2^-24, the precision of float32. Products of two such numbers, and all sums that
a cosine needs, are multiples of 2^-48 below 2^53 of them: float64 represents them exactly. So a cosine has the same bits for every
order of summation, library and chunk size; of equal cosines the first candidate counts as nearer. A candidate with a cosine of 0
(nothing in common) is not a neighbour. Only the vectors themselves may differ between machines. Imports no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainables.data.scripts import CHARACTERS, SIGN, WORD, mostly_spaceless, same_words, signs, simple, words

Indices = np.ndarray[Any, np.dtype[np.int64]]
Rows = Any
"""Vectors of unit length as rows: an array or a memory-mapped file [n, width], or a sparse CSR matrix. A zero vector is similar to
none."""

SCALE = 2.0**24
BLOCK, CHUNK = 512, 8192
"""Numbers of queries and candidates compared at a time: about 150 MB."""


def nearest(queries: Rows, candidates: Rows, neighbours: int, block: int = BLOCK, chunk: int = CHUNK) -> Indices:
    """Indices of all candidates that are among the `neighbours` nearest of at least one query, ascending.

    A query with fewer similar candidates selects fewer; a zero vector (a text without known words) selects none. Reads the
    candidates once per block of queries and keeps the best so far.
    """
    chosen = np.zeros(candidates.shape[0], dtype=bool)
    for start in range(0, queries.shape[0], block):
        mine = _whole(queries[start : start + block])
        scores, places = np.empty((mine.shape[0], 0)), np.empty((mine.shape[0], 0), dtype=np.int64)
        for first in range(0, candidates.shape[0], chunk):
            cosines = _products(mine, _whole(candidates[first : first + chunk]))
            cosines[cosines == 0] = -np.inf
            here = np.broadcast_to(np.arange(first, first + cosines.shape[1]), cosines.shape)
            scores, places = np.hstack((scores, cosines)), np.hstack((places, here))
            keep = _largest(scores, neighbours)
            scores, places = (array[keep].reshape(len(array), -1) for array in (scores, places))
        chosen[places[scores > -np.inf]] = True
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
    products = queries @ candidates.T
    return products if isinstance(products, np.ndarray) else np.asarray(products.toarray())


def _largest(scores: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mask of the `count` largest of every row, of equal ones the leftmost; the same number in every row."""
    if scores.shape[1] <= count:
        return np.ones(scores.shape, dtype=bool)
    edge = np.partition(scores, -count, axis=1)[:, [-count]]
    above, level = scores > edge, scores == edge
    room = count - above.sum(axis=1, keepdims=True)
    return np.asarray(above | (level & (level.cumsum(axis=1) <= room)))


def tfidf(candidates: Sequence[str], queries: Sequence[str]) -> tuple[Rows, Rows]:
    """(candidates, queries) as TF-IDF vectors of their words, fitted on both together; of single signs if no query has a word.

    In scripts without spaces characters are the words; if most letters of the queries are of such scripts, also character n-grams.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    token = WORD if any(map(words, queries)) else SIGN
    in_a_row = CHARACTERS if mostly_spaceless(queries) else (1, 1)
    vectorizer = TfidfVectorizer(preprocessor=simple, token_pattern=token, ngram_range=in_a_row, sublinear_tf=True)
    rows = vectorizer.fit_transform([*candidates, *queries]).astype(np.float32)
    return rows[: len(candidates)], rows[len(candidates) :]


@dataclass(frozen=True)
class SharedWords:
    """Predictions for a selection by words, before any comparison."""

    alone: int
    """Queries that share no word with any candidate: they select none."""
    scarce: bool
    """Whether some query shares words with too few candidates; with at most `neighbours` candidates, whether some candidate shares
    words with no query."""
    same_words: bool
    """Whether neither scripts without spaces nor combining marks affect the words."""


def shared_words(candidates: Sequence[str], queries: Sequence[str], neighbours: int) -> SharedWords:
    """Compute `SharedWords`. Reads only as many candidates as necessary: most texts share words with very many."""
    parts: Callable[[str], list[str]] = words if any(map(words, queries)) else signs
    every = len(candidates) <= neighbours
    need = len(candidates) if every else neighbours
    queries_with: dict[str, list[int]] = defaultdict(list)
    for number, query in enumerate(queries):
        for word in set(parts(query)):
            queries_with[word].append(number)
    open_queries, places, like_none = set(range(len(queries))), defaultdict[str, list[int]](list), 0
    for place, candidate in enumerate(candidates):
        if not open_queries:
            break
        common = queries_with.keys() & set(parts(candidate))
        like_none += not common
        for word in common:
            places[word].append(place)
            if len(places[word]) == need:
                open_queries.difference_update(queries_with[word])
    partners: dict[int, set[int]] = {number: set() for number in open_queries}
    for word, numbers in queries_with.items():
        for number in open_queries.intersection(numbers):
            partners[number].update(places[word])
    few = any(len(mine) < need for mine in partners.values())
    same = not mostly_spaceless(queries) and all(map(same_words, (*candidates, *queries)))
    return SharedWords(sum(not mine for mine in partners.values()), like_none > 0 if every else few, same)
