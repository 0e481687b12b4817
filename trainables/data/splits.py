"""Load tasks as texts and labels: cleaned, split, and identified by digests of their content.

Everything is a function of the files' content and the task's settings, the same on every machine and with every version of every
library. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from trainables.data.label_doubts import doubts
from trainables.data.labels import column_names, missing_labels
from trainables.data.normal_forms import bare, plain
from trainables.data.scripts import words_each
from trainables.data.sources import Rows, read
from trainables.settings.errors import ConfigError, closest
from trainables.settings.task import Task

Labels = np.ndarray[Any, np.dtype[np.int64]]
SPLITS = ("train", "validation", "test")
NO_TEST = "the task has no test split; give one that is read once, at the end, or set `test_share: 0.2` to take it from train"
FAULTS = 20
"""Largest number of labels in a message; further ones are only counted."""


@dataclass(frozen=True, eq=False)
class Split:
    """Texts with their labels."""

    texts: tuple[str, ...]
    labels: Labels
    """[n], indices in `TaskData.labels`; in a multi-label task [n, labels], 1 where a text has the label."""
    pairs: tuple[tuple[str, str], ...] | None = None
    """Both texts of every example in a task on pairs (`texts` has them joined); None for single texts."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def strata(self) -> Labels:
        """Stratum of every text [n]: its class; in a multi-label task its rarest label, or one further stratum for no label."""
        if self.labels.ndim == 1:
            return self.labels
        order = np.argsort(self.labels.sum(axis=0), kind="stable")
        return np.where(self.labels.any(axis=1), order[self.labels[:, order].argmax(axis=1)], len(order)).astype(np.int64)

    @cached_property
    def words(self) -> Labels:
        """[n]: words of each text."""
        return words_each(self.texts)

    @property
    def sides(self) -> tuple[str, ...]:
        """The texts to tokenise: single texts, or [2 n] the first and second text of every pair in turn."""
        return self.texts if self.pairs is None else tuple(chain.from_iterable(self.pairs))

    @cached_property
    def digest(self) -> str:
        """sha256 of texts and labels."""
        return digest_of(self.sides, self.labels.astype("<i8").tobytes())

    def only(self, chosen: Labels | Sequence[int]) -> Split:
        """The examples with these indices."""
        pairs = None if self.pairs is None else tuple(self.pairs[i] for i in chosen)
        return Split(tuple(self.texts[i] for i in chosen), self.labels[chosen], pairs)


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task's splits, ready for training."""

    name: str
    task: Task
    labels: tuple[str, ...]
    """Names of the classes in order."""
    train: Split
    validation: Split
    test: Split
    """Empty for a task without a test split, which may only serve as a corpus."""
    notices: tuple[str, ...]
    """Notices to the user about the data, one line each."""

    def digest(self, split: str) -> str:
        """sha256 of a split's texts, labels and label names; the same on every machine."""
        part: Split = {name: getattr(self, name) for name in SPLITS}[split]
        kind = ["multi-label"] * self.task.multi_label + ["pairs"] * (self.task.text_pair is not None)
        return hashlib.sha256(json.dumps([self.labels, part.digest, *kind]).encode()).hexdigest()


def load_task(name: str, task: Task, *, needs_test: bool = True) -> TaskData:
    """The splits of a task. Raises ConfigError with every fault of the task at once.

    Empty texts are dropped with a notice. A missing validation split is taken from the training split, and before it the test split
    of a task with `test_share`. Texts that the training split shares with the test split are kept with a notice: the authors of the
    split decided so.
    """
    no_test = [f"tasks.{name}.test: {NO_TEST}"] if needs_test else []
    try:
        data = _load(name, task)
    except ConfigError as error:
        unnamed = task.train is not None and task.test is None and task.test_share is None
        raise ConfigError([*error.faults, *(no_test if unnamed else [])]) from None
    if no_test and not len(data.test):
        raise ConfigError(no_test)
    return data


def _load(name: str, task: Task) -> TaskData:
    place = f"tasks.{name}"
    notices: list[str] = []
    rows, read_faults = read(task)
    faults = [f"{place}.{fault}" for fault in read_faults]
    notices += [f"{place}.{split}: {notice}" for split, part in rows.items() for notice in part.notices]
    kept = {split: _without_empty(rows[split], task, f"{place}.{split}", notices, faults) for split in rows}
    _stop(faults)

    labels = _label_names(task, rows["train"].names, kept["train"])
    _stop(_label_faults(kept, labels, task, place, notices))
    if unseen := [name for name in task.label_columns if name not in labels] if task.several_columns else []:
        notices.append(f"{place}.train: no text has the label {', '.join(map(repr, unseen))}, which is left out")
    counts = Counter(label for of_split in kept.values() for row in of_split for label in row.names)
    notices += [f"{place}: {doubt}" for doubt in doubts(counts, task, len(kept["train"]))]

    splits = {split: _split(of_split, labels, task) for split, of_split in kept.items()}
    if task.test_share is not None:
        notices.append(_take_test(splits, labels, task, place))
    if "validation" not in splits:
        splits["train"], splits["validation"] = carve(splits["train"], task.validation_share, task.split_seed)
    if not task.multi_label:
        small = [split for split in SPLITS if split in splits and len(splits[split]) < len(labels)]
        once = sum(count == 1 for count in counts.values())
        hint = f": {once} of {len(counts)} labels occur once; is {column_names(task)} the label?" if 2 * once > len(counts) else ""
        hint = hint or f": at least {len(labels)} are needed; give more texts"
        _stop([f"{place}.{split}: {_count(len(splits[split]))} for {len(labels)} classes are too few{hint}" for split in small])
    _stop(_unranked(splits, labels, task, place, notices))
    splits.setdefault("test", _split([], labels, task))
    notices += _shared(place, splits)
    return TaskData(name, task, labels, **{split: splits[split] for split in SPLITS}, notices=tuple(notices))


def _stop(faults: list[str]) -> None:
    if faults:
        raise ConfigError(faults)


def _count(texts: int) -> str:
    return f"{texts} text{'s' * (texts != 1)}"


class Kept(NamedTuple):
    """A row with a text and labels."""

    text: str
    names: tuple[str, ...]
    """Its labels: exactly one, except in a multi-label task."""
    sides: tuple[str, str] | None
    """Both texts of a pair."""


def _without_empty(rows: Rows, task: Task, place: str, notices: list[str], faults: list[str]) -> list[Kept]:
    """Rows with a text and a label. Rows without a text give a notice; rows without a label a fault, or a notice if dropped."""
    filled = [i for i, text in enumerate(rows.texts) if text.strip()]
    if dropped := len(rows.texts) - len(filled):
        notices.append(f"{place}: {dropped} of {len(rows.texts)} texts are empty and were dropped")
    if not filled:
        faults.append(f"{place}: all {len(rows.texts)} texts are empty")
    if rows.pairs and (half := sum(not all(side.strip() for side in rows.pairs[i]) for i in filled)):
        notices.append(f"{place}: {half} of {len(filled)} pairs have one text only; they are kept")
    bare = {i: rows.missing[i] for i in filled if i in rows.missing}
    all_bare = len(bare) == len(filled)
    beside = {i: word for i, word in bare.items() if (all_bare and rows.partly) or i in rows.partly}
    for some, partly in (({i: bare[i] for i in bare.keys() - beside.keys()}, None), (beside, rows.partly)):
        if some and not all_bare and task.missing_labels == "drop":
            lack = "no label" if partly is None else "a label missing among their labels"
            notices.append(f"{place}: {len(some)} of {len(filled)} rows have {lack} and were dropped")
        elif some:
            faults.append(f"{place}: {missing_labels(some, len(filled), partly)}")
    labels = rows.several if rows.several is not None else [(label,) if label else None for label in rows.labels]
    full = [(i, mine) for i in filled if i not in bare and (mine := labels[i]) is not None]
    return [Kept(rows.texts[i], mine, rows.pairs[i] if rows.pairs else None) for i, mine in full]


def _label_names(task: Task, noted: tuple[str, ...] | None, train: Sequence[Kept]) -> tuple[str, ...]:
    """Class names from the task, else from the data set, else sorted: numbers by size."""
    if task.labels is not None:
        return task.labels
    occurring = {label for row in train for label in row.names}
    if noted is not None:
        return tuple(label for label in noted if label in occurring)
    numbers = all(label.removeprefix("-").isdecimal() for label in occurring)
    return tuple(sorted(occurring, key=int if numbers else None))


def _label_faults(
    kept: Mapping[str, Sequence[Kept]], labels: Sequence[str], task: Task, place: str, notices: list[str]
) -> list[str]:
    """Faults: labels that `labels` or the training split lacks, duplicates, a single class. Unused labels give a notice."""
    trained = sorted({label for row in kept["train"] for label in row.names})
    notices += [f"{place}.labels: {label!r} does not occur in the training split" for label in labels if label not in trained]
    faults = [f"{place}.labels: {label!r} is given twice" for label in sorted({x for x in labels if labels.count(x) > 1})]
    for split, rows in kept.items():
        where, known = ("`labels`", labels) if split == "train" else ("the training split", trained)
        counts = Counter(label for row in rows for label in row.names)
        unknown = sorted(counts.keys() - set(known))
        for label in unknown[:FAULTS]:
            alike = next((name for name in known if plain(name) == plain(label)), None)
            close = alike or closest(label, known)
            hint = f"did you mean {close!r}?" if close else f"there: {', '.join(known[:FAULTS])}{', ...' * (len(known) > FAULTS)}"
            faults.append(f"{place}.{split}: the label {label!r} ({_count(counts[label])}) is not in {where}; {hint}")
        if set(counts) == {"-1"} == set(unknown):
            faults[-1] = f"{place}.{split}: all labels are -1, as where they are withheld: such a split cannot be used"
        if len(unknown) > FAULTS:
            column = column_names(task)
            faults.append(f"{place}.{split}: {len(unknown) - FAULTS} more labels are not in {where}; is {column} the label?")
    if task.multi_label and len({row.names for row in kept["train"]}) < 2:
        faults.append(f"{place}.train: all texts have the same labels ({', '.join(trained) or 'none'}): there is nothing to learn")
    elif len(trained) == 1 and not task.multi_label:
        whole = _count(len(kept["train"]))
        faults.append(f"{place}.train: one class only: {whole}, all with the label {trained[0]!r}; a task needs at least two")
    return faults


def _split(rows: Sequence[Kept], labels: Sequence[str], task: Task) -> Split:
    place = {label: i for i, label in enumerate(labels)}
    texts = tuple(row.text for row in rows)
    pairs = None if task.text_pair is None else tuple(row.sides for row in rows if row.sides)
    if not task.multi_label:
        return Split(texts, np.array([place[row.names[0]] for row in rows], dtype=np.int64), pairs)
    has = np.zeros((len(rows), len(labels)), dtype=np.int64)
    for i, row in enumerate(rows):
        has[i, [place[name] for name in row.names]] = 1
    return Split(texts, has, pairs)


def carve(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """(rest, carved part): the carved part is a stratified `share` of the texts, both in the order of the file.

    The choice depends only on a hash of text and seed, not on a library's random numbers or the order of rows, so that copies of a
    text stay together as far as the share allows. A class with two or more texts has at least one on both sides.
    """
    counts = np.bincount(split.strata, minlength=1)
    take = _apportion(counts, share)
    order = sorted(range(len(split)), key=lambda i: hashlib.sha256(f"{seed}:{split.texts[i]}".encode()).digest())
    carved = np.zeros(len(split), dtype=bool)
    for i in order:
        label = split.strata[i]
        if take[label] > 0:
            carved[i], take[label] = True, take[label] - 1
    return split.only(np.flatnonzero(~carved)), split.only(np.flatnonzero(carved))


def subset(split: Split, count: int, seed: int) -> Split:
    """A stratified subset of `count` texts, in the order of the file; a smaller subset with the same seed is part of a larger one.

    Raises ValueError where there are fewer texts, or where not every class would have one.
    """
    return split.only(taken(split, count, turns(split, seed)))


def taken(split: Split, count: int, order: Labels) -> Labels:
    """Places of the first `count` texts of these turns, ascending. Raises ValueError as `subset` does."""
    classes = int((np.bincount(split.strata) > 0).sum())
    if not classes <= count <= len(split):
        raise ValueError(f"{count} of {len(split)} texts in {classes} classes")
    return np.sort(order[:count])


def turns(split: Split, seed: int) -> Labels:
    """[n]: places of all texts in the order in which subsets take them.

    Each class is ordered by a hash of text and seed; its texts then take their turns at even distances, the first of each class at
    the very beginning.
    """
    sizes = np.bincount(split.strata)
    drawn = [hashlib.sha256(f"{seed}:{text}".encode()).digest() for text in split.texts]
    turn: list[tuple[float, bytes, int]] = []
    for label in range(len(sizes)):
        mine = sorted(np.flatnonzero(split.strata == label).tolist(), key=lambda i: (drawn[i], i))
        turn += [((rank + 0.5) / len(mine) if rank else 0.0, drawn[i], i) for rank, i in enumerate(mine)]
    return np.array([i for _, _, i in sorted(turn)], dtype=np.int64)


def carve_whole(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Like `carve`, but copies of a text (`bare`) stay together, so that nothing is tested on what was trained on.

    A class whose texts are all copies of one has none in the carved part.
    """
    copies: dict[str, list[int]] = {}
    for i, text in enumerate(split.texts):
        copies.setdefault(bare(text), []).append(i)
    take = _apportion(np.bincount(split.strata, minlength=1), share)
    carved = np.zeros(len(split), dtype=bool)
    for form in sorted(copies, key=lambda form: hashlib.sha256(f"{seed}:{form}".encode()).digest()):
        needs = np.bincount(split.strata[copies[form]], minlength=len(take))
        if (needs <= take).all():
            carved[copies[form]], take = True, take - needs
    return split.only(np.flatnonzero(~carved)), split.only(np.flatnonzero(carved))


def _take_test(splits: dict[str, Split], labels: Sequence[str], task: Task, place: str) -> str:
    """Move the share of the training split that becomes the test split. Returns the notice that says so."""
    whole, share = splits["train"], task.test_share or 0.0
    splits["train"], splits["test"] = carve_whole(whole, share, task.split_seed)
    taken = len(splits["test"])
    text = f"{place}.test: {taken} of {_count(len(whole))} of train are the test split, by test_share {share:g}"
    has = set(splits["test"].strata.tolist())
    lacking = [label for i, label in enumerate(labels) if i not in has] if not task.multi_label else []
    without = f"; it has no text of {', '.join(map(repr, lacking[:FAULTS]))}" if lacking else ""
    return f"{text} and split_seed {task.split_seed}, copies of a text on one side{without}"


def _apportion(counts: np.ndarray[Any, Any], share: float) -> np.ndarray[Any, Any]:
    """Numbers per class: the rounded share of the total, divided by largest remainders; at least one and never all of a class."""
    exact = counts * share
    take = np.floor(exact).astype(int)
    for label in np.argsort(take - exact, kind="stable")[: round(counts.sum() * share) - take.sum()]:
        take[label] += 1
    return np.where(counts > 1, np.clip(take, 1, np.maximum(counts - 1, 1)), 0)


def _unranked(splits: Mapping[str, Split], labels: Sequence[str], task: Task, place: str, notices: list[str]) -> list[str]:
    """Faults: held-out splits without any class that the metric can rank texts by. Some such classes of several give a notice."""
    if task.metric not in ("roc_auc", "average_precision"):
        return []
    faults = []
    for name in [split for split in SPLITS if split != "train" and split in splits]:
        split = splits[name]
        has = split.labels if task.multi_label else split.labels[:, None] == np.arange(len(labels))
        lacking = [label for label, count in zip(labels, has.sum(axis=0), strict=True) if count in (0, len(split))]
        named = ", ".join(map(repr, lacking[:FAULTS])) + ", ..." * (len(lacking) > FAULTS)
        if len(lacking) == len(labels):
            faults.append(
                f"{place}.{name}: metric {task.metric} needs a label that some texts have and others lack, but all"
                f" {_count(len(split))} have the same; give other texts, or another metric"
            )
        elif lacking:
            notices.append(f"{place}.{name}: all texts or none have {named}, so that {task.metric} leaves this out of its mean")
    return faults


def _shared(place: str, splits: Mapping[str, Split]) -> list[str]:
    """Notices on texts that a held-out split shares with earlier splits."""
    notices = []
    validation, test = ([plain(text) for text in splits[name].texts] for name in ("validation", "test"))
    wanted = {*validation, *test}
    trained = {p for text in splits["train"].texts if (p := plain(text)) in wanted}
    held = (("validation", validation, "train", trained), ("test", test, "train or validation", trained.union(validation)))
    for split, mine, earlier, found in held:
        if count := sum(text in found for text in mine):
            notices.append(
                f"{place}.{split}: {count} of {len(mine)} texts also occur in {earlier};"
                " they are kept, and make the error look better than it is"
            )
    return notices


def digest_of(texts: Iterable[str], more: bytes = b"") -> str:
    """sha256 of texts in order."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little"))  # so that different lists of texts never give the same bytes
        digest.update(raw)
    digest.update(more)
    return digest.hexdigest()
