"""Write rows again with what was predicted: csv, tsv and parquet with columns added, and JSON lines with keys added."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any, TextIO
from uuid import uuid4

from trainables.prediction.windows import Source, Window
from trainables.settings.dialect import DELIMITERS
from trainables.settings.errors import ConfigError

LABEL, PROBABILITY = "predicted_label", "probability_"
FORMATS = {
    "csv": ("csv",),
    "tsv": ("tsv",),
    "parquet": ("parquet",),
    "jsonl": ("jsonl", "ndjson", "json"),
    "txt": ("jsonl", "ndjson"),
}
"""{kind of the input: endings of the output's name}. Plain text has no columns, so its predictions are JSON lines."""
Write = Callable[[Window, Sequence[Any], Sequence[Sequence[float]]], None]
"""Takes a window, its labels (with several labels per text a tuple of each), and its probabilities [rows, labels]."""


@dataclass(frozen=True)
class Added:
    """The columns that are added."""

    label: str
    probabilities: tuple[str, ...]
    several: bool
    """Whether a text has several labels, which are then a list: in csv and tsv a JSON list."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them in order."""
        return (self.label, *self.probabilities)


def added_columns(labels: Sequence[str], several: bool, names: Sequence[str]) -> Added:
    """Return columns that the file does not have: if one is there already, all of them end in _2, or the next number."""
    for number in count(1):
        end = "" if number == 1 else f"_{number}"
        added = Added(f"{LABEL}{end}", tuple(f"{PROBABILITY}{label}{end}" for label in labels), several)
        if not set(added.names) & set(names):
            return added
    raise AssertionError


def out_fault(source_kind: str, url: str, out: Path | None) -> str | None:
    """Fault of the place for the output; None if there is none."""
    endings = FORMATS[source_kind]
    if out is None:
        return "--out: a parquet file cannot be printed; give --out FILE.parquet" if source_kind == "parquet" else None
    with suppress(OSError):
        if os.path.samefile(os.path.expanduser(url), out):
            return f"--out {out}: is the file that is read; give another"
    if out.suffix.lower().removeprefix(".") not in endings:
        meant = " or ".join(f".{ending}" for ending in endings)
        return f"--out {out}: what is read as {source_kind} is written with a name that ends in {meant}"
    if out.is_dir() or not out.parent.is_dir():
        return f"--out {out}: {'is a folder' if out.is_dir() else f'there is no folder {out.parent}'}"
    return None


@contextmanager
def opened(source: Source, added: Added, out: Path | None, stdout: TextIO) -> Iterator[Write]:
    """Open the output, a file or without one `stdout`. The file is written aside and renamed at the end: it is whole or not there.

    Raises ConfigError if it cannot be written.
    """
    if out is None:
        yield _text_writer(source, added, stdout)
        return
    aside = out.with_name(f".{out.name}.{os.getpid()}-{uuid4().hex[:8]}.new")
    try:
        with open(aside, "xb") as file:
            with _in_format(source, added, file) as write:
                yield write
            file.flush()
            os.fsync(file.fileno())
        aside.replace(out)
    except OSError as error:
        raise ConfigError([f"--out {out}: {error.strerror or error}; nothing was written there"]) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _in_format(source: Source, added: Added, file: IO[bytes]) -> Iterator[Write]:
    if source.kind == "parquet":
        with _parquet(source, added, file) as write:
            yield write
        return
    import io

    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    yield _text_writer(source, added, text)
    text.flush()
    text.detach()


def _text_writer(source: Source, added: Added, file: TextIO) -> Write:
    return _delimited(source, added, file) if source.kind in DELIMITERS else _json_lines(source.kind, added, file)


def _delimited(source: Source, added: Added, file: TextIO) -> Write:
    """csv or tsv in UTF-8 with the delimiter of the input; quotes are doubled, whatever the input does."""
    rows = csv.writer(file, delimiter=source.delimiter, lineterminator="\n")
    rows.writerow([*source.names, *added.names])

    def write(window: Window, labels: Sequence[Any], probabilities: Sequence[Sequence[float]]) -> None:
        own = zip(*(column.to_pylist() for column in window.rows.columns), strict=True)
        named = [json.dumps(label, ensure_ascii=False) if added.several else label for label in labels]
        rows.writerows([*cells, label, *row] for cells, label, row in zip(own, named, _short(probabilities), strict=True))

    return write


def _json_lines(kind: str, added: Added, file: TextIO) -> Write:
    """JSON lines: keys are added at the end of each object, whose own text stays as it is."""

    def write(window: Window, labels: Sequence[Any], probabilities: Sequence[Sequence[float]]) -> None:
        for line, label, row in zip(window.rows, labels, _short(probabilities), strict=True):
            values = dict(zip(added.names, [label, *row], strict=True))
            file.write(_extended(line, values) if kind == "jsonl" else json.dumps({"text": line} | values, ensure_ascii=False))
            file.write("\n")

    return write


def _extended(line: str, values: Mapping[str, Any]) -> str:
    """The line of a JSON object with further keys: numbers and their digits are not written anew."""
    own = line.rstrip()[:-1].rstrip()
    return own + ("" if own.endswith("{") else ", ") + json.dumps(values, ensure_ascii=False)[1:]


def _short(probabilities: Sequence[Sequence[float]]) -> list[list[float]]:
    """Rounded to the digits that float32 has."""
    return [[float(f"{value:.7g}") for value in row] for row in probabilities]


@contextmanager
def _parquet(source: Source, added: Added, file: IO[bytes]) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = [pa.list_(pa.string()) if added.several else pa.string(), *[pa.float32()] * len(added.probabilities)]
    schema = source.schema
    for name, kind in zip(added.names, kinds, strict=True):
        schema = schema.append(pa.field(name, kind))
    with parquet.ParquetWriter(file, schema) as writer:

        def write(window: Window, labels: Sequence[Any], probabilities: Sequence[Sequence[float]]) -> None:
            columns = [list(labels), *([row[place] for row in probabilities] for place in range(len(added.probabilities)))]
            arrays = [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
            writer.write_table(pa.Table.from_arrays([*window.rows.columns, *arrays], schema=schema))

        yield write
