"""The label column of all splits as names: missing ones, numbers, booleans, moments, and columns of 0 and 1, in every format."""

from __future__ import annotations

import csv
import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from trainables.data.labels import whole_number
from trainables.data.sources import Rows, read
from trainables.data.splits import load_task
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task
from trainables.settings.validate import validate

FORMATS = pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])


def table(path: Path, columns: dict[str, Any]) -> str:
    """A file of columns in the format that its name says."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *(row.values() for row in rows)])
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        parquet.write_table(pa.table(columns), path)
    return str(path)


def split(folder: Path, name: str, labels: Any, **more: Any) -> str:
    """A file of short texts with these labels."""
    return table(folder / name, {"text": [f"{name} text {i}" for i in range(len(labels))], "label": labels, **more})


def task_of(folder: Path, train: Any, test: Any, kinds: tuple[str, str] = ("csv", "csv"), **fields: Any) -> Task:
    files = {"train": split(folder, f"train.{kinds[0]}", train), "test": split(folder, f"test.{kinds[1]}", test)}
    return Task(**files, validation_share=0.3, **fields)


def faults_of(task: Task) -> str:
    with pytest.raises(ConfigError) as caught:
        load_task("t", task)
    return "\n".join(caught.value.faults)


def rows_of(task: Task) -> dict[str, Rows]:
    rows, faults = read(task)
    assert faults == []
    return rows


# Missing labels


WORDS = ["nan", "NaN", "None", "NULL", "null", "N/A", "n/a", "NA", "<NA>", "#N/A", "NaT", "\\N", "(null)", "", "  "]


@FORMATS
@pytest.mark.parametrize("word", WORDS)
def test_a_missing_label_is_refused_or_dropped_by_choice(kind: str, word: str, tmp_path: Path) -> None:
    kinds = (kind, kind)
    task = task_of(tmp_path, ["a", "b"] * 5 + [word, word], ["a", "b", word], kinds)
    there = f", the cells contain {word!r}" if word.strip() else ""
    way = ", or list it as one of `labels` if it is a class" if word.strip() else ""
    counted = "(counted from 1, without the header)"
    assert faults_of(task).splitlines() == [
        f"tasks.t.train: no label in rows 11, 12 {counted}{there}; `missing_labels: drop` leaves them out{way}",
        f"tasks.t.test: no label in row 3 {counted}{there}; `missing_labels: drop` leaves them out{way}",
    ]
    data = load_task("t", task.model_copy(update={"missing_labels": "drop"}))
    assert data.labels == ("a", "b")
    assert len(data.train) + len(data.validation) == 10
    assert [notice for notice in data.notices if "dropped" in notice] == [
        "tasks.t.train: 2 of 12 rows have no label and were dropped",
        "tasks.t.test: 1 of 3 rows have no label and were dropped",
    ]


@FORMATS
def test_a_word_for_missing_is_a_class_where_labels_list_it(kind: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, ["None", "pos"] * 5, ["pos", "None"], (kind, kind), labels=("pos", "None"))
    data = load_task("t", task)
    assert data.labels == ("pos", "None")
    assert data.test.labels.tolist() == [0, 1]
    assert data.notices == ()


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("jsonl", [1, None, 2]), ("parquet", [1.0, None, 2.0]), ("parquet", [1.0, float("nan"), 2.0]), ("parquet", ["1", None, "2"])],
)
def test_null_is_missing(kind: str, labels: list[Any], tmp_path: Path) -> None:
    task = task_of(tmp_path, ["1", "2"] * 5, labels, ("csv", kind))
    assert "tasks.t.test: no label in row 2 (counted from 1" in faults_of(task)
    assert load_task("t", task.model_copy(update={"missing_labels": "drop"})).test.labels.tolist() == [0, 1]


def test_a_missing_key_and_a_split_without_labels(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": "y"}\n{"text": "z", "label": "b"}', encoding="utf-8")
    task = Task(train=str(tmp_path / "a.jsonl"), test=split(tmp_path, "test.parquet", pa.array([None, None], pa.string())))
    assert faults_of(task).splitlines() == [
        "tasks.t.train: no label in row 2 (counted from 1, without the header); `missing_labels: drop` leaves them out",
        "tasks.t.test: no label in any of 2 rows: such a split cannot be used",
    ]
    assert "no label in any of 2 rows" in faults_of(task.model_copy(update={"missing_labels": "drop"}))


def test_texts_and_lists_that_look_like_moments_stay_text(tmp_path: Path) -> None:
    made = {"text": ["2020-01-01", "2021-01-01T10:00:00Z"], "label": [["2020-01-01"], ["2021-01-01"]]}
    rows = rows_of(Task(train=table(tmp_path / "a.jsonl", made), multi_label=True))["train"]
    assert (rows.texts, rows.several) == (made["text"], [("2020-01-01",), ("2021-01-01",)])


def test_words_that_may_mean_missing_are_told(tmp_path: Path) -> None:
    task = task_of(tmp_path, ["none", "-", "x"] * 4, ["none", "-", "x"])
    assert [notice.partition(" is a class here")[0] for notice in load_task("t", task).notices] == [
        "tasks.t: the label 'none' (5 texts)",
        "tasks.t: the label '-' (5 texts)",
    ]
    assert load_task("t", task.model_copy(update={"labels": ("none", "-", "x")})).notices == ()


def test_texts_that_are_a_word_for_missing_are_told(tmp_path: Path) -> None:
    columns = {"q": ["nan", "why", "None", "how"], "a": ["so", "N/A", "yes", "no"], "label": ["a", "b"] * 2}
    task = Task(train=table(tmp_path / "a.csv", columns), text="q", text_pair="a", validation_share=0.5)
    assert rows_of(task)["train"].notices == (
        "2 texts are nothing but 'None', 'nan' in 'q', a word for a missing value: kept as text",
        "1 text is nothing but 'N/A' in 'a', a word for a missing value: kept as text",
    )
    half = task.model_copy(update={"train": table(tmp_path / "b.csv", columns | {"a": ["", "so", " ", "no"]})})
    assert "tasks.t.train: 2 of 4 pairs have one text only; they are kept" in load_task("t", half, needs_test=False).notices


# One reading for all splits


@pytest.mark.parametrize(
    ("train", "test", "kinds", "classes"),
    [
        (["1.0", "2.0", "other"] * 3, ["1.0", "2.0", "1.0"], ("csv", "csv"), ("1.0", "2.0", "other")),
        (["1", "2", "other"] * 3, [1.0, 2.0, 1.0], ("csv", "parquet"), ("1", "2", "other")),
        ([1, 2, 10] * 3, ["1", "2", "10"], ("parquet", "jsonl"), ("1", "2", "10")),
        ([1.0, 2.0, 10.0] * 3, ["1", "2", "10"], ("parquet", "csv"), ("1", "2", "10")),
        (["1", "2", "10"] * 3, ["1.0", "2.0", "10.0"], ("csv", "csv"), ("1", "2", "10")),
        ([1e16, 2e16, 3.0] * 3, ["1e+16", "2e16", "3"], ("parquet", "csv"), ("3", "10000000000000000", "20000000000000000")),
        (["1e0", "2e0", "3e0"] * 3, [1, 2, 3], ("csv", "jsonl"), ("1", "2", "3")),
        (["01", "02", "1"] * 3, ["01", "02", "1"], ("csv", "jsonl"), ("01", "1", "02")),
        (["+1", "-1"] * 4, ["+1", "-1"], ("csv", "jsonl"), ("+1", "-1")),
        (["+1.0", "-1.0"] * 4, ["+1", "-1"], ("csv", "csv"), ("+1", "-1")),
        (["½", "1", "x"] * 3, ["½", "1", "x"], ("csv", "parquet"), ("1", "x", "½")),
        ([True, False] * 4, ["TRUE", "FALSE"], ("parquet", "csv"), ("FALSE", "TRUE")),
        (["true", "false"] * 4, [True, False], ("csv", "jsonl"), ("false", "true")),
        ([True, False] * 4, [True, False], ("jsonl", "parquet"), ("False", "True")),
        (["2020-01-01", "2021-12-31"] * 4, ["2020-01-01", "2021-12-31"], ("csv", "jsonl"), ("2020-01-01", "2021-12-31")),
        ([date(2020, 1, 1), date(2021, 1, 1)] * 4, ["2020-01-01", "2021-01-01"], ("parquet", "csv"), ("2020-01-01", "2021-01-01")),
        ([datetime(2020, 1, 1), datetime(2021, 1, 1)] * 4, ["2020-01-01"] * 2, ("parquet", "csv"), ("2020-01-01", "2021-01-01")),
        ([Decimal("1.00"), Decimal("2.00")] * 4, ["1", "2"], ("parquet", "csv"), ("1", "2")),
        ([b"a", b"b"] * 4, ["a", "b"], ("parquet", "csv"), ("a", "b")),
        (pa.array(["a", "b"] * 4).dictionary_encode(), ["a", "b"], ("parquet", "csv"), ("a", "b")),
    ],
)
def test_what_a_label_means_is_decided_over_all_splits(
    train: Any, test: Any, kinds: tuple[str, str], classes: tuple[str, ...], tmp_path: Path
) -> None:
    data = load_task("t", task_of(tmp_path, train, test, kinds))
    assert data.labels == tuple(sorted(classes, key=data.labels.index))
    assert set(data.test.labels.tolist()) <= set(range(len(classes)))


def test_whole_numbers() -> None:
    read_as = {
        "1.0": "1",
        "+1.0": "+1",
        "01.": "01",
        "-0.0": "0",
        "-0": "-0",
        "1e2": "100",
        "1.5e1": "15",
        ".0": "0",
        "1e+16": "1" + 16 * "0",
    }
    assert {label: whole_number(label) for label in read_as} == read_as
    assert {whole_number(label) for label in ("1.5", "1e-1", "inf", "1e999999999", "½", "1_000", "0x1f", "a", "")} == {None}


@pytest.mark.parametrize("labels", [["1,5", "2", "2,5"], ["0.5", "1e-1", "3"], ["1.5", "+2", "-1"]])
def test_fractions_are_refused(labels: list[str], tmp_path: Path) -> None:
    faults = faults_of(task_of(tmp_path, labels * 3, labels))
    assert f"tasks.t.train: the column 'label' holds {labels[0]}: " in faults
    assert "(regression)" in faults
    assert load_task("t", task_of(tmp_path, labels * 3, labels, labels=tuple(labels))).labels == tuple(labels)


def test_grouped_thousands_are_no_fractions(tmp_path: Path) -> None:
    assert load_task("t", task_of(tmp_path, ["1,000", "2,000", "500"] * 3, ["500"] * 3)).labels == ("1,000", "2,000", "500")
    both = "holds 2,7: a number with a fraction (regression), where classes are learnt, or several labels for a text (then set"
    assert both in faults_of(task_of(tmp_path, ["2", "7", "2,7"] * 3, ["2"], ("jsonl", "csv")))


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([1, 9223372036854775809, 9223372036854775810], "line 2: 'label' is 9223372036854775809, too large to be read exactly"),
        ([9007199254740993, 1.0, 9007199254740992], "line 1: 'label' is 9007199254740993, too large"),
        ([1, -9223372036854775810, 2], "line 2: 'label' is -9223372036854775810, too large"),
        ([[1], [2, 9007199254740993], [1.0]], "line 2: 'label' is 9007199254740993, too large"),
        (["a", float("nan"), "b"], "'label' is NaN (write null where a value is missing) on line 2"),
        ([["a"], ["b", float("nan")]], "'label[]' is NaN (write null where a value is missing) on line 2 and str on line 1"),
        ([float("nan"), 1, "b"], "'label' is str on line 3 and NaN (write null where a value is missing) on line 1"),
    ],
)
def test_numbers_in_json_that_are_not_read_exactly(labels: list[Any], fault: str, tmp_path: Path) -> None:
    assert fault in faults_of(task_of(tmp_path, labels, labels, ("jsonl", "jsonl"), multi_label=isinstance(labels[0], list)))


@pytest.mark.parametrize("labels", [[9007199254740993, 9007199254740992, 1], [1.0, 9007199254740992.0, 1e16], [2**63, 2**62, 1]])
def test_large_numbers_in_json_that_are_read_exactly(labels: list[Any], tmp_path: Path) -> None:
    texts = [str(int(label)) for label in labels]
    assert set(load_task("t", task_of(tmp_path, labels * 3, texts, ("jsonl", "csv"))).labels) == set(texts)


def test_a_column_of_ids_as_labels(tmp_path: Path) -> None:
    ids = [f"id{i}" for i in range(30)]
    hint = "for 30 classes are too few: 29 of 30 labels occur once; is 'label' the label?"
    assert hint in faults_of(task_of(tmp_path, ids, ["id1"]))


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([{"a": 1}] * 2, "the column 'label' holds struct<a: int64>; a label is one of text or numbers"),
        ([["a"], ["b"]], "the column 'label' holds list<element: string>, several labels for one text: set multi_label"),
        ([b"\xff", b"a"], "the column 'label': row 1 holds bytes that are not UTF-8"),
    ],
)
def test_columns_that_hold_no_labels(labels: list[Any], fault: str, tmp_path: Path) -> None:
    assert fault in faults_of(task_of(tmp_path, labels, ["a", "b"], ("parquet", "csv")))


def named(folder: Path, name: str, labels: list[Any], names: list[str]) -> str:
    """A parquet file whose label column notes the names of its classes, as `datasets` does."""
    noted: dict[str, Any] = {"names": names, "_type": "ClassLabel"}
    noted = {"feature": noted, "_type": "List"} if isinstance(labels[0], list) else noted
    feature = {"info": {"features": {"label": noted}}}
    made = pa.table({"text": [f"{name} {i}" for i in range(len(labels))], "label": labels})
    parquet.write_table(made.replace_schema_metadata({"huggingface": json.dumps(feature)}), folder / name)
    return str(folder / name)


def test_numbers_of_classes(tmp_path: Path) -> None:
    train = named(tmp_path, "train.parquet", [0, 1] * 5, ["sad", "None"])
    floats = named(tmp_path, "floats.parquet", [0.0, 1.0, None], ["sad", "None"])
    task = Task(train=train, test=floats, missing_labels="drop")
    assert load_task("t", task).test.labels.tolist() == [0, 1], "a class whose name the file notes is no missing label"
    unlabelled = named(tmp_path, "unlabelled.parquet", [-1, -1], ["sad", "None"])
    assert "no label in any of 2 rows, the cells contain '-1'" in faults_of(Task(train=train, test=unlabelled))
    wrong = named(tmp_path, "wrong.parquet", [0, 7], ["sad", "None"])
    assert "row 2 holds 7, which is no number of the 2 classes that the file names" in faults_of(Task(train=train, test=wrong))
    swapped = named(tmp_path, "swapped.parquet", [0, 1], ["None", "sad"])
    assert load_task("t", Task(train=train, test=swapped)).test.labels.tolist() == [1, 0]
    plain = split(tmp_path, "plain.parquet", [0, 1])
    assert "tasks.t.test: the column 'label' holds numbers, that of train has names" in faults_of(Task(train=train, test=plain))
    same = named(tmp_path, "same.parquet", [0, 1] * 5, ["0", "1"])
    assert load_task("t", Task(train=same, test=plain)).labels == ("0", "1")


def test_lists_of_numbers_of_classes(tmp_path: Path) -> None:
    names = ["sad", "glad", "angry"]
    train = named(tmp_path, "train.parquet", [[0, 1], [2], []] * 4, names)
    text = split(tmp_path, "test.csv", ["sad|glad", "angry", ""])
    data = load_task("t", Task(train=train, test=text, multi_label=True))
    assert data.labels == tuple(names)
    assert data.test.labels.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    wrong = named(tmp_path, "wrong.parquet", [[0, 3]], names)
    fault = "row 1 holds 3, which is no number of the 3 classes that the file names"
    assert fault in faults_of(Task(train=train, test=wrong, multi_label=True))
    bare = split(tmp_path, "bare.jsonl", [[0], [2]])
    assert "the column 'label' holds numbers, that of train has names" in faults_of(Task(train=train, test=bare, multi_label=True))


# Columns of 0 and 1


HOT = {"toxic": ["1", "0", "0", "1"] * 3, "rude": ["0", "1", "0", "1"] * 3, "threat": ["0", "0", "0", "0"] * 3}
WRITTEN: dict[str, dict[str, Any]] = {
    "csv": {"0": "0", "1": "1"},
    "jsonl": {"0": False, "1": True},
    "parquet": {"0": 0.0, "1": 1.0},
}


def hot(folder: Path, kind: str, columns: dict[str, list[str]], name: str = "train") -> str:
    cells = {label: [WRITTEN[kind].get(each, each) for each in column] for label, column in columns.items()}
    return table(folder / f"{name}.{kind}", {"text": [f"{name} {i}" for i in range(len(columns["rude"]))], **cells})


@FORMATS
def test_a_column_for_each_label(kind: str, tmp_path: Path) -> None:
    train, test = hot(tmp_path, kind, HOT), hot(tmp_path, kind, {name: column[:4] for name, column in HOT.items()}, "test")
    columns = ("rude", "toxic", "threat")
    data = load_task("t", Task(train=train, test=test, label=columns, multi_label=True))
    assert data.labels == ("rude", "toxic")
    assert data.test.labels.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]
    assert data.notices == ("tasks.t.train: no text has the label 'threat', which is left out",)


def test_faults_of_columns_of_labels(tmp_path: Path) -> None:
    odd = HOT | {"rude": ["yes", "1", "2", "1"] * 3, "toxic": ["", "1", "nan", "0"] * 3}
    task = Task(train=hot(tmp_path, "csv", odd), label=("toxic", "rude"), multi_label=True)
    allowed = "a column of `label` among several holds 0 or 1, true or false"
    assert f"tasks.t.train: the column 'rude' holds 'yes' in row 1 and 5 rows more; {allowed}" in faults_of(task)
    empty = Task(train=hot(tmp_path, "csv", HOT | {"toxic": odd["toxic"]}), label=("toxic", "rude"), multi_label=True)
    lacks = (
        "a label is missing among others in rows 1, 3, 5, 7, 9 and 1 more (counted from 1, without the header), the cells contain"
    )
    assert f"{lacks} 'toxic: nan', 'toxic: nothing'" in faults_of(empty)
    dropped = load_task("t", empty.model_copy(update={"missing_labels": "drop"}), needs_test=False)
    assert len(dropped.train) + len(dropped.validation) == 6
    assert "tasks.t.train: 6 of 12 rows have a label missing among their labels and were dropped" in dropped.notices
    assert "there is no column 'rude_'; did you mean 'rude'?" in faults_of(empty.model_copy(update={"label": ("toxic", "rude_")}))
    for label, fault in [
        (("toxic", "rude"), "label: 2 columns given, a label each: set multi_label"),
        (("a", "a"), "'a' is given twice"),
    ]:
        with pytest.raises(ConfigError, match=fault):
            validate(Task, {"train": "a.csv", "label": label, "multi_label": label == ("a", "a")})


def test_labels_that_training_lacks_but_for_case_or_all_of_them(tmp_path: Path) -> None:
    assert "the label 'A' (1 text) is not in the training split; did you mean 'a'?" in faults_of(
        task_of(tmp_path, ["a", "b"] * 5, ["A", "b"])
    )
    withheld = faults_of(task_of(tmp_path, ["0", "1"] * 5, ["-1", "-1"]))
    assert withheld == "tasks.t.test: all labels are -1, as where they are withheld: such a split cannot be used"


def test_white_space_round_a_label_is_told(tmp_path: Path) -> None:
    data = load_task("t", task_of(tmp_path, ["sport ", "sport", "news"] * 4, ["sport", "news"]))
    assert data.labels == ("news", "sport")
    assert data.notices == ("tasks.t.train: 4 of 12 labels have white space around them, such as 'sport ': read without it",)
