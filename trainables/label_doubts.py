"""Labels that may not be what they are read as: told, and read as they stand."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping

from trainables.config import Task
from trainables.labels import column_names, whole_number
from trainables.several import USUAL, guise

UNSURE = frozenset(("none", "na", "null", "nan", "nil", "-", "--", "?", ".", "missing", "undefined", "unlabeled", "unlabelled"))
"""Words, in lower case, that are a class in some data and no label in others."""
MANY = 20
"""So many whole numbers as labels may be amounts."""
FEW = 10
"""Training texts of each on average, below which many numbers are told."""


def doubts(counts: Mapping[str, int], task: Task, train: int) -> Iterator[str]:
    """Notices about labels, {label: texts} over all splits, of a task with so many training texts."""
    known = task.labels or ()
    yield from _look_alikes(counts)
    for label, count in counts.items():
        if label.casefold() in UNSURE and label not in known:
            yield (
                f"the label {label!r} ({_texts(count)}) is a class here; if it means that a label is missing, take these rows out,"
                " if it is a class, list all as `labels`"
            )
    if isinstance(task.label, str) and task.label in counts:
        found = f"the label {task.label!r} ({_texts(counts[task.label])})"
        yield f"{found} is the column's name: is the line of names in the file twice?"
    if task.labels is None and len(counts) > MANY and train < FEW * len(counts) and all(map(whole_number, counts)):
        yield (
            f"the column {column_names(task)} holds {len(counts)} different whole numbers for {train} training texts: each is"
            " learnt as a class of its own; amounts (regression) are better made into a few classes"
        )
    if not task.multi_label:
        yield from _joined(counts, task)


def _look_alikes(counts: Mapping[str, int]) -> Iterator[str]:
    """Labels that differ in nothing but case, white space, the encoding of a character, or how a number is written."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        alike[_plain(label)].append(label)
    for labels in alike.values():
        if len(labels) > 1:
            shown = " and ".join(f"{label!r} ({_texts(counts[label])})" for label in labels[:5])
            same = len({unicodedata.normalize("NFC", label) for label in labels}) == 1
            what = "how a character is encoded" if same else "case, white space or how a number is written"
            yield f"the labels {shown} differ only in {what}: they are {len(labels)} classes here"


def _plain(label: str) -> str:
    seen = "".join(sign for sign in unicodedata.normalize("NFKC", label) if unicodedata.category(sign) != "Cf")
    text = " ".join(seen.split()).casefold()
    number = whole_number(text)
    return str(int(number)) if number is not None else text


def _joined(counts: Mapping[str, int], task: Task) -> Iterator[str]:
    """Labels of a task with one for each text that look like several."""
    joined = sum(task.label_separator in label for label in counts)
    if 2 * joined > len(counts):
        yield f"{joined} of {len(counts)} labels hold {task.label_separator!r}; several in one? Then set multi_label"
        return
    other = guise(counts, "")
    if other is not None and other.separator in USUAL and (other.all_shared or (other.shared and 2 * other.names > len(counts))):
        holds = f"{other.names} of {len(counts)} labels hold {other.shown}, such as {other.example!r}, with parts that others have"
        yield f"{holds}; several in one? Then set multi_label, and `label_separator`"


def _texts(count: int) -> str:
    return f"{count} text{'s' * (count != 1)}"
