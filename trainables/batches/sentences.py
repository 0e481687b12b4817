"""Texts as sentences, for next-sentence prediction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

FEWEST = 0.05
"""Share of documents with two sentences below which pairs would come from a few odd documents only."""
_PARAGRAPHS = re.compile(r"\n\s*\n")


def split(texts: Sequence[str], language: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """(sentences of all texts in order, number of sentences of each text [texts]). White space is collapsed, nothing is lost.

    An unknown `language` is split by punctuation alone.
    """
    sentences: list[str] = []
    counts = np.zeros(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        found = [each for part in _PARAGRAPHS.split(text) for each in _segmented(" ".join(part.split()), language)]
        sentences += found
        counts[i] = len(found)
    return sentences, counts


def _segmented(paragraph: str, language: str) -> list[str]:
    """Sentences of a text whose white space is single spaces: others the library stumbles over."""
    import sentencex

    try:
        found = sentencex.segment(language, paragraph)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the library's own crash, which is no Exception
            raise
        return [paragraph]
    return [stripped for sentence in found if (stripped := sentence.strip())]


def why_no_pairs(counts: np.ndarray[Any, Any]) -> str | None:
    """Why documents of so many sentences [documents] give no pairs to learn from; None when they do."""
    several = int((counts > 1).sum())
    if several >= max(1, FEWEST * len(counts)) and (counts > 0).sum() > 1:
        return None
    return (
        f"next-sentence prediction is off: {several} of {len(counts)} documents hold two sentences or more, and a pair needs them"
        " and another document; masked language modelling goes on alone"
    )
