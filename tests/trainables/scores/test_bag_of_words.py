"""The bag of words: about as good as it should be, chosen on validation, the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tests.helpers import write_csv
from trainables.data.known_tasks import resolve
from trainables.data.splits import load_task, subset
from trainables.scores.bag_of_words import STRENGTHS, bag_of_words, words_taken
from trainables.scores.metrics import scores
from trainables.settings.task import Task


@pytest.mark.parametrize("name", ["sls_imdb", "sls_yelp", "sls_amazon"])
def test_about_a_fifth_of_the_shipped_reviews_is_wrong(name: str) -> None:
    data = load_task(name, resolve(name))
    found = bag_of_words(data)
    assert 15 < found["test"]["error_rate_percent"] < 26
    assert found["c"] in STRENGTHS
    for split, part in (("validation", data.validation), ("test", data.test)):
        assert found["predictions"][split].shape == (len(part),)
        assert found["probabilities"][split].sum(axis=1) == pytest.approx(np.ones(len(part)))
        again = scores(part.labels, found["predictions"][split], 2)
        assert {key: found[split][key] for key in again} == again
    again = bag_of_words(data)
    assert again["test"] == found["test"]
    assert np.array_equal(again["probabilities"]["test"], found["probabilities"]["test"])


def test_the_strength_is_the_best_on_validation() -> None:
    data = load_task("sls_yelp", resolve("sls_yelp"))
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+", sublinear_tf=True, dtype=np.float32)
    train, validation = words.fit_transform(data.train.texts), words.transform(data.validation.texts)
    errors = [
        np.mean(LogisticRegression(C=c, max_iter=1000).fit(train, data.train.labels).predict(validation) != data.validation.labels)
        for c in STRENGTHS
    ]
    found = bag_of_words(data)
    assert found["validation"]["error_rate_percent"] == pytest.approx(100 * min(errors))
    assert errors[STRENGTHS.index(found["c"])] == min(errors)
    assert max(errors) > min(errors)  # else any choice would do


def test_of_few_labelled_texts_it_has_these_and_no_others() -> None:
    data = load_task("sls_yelp", resolve("sls_yelp"))
    few = subset(data.train, 60, 0)
    found = bag_of_words(data, few=few)
    assert found["train_examples"] == 60
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+", sublinear_tf=True, dtype=np.float32)
    fitted = LogisticRegression(C=found["c"], max_iter=1000).fit(words.fit_transform(few.texts), few.labels)
    assert found["predictions"]["test"].tolist() == fitted.predict(words.transform(data.test.texts)).tolist()
    whole = bag_of_words(data)
    assert whole["train_examples"] == len(data.train) + len(data.validation)
    assert found["test"]["error_rate_percent"] > whole["test"]["error_rate_percent"] + 5


def test_a_class_that_training_lacks_and_texts_without_words(tmp_path: Path) -> None:
    rows = [("🎬 👍" if i % 2 else "🎬 👎", "ca"[i % 2]) for i in range(12)]
    path = write_csv(tmp_path / "a.csv", rows)
    found = bag_of_words(load_task("signs", Task(train=path, validation=path, labels=("a", "b", "c")), needs_test=False))
    assert found["validation"]["error_rate_percent"] == 0
    assert found["probabilities"]["validation"][:, 1].tolist() == [0.0] * 12
    assert found["test"] is None
    assert set(found["predictions"]) == {"validation"}


CHINESE = "".join(map(chr, range(0x4E00, 0x4E40)))
THAI = "".join(map(chr, range(0x0E01, 0x0E2F)))


@pytest.mark.parametrize("letters", [CHINESE, THAI, "あいうえおかきくけこさしすせそたちつてとなにぬねの", "กขคง中文汉字あいう"])
def test_words_of_scripts_without_spaces_are_learnt(letters: str, tmp_path: Path) -> None:
    """A word of two characters decides, and both occur in either class: no character alone tells it, nor the whole text."""
    rng = np.random.default_rng(0)
    one, two, three, four = letters[:4]
    words = {"a": (one + two, three + four), "b": (one + four, three + two)}
    rows = []
    for i in range(240):
        label = "ab"[i % 2]
        around = ["".join(rng.choice(list(letters[4:]), 6)) for _ in range(2)]
        rows.append((words[label][i // 2 % 2].join(around) + "。", label))
    splits = {"train": rows[:160], "validation": rows[160:200], "test": rows[200:]}
    task = Task(**{name: write_csv(tmp_path / f"{name}.csv", part) for name, part in splits.items()})  # type: ignore[arg-type]
    found = bag_of_words(load_task("mine", task))
    assert found["words"] == "characters"
    assert found["test"]["error_rate_percent"] < 5


def test_mixed_scripts_accents_and_case(tmp_path: Path) -> None:
    """A minority of another script counts by its characters; an accent is one however it is written, and so is a capital."""
    good, bad = ("CAFE\u0301", "the 好"), ("cafe", "the 坏")
    rows = [(f"{(bad if i % 2 else good)[i // 2 % 2]} number {i}", "ab"[i % 2]) for i in range(24)]
    test = [("café ten", "a"), ("ten 很好", "a"), ("CAFE ten", "b"), ("ten 很坏", "b")]
    path, other = write_csv(tmp_path / "a.csv", rows), write_csv(tmp_path / "b.csv", test)
    found = bag_of_words(load_task("mine", Task(train=path, validation=path, test=other)))
    assert found["words"] == "words"
    assert found["test"]["error_rate_percent"] == 0


def test_what_is_looked_at() -> None:
    assert words_taken(["a word", "a 汉字"]) == words_taken(["한국어 단어"]) == words_taken(["नमस्ते दुनिया"]) == "words"
    assert words_taken(["很好 ok", "汉字汉字"]) == "characters"
    assert words_taken(["😀", "!!!"]) == "signs"
