"""Nearest neighbours against all pairs, compared one by one."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from tests.helpers import reviews
from trainables.data.scripts import mostly_spaceless
from trainables.data.similarity import nearest, shared_words, tfidf


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def brute(queries: np.ndarray, candidates: np.ndarray, neighbours: int) -> list[int]:
    """The union over the queries, by exact whole numbers in plain Python."""
    chosen: set[int] = set()
    scale = 2**24
    whole = [[[round(Fraction(float(value)) * scale) for value in row] for row in rows] for rows in (queries, candidates)]
    for query in whole[0]:
        cosines = [sum(a * b for a, b in zip(query, candidate, strict=True)) for candidate in whole[1]]
        alike = [i for i, cosine in enumerate(cosines) if cosine]
        chosen |= set(sorted(alike, key=lambda i: (-cosines[i], i))[:neighbours])
    return sorted(chosen)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 7),
    st.integers(1, 25),
    st.integers(1, 30),
    st.integers(1, 9),
    st.integers(1, 30),
    st.booleans(),
    st.booleans(),
)
def test_equals_brute_force_for_any_chunk(
    seed: int, queries: int, candidates: int, neighbours: int, block: int, chunk: int, ties: bool, sparse: bool
) -> None:
    """With many equal cosines (few different vectors, some of them zero) as well as without."""
    rng = np.random.default_rng(seed)
    draw = (lambda n: rng.integers(-1, 2, (n, 3)).astype(float)) if ties else (lambda n: rng.normal(size=(n, 5)))
    q, c = unit(draw(queries)), unit(draw(candidates))
    expected = brute(q, c, neighbours)
    rows = [scipy.sparse.csr_matrix(each) if sparse else each.astype(np.float64) for each in (q, c)]
    assert nearest(*rows, neighbours, block, chunk).tolist() == expected


def test_equals_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    q, c = unit(rng.normal(size=(40, 24))).astype(np.float32), unit(rng.normal(size=(700, 24))).astype(np.float32)
    found = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(c).kneighbors(q, return_distance=False)
    assert nearest(q, c, 5).tolist() == sorted(set(found.ravel().tolist()))


def test_cosines_do_not_depend_on_the_size_of_chunks() -> None:
    """Wide vectors, many of them copies of one another: float sums in another order would tell copies apart."""
    rng = np.random.default_rng(0)
    base = unit(rng.normal(size=(3, 384))).astype(np.float32)
    c = np.repeat(base, 60, axis=0)
    q = unit(base + 0.01 * unit(rng.normal(size=(3, 384)))).astype(np.float32)
    expected = [*range(7), *range(60, 67), *range(120, 127)]
    for chunk in (1, 7, 64, 1000):
        assert nearest(q, c, 7, block=2, chunk=chunk).tolist() == expected


def test_takes_a_mapped_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(50, 8))).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert nearest(mapped[:5], mapped, 3, chunk=7).tolist() == nearest(rows[:5], rows, 3).tolist()


def test_memory_does_not_grow_with_the_candidates(tmp_path: Path) -> None:
    """Candidates in a mapped file; what grows is a byte each, which marks the chosen ones."""
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(40_000, 16))).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped, queries = np.load(tmp_path / "rows.npy", mmap_mode="r"), rows[:40].copy()
    peaks = []
    for count in (5_000, 40_000):
        tracemalloc.start()
        nearest(queries, mapped[:count], 10, block=16, chunk=500)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 60_000 < 2**21


def test_tfidf_is_scikit_learns() -> None:
    texts = [text for text, _ in reviews(limit=30)]
    candidates, queries = tfidf(texts[:20], texts[20:])
    expected = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+").fit_transform(texts).toarray()
    np.testing.assert_allclose(np.vstack((candidates.toarray(), queries.toarray())), expected, atol=1e-7)


def test_text_is_nearest_to_itself_and_to_what_shares_its_words() -> None:
    texts = ["the soup was cold", "a film of the war", "the soup was very cold", "birds"]
    candidates, queries = tfidf(texts, ["the soup was cold"])
    assert nearest(queries, candidates, 1).tolist() == [0]
    assert nearest(queries, candidates, 2).tolist() == [0, 2]


@pytest.mark.parametrize("query", ["😀 😀", "!!!"])
def test_texts_without_words_are_compared_by_their_signs(query: str) -> None:
    candidates, queries = tfidf(["words alone", query, "more words"], [query])
    assert nearest(queries, candidates, 1).tolist() == [1]


def test_what_shares_nothing_is_no_neighbour() -> None:
    """A query of unknown words or of signs selects none; a candidate of signs is nobody's neighbour, wherever it stands."""
    texts = ["!!!", "the soup", "", "birds", "the war"]
    candidates, queries = tfidf(texts, ["unknown words", "?!", "soup", "the"])
    assert [nearest(queries[i : i + 1], candidates, 3).tolist() for i in range(4)] == [[], [], [1], [1, 4]]
    assert nearest(queries, candidates, 9).tolist() == [1, 4]
    assert nearest(np.zeros((2, 3)), unit(np.eye(3)), 2).tolist() == []
    assert nearest(unit(np.array([[-1.0, 0, 0]])), np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]), 2).tolist() == [1]


BAGS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "好", "吗", "!"]), max_size=3).map(" ".join), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(BAGS, BAGS, st.integers(1, 8))
def test_what_is_known_of_a_selection_before(candidates: list[str], queries: list[str], neighbours: int) -> None:
    """Against the cosines themselves: where none is scarce the nearest are what they would be if a cosine of 0 counted."""
    found = shared_words(candidates, queries, neighbours)
    assert found.same_words == (not mostly_spaceless(queries))  # as all stand apart here
    if not any(text.strip() for text in queries):
        assert found.alone == len(queries)
        return
    rows = tfidf(candidates, queries)
    cosines = (rows[1] @ rows[0].T).toarray()
    assert found.alone == (~(cosines > 0).any(axis=1)).sum()
    before = {int(i) for row in cosines for i in np.argsort(-row, kind="stable")[:neighbours]}
    now = set(nearest(rows[1], rows[0], neighbours).tolist())
    assert now <= before
    assert found.scarce or now == before
    if len(candidates) <= neighbours:
        assert found.scarce == (now != before)


def test_chinese_texts_are_compared_by_characters() -> None:
    texts = ["这家餐厅的汤很好喝", "今天的战争电影", "鸟在飞", "汤很冷"]
    candidates, queries = tfidf(texts, ["我喜欢喝汤，汤很好"])
    assert nearest(queries, candidates, 1).tolist() == [0]
    assert nearest(queries, candidates, 4).tolist() == [0, 3]
    mixed = tfidf(["a soup 汤", "film 影", "soup"], ["the soup 影"])
    assert nearest(mixed[1], mixed[0], 3).tolist() == [0, 1, 2]


def test_needs_no_torch() -> None:
    code = "import sys, trainables.stages.selection as _; from trainables.data.similarity import tfidf; tfidf(['a b'], ['b c'])"
    code += "; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"'sklearn'", done.stdout)
    assert not re.search(r"'torch'", done.stdout)
