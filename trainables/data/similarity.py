"""Nearest texts by cosine, exactly: k nearest neighbours of many queries among many candidates in bounded memory.

Vectors of unit length are rounded to whole multiples of 2^-24, the precision of float32. Products of two such numbers, and any sum
of them that a cosine needs, are whole multiples of 2^-48 below 2^53 of them: float64 holds them exactly. So a cosine has the same
bits in whatever order it is summed up, by any library, in chunks of any size; of equal ones the candidate that stands first is
nearer. What has nothing in common, a cosine of 0, is no neighbour. What can differ between machines is the vectors themselves.
Imports no torch.
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
"""Vectors of unit length as rows: an array or a memory-mapped file [n, width], or a sparse matrix in CSR form. A zero one is alike
to none."""

SCALE = 2.0**24
BLOCK, CHUNK = 512, 8192
"""Queries and candidates that are compared at a time: some 150 MB."""


def nearest(queries: Rows, candidates: Rows, neighbours: int, block: int = BLOCK, chunk: int = CHUNK) -> Indices:
    """Places of all candidates that are among the `neighbours` nearest of at least one query, ascending.

    A query has fewer where it has nothing in common with more: a vector of zeros, of a text without known words, selects none.
    Keeps the best of each query so far and looks at the candidates once for each block of queries.
    """
    chosen = np.zeros(candidates.shape[0], dtype=bool)
    for start in range(0, queries.shape[0], block):
        mine = _whole(queries[start : start + block])
        scores, places = np.empty((mine.shape[0], 0)), np.empty((mine.shape[0], 0), dtype=np.int64)
        for first in range(0, candidates.shape[0], chunk):
            found = _products(mine, _whole(candidates[first : first + chunk]))
            found[found == 0] = -np.inf
            here = np.broadcast_to(np.arange(first, first + found.shape[1]), found.shape)
            scores, places = np.hstack((scores, found)), np.hstack((places, here))
            keep = _largest(scores, neighbours)
            scores, places = (each[keep].reshape(len(each), -1) for each in (scores, places))
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
    """(candidates, queries) as TF-IDF of their words, fitted on both together; single signs where no query holds a word.

    Characters stand for words in scripts without spaces, and some in a row count too where most letters of the queries are of such.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    token = WORD if any(map(words, queries)) else SIGN
    in_a_row = CHARACTERS if mostly_spaceless(queries) else (1, 1)
    vectorizer = TfidfVectorizer(preprocessor=simple, token_pattern=token, ngram_range=in_a_row, sublinear_tf=True)
    rows = vectorizer.fit_transform([*candidates, *queries]).astype(np.float32)
    return rows[: len(candidates)], rows[len(candidates) :]


@dataclass(frozen=True)
class SharedWords:
    """What is known of a selection by words before anything is compared."""

    alone: int
    """Queries that share no word with any candidate: they select none."""
    scarce: bool
    """Whether some query, or a candidate that is one of no more than `neighbours`, has too few to share words with."""
    same_words: bool
    """Whether scripts without spaces and signs above letters play no part."""


def shared_words(candidates: Sequence[str], queries: Sequence[str], neighbours: int) -> SharedWords:
    """See `SharedWords`. Looks at no more candidates than it needs: most texts share words with very many."""
    parts: Callable[[str], list[str]] = words if any(map(words, queries)) else signs
    every = len(candidates) <= neighbours
    need = len(candidates) if every else neighbours
    asked: dict[str, list[int]] = defaultdict(list)
    for number, query in enumerate(queries):
        for word in set(parts(query)):
            asked[word].append(number)
    open_queries, places, like_none = set(range(len(queries))), defaultdict[str, list[int]](list), 0
    for place, candidate in enumerate(candidates):
        if not open_queries:
            break
        found = asked.keys() & set(parts(candidate))
        like_none += not found
        for word in found:
            places[word].append(place)
            if len(places[word]) == need:
                open_queries.difference_update(asked[word])
    partners: dict[int, set[int]] = {number: set() for number in open_queries}
    for word, numbers in asked.items():
        for number in open_queries.intersection(numbers):
            partners[number].update(places[word])
    few = any(len(mine) < need for mine in partners.values())
    same = not mostly_spaceless(queries) and all(map(same_words, (*candidates, *queries)))
    return SharedWords(sum(not mine for mine in partners.values()), like_none > 0 if every else few, same)
