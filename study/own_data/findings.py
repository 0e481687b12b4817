"""What a study would learn from: splits, classes and their balance, lengths, copies and doubtful rows, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from study.own_data.tables import in_options
from study.survey.dataset_statistics import Ruler, measure
from trainables.data.normal_forms import plain
from trainables.data.splits import SPLITS, Split, TaskData

MEASURED = 20_000
"""Largest number of training texts that are divided into pieces."""
WIDTH, INDENT = 80, 12
SHOWN = 6


@dataclass(frozen=True)
class Lengths:
    """Lengths of training examples in the ruler's unit, special tokens included; of a pair both texts together."""

    ruler: Ruler
    pieces: np.ndarray
    """[texts measured]"""

    def at(self, percent: float) -> int:
        """The length that so many percent of the texts do not exceed."""
        return int(np.percentile(self.pieces, percent, method="inverted_cdf"))

    def over_percent(self, limit: int) -> float:
        """Share of the texts that are longer."""
        return 100 * float(np.mean(self.pieces > limit))


@dataclass(frozen=True)
class Findings:
    """What was found in the data."""

    data: TaskData
    lengths: Lengths
    limit: int
    """Longest sequence of the encoder, special tokens included."""
    classes: dict[str, int]
    """{class: its training texts}, the largest first."""
    copies: int
    """Texts that repeat an earlier one, in all splits."""
    contradictions: int
    """Different texts that occur with different labels."""
    example: str
    """One of them."""
    untested: tuple[str, ...]
    """Classes without a text in the test split."""

    @property
    def imbalance(self) -> float:
        """Training texts of the largest class for one of the smallest."""
        return max(self.classes.values()) / max(1, min(self.classes.values()))


def find(data: TaskData, ruler: Ruler, limit: int) -> Findings:
    """Measure a task's texts."""
    counts = data.train.labels.sum(axis=0) if data.task.multi_label else np.bincount(data.train.labels, minlength=len(data.labels))
    classes = dict(sorted(zip(data.labels, map(int, counts), strict=True), key=lambda item: (-item[1], item[0])))
    labels_of: dict[str, set[bytes]] = {}
    examples = 0
    for split in (getattr(data, name) for name in SPLITS):
        examples += len(split)
        for text, label in zip(split.texts, split.labels, strict=True):
            labels_of.setdefault(plain(text), set()).add(label.tobytes())
    both = [text for text, labels in labels_of.items() if len(labels) > 1]
    tested = data.test.labels.sum(axis=0) if data.task.multi_label else np.bincount(data.test.labels, minlength=len(data.labels))
    untested = tuple(name for name, count in zip(data.labels, tested, strict=True) if not count)
    return Findings(
        data, _lengths(data.train, ruler), limit, classes, examples - len(labels_of), len(both), both[0] if both else "", untested
    )


def _lengths(train: Split, ruler: Ruler) -> Lengths:
    step = -(-len(train) // MEASURED)
    sample = train.only(np.arange(0, len(train), step))
    pieces = measure(sample.sides, ruler)
    if sample.pairs is not None:
        pieces = pieces.reshape(-1, 2).sum(axis=1)
    return Lengths(ruler, pieces + (ruler.pair_tokens if sample.pairs is not None else ruler.special_tokens))


# As text --------------------------------------------------------------------------------------------------------------------------


def show(found: Findings, notices: list[str]) -> str:
    """The findings for a terminal, at most 80 columns wide. `notices`: those of the data and the encoder."""
    return "\n".join(line for name, text in _entries(found, notices) for line in _entry(name, text))


def _entry(name: str, text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=f"{name:<{INDENT}}", subsequent_indent=" " * INDENT, break_on_hyphens=False)


def _entries(found: Findings, notices: list[str]) -> Iterator[tuple[str, str]]:
    data, task = found.data, found.data.task
    yield "texts", ", ".join(f"{len(getattr(data, split)):,} {split}" for split in SPLITS) + _drawn(found)
    second = f" and {' + '.join(task.second_columns)!r} (pairs)" if task.second_columns else ""
    yield "columns", f"text {' + '.join(task.text_columns)!r}{second}, label {', '.join(task.label_columns)!r}"
    yield "classes", _classes(found)
    lengths, unit = found.lengths, found.lengths.ruler.unit
    over = f"{lengths.over_percent(found.limit):.1f} % over the encoder's limit of {found.limit}"
    yield "lengths", f"{unit}: median {lengths.at(50)}, 90 % up to {lengths.at(90)}, longest {lengths.at(100)}; {over}"
    if found.copies:
        both = f"; {found.contradictions} texts occur with different labels, such as {found.example[:40]!r}"
        yield "copies", f"{found.copies:,} texts repeat another one{both if found.contradictions else ''}"
    if found.untested:
        names = ", ".join(map(repr, found.untested[:SHOWN]))
        yield "doubt", f"no test text has the label {names}: the test says nothing about it"
    for notice in (notice for notice in notices if "by test_share" not in notice):  # said above
        yield "doubt" if notice.startswith(f"tasks.{data.name}") else "note", in_options(notice, data.name)


def _drawn(found: Findings) -> str:
    """How splits without a source of their own were made."""
    task = found.data.task
    made = [f"test: {task.test_share:.0%} of all"] if task.test_share is not None else []
    if task.validation is None and task.validation_split is None:
        made.append(f"validation: {task.validation_share:.0%} of {'the rest' if made else 'train'}")
    return f" ({', '.join(made)}; drawn by class, seed {task.split_seed})" if made else ""


def _classes(found: Findings) -> str:
    total = sum(found.classes.values())
    shares = [f"{name!r} {100 * count / total:.1f} %" for name, count in found.classes.items()]
    kind = "labels, any number a text" if found.data.task.multi_label else "classes"
    rest = f", ... {shares[-1]}" if len(shares) > SHOWN else ""
    return f"{len(shares)} {kind}: {', '.join(shares[:SHOWN])}{rest}"
