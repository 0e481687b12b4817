"""Resolve the entries of a corpus: names of tasks, keywords for unions of tasks, text files. Imports nothing heavy.

The keywords are the corpora of Sun et al. 2019, section 5.4: within-task (ITPT), in-domain (IDPT), cross-domain (CDPT).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from trainables.settings.file_names import is_file, is_local

if TYPE_CHECKING:
    from trainables.settings.task import Task

WITHIN_TASK, IN_DOMAIN, CROSS_DOMAIN = WORDS = ("within-task", "in-domain", "cross-domain")


def is_local_file(entry: str) -> bool:
    """Whether an entry is a file on this machine."""
    return is_file(entry) and is_local(entry)


def short(entry: str) -> str:
    """An entry for display: for a file, its name without the folder."""
    return PurePath(entry).name if is_file(entry) else entry


def members(corpus: Collection[str], target: str, tasks: Mapping[str, Task]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(tasks, files) of a corpus, without repetition, sorted. An empty corpus is the target task's own."""
    names: set[str] = set()
    for entry in corpus or (WITHIN_TASK,):
        if entry == WITHIN_TASK:
            names.add(target)
        elif entry == IN_DOMAIN:
            names |= {target} | {name for name, task in tasks.items() if task.domain == tasks[target].domain}
        elif entry == CROSS_DOMAIN:
            names |= set(tasks)
        elif not is_file(entry):
            names.add(entry)
    return tuple(sorted(names)), tuple(sorted(set(filter(is_file, corpus))))


def unknown(corpus: Iterable[str], tasks: Collection[str]) -> list[str]:
    """Entries that are neither a task, a keyword nor a text file."""
    return [entry for entry in corpus if not (entry in tasks or entry in WORDS or is_file(entry))]


def domain_fault(corpus: Collection[str], target: str, tasks: Mapping[str, Task]) -> str | None:
    """Why a requested in-domain corpus does not exist, with the ways out; None if there is no fault."""
    if IN_DOMAIN not in corpus or target not in tasks:
        return None
    domain = tasks[target].domain
    if domain is None:
        return f"in-domain needs the domain of the target task, but {target!r} has none; give it a `domain`, or name the tasks"
    if not any(task.domain == domain for name, task in tasks.items() if name != target):
        return f"in-domain: no other task has the domain {domain!r} of {target!r}; add one, or use within-task"
    return None


def name_faults(tasks: Iterable[str]) -> Iterator[str]:
    """Faults for tasks whose names are also keywords or names of text files."""
    for name in tasks:
        if name in WORDS or is_file(name):
            meant = "is a word for corpora" if name in WORDS else "reads as a text file"
            yield f"tasks.{name}: the name {meant}; give the task another one"
