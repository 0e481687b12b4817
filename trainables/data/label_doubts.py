"""Notices about labels that may be misread. The labels are kept as they are."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from trainables.data.labels import column_names, is_grouped, whole_number
from trainables.data.several_labels import SEPARATORS, USUAL, guise
from trainables.settings.task import Task

UNSURE = frozenset(
    (
        "none",
        "na",
        "null",
        "nan",
        "nil",
        "-",
        "--",
        "?",
        ".",
        "missing",
        "undefined",
        "unknown",
        "n.a.",
        "(none)",
        "(blank)",
        "<null>",
        "[null]",
        "unlabeled",
        "unlabelled",
    )
)
"""Words, in lower case, that are a class in some data sets and a missing label in others."""
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_QUOTES = "'\"`\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"
_SIGNS = re.compile("|".join(re.escape(sign) for sign in SEPARATORS if sign != " "))
MANY = 20
"""More distinct whole numbers than this may be amounts."""
FEW = 10
"""Mean number of training texts per label; below it, many whole numbers give a notice."""


def doubts(counts: Mapping[str, int], task: Task, train: int) -> Iterator[str]:
    """Notices about labels; `counts`: {label: number of texts} over all splits, `train`: number of training texts."""
    known = task.labels or ()
    yield from _look_alikes(counts)
    for label, count in counts.items():
        if label.casefold() in UNSURE and label not in known:
            yield (
                f"the label {label!r} ({_texts(count)}) is a class here; if it means that a label is missing, take these rows out,"
                " if it is a class, list all as `labels`"
            )
    if isinstance(task.label, str) and task.label in counts:
        seen = f"the label {task.label!r} ({_texts(counts[task.label])})"
        yield f"{seen} is the column's name: is the line of names in the file twice?"
    if (
        task.labels is None
        and len(counts) > MANY
        and train < FEW * len(counts)
        and all(is_grouped(label) or whole_number(label) for label in counts)
    ):
        yield (
            f"the column {column_names(task)} holds {len(counts)} different whole numbers for {train} training texts: each is"
            " learnt as a class of its own; amounts (regression) should be grouped into a few classes"
        )
    if task.labels is None:
        yield from _vectors(counts, task)
        grouped = [label for label in counts if is_grouped(label)]
        if grouped:
            yield f"the label {grouped[0]!r} is taken for a whole number with grouped thousands and kept as it is written"
    if not task.multi_label and task.labels is None:
        yield from _notations(counts)
        yield from _joined(counts, task)


def _look_alikes(counts: Mapping[str, int]) -> Iterator[str]:
    """Labels that differ only in case, white space, quotes, the encoding of a character, or the notation of a number."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        alike[_plain(label)].append(label)
    for labels in alike.values():
        if len(labels) > 1:
            shown = " and ".join(f"{label!r} ({_texts(counts[label])})" for label in labels[:5])
            same = len({unicodedata.normalize("NFC", label) for label in labels}) == 1
            what = "how a character is encoded" if same else "case, white space, quotes or how a number is written"
            yield f"the labels {shown} differ only in {what}: they are {len(labels)} classes here"


def _plain(label: str) -> str:
    visible = "".join(sign for sign in unicodedata.normalize("NFKC", label) if unicodedata.category(sign) != "Cf")
    text = " ".join(visible.translate(_DASHES).split()).casefold()
    text = text.strip(_QUOTES).strip() or text
    text = text.replace(",", "") if is_grouped(text) else text
    number = whole_number(text)
    return str(int(number)) if number is not None else text


def _vectors(counts: Mapping[str, int], task: Task) -> Iterator[str]:
    """Labels that look like vectors of 0 and 1 without brackets; not numbers such as 100 and 110, which never begin with 0."""
    bits = {label: re.sub(r"[\s,;|]", "", label) for label in counts}
    lengths = {len(digits) for digits in bits.values()}
    are_bits = len(lengths) == 1 and min(lengths) > 2 and all(set(digits) <= {"0", "1"} for digits in bits.values())
    if are_bits and any(digits[0] == "0" for digits in bits.values()):
        yield (
            f"the labels in {column_names(task)}, such as {min(counts)!r}, look like vectors of 0 and 1, read as names: write"
            " them as lists, [0, 1, 0], set multi_label, and name their places as `labels`"
        )


def _notations(counts: Mapping[str, int]) -> Iterator[str]:
    """Booleans in more than one notation, such as true and 1."""
    mixed = [[label for label in counts if label.casefold() in pair] for pair in (("true", "false"), ("yes", "no"), ("1", "0"))]
    if sum(map(bool, mixed)) > 1:
        shown = " and ".join(", ".join(map(repr, sorted(labels))) for labels in mixed if labels)
        yield f"yes and no are written in more than one way, {shown}: each is a class of its own here"


def _joined(counts: Mapping[str, int], task: Task) -> Iterator[str]:
    """Labels of a single-label task that look like several labels."""
    counts = {label: count for label, count in counts.items() if not is_grouped(label)}
    sign = ""
    joined = sum(task.label_separator in label for label in counts)
    other = guise(counts, "")
    if 2 * joined > len(counts):
        sign = task.label_separator
        yield f"{joined} of {len(counts)} labels hold {sign!r}; several in one? Then set multi_label"
    elif other is not None and other.separator in USUAL and (other.all_shared or (other.shared and 2 * other.names > len(counts))):
        sign = other.separator
        holds = f"{other.names} of {len(counts)} labels hold {other.shown}, such as {other.example!r}, with parts that others have"
        yield f"{holds}; several in one? Then set multi_label, and `label_separator`"
    made = sorted(label for label in counts if not (sign and sign in label) and _is_made_of(label, counts, task.label_separator))
    if made:
        seen = f"{len(made)} of {len(counts)} labels, such as {' and '.join(map(repr, made[:3]))}, are made of other labels"
        yield (f"{seen}; several in one? Then set multi_label, and `label_separator`; if they are classes, list all as `labels`")


def _is_made_of(label: str, known: Collection[str], separator: str) -> bool:
    """Whether every part of a label is a label itself."""
    ways = [*(label.split(sign) for sign in (*SEPARATORS, separator)), _SIGNS.split(label)]
    return any(len(parts) > 1 and all(part.strip() in known for part in parts) for parts in ways)


def _texts(count: int) -> str:
    return f"{count} text{'s' * (count != 1)}"
