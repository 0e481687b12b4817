"""Settings of a task: sources of its splits, columns, and dialect of its files."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from trainables.settings.base import Settings
from trainables.settings.dialect import Dialect, Quoting, delimiter_of, dialect_faults, encoding_of
from trainables.settings.file_names import suffix


class Metric(NamedTuple):
    """What a task may be measured by."""

    field: str
    """The score of an evaluation that it is made of."""
    not_single: str = ""
    """Why tasks with one label per text do not have it; empty where they do."""
    not_several: str = ""
    """Why multi-label tasks do not have it; empty where they do."""


_OF_ONE = "is for one label per text; multi_label tasks have subset_accuracy, micro_f1, ..."
METRICS = {
    "error_rate": Metric("error_rate_percent"),
    "accuracy": Metric("error_rate_percent", not_several=_OF_ONE),
    "subset_accuracy": Metric("error_rate_percent", not_single="is of multi_label tasks; with one label per text it is accuracy"),
    "macro_f1": Metric("macro_f1"),
    "micro_f1": Metric("micro_f1"),
    "mcc": Metric("mcc", not_several=_OF_ONE),
    "roc_auc": Metric("roc_auc"),
    "average_precision": Metric("average_precision"),
    "log_loss": Metric("loss"),
}
"""By the name that a task gives."""


class Task(Settings):
    """A labelled data set: sources of its splits and meaning of its columns. Give files, `folder` or `hub`."""

    train: str | None = None
    """csv, tsv, jsonl or parquet file with the training split: a local path or any fsspec URL."""
    validation: str | None = None
    """File with the validation split. Without it, a part of the training split is used."""
    test: str | None = None
    """File with the test split."""
    folder: str | None = None
    """A folder saved by `datasets` (`save_to_disk`)."""
    hub: str | None = None
    """Name of a data set on the hub, such as `stanfordnlp/imdb`."""
    hub_config: str | None = None
    """Configuration of the hub data set, if it has several."""
    revision: str | None = None
    """Commit or tag of the hub data set."""
    train_split: str = "train"
    """Name of the training split in `folder` or `hub`."""
    validation_split: str | None = None
    """Name of the validation split in `folder` or `hub`; null: a part of the training split is used."""
    test_split: str = "test"
    """Name of the test split in `folder` or `hub`."""
    delimiter: str | None = None
    """Delimiter of csv and tsv files, one character such as `;` or `"\\t"`. null: a comma, in tsv files a tab."""
    quoting: Quoting | None = None
    """Meaning of quotes (") in csv and tsv files. double: they enclose fields, and are doubled within them; backslash: within
    fields they are escaped by a backslash; none: every quote belongs to a text, and every line is a row. null: double, but rows
    that a lone quote seems to swallow are refused, and tsv files whose quotes cannot enclose fields are read as none, with a
    notice."""
    encoding: str | None = None
    """Encoding of the files, a Python codec such as `cp1252`. null: UTF-8, or UTF-16 and UTF-32 with a byte-order mark."""
    text: str | tuple[str, ...] = "text"
    """Column with the text; several columns are joined by a space."""
    text_pair: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Column with the second text of a pair, such as question and answer; several columns are joined by a space. null: single
    texts. Corpora and the bag of words read a pair as one text."""
    label: str | Annotated[tuple[str, ...], Field(min_length=1)] = "label"
    """Column with the label. In a multi-label task, also several columns of 0 and 1, or of true and false, which are named after
    the labels."""
    labels: tuple[str, ...] | None = None
    """All labels in order, exactly as written: `[no, yes]` and `[0, 1]` are text. null: the sorted labels of the training split."""
    missing_labels: Literal["refuse", "drop"] = "refuse"
    """Rows whose label is missing, empty, null, or a word for it such as nan, None, NULL, N/A or `\\N` that is not among `labels`:
    they are refused, or dropped with a notice."""
    multi_label: bool = False
    """A text may have any number of labels, none included; the column holds lists, also as text (`['a', 'b']`), names joined by
    `label_separator`, or vectors of 0 and 1 in the order of `labels`."""
    label_separator: Annotated[str, Field(min_length=1)] = "|"
    """Separator between the labels of a text in a multi-label task."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training split that is used for validation if there is no validation split: stratified, seeded."""
    split_seed: int = 0
    """Seed of this split."""
    domain: str | None = None
    """Domain of the texts: sentiment, question, topic, ..."""
    metric: Literal[*METRICS] | None = None  # type: ignore[valid-type]
    """What the search compares trials by, on validation, and what tables show: `error_rate` or `accuracy` over texts,
    `subset_accuracy` (texts whose set of labels is exactly right), `macro_f1` (mean over classes or labels), `micro_f1` (over all
    decisions), `mcc` (Matthews' coefficient). From the probabilities: `roc_auc`, `average_precision` (of two classes those of the
    second, else the mean of each class against the rest), `log_loss` (mean cross-entropy, times 100). All others are in percent.
    null: error_rate, in a multi-label task micro_f1."""

    @property
    def measured_by(self) -> str:
        """The metric, or the default of the kind of task."""
        return self.metric or ("micro_f1" if self.multi_label else "error_rate")

    @model_validator(mode="after")
    def _metric_of_its_kind(self) -> Task:
        known = METRICS[self.measured_by]
        if why := known.not_several if self.multi_label else known.not_single:
            raise ValueError(f"metric {self.metric} {why}")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Task:
        sources = [name for name in ("train", "folder", "hub") if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(f"a task needs exactly one of train, folder, hub; given: {', '.join(sources) or 'none'}")
        return self

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        return None if value is None else delimiter_of(value)

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        return None if value is None else encoding_of(value)

    @model_validator(mode="after")
    def _dialect_of_files(self) -> Task:
        files = [suffix(url) for url in (self.train, self.validation, self.test) if url is not None]
        if faults := dialect_faults(self.dialect, files):
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _columns_of_labels(self) -> Task:
        if self.several_columns and not self.multi_label:
            raise ValueError(f"label: {len(self.label)} columns given, a label each: set multi_label, or name one column")
        if twice := sorted({name for name in self.label_columns if self.label_columns.count(name) > 1}):
            raise ValueError(f"label: {twice[0]!r} is given twice")
        return self

    @model_validator(mode="after")
    def _two_texts(self) -> Task:
        if both := [column for column in self.second_columns if column in self.text_columns]:
            raise ValueError(
                f"text_pair: {both[0]!r} is a column of `text` already; the second text of a pair needs one of its own"
            )
        return self

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The column with the label, or the columns that are named after labels."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def several_columns(self) -> bool:
        """Whether every label has its own column."""
        return not isinstance(self.label, str)

    @property
    def dialect(self) -> Dialect:
        """Dialect of its csv and tsv files."""
        return Dialect(self.delimiter, self.quoting, self.encoding)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns of the text; in a pair, of the first text."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def second_columns(self) -> tuple[str, ...]:
        """Columns of the second text of a pair; empty for single texts."""
        return (self.text_pair,) if isinstance(self.text_pair, str) else self.text_pair or ()
