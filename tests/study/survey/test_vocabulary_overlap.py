"""Vocabulary overlap, on vocabularies made by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from study.survey.vocabulary_overlap import matrix, unigrams, vocabulary
from tests.helpers import reviews

VOCABULARIES = st.lists(st.frozensets(st.integers(0, 30).map(str), min_size=5, max_size=5), min_size=2, max_size=5)


def test_unigrams_are_scikit_learns_words_without_its_stop_words() -> None:
    texts = [text for text, _ in reviews()]
    vectorizer = CountVectorizer(stop_words="english")
    totals = vectorizer.fit_transform(texts).sum(axis=0).A1
    assert unigrams(texts) == {word: totals[place] for word, place in vectorizer.vocabulary_.items()}


def test_two_characters_in_a_row_stand_for_a_word_where_there_are_no_spaces() -> None:
    assert unigrams(["好喝的汤, soup a 2024年", "汤 好喝"]) == {"好喝": 2, "喝的": 1, "的汤": 1, "soup": 1, "2024": 1}
    assert unigrams(["ร้านนี้"]) == {"ร้า": 1, "าน": 1, "นนี้": 1}
    assert unigrams(["CAFE\u0301 हिन्दी"]) == {"café": 1, "हिन्दी": 1}
    texts = ["这家餐厅的汤很好喝", "今天的汤很冷"], ["昨天的汤很好", "鸟在飞"]
    one, two = (vocabulary(unigrams(each)) for each in texts)
    assert 0 < len(one & two) < len(one | two)


def test_ties_at_the_last_place_are_broken_by_the_alphabet() -> None:
    counts = Counter({"pear": 2, "fig": 1, "date": 1, "apple": 1})
    assert vocabulary(counts, 2) == {"pear", "apple"}
    assert vocabulary(counts, 3) == {"pear", "apple", "date"}
    assert vocabulary(counts, 9) == set(counts)


def test_both_forms_by_hand() -> None:
    a, b, none = frozenset("abcd"), frozenset("cdef"), frozenset[str]()
    assert matrix([a, b], "paper", 4) == [[100, 50], [50, 100]]
    assert matrix([a, b], "jaccard", 4) == [[100, pytest.approx(100 / 3)], [pytest.approx(100 / 3), 100]]
    assert matrix([a, b], "paper", 10) == [[40, 20], [20, 40]]  # fewer than top, divided by top all the same
    assert matrix([a, none], "jaccard", 4) == [[100, 0], [0, 0]]


@given(VOCABULARIES, st.sampled_from(["paper", "jaccard"]))
def test_symmetric_within_0_and_100_and_100_on_the_diagonal(vocabularies: list[frozenset[str]], form: str) -> None:
    found = matrix(vocabularies, form, top=5)
    for i, row in enumerate(found):
        assert row[i] == 100
        assert all(0 <= value <= 100 and value == found[j][i] for j, value in enumerate(row))


def test_neither_the_order_of_texts_nor_that_of_words_matters() -> None:
    texts = [text for text, _ in reviews(limit=100)]
    assert vocabulary(unigrams(texts), 50) == vocabulary(unigrams(reversed(texts)), 50)


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="forms: paper, jaccard"):
        matrix([], "cosine")
