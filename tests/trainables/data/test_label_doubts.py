"""Labels that may not be what they are read as."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.data.label_doubts import doubts
from trainables.settings.task import Task


def told(counts: dict[str, int], train: int = 1000, **fields: Any) -> list[str]:
    return list(doubts(counts, Task(train="a.csv", **fields), train))


@pytest.mark.parametrize(
    ("labels", "difference"),
    [
        (("Sport", "sport"), "case, white space, quotes or how a number is written"),
        (("world news", "world  news", "World\u00a0News"), "case, white space, quotes or how a number is written"),
        (("caf\u00e9", "cafe\u0301"), "how a character is encoded"),
        (("news", "news\u200b"), "case, white space, quotes or how a number is written"),
        (("01", "1"), "case, white space, quotes or how a number is written"),
        (("1,000", "1000"), "case, white space, quotes or how a number is written"),
        (("-1", "\u22121"), "case, white space, quotes or how a number is written"),
        (("pos", '"pos"', "'pos'", "\u201cPos\u201d"), "case, white space, quotes or how a number is written"),
        (("+1", "1"), "case, white space, quotes or how a number is written"),
    ],
)
def test_look_alikes(labels: tuple[str, ...], difference: str) -> None:
    notice = told(dict.fromkeys(labels, 2) | {"other": 5})[0]
    assert all(f"{label!r} (2 texts)" in notice for label in labels)
    assert notice.endswith(f"differ only in {difference}: they are {len(labels)} classes here")


def test_the_name_of_the_column_among_its_labels() -> None:
    (notice,) = told({"label": 1, "a": 3})
    assert notice == "the label 'label' (1 text) is the column's name: is the line of names in the file twice?"


def test_many_numbers() -> None:
    numbers = {str(number): 5 for number in range(101)}
    (notice,) = told(numbers, train=505)
    assert notice.startswith("the column 'label' holds 101 different whole numbers for 505 training texts")
    assert told(numbers, train=5000) == []
    assert told(numbers, train=505, labels=tuple(numbers)) == []
    assert told({f"n{name}": count for name, count in numbers.items()}, train=505) == []


def test_several_labels_in_one() -> None:
    (notice,) = told({"a,b": 3, "b,c": 3, "a": 1, "c": 2, "b": 2})
    assert notice.startswith("2 of 5 labels hold ',', such as 'a,b', with parts that others have; several in one?")
    assert told({"Paris, France": 3, "Lyon, France": 3, "Rome": 1, "Milan": 2}) == []
    assert told({"true positive": 3, "false positive": 3, "true negative": 1, "false negative": 1}) == []


@pytest.mark.parametrize("separator", ["|", ",", ", ", ";", "/", " & ", "+", " ", "::", " ~ ", "\u3001", "\uff0c", "\t"])
def test_one_label_that_is_made_of_others(separator: str) -> None:
    both, many = f"joy{separator}anger", {f"class{i}": 50 for i in range(40)}
    (notice,) = told(many | {"joy": 9, "anger": 9, "Paris, France": 9, both: 1})
    assert repr(both) in notice
    assert "several in one? Then set multi_label, and `label_separator`" in notice
    counts = {"joy": 9, "anger": 9, both: 1}
    assert told(counts, labels=tuple(counts)) == []
    assert told(many | {"joy": 9, both: 1}) == []


@pytest.mark.parametrize(
    ("labels", "notice"),
    [
        (("0 0 0 1", "0 1 0 0", "1 0 0 0"), "the labels in 'label', such as '0 0 0 1', look like vectors of 0 and 1"),
        (("0001", "0100"), "such as '0001', look like vectors of 0 and 1"),
        (("0,0,1", "1,0,0"), "such as '0,0,1', look like vectors of 0 and 1"),
        (("100", "110"), None),
        (("00", "01"), None),
        (("000", "002"), None),
        (("True", "False", "1", "0"), "written in more than one way, 'False', 'True' and '0', '1'"),
        (("yes", "no", "0"), "written in more than one way, 'no', 'yes' and '0'"),
        (("yes", "no", "maybe"), None),
        (("0", "1", "2"), None),
        (("unknown", "a"), "the label 'unknown' (9 texts) is a class here"),
        (("undefined", "a"), "the label 'undefined' (9 texts) is a class here"),
        (("(blank)", "a"), "the label '(blank)' (9 texts) is a class here"),
        (("1,000", "2,000", "500"), "the label '1,000' is taken for a whole number with grouped thousands"),
    ],
)
def test_labels_that_may_be_something_else(labels: tuple[str, ...], notice: str | None) -> None:
    found = told(dict.fromkeys(labels, 9))
    assert found == [] if notice is None else notice in "\n".join(found)
    assert told(dict.fromkeys(labels, 9), labels=labels) == []


def test_labels_with_several_separators_are_all_told() -> None:
    notices = told({"2": 9, "7": 9, "joy": 9, "joy, 7": 1, "2|7": 1, "2/7": 1, "joy|2; 7": 1})
    assert all(repr(label) in "\n".join(notices) for label in ("joy, 7", "2/7"))
    assert told({"science": 9, "fiction": 9, "science fiction": 9})[0].startswith(
        "1 of 3 labels, such as 'science fiction', are made"
    )
    assert told({"very good": 9, "good": 9, "very bad": 9, "bad": 9}) == []
