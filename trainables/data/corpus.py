"""Corpora for further pre-training: training texts of tasks and text files, without any held-out text of a task.

A corpus is a function of the content of its tasks and files, the same on every machine. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trainables.data.held_out import JOINT, HeldOut, held_out
from trainables.data.normal_forms import bare, plain
from trainables.data.scripts import words_each
from trainables.data.splits import Labels, TaskData, digest_of, load_task
from trainables.settings.corpus_names import short
from trainables.settings.errors import ConfigError
from trainables.settings.file_names import is_plain_text
from trainables.settings.task import Task
from trainables.tables.table_files import read_documents

Load = Callable[..., TaskData]
"""`load_task`, or one that remembers what it has loaded."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Texts for further pre-training."""

    texts: tuple[str, ...]
    digest: str
    """sha256 of the texts in their order."""
    removed: int
    """Number of texts removed because they occur, exactly or nearly, in a test or validation split."""
    notices: tuple[str, ...]
    files: Mapping[str, tuple[str, int]]
    """{file: (sha256 of its texts before any removal, number of these texts)}"""
    whole: Mapping[str, str] = field(default_factory=dict)
    """{text from which a validation or test text was cut: the original text}."""

    @cached_property
    def words(self) -> Labels:
        """[n]: words of each text."""
        return words_each(self.texts)


@dataclass(frozen=True)
class CorpusSource:
    """Texts of a task or a file."""

    texts: tuple[str, ...]
    lined: tuple[str, ...]
    """The same texts with line breaks at the joints: between the lines of a document, between the texts of a pair."""
    joined: bool = False
    """Whether any text has a joint."""
    plain: bool = False
    """Whether it is a plain text file, whose successive lines and paragraphs may be parts of one text."""


def load_corpus(names: Sequence[str], tasks: Mapping[str, Task], files: Sequence[str] = (), *, load: Load = load_task) -> Corpus:
    """Training texts of the named tasks and texts of files, less every near copy of a validation or test text of ANY of `tasks`.

    Near copies have the same letters and digits. A text that is one is removed; from a longer text, near copies that are lines,
    sentences or paragraphs are cut. Both texts of a held-out pair count. A text that two tasks or files share is read once; repeats
    within one task stay, to keep its distribution. The order of names does not matter. Raises ConfigError for faults of the tasks
    and files, unknown names, and if no text is left.
    """
    names, files = sorted(set(names)), sorted(set(files))
    place = f"corpus {', '.join((*names, *map(short, files)))}"
    notices: list[str] = []
    loaded, read = _read(names, dict(sorted(tasks.items())), files, place, notices, load)
    # By content, so that what a user calls the tasks does not enter the corpus' identity.
    sources = sorted((*(_of_task(loaded[name]) for name in names), *read), key=lambda part: digest_of(part.texts))
    clean, whole = _cleaned(sources, held_out(loaded.values(), sides=True), place, notices)
    total, left = sum(len(part.texts) for part in sources), sum(map(len, clean))
    kept = tuple(_once(clean))
    if left > len(kept):
        notices.append(f"{place}: {left - len(kept)} of {left} texts occur in another of its parts as well and are read once")
    if again := len(kept) - len({_short(bare(text)) for text in kept}):
        notices.append(f"{place}: {again} of {len(kept)} texts repeat an earlier one, exactly or nearly, and are kept")
    facts = {file: (digest_of(part.texts), len(part.texts)) for file, part in zip(files, read, strict=True)}
    return Corpus(kept, digest_of(kept), total - left, tuple(notices), facts, whole)


def _cleaned(
    sources: Sequence[CorpusSource], forbidden: HeldOut, place: str, notices: list[str]
) -> tuple[list[list[str]], dict[str, str]]:
    """(texts of every source without held-out texts, {shortened text: original text})."""
    clean: list[list[str]] = []
    whole: dict[str, str] = {}
    places = holders = words = across = 0
    for part in sources:
        clean.append([])
        rests, over = forbidden.cut_across(part.lined) if part.plain else (part.lined, 0)
        across += over
        for text, lined, alone in zip(part.texts, part.lined, rests, strict=True):
            cut = forbidden.cut(alone)
            words += cut.left if cut else 0
            rest = cut.text if cut and (cut.places or not cut.text) else alone
            if rest and cut and cut.places:
                places, holders = places + cut.places, holders + 1
            if rest and rest != lined:
                rest = _flat(rest) if part.joined else rest
                whole[rest], text = text, rest
            if rest or (rest == lined and not cut):
                clean[-1].append(text)
    total, left = sum(len(part.texts) for part in sources), sum(map(len, clean))
    if not left:
        raise ConfigError([f"{place}: no text is left: all {total} occur in a test or validation split"])
    if total > left:
        notices.append(f"{place}: {total - left} of {total} texts occur in a test or validation split and were removed")
    if holders:
        seen = f"{holders} of {total} texts hold texts of a test or validation split as lines or sentences"
        notices.append(f"{place}: {seen}: these {places} were taken out, the rest is read")
    if across:
        seen = f"{across} times texts that follow each other make up a text of a test or validation split"
        notices.append(f"{place}: {seen}: it was taken out of them, the rest is read")
    if words:
        seen = f"{words} times a sentence of one word that is a text of a test or validation split"
        notices.append(f"{place}: {seen}: it stays, since a single word is taken out as a whole line only")
    return clean, whole


def _of_task(data: TaskData) -> CorpusSource:
    texts, pairs = data.train.texts, data.train.pairs
    if pairs is None:
        return CorpusSource(texts, texts)
    return CorpusSource(texts, tuple(JOINT.join(filter(None, sides)) for sides in pairs), joined=True)


def _flat(lined: str) -> str:
    """A document, or the two texts of a pair, in one line."""
    return " ".join(line for part in lined.split(JOINT) for raw in part.split("\n") if (line := raw.strip()))


def _read(
    names: Sequence[str], tasks: Mapping[str, Task], files: Sequence[str], place: str, notices: list[str], load: Load
) -> tuple[dict[str, TaskData], list[CorpusSource]]:
    """(all tasks, texts of each file). Raises ConfigError with the faults of all of them."""
    loaded, faults = load_all(tasks, load)
    read: list[CorpusSource] = []
    faults += [f"corpus: {name!r} is not among the tasks" for name in names if name not in tasks]
    for file in files:
        try:
            read.append(_documents(file, place, notices))
        except ConfigError as error:
            faults += [f"corpus: {fault}" for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return loaded, read


def load_all(tasks: Mapping[str, Task], load: Load) -> tuple[dict[str, TaskData], list[str]]:
    """(the tasks that can be loaded, faults of the others)."""
    loaded: dict[str, TaskData] = {}
    faults: list[str] = []
    for name, task in tasks.items():
        try:
            loaded[name] = load(name, task, needs_test=False)
        except ConfigError as error:
            faults += error.faults
    return loaded, faults


def _documents(file: str, place: str, notices: list[str]) -> CorpusSource:
    texts, how, remarks = read_documents(file)
    filled = tuple(text for text in texts if text.strip())
    if not filled:
        raise ConfigError([f"{file}: all {len(texts)} texts are empty"])
    notices.append(f"{place}: {len(filled)} document{'s' * (len(filled) > 1)} in {short(file)}, {how}")
    notices += [f"{place}: {short(file)}: {notice}" for notice in remarks]
    if len(filled) < len(texts):
        notices.append(f"{place}: {len(texts) - len(filled)} of {len(texts)} texts of {short(file)} are empty and were dropped")
    joined = is_plain_text(file)
    return CorpusSource(tuple(map(_flat, filled)) if joined else filled, filled, joined, plain=joined)


def _once(parts: Sequence[Sequence[str]]) -> Iterator[str]:
    """Texts of all parts; a copy of a text of an earlier part is left out."""
    first, *rest = parts
    yield from first
    earlier = {_short(plain(text)) for text in first} if rest else set()
    for texts in rest:
        mine = [_short(plain(text)) for text in texts]
        yield from (text for text, key in zip(texts, mine, strict=True) if key not in earlier)
        earlier.update(mine)


def _short(text: str) -> bytes:
    """Short digest of a text, to compare millions of texts in little memory."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
