"""Several labels of a text in one cell: lists in text, separators, vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainables.data.test_labels import faults_of, rows_of, split, task_of
from trainables.data.several_labels import items_of
from trainables.data.splits import load_task
from trainables.settings.task import Task

AS_LISTS = {
    "pandas": (["['toxic', 'rude']", "['rude']", "[]"], "['toxic', 'rude']"),
    "json": (['["toxic", "rude"]', '["rude"]', "[]"], '["toxic", "rude"]'),
    "numpy": (["['toxic' 'rude']", "['rude']", "[]"], "['toxic' 'rude']"),
    "numpy, wrapped": (["['toxic'\n 'rude']", "['rude']", "[]"], "['toxic'\\n 'rude']"),
    "tuples": (["('toxic', 'rude')", "('rude',)", "()"], "('toxic', 'rude')"),
    "sets": (["{'toxic', 'rude'}", "{'rude'}", "set()"], "{'toxic', 'rude'}"),
    "bare": (["[toxic, rude]", "[rude]", "[]"], "[toxic, rude]"),
    "empty cells": (["['toxic', 'rude']", "['rude']", ""], "['toxic', 'rude']"),
    "spaces": (["[ 'toxic' , 'rude' ]", " ['rude'] ", "[ ]"], "[ 'toxic' , 'rude' ]"),
}
HAS = [("toxic", "rude"), ("rude",), ()]


@pytest.mark.parametrize(("cells", "example"), AS_LISTS.values(), ids=list(AS_LISTS))
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_lists_in_text(cells: list[str], example: str, kind: str, tmp_path: Path) -> None:
    rows = rows_of(task_of(tmp_path, cells, cells[1:], (kind, kind), multi_label=True))
    assert rows["train"].several == HAS
    assert rows["test"].several == HAS[1:]
    assert any(notice.startswith("the labels in 'label' are lists in text: ") for notice in rows["train"].notices)


def test_lists_in_one_format_and_in_another(tmp_path: Path) -> None:
    rows = rows_of(task_of(tmp_path, [list(row) for row in HAS], AS_LISTS["numpy"][0], ("jsonl", "csv"), multi_label=True))
    assert rows["train"].several == rows["test"].several == HAS


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        ("[1, 2]", ("1", "2")),
        ("[0 1\n 1]", ("0", "1", "1")),
        ("[0. 1.]", ("0.", "1.")),
        (r"""['it\'s', "it's"]""", ("it's", "it's")),
        ('["caf\\u00e9", "a\\"b"]', ("café", 'a"b')),
        ("['a, b', 'c']", ("a, b", "c")),
        ("['a',]", ("a",)),
        ("[None, 'a']", (None, "a")),
        ("[very rude, toxic]", ("very rude", "toxic")),
        *[
            (cell, None)
            for cell in ("['a' ... 'z']", "['a' 'b', 'c']", "[['a']]", "{'a': 1}", "array(['a'])", "[a b]", "['a", "a", "")
        ],
    ],
)
def test_items_of_a_list(cell: str, items: tuple[str, ...] | None) -> None:
    assert items_of(cell) == items


@pytest.mark.parametrize(
    ("train", "fields", "fault"),
    [
        (["['a', 'b']", "a", "['b']"], {}, "holds 'a' in row 2, where others hold lists such as"),
        (["['a' ... 'b']", "['b']", "['a']"], {}, """holds "['a' ... 'b']" in row 1, where others hold lists such as "['a']\""""),
        (["array(['a', 'b'])", "array(['a'])", "array(['b'])"], {}, "in row 1: write all as JSON lists, or all as names"),
        (["{'a': 1, 'b': 0}", "{'a': 0, 'b': 1}"], {}, "in row 1: write all as JSON lists"),
        (
            ["a,b", "b", "a"],
            {},
            '`label_separator` \'|\' does not occur: set `label_separator: ","`, or `"|"` if',
        ),
        (["a; b", "b; c", "c"], {}, 'set `label_separator: ";"`'),
        (["a b", "b", "a"], {}, 'set `label_separator: " "`'),
        (["a\tb", "b", "a"], {}, 'set `label_separator: "\\t"`'),
        (
            ["[0, 1, 1]", "[1, 0, 0]"],
            {},
            "holds vectors of 3 numbers 0 or 1, such as [0, 1, 1]: name the 3 labels in their order as",
        ),
        (["0|1|1", "1|0|0"], {}, "holds vectors of 3 numbers 0 or 1"),
        (["[0, 1, 1]", "[1, 0, 0]"], {"labels": ("a", "b")}, "name the 3 labels in their order as `labels`, which has 2"),
        (
            ["a|nan", "b"],
            {},
            "a label is missing among others in row 1 (counted from 1, without the header), the cells contain 'nan' in 'a|nan'",
        ),
        (["[0, 1]", "[1, 0]"], {"labels": ("0", "1")}, "[0, 1] and [1, 0]: vectors of 0 and 1, or the labels 0 and 1 by name"),
        (["['a', None]", "['b']"], {}, "a label is missing among others in row 1 (counted from 1, without"),
        (["nan", "a|b", "a"], {}, "no label in row 1 (counted from 1, without the header), the cells contain 'nan'"),
    ],
)
def test_what_is_not_beyond_doubt_is_refused(train: list[str], fields: dict[str, Any], fault: str, tmp_path: Path) -> None:
    assert fault in faults_of(task_of(tmp_path, train, train, multi_label=True, **fields))


@pytest.mark.parametrize(
    ("train", "fields", "notice"),
    [
        (
            ["a,b", "b", "a"],
            {"label_separator": "|"},
            "every text has one label at most; 1 of 3 hold ',', such as 'a,b'",
        ),
        (["a", "b", ""], {}, "`label_separator` '|' does not occur in the column 'label': every text has one label at most"),
        (["news, local", "sport", ""], {}, "one label at most; 1 of 2 hold ',', such as 'news, local'"),
        (
            ["a;b|c", "a|b", "c"],
            {},
            "column 'label' 1 of 4 hold ';', such as 'a;b': each is read as one label",
        ),
    ],
)
def test_a_separator_that_may_be_another_is_told(train: list[str], fields: dict[str, Any], notice: str, tmp_path: Path) -> None:
    rows = rows_of(task_of(tmp_path, train, train, multi_label=True, **fields))
    assert notice in "\n".join(rows["train"].notices)


@pytest.mark.parametrize("labels", [["[0, 1, 1]", "[1, 0, 0]"], ["[0. 1. 1.]", "[1. 0. 0.]"], ["0|1|1", "1|0|0"]])
def test_vectors_of_bits_with_names(labels: list[str], tmp_path: Path) -> None:
    rows = rows_of(task_of(tmp_path, labels, labels, multi_label=True, labels=("x", "y", "z")))
    assert rows["test"].several == [("y", "z"), ("x",)]


@pytest.mark.parametrize(
    "vectors", [[[0, 1, 1], [1, 0, 0]], [[False, True, True], [True, False, False]], [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]]
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_vectors_as_lists(vectors: list[list[Any]], kind: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, vectors, vectors, (kind, kind), multi_label=True, labels=("x", "y", "z"))
    assert rows_of(task)["test"].several == [("y", "z"), ("x",)]
    assert "name the 3 labels in their order" in faults_of(task.model_copy(update={"labels": None}))


def test_lists_of_their_own(tmp_path: Path) -> None:
    """Names that hold the separator stay whole; numbers are names; null within a list is missing, instead of one it is no label."""
    lists: list[Any] = [["a|b", "c"], ["c"], [], None, ["c", "c"]]
    rows = rows_of(Task(train=split(tmp_path, "a.jsonl", lists), multi_label=True))["train"]
    assert rows.several == [("a|b", "c"), ("c",), (), (), ("c",)]
    assert rows.notices == ("1 of 5 rows hold null in 'label', which is read as no label",)
    numbers = rows_of(Task(train=split(tmp_path, "b.jsonl", [[1, 2], [2], [10]]), multi_label=True))["train"]
    assert numbers.several == [("1", "2"), ("2",), ("10",)]
    null = Task(train=split(tmp_path, "c.jsonl", [["a", None], ["b"], ["a"]]), multi_label=True)
    assert "tasks.t.train: a label is missing among others in row 1 (counted" in faults_of(null)
    nested = Task(train=split(tmp_path, "d.jsonl", [[["a"]], [["b"]]]), multi_label=True)
    assert "holds list<item: list<item: string>>; a label is one of text, numbers or lists of them" in faults_of(nested)


@pytest.mark.parametrize(
    "labels", [["['a', 'b']", "['b']"], ["['a']", "['b']"], ["[0, 1]", "[1, 0]"], ["[a, b]", "[b]"], ["array(['a'])", "x"]]
)
def test_lists_for_a_task_with_one_label_are_refused(labels: list[str], tmp_path: Path) -> None:
    task = task_of(tmp_path, labels * 5, labels)
    assert "in row 1, a list of labels for one text: set multi_label" in faults_of(task)
    assert load_task("t", task.model_copy(update={"labels": tuple(labels)})).labels == tuple(labels)


def test_names_in_brackets_are_names(tmp_path: Path) -> None:
    assert load_task("t", task_of(tmp_path, ["[PER]", "[ORG]"] * 5, ["[PER]", "[ORG]"])).labels == ("[ORG]", "[PER]")
    assert rows_of(Task(train=split(tmp_path, "a.csv", ["[PER]|[ORG]", "[PER]"]), multi_label=True))["train"].several == [
        ("[PER]", "[ORG]"),
        ("[PER]",),
    ]


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("csv", ["nan|joy", "nan", "joy", "sad"]),
        ("jsonl", [["joy", None], [None], ["joy"], ["sad"]]),
        ("csv", ["['joy', None]", "[None]", "['joy']", "['sad']"]),
    ],
)
def test_a_label_that_is_missing_beside_others(kind: str, labels: list[Any], tmp_path: Path) -> None:
    task = task_of(tmp_path, labels * 2, labels[2:], (kind, "jsonl"), multi_label=True)
    task = task.model_copy(update={"test": split(tmp_path, "test.jsonl", [["joy"], ["sad"]])})
    first, second = faults_of(task).splitlines()
    assert first.startswith("tasks.t.train: no label in rows 2, 6 (")
    assert second.startswith("tasks.t.train: a label is missing among others in rows 1, 5 (")
    data = load_task("t", task.model_copy(update={"missing_labels": "drop"}))
    assert [notice for notice in data.notices if "dropped" in notice] == [
        "tasks.t.train: 2 of 8 rows have no label and were dropped",
        "tasks.t.train: 2 of 8 rows have a label missing among their labels and were dropped",
    ]


@pytest.mark.parametrize("labels", [["nan|joy", "nan"], ["nan|joy", "nan|sad"]])
def test_a_split_without_a_whole_label(labels: list[str], tmp_path: Path) -> None:
    task = task_of(tmp_path, labels * 3, ["joy"], multi_label=True, missing_labels="drop")
    assert "tasks.t.train: a label is missing in each of 6 rows, the cells contain 'nan' in 'nan|joy'" in faults_of(task)


@pytest.mark.parametrize("labels", [[[""], ["a"], ["b"]], ["['']", "['a']", "['b']"], [["a", " "], ["a"], ["b"]]])
def test_empty_text_in_a_list_is_told(labels: list[Any], tmp_path: Path) -> None:
    notices = rows_of(Task(train=split(tmp_path, "a.jsonl", labels), multi_label=True))["train"].notices
    assert "1 of 3 rows hold empty text in a list in 'label'" in "\n".join(notices)


@pytest.mark.parametrize(
    ("names", "rows"), [(("0", "1"), [[0, 1], [1, 0]]), (("true", "false"), [["true", "false"], ["false", "true"]])]
)
def test_vectors_whose_labels_are_called_0_and_1(names: tuple[str, str], rows: list[Any], tmp_path: Path) -> None:
    task = task_of(tmp_path, rows, rows, ("jsonl", "jsonl"), multi_label=True, labels=names)
    assert f"vectors of 0 and 1, or the labels {' and '.join(names)} by name: give the labels other names" in faults_of(task)
    beyond_doubt = task.model_copy(update={"train": split(tmp_path, "b.jsonl", [rows[0], [rows[0][0]] * 2])})
    assert rows_of(beyond_doubt)["train"].several is not None
