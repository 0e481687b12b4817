"""Labels that may not be what they are read as."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.config import Task
from trainables.label_doubts import doubts


def told(counts: dict[str, int], train: int = 1000, **fields: Any) -> list[str]:
    return list(doubts(counts, Task(train="a.csv", **fields), train))


@pytest.mark.parametrize(
    ("labels", "difference"),
    [
        (("Sport", "sport"), "case, white space or how a number is written"),
        (("world news", "world  news", "World\u00a0News"), "case, white space or how a number is written"),
        (("caf\u00e9", "cafe\u0301"), "how a character is encoded"),
        (("news", "news\u200b"), "case, white space or how a number is written"),
        (("01", "1"), "case, white space or how a number is written"),
        (("+1", "1"), "case, white space or how a number is written"),
    ],
)
def test_look_alikes(labels: tuple[str, ...], difference: str) -> None:
    (notice,) = told(dict.fromkeys(labels, 2) | {"other": 5})
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
