"""Where texts and labels come from: csv, tsv, jsonl and parquet on any file system, folders that `datasets` saved, the hub.

Readers are pyarrow's and `datasets`' own; no code of a data set is ever run. Whatever is wrong with the user's files is a
ConfigError whose lines begin with the split they are about.
"""

from __future__ import annotations

import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from trainables.config import Task
from trainables.corpus_names import COMPRESSIONS
from trainables.corpus_names import TABLES as FORMATS
from trainables.faults import ConfigError, closest, near
from trainables.tasks import without_hub

Table = Any
"""A pyarrow.Table."""
HUB_TIMEOUT_S = 5.0
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf", re.IGNORECASE)


@dataclass(frozen=True)
class Rows:
    """A split as it was read."""

    texts: list[str]
    """Missing ones are empty."""
    labels: list[str | None]
    """None where there is none."""
    names: tuple[str, ...] | None
    """Labels in their order, where the file itself says so."""
    pairs: list[tuple[str, str]] | None = None
    """Both texts of each row of a task on pairs, of which `texts` holds the join."""
    notices: tuple[str, ...] = ()
    """What a user should know about the labels."""


def read(task: Task) -> tuple[dict[str, Rows], list[str]]:
    """(splits that could be read, faults of the others). A split that the task does not name is in neither."""
    splits: dict[str, Rows] = {}
    faults: list[str] = []
    try:
        tables = _files(task, (*task.text_columns, *task.second_columns, task.label)) if task.train is not None else _prepared(task)
    except ConfigError as error:
        return {}, list(error.faults)
    for split, table in tables.items():
        try:
            splits[split] = _rows(table(), task)
        except ConfigError as error:
            faults += [f"{split}: {fault}" for fault in error.faults]
    return splits, faults + _regression_faults(splits, task)


def _files(task: Task, columns: Sequence[str]) -> dict[str, Callable[[], Table]]:
    given = {"train": task.train, "validation": task.validation, "test": task.test}
    return {split: partial(read_file, url, columns) for split, url in given.items() if url is not None}


def read_file(url: str, columns: Sequence[str]) -> Table:
    """A csv, tsv, jsonl or parquet file, compressed or not, as a table; `columns` are those that hold text.

    Raises ConfigError that names the file.
    """
    suffix = _format(url)
    raw = _content(url)
    if suffix != "parquet":
        _check_utf8(raw, url)
        if not raw.removeprefix(b"\xef\xbb\xbf").strip():
            raise ConfigError([f"{url}: the file is empty"])
    import pyarrow as pa

    try:
        table = _parse(raw, suffix, columns)
    except pa.ArrowException as error:
        hint = {"csv": "; is a quote or a comma in a text not quoted?", "tsv": "; is a quote left open?", "parquet": ""}
        said = " ".join(str(error).split())
        if "Empty CSV" in said:
            raise ConfigError([f"{url}: the file has a header but no rows"]) from None
        said = said if len(said) <= 200 else said[:197] + "..."
        raise ConfigError([f"{url}: not {suffix}: {said}{hint.get(suffix, '; it needs one JSON object a line')}"]) from None
    if not table.num_rows:
        raise ConfigError([f"{url}: the file has a header but no rows"])
    return table


def read_documents(url: str, columns: Sequence[str] = ("text",)) -> tuple[list[str], str]:
    """(texts without labels, how they were told apart) of a file: the columns of a table joined by a space, or plain text.

    Plain text holds one document per line, or documents between blank lines if it has any: their lines are joined by a space.
    Raises ConfigError that names the file.
    """
    if _suffix(url) != "txt":
        table = read_file(url, columns)
        try:
            return _joined(table, columns), "one a row"
        except ConfigError as error:
            raise ConfigError(f"{url}: {fault}" for fault in error.faults) from None
    raw = _content(url)
    _check_utf8(raw, url)
    lines = [line.strip() for line in raw.decode("utf-8-sig").replace("\r\n", "\n").strip().split("\n")]
    if lines == [""]:
        raise ConfigError([f"{url}: the file is empty"])
    if "" not in lines:
        return lines, "one a line"
    blocks = groupby(lines, key=bool)
    return [" ".join(block) for filled, block in blocks if filled], "separated by blank lines"


def _format(url: str) -> str:
    suffix = _suffix(url)
    if suffix not in FORMATS:
        shown = "." + suffix if "." in os.path.basename(url) else suffix
        raise ConfigError([f"{url}: the format {shown!r} is not one of {', '.join(FORMATS)}"])
    return suffix


def _suffix(url: str) -> str:
    """How the file's name ends, compression left out."""
    parts = os.path.basename(url.split("?")[0]).lower().split(".")
    return parts[-2] if parts[-1] in COMPRESSIONS and len(parts) > 2 else parts[-1]


def _content(url: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(url, "rb", compression="infer") as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise ConfigError([f"{url}: there is no such file{_sibling(url)}"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{url}: is a folder; give a file, or as `folder` what `datasets` saved"]) from None
    except Exception as error:  # whatever the file system's own library raises: rights, network, a missing package
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise ConfigError([f"{url}: cannot be read: {' '.join(reason.split())}"]) from None


def _sibling(url: str) -> str:
    """`; did you mean 'x'?` for a file beside the missing one."""
    folder = Path(url).expanduser().parent
    close = closest(Path(url).name, os.listdir(folder)) if folder.is_dir() else None
    return f"; did you mean {close!r}?" if close else ""


def _check_utf8(raw: bytes, url: str) -> None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [f"{url}: not UTF-8: byte {raw[error.start]:#04x} at offset {error.start} (line {line}); save the file as UTF-8"]
        ) from None


def _parse(raw: bytes, suffix: str, columns: Sequence[str]) -> Table:
    # One block for the whole file: a value may be longer than any block size one would choose.
    block = min(max(len(raw) + 1, 1024), 2**31 - 1)
    if suffix == "parquet":
        from pyarrow import parquet

        return parquet.read_table(io.BytesIO(raw))
    if suffix in ("csv", "tsv"):
        from pyarrow import csv

        return csv.read_csv(
            io.BytesIO(raw),
            read_options=csv.ReadOptions(block_size=block, use_threads=False),
            parse_options=csv.ParseOptions(delimiter="\t" if suffix == "tsv" else ",", newlines_in_values=True),
            # Text stays text: the label 01 is not 1, and the text NA is not missing.
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(columns, "large_string"), strings_can_be_null=False),
        )
    from pyarrow import json as arrow_json

    return arrow_json.read_json(io.BytesIO(raw), arrow_json.ReadOptions(block_size=block, use_threads=False))


def _rows(table: Table, task: Task) -> Rows:
    """Texts and labels of a table. Raises ConfigError for columns that are missing, doubled or of the wrong type."""
    texts = (*task.text_columns, *task.second_columns)
    faults = _column_faults(table.schema.names, (*texts, task.label))
    faults += [f"{task.label!r} is named as both text and label column"] * (task.label in texts)
    if faults:
        raise ConfigError(faults)
    classes = _class_names(table.schema, task.label)
    labels, notices = _labels(table.column(task.label), task, classes)
    joined, pairs = _joined(table, task.text_columns), None
    if task.second_columns:
        pairs = list(zip(joined, _joined(table, task.second_columns), strict=True))
        joined = [" ".join(filter(None, pair)) for pair in pairs]
    return Rows(joined, labels, classes, pairs, notices)


def _column_faults(names: list[str], wanted: Sequence[str]) -> list[str]:
    missing = [f"there is no column {c!r}{near(c, names)}" for c in wanted if c not in names]
    return missing + [f"the column {c!r} occurs {names.count(c)} times" for c in dict.fromkeys(wanted) if names.count(c) > 1]


def _joined(table: Table, columns: Sequence[str]) -> list[str]:
    """The text columns as one text per row."""
    if faults := _column_faults(table.schema.names, columns):
        raise ConfigError(faults)
    parts = [_texts(table.column(c), c) for c in columns]
    return parts[0] if len(parts) == 1 else [" ".join(filter(None, row)) for row in zip(*parts, strict=True)]


def _texts(column: Any, name: str) -> list[str]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return [""] * len(column)
    if not _is_string(column.type):
        raise ConfigError([f"the column {name!r} holds {column.type}, not text"])
    return [text or "" for text in column.to_pylist()]


def _labels(column: Any, task: Task, classes: tuple[str, ...] | None) -> tuple[list[str | None], tuple[str, ...]]:
    """(labels as strings, notices): 1, 1.0 and '1' are one label; class numbers become class names; several are joined."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = column.to_pylist()
    if pa.types.is_nested(column.type):
        if not task.multi_label:
            raise ConfigError([f"the column {task.label!r} holds {column.type}, several labels for one text: set multi_label"])
        names = [[str(each) if classes is None else classes[each] for each in row or ()] for row in values]
        return [task.label_separator.join(row) for row in names], ()
    if classes is not None and pa.types.is_integer(column.type):
        return [classes[v] if v is not None and 0 <= v < len(classes) else None for v in values], ()
    labels = [None if v is None or v != v else str(v).strip() or None for v in values]
    kept = task.labels or ()
    as_they_are = task.multi_label and not pa.types.is_floating(column.type)
    if as_they_are or not all(label is None or label in kept or _whole(label) for label in labels):
        return labels, ()
    whole = [label if label is None or label in kept else label.partition(".")[0] for label in labels]
    changed = next((pair for pair in zip(labels, whole, strict=True) if pair[0] != pair[1]), None)
    if changed is None:
        return whole, ()
    return whole, (f"the labels in {task.label!r} are written with fractions of zero: {changed[0]} is read as {changed[1]}",)


def _whole(label: str) -> bool:
    """Whether a label is a whole number, perhaps written as a float: what a table program makes of classes."""
    head, _, tail = label.partition(".")
    return head.removeprefix("-").isdecimal() and not tail.strip("0")


def _regression_faults(splits: Mapping[str, Rows], task: Task) -> list[str]:
    """Splits whose labels are numbers with fractions, where no label at all is a name and nobody says that they are classes."""
    found = {split: _parts(rows.labels, task) for split, rows in splits.items()}
    said = task.labels is not None or any(rows.names is not None for rows in splits.values())
    if said or not all(_NUMBER.fullmatch(label) for labels in found.values() for label in labels):
        return []
    fractions = {split: [label for label in labels if not _whole(label)] for split, labels in found.items()}
    return [
        f"{split}: the column {task.label!r} holds {labels[0]}: classes are learnt here, no numbers (regression); make classes of"
        " them, or if they are classes, list them as `labels`"
        for split, labels in fractions.items()
        if labels
    ]


def _parts(labels: Sequence[str | None], task: Task) -> list[str]:
    """Every label by itself."""
    given = [label for label in labels if label]
    if not task.multi_label:
        return given
    return [name for label in given for part in label.split(task.label_separator) if (name := part.strip())]


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The names that `datasets` notes for a ClassLabel column, in its tables and in the parquet files it writes."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = noted.get("info", {}).get("features", {}).get(label, {})
    if isinstance(feature, dict) and "feature" in feature:  # a list of them
        feature = feature["feature"]
    return tuple(feature["names"]) if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _prepared(task: Task) -> dict[str, Callable[[], Table]]:
    """Splits of a saved folder or of the hub."""
    where = f"folder: {task.folder}" if task.folder is not None else f"hub: {task.hub}"
    found = _from_folder(task.folder) if task.folder is not None else _from_hub(task)
    splits = dict(found.items()) if hasattr(found, "items") else {"train": found}
    given = {"train": task.train_split, "validation": task.validation_split, "test": task.test_split}
    wanted = {split: name for split, name in given.items() if name is not None}
    faults = [
        f"{split}_split: {where} has no split {name!r}{near(name, splits)}"
        for split, name in wanted.items()
        if name not in splits and (split != "test" or "test_split" in task.model_fields_set)
    ]
    if faults:
        raise ConfigError(faults)
    return {split: partial(_table, splits[name], where) for split, name in wanted.items() if name in splits}


def _table(dataset: Any, where: str) -> Table:
    if not len(dataset):
        raise ConfigError([f"{where}: the split has no rows"])
    return dataset.with_format("arrow")[:]


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
    """The hub's data set, or the copy in the local cache when the hub is out of reach. Never runs code from the hub."""
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
    said = " ".join(str(error).split())
    if "scripts are no longer supported" in said:
        return "this data set is a loading script, which is never run; try `revision: refs/convert/parquet`"
    return f"cannot be loaded: {said[:300]}"


def hub_reachable(timeout_s: float = HUB_TIMEOUT_S) -> bool:
    """Whether the hub answers, so that being offline costs seconds and not the minutes of its client's retries."""
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(hub.ENDPOINT, method="HEAD"), timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return True  # an answer all the same
    except OSError:
        return False
    return True


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """HF_HUB_OFFLINE for a while: the variable itself is read only once, when the libraries are imported."""
    import datasets.config
    import huggingface_hub.constants as hub

    before = datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE
    if offline:
        datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before
