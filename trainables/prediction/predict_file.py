"""Predict the rows of a file with an exported model, and write them again with the predictions added."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, TextIO

from trainables.export.load import LoadedModel, Predicted
from trainables.prediction import outputs
from trainables.prediction.lines import Columns
from trainables.prediction.windows import STDIN, Source, Window, open_source
from trainables.settings.dialect import Dialect
from trainables.settings.errors import ConfigError
from trainables.settings.file_names import suffix


@dataclass
class Done:
    """What was predicted so far."""

    rows: int = 0
    empty: int = 0
    """Rows without any text."""
    first_empty: int = 0
    """The first of them, counted from 1."""
    added: tuple[str, ...] = ()
    """Names of the columns that were added."""
    notices: list[str] = field(default_factory=list)


class Progress(Protocol):
    """Told after every window; `total` is None if nobody knows."""

    def __call__(self, rows: int, total: int | None) -> None:
        """Take the number of predicted rows and of all rows."""


def checked(
    model: LoadedModel, url: str, out: Path | None, columns: Columns, dialect: Dialect, stdin: IO[bytes] | None = None
) -> Source:
    """Check input, output and what the model reads, before anything is predicted. Raises ConfigError with all faults."""
    faults = [fault] if (fault := _pairs_fault(model, columns)) else []
    source = None
    try:
        source = open_source(url, columns, dialect, stdin)
    except ConfigError as error:
        faults += error.faults
    kind = source.kind if source else suffix(url)
    if (url != STDIN and kind in outputs.FORMATS) or source:
        faults += [fault] if (fault := outputs.out_fault(kind, url, out)) else []
    if faults or source is None:
        raise ConfigError(faults)
    return source


def _pairs_fault(model: LoadedModel, columns: Columns) -> str | None:
    if model.pairs and not columns.second:
        return "--text-pair: not given, but the model was trained on pairs of texts; give the column of the second one"
    if columns.second and not model.pairs:
        return f"--text-pair {columns.second[0]}: the model was trained on single texts"
    return None


def predict_file(
    model: LoadedModel,
    source: Source,
    out: Path | None,
    stdout: TextIO,
    *,
    raw: bool = False,
    progress: Progress = lambda rows, total: None,
) -> Done:
    """Predict all rows in their order, window by window, and write them to `out`, or without it to `stdout`.

    `raw`: probabilities without the temperature. An error or an interrupt leaves `out` as it was. Raises ConfigError if input or
    output fail in the middle.
    """
    added = outputs.added_columns(model.labels, model.multi_label, source.names)
    done = Done(added=added.names)
    if added.label != outputs.LABEL:
        done.notices.append(
            f"the file has such columns already: the predictions are in {added.label} and in {added.probabilities[0]}, ..."
        )
    with outputs.opened(source, added, out, stdout) as write:
        for window in source.windows(added.names):
            predicted = _predicted(model, window, raw)
            write(window, predicted.labels, predicted.probabilities.tolist())
            _count(done, window)
            progress(done.rows, source.total)
        if source.total is not None and done.rows != source.total:
            raise ConfigError([f"{source.url}: {done.rows} of {source.total} rows were read: it was changed meanwhile"])
    if done.empty:
        done.notices.append(
            f"{done.empty} of {done.rows} rows have no text, first row {done.first_empty}:"
            " their predictions are those of an empty text"
        )
    if source.grown():
        done.notices.append(f"{source.url}: it has grown since it was checked; its first {done.rows} rows were predicted")
    return done


def _predicted(model: LoadedModel, window: Window, raw: bool) -> Predicted:
    texts = window.texts if window.seconds is None else list(zip(window.texts, window.seconds, strict=True))
    return model.predict(texts, raw=raw)


def _count(done: Done, window: Window) -> None:
    seconds = window.seconds or [""] * len(window.texts)
    for row, (text, second) in enumerate(zip(window.texts, seconds, strict=True), start=done.rows + 1):
        if not text.strip() and not second.strip():
            done.empty += 1
            done.first_empty = done.first_empty or row
    done.rows += len(window.texts)
