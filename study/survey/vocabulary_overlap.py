"""Vocabulary overlap between sources of texts: Gururangan et al. 2020, section 3.1 and Figure 2.

The vocabulary of a source is its `top` most frequent unigrams (10,000 in the paper) without stop words. The paper's measure is
|A and B| / top, so that a source with fewer unigrams does not overlap 100 % with itself. The other form is Jaccard's,
|A and B| / |A or B|. The paper compares random samples of comparable size; here every source is used whole, so sizes must be
reported. Words and stop words are defined as in scikit-learn; in scripts without spaces, two characters in a row count as a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from trainables.data.scripts import long_words

TOP = 10_000
FORMS = ("paper", "jaccard")


def unigrams(texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts, without stop words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(long_words(text))
    for word in ENGLISH_STOP_WORDS:
        counts.pop(word, None)
    return counts


def vocabulary(counts: Counter[str], top: int = TOP) -> frozenset[str]:
    """Return the `top` most frequent words; ties are broken by the alphabet."""
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return frozenset(ranked[:top])


def matrix(vocabularies: Sequence[frozenset[str]], form: str = "paper", top: int = TOP) -> list[list[float]]:
    """Return the overlaps in percent, [sources][sources]. Raises ValueError for an unknown form and for top < 1."""
    if form not in FORMS or top < 1:
        raise ValueError(f"cannot compare {top} unigrams in the form {form!r}; forms: {', '.join(FORMS)}")
    return [[_share(a, b, top if form == "paper" else len(a | b)) for b in vocabularies] for a in vocabularies]


def _share(a: frozenset[str], b: frozenset[str], of: int) -> float:
    return 100 * len(a & b) / of if of else 0.0
