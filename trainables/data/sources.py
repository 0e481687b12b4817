"""Read texts and labels from csv, tsv, jsonl and parquet files on any file system, folders saved by `datasets`, and the hub.

Readers are those of pyarrow and `datasets`; no code of a data set is ever run. Every fault of the user's files is a line of a
ConfigError that begins with its split.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trainables.data.known_tasks import without_hub
from trainables.data.label_columns import MISSING
from trainables.data.labels import Labels, read_labels
from trainables.settings.errors import ConfigError, near
from trainables.settings.task import Task
from trainables.tables.table_files import Table, column_faults, joined_texts, read_file

HUB_TIMEOUT_S = 5.0
Read = tuple[Table, tuple[str, ...]]
"""A table, and notices about how it was read."""


@dataclass(frozen=True)
class Rows:
    """A split as read from its source."""

    texts: list[str]
    """Missing texts are empty."""
    labels: list[str | None]
    """None for a missing label."""
    names: tuple[str, ...] | None
    """Names of the classes in order, if the file defines them."""
    several: list[tuple[str, ...] | None] | None = None
    """Labels of every row in a multi-label task (`labels` has them joined): an empty tuple for no label, None for a missing one."""
    missing: Mapping[int, str] = field(default_factory=dict)
    """{row: its content} for rows with a missing label; empty text for an empty cell."""
    partly: Mapping[int, str] = field(default_factory=dict)
    """{row: its whole content} for rows with both a missing and a valid label."""
    pairs: list[tuple[str, str]] | None = None
    """Both texts of every row in a task on pairs (`texts` has them joined)."""
    notices: tuple[str, ...] = ()
    """Notices to the user about texts and labels."""


def read(task: Task) -> tuple[dict[str, Rows], list[str]]:
    """({split: rows} of readable splits, faults of the others). A split that the task does not name is in neither."""
    splits: dict[str, Rows] = {}
    faults: list[str] = []
    try:
        columns = (*task.text_columns, *task.second_columns, *task.label_columns)
        tables = _files(task, columns) if task.train is not None else _prepared(task)
    except ConfigError as error:
        return {}, list(error.faults)
    loaded: dict[str, Table] = {}
    remarks: dict[str, tuple[str, ...]] = {}
    for split, read_split in tables.items():
        try:
            table, remarks[split] = read_split()
            loaded[split] = _checked(table, task)
        except ConfigError as error:
            faults += [f"{split}: {fault}" for fault in error.faults]
    labels, more = read_labels(loaded, task)
    for split, mine in labels.items():
        try:
            splits[split] = _rows(loaded.pop(split), remarks[split], task, mine)
        except ConfigError as error:
            faults += [f"{split}: {fault}" for fault in error.faults]
    _give_back()
    return splits, faults + more


def _give_back() -> None:
    """Arrow keeps the memory of tables that are gone, as much as a large file takes, for tables to come: there are none."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def _files(task: Task, columns: Sequence[str]) -> dict[str, Callable[[], Read]]:
    urls = {"train": task.train, "validation": task.validation, "test": task.test}
    return {split: partial(read_file, url, columns, task.dialect) for split, url in urls.items() if url is not None}


def _checked(table: Table, task: Task) -> Table:
    """Return the table if it has the columns of the task. Raises ConfigError for missing and duplicate columns."""
    texts = (*task.text_columns, *task.second_columns)
    faults = column_faults(table.schema.names, (*texts, *task.label_columns))
    faults += [f"{label!r} is named as both text and label column" for label in task.label_columns if label in texts]
    if faults:
        raise ConfigError(faults)
    return table


def _rows(table: Table, remarks: tuple[str, ...], task: Task, labels: Labels) -> Rows:
    """Texts and labels of a table; `remarks`: notices of its reading. Raises ConfigError for texts of the wrong type."""
    joined, pairs = joined_texts(table, task.text_columns), None
    if task.second_columns:
        pairs = list(zip(joined, joined_texts(table, task.second_columns), strict=True))
        joined = [" ".join(filter(None, pair)) for pair in pairs]
    names = [None if row is None else task.label_separator.join(row) or None for row in labels.rows]
    notices = (*remarks, *labels.notices, *_missing_texts(table, (*task.text_columns, *task.second_columns)))
    several = labels.rows if task.multi_label else None
    return Rows(joined, names, labels.names, several, labels.missing, labels.partly, pairs, notices)


def _missing_texts(table: Table, columns: Sequence[str]) -> Iterator[str]:
    """Notices on texts that consist of a word for a missing value."""
    import pyarrow as pa
    from pyarrow import compute

    wanted = pa.array(sorted(MISSING), pa.large_string())
    for name in columns:
        words: Counter[str] = Counter()
        for part in table.column(name).chunks:  # one after the other: trimmed texts are a copy
            texts = compute.utf8_trim_whitespace(part.cast(pa.large_string()))
            words.update(texts.filter(compute.is_in(texts, wanted)).to_pylist())
        if words:
            count = words.total()
            shown = ", ".join(map(repr, sorted(words)))
            are = "text is" if count == 1 else "texts are"
            yield f"{count} {are} nothing but {shown} in {name!r}, a word for a missing value: kept as text"


def _prepared(task: Task) -> dict[str, Callable[[], Read]]:
    """Readers of the splits of a saved folder or of a hub data set."""
    where, splits = splits_there(task)
    names = {"train": task.train_split, "validation": task.validation_split, "test": task.test_split}
    wanted = {split: name for split, name in names.items() if name is not None}
    if task.test_share is not None:
        del wanted["test"]
    faults = [
        f"{split}_split: {where} has no split {name!r}{near(name, splits)}"
        for split, name in wanted.items()
        if name not in splits and (split != "test" or "test_split" in task.model_fields_set)
    ]
    if faults:
        raise ConfigError(faults)
    return {split: partial(_table, splits[name], where) for split, name in wanted.items() if name in splits}


def splits_there(task: Task) -> tuple[str, dict[str, Any]]:
    """(name of the folder or hub data set for messages, {name of a split: its data set}). Raises ConfigError."""
    where = f"folder: {task.folder}" if task.folder is not None else f"hub: {task.hub}"
    source = _from_folder(task.folder) if task.folder is not None else _from_hub(task)
    return where, dict(source.items()) if hasattr(source, "items") else {"train": source}


def _table(dataset: Any, where: str) -> Read:
    if not len(dataset):
        raise ConfigError([f"{where}: the split has no rows"])
    return dataset.with_format("arrow")[:], ()


def _from_folder(folder: str) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(folder)
    except FileNotFoundError as error:
        missing = "there is no such folder" if "not found" in str(error) else "not a folder that `datasets` saved (save_to_disk)"
        raise ConfigError([f"folder: {folder}: {missing}"]) from None
    except Exception as error:
        raise ConfigError([f"folder: {folder}: cannot be read: {' '.join(str(error).split())}"]) from None


def _from_hub(task: Task) -> Any:
    """The hub's data set, or the copy in the local cache if the hub cannot be reached. Never runs code from the hub."""
    import datasets

    reached = hub_reachable()
    try:
        with _offline(not reached):
            return datasets.load_dataset(task.hub, task.hub_config, revision=task.revision)
    except Exception as error:
        raise ConfigError([f"hub: {task.hub}: {_hub_advice(error, reached, task)}"]) from None


def _hub_advice(error: Exception, reached: bool, task: Task) -> str:
    import datasets

    if isinstance(error, datasets.exceptions.DatasetNotFoundError) and reached:
        return "there is no such data set on the hub, or it is private: then `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OSError) and not reached:
        return (
            f"the hub cannot be reached and the local cache ({datasets.config.HF_DATASETS_CACHE}) has no copy. To go on offline:"
            " give csv, jsonl or parquet files as train and test; or on a machine with network run"
            f" datasets.load_dataset({task.hub!r}).save_to_disk('FOLDER') and give that as `folder`; or copy its cache here and"
            " set HF_HOME to it" + (f"; or {by_hand}" if (by_hand := without_hub(task.hub)) else "")
        )
    message = " ".join(str(error).split())
    if "scripts are no longer supported" in message:
        return "this data set is a loading script, which is never run; try `revision: refs/convert/parquet`"
    return f"cannot be loaded: {message[:300]}"


def hub_reachable(timeout_s: float = HUB_TIMEOUT_S) -> bool:
    """Whether the hub answers: being offline then costs seconds instead of minutes for its client's retries."""
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(hub.ENDPOINT, method="HEAD"), timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return True  # an error status is an answer too
    except OSError:
        return False
    return True


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Within the block, HF_HUB_OFFLINE is set: the libraries read the environment variable only when they are imported."""
    import datasets.config
    import huggingface_hub.constants as hub

    before = datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE
    if offline:
        datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before
