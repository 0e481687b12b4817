"""Split texts into sentences, for next-sentence prediction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

FEWEST = 0.05
"""Least share of documents with two or more sentences: below it, pairs would come from a few unusual documents."""
_PARAGRAPHS = re.compile(r"\n\s*\n")


def split(texts: Sequence[str], language: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    """(sentences of all texts in order, number of sentences per text [texts]). White space is collapsed; all words are kept.

    For an unknown `language` only punctuation splits.
    """
    sentences: list[str] = []
    counts = np.zeros(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        own = [sentence for part in _PARAGRAPHS.split(text) for sentence in _segmented(" ".join(part.split()), language)]
        sentences += own
        counts[i] = len(own)
    return sentences, counts


def _segmented(paragraph: str, language: str) -> list[str]:
    """Sentences of a text whose white space is single spaces: the library fails on other white space."""
    import sentencex

    try:
        segments = sentencex.segment(language, paragraph)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a crash in the library, which is not an Exception
            raise
        return [paragraph]
    return [stripped for sentence in segments if (stripped := sentence.strip())]


def why_no_pairs(counts: np.ndarray[Any, Any]) -> str | None:
    """Why documents with these numbers of sentences [documents] give too few pairs; None if they give enough."""
    several = int((counts > 1).sum())
    if several >= max(1, FEWEST * len(counts)) and (counts > 0).sum() > 1:
        return None
    return (
        f"next-sentence prediction is off: {several} of {len(counts)} documents hold two sentences or more, and a pair needs them"
        " and another document; only masked language modelling is trained"
    )
