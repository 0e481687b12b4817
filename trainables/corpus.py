"""Corpora for further pre-training: training texts of tasks and text files, less all that a task holds out.

The same on every machine: a corpus is a function of the content of its tasks and files. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from trainables.config import Task
from trainables.corpus_names import short
from trainables.data import TaskData, digest_of, load_task, plain
from trainables.faults import ConfigError
from trainables.table_files import read_documents


@dataclass(frozen=True, eq=False)
class Corpus:
    """Texts for further pre-training."""

    texts: tuple[str, ...]
    digest: str
    """sha256 of the texts in their order."""
    removed: int
    """Texts left out because they occur, exactly or nearly, in a test or validation split."""
    notices: tuple[str, ...]
    files: Mapping[str, tuple[str, int]]
    """{file: (sha256 of its texts before any is left out, how many they are)}"""


def load_corpus(names: Sequence[str], tasks: Mapping[str, Task], files: Sequence[str] = ()) -> Corpus:
    """Training texts of the named tasks and texts of files, less every near copy of a test or validation text of ANY of `tasks`.

    Near copies have the same letters and digits. A text that two tasks or files share is read once; one that a task itself
    holds several times stays as often, as the task's own distribution has it. The order of names does not matter.
    Raises ConfigError for faults of the tasks and files, unknown names, and when nothing is left.
    """
    return _corpus(tuple(sorted(set(names))), tuple(sorted(tasks.items())), tuple(sorted(set(files))))


@lru_cache(maxsize=16)
def _corpus(names: tuple[str, ...], tasks: tuple[tuple[str, Task], ...], files: tuple[str, ...]) -> Corpus:
    place = f"corpus {', '.join((*names, *map(short, files)))}"
    notices: list[str] = []
    loaded, read = _read(names, dict(tasks), files, place, notices)
    # By content, so that what a user calls the tasks does not enter the corpus' identity.
    sources = sorted((*(loaded[name].train.texts for name in names), *read), key=digest_of)
    forbidden = held_out(loaded)
    clean = [[text for text in texts if bare(text) not in forbidden] for texts in sources]
    total, left = (sum(map(len, parts)) for parts in (sources, clean))
    if not left:
        raise ConfigError([f"{place}: no text is left: all {total} occur in a test or validation split"])
    if total > left:
        notices.append(f"{place}: {total - left} of {total} texts occur in a test or validation split and were removed")
    kept = tuple(_once(clean))
    if left > len(kept):
        notices.append(f"{place}: {left - len(kept)} of {left} texts occur in another of its parts as well and are read once")
    if again := sum(count - 1 for count in Counter(_short(bare(text)) for text in kept).values()):
        notices.append(f"{place}: {again} of {len(kept)} texts repeat an earlier one, exactly or nearly, and are kept")
    each = {file: (digest_of(texts), len(texts)) for file, texts in zip(files, read, strict=True)}
    return Corpus(kept, digest_of(kept), total - left, tuple(notices), each)


def _read(
    names: Sequence[str], tasks: Mapping[str, Task], files: Sequence[str], place: str, notices: list[str]
) -> tuple[dict[str, TaskData], list[tuple[str, ...]]]:
    """(all tasks, texts of each file). Raises ConfigError with the faults of all of them."""
    loaded, faults = load_all(tasks)
    read: list[tuple[str, ...]] = []
    faults += [f"corpus: {name!r} is not among the tasks" for name in names if name not in tasks]
    for file in files:
        try:
            read.append(_documents(file, place, notices))
        except ConfigError as error:
            faults += [f"corpus: {fault}" for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return loaded, read


def load_all(tasks: Mapping[str, Task]) -> tuple[dict[str, TaskData], list[str]]:
    """(the tasks that can be loaded, faults of the others)."""
    loaded: dict[str, TaskData] = {}
    faults: list[str] = []
    for name, task in tasks.items():
        try:
            loaded[name] = load_task(name, task, needs_test=False)
        except ConfigError as error:
            faults += error.faults
    return loaded, faults


def held_out(loaded: Mapping[str, TaskData]) -> set[str]:
    """Validation and test texts of all these tasks, bare: what nothing else may be trained on."""
    return {bare(text) for data in loaded.values() for part in (data.validation, data.test) for text in part.texts}


def _documents(file: str, place: str, notices: list[str]) -> tuple[str, ...]:
    texts, how = read_documents(file)
    filled = tuple(text for text in texts if text.strip())
    if not filled:
        raise ConfigError([f"{file}: all {len(texts)} texts are empty"])
    notices.append(f"{place}: {len(filled)} document{'s' * (len(filled) > 1)} in {short(file)}, {how}")
    if len(filled) < len(texts):
        notices.append(f"{place}: {len(texts) - len(filled)} of {len(texts)} texts of {short(file)} are empty and were dropped")
    return filled


def _once(parts: Iterable[Sequence[str]]) -> Iterator[str]:
    """Texts of all parts; a copy of a text of an earlier part is left out."""
    earlier: set[bytes] = set()
    for texts in parts:
        mine = [_short(plain(text)) for text in texts]
        yield from (text for text, key in zip(texts, mine, strict=True) if key not in earlier)
        earlier.update(mine)


def _short(text: str) -> bytes:
    """Stands for a text among millions, which would fill the memory a second time."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def bare(text: str) -> str:
    """A text's letters and digits alone, compatible forms and case made one: how near copies are found.

    Without white space, since a mark may stand for it ("good--bad", "good, bad"). A text without any letter is compared as it is.
    """
    simple = plain(text)  # first, so that no copy that `plain` tells is missed
    return unicodedata.normalize("NFKC", simple).casefold().translate(_LETTERS) or simple


class _Letters(dict[int, str | None]):
    """What becomes of a character, found out once: letters, digits and their marks stay, the rest goes."""

    def __missing__(self, code: int) -> str | None:
        self[code] = found = chr(code) if unicodedata.category(chr(code))[0] in "LNM" else None
        return found


_LETTERS = _Letters()
