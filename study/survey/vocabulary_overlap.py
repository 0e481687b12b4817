"""How much of their vocabulary texts share: Gururangan et al. 2020, section 3.1 and Figure 2.

The vocabulary of a source is its `top` most frequent unigrams (10,000 in the paper) without stop words. The paper's measure is
|A and B| / top, so that a source with fewer unigrams than that does not share 100 % with itself. The other form is Jaccard's,
|A and B| / |A or B|. The paper compares random samples of comparable size; here every source is taken whole, so sizes belong into
the answer. What counts as a word and as a stop word is scikit-learn's; where words are written without spaces, two characters in a
row stand for one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from trainables.data.scripts import long_words

TOP = 10_000
FORMS = ("paper", "jaccard")


def unigrams(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, stop words left out."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(long_words(text))
    for word in ENGLISH_STOP_WORDS:
        counts.pop(word, None)
    return counts


def vocabulary(counts: Counter[str], top: int = TOP) -> frozenset[str]:
    """The `top` most frequent words; of those that are equally frequent at the last place the first in the alphabet."""
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return frozenset(ranked[:top])


def matrix(vocabularies: Sequence[frozenset[str]], form: str = "paper", top: int = TOP) -> list[list[float]]:
    """Overlap of each with each in percent, [sources][sources]. Raises ValueError for an unknown form and for top < 1."""
    if form not in FORMS or top < 1:
        raise ValueError(f"cannot compare {top} unigrams in the form {form!r}; forms: {', '.join(FORMS)}")
    return [[_share(a, b, top if form == "paper" else len(a | b)) for b in vocabularies] for a in vocabularies]


def _share(a: frozenset[str], b: frozenset[str], of: int) -> float:
    return 100 * len(a & b) / of if of else 0.0
