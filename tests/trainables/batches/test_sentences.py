"""Texts as sentences: English and Chinese, nothing lost, no text that stops it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.batches.sentences import split, why_no_pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Mr. Smith paid $3.50, e.g. for tea! Was it\u00a0good?  no idea.\nShe said so.",
            ["Mr. Smith paid $3.50, e.g. for tea!", "Was it good?", "no idea.", "She said so."],
        ),
        ("这部电影很好看。我很喜欢！你呢?不错", ["这部电影很好看。", "我很喜欢！", "你呢?", "不错"]),
        ("A heading\n\nA text under\nit. Its end", ["A heading", "A text under it.", "Its end"]),
        ("no mark at all", ["no mark at all"]),
        (" \n", []),
        (":-)", [":-)"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    found, counts = split([text, "One more."], "en")
    assert found == [*expected, "One more."]
    assert counts.tolist() == [len(expected), 1]


@given(texts=st.lists(st.text(max_size=40), max_size=4), language=st.sampled_from(["en", "zh", "de", "xx"]))
@settings(max_examples=300)
def test_nothing_is_lost_and_nothing_is_empty(texts: list[str], language: str) -> None:
    found, counts = split(texts, language)
    assert counts.sum() == len(found)
    assert all(found)
    ends = np.cumsum(counts)
    for text, end, count in zip(texts, ends, counts, strict=True):
        assert "".join("".join(found[end - count : end]).split()) == "".join(text.split())


def test_when_there_are_no_pairs() -> None:
    assert why_no_pairs(np.array([1] * 90 + [3] * 10)) is None
    assert "4 of 100 documents hold two sentences or more" in str(why_no_pairs(np.array([1] * 96 + [2] * 4)))
    assert why_no_pairs(np.array([9, 0])) is not None, "no other document to take a B from"
    assert why_no_pairs(np.array([9, 1])) is None
