"""Words and characters of texts in many scripts."""

from __future__ import annotations

import re

import pytest

from tests.helpers import reviews
from trainables.data.scripts import length, mostly_spaceless, same_words, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The soup's COLD, 2 times", ["the", "soup", "s", "cold", "2", "times"]),
        ("我爱北京2008", ["我", "爱", "北", "京", "2008"]),
        ("iPhone手机OK吗", ["iphone", "手", "机", "ok", "吗"]),
        ("コーヒーを飲む", ["コ", "ー", "ヒ", "ー", "を", "飲", "む"]),
        ("ที่นี่", ["ที่", "นี่"]),  # signs stand with their letter
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("cafe\u0301 café ＣＡＦÉ", ["café"] * 3),
        ("한국어 단어", ["한국어", "단어"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("❤️ !!", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found
    assert same_words(text) == (found == re.findall(r"\w+", text.lower()))


def test_texts_of_spaced_words_have_scikit_learns() -> None:
    for text, _ in reviews():
        assert same_words(text)
        assert words(text) == re.findall(r"(?u)\w+", text.lower())
    for text in ("¡Qué bueno! naïve Über straße", "Привет, мир", "καλημέρα", "a\u00a0b … 1_2", "€5"):
        assert same_words(text), text
        assert words(text) == re.findall(r"(?u)\w+", text.lower())


def test_what_most_letters_are() -> None:
    assert mostly_spaceless(["很好", "ok"]) is False
    assert mostly_spaceless(["很好吃", "ok"]) is True
    assert mostly_spaceless(["123 😀 。、"]) is False
    assert mostly_spaceless([]) is False


def test_lengths() -> None:
    assert length("  two words\n") == 2
    assert length("我爱北京 very much。") == 4 + 2
    assert length("") == 0
