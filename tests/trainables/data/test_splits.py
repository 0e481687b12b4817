"""Splits, what is wrong with them, and corpora."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import reviews, write_csv
from trainables.data.corpus import load_corpus
from trainables.data.normal_forms import bare
from trainables.data.splits import Split, carve, load_task
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task

Rows = list[tuple[str, str]]
GOOD: Rows = [(f"text {i}", "ab"[i % 2]) for i in range(20)]
TEST: Rows = [(f"test {i}", "ab"[i % 2]) for i in range(6)]


def task_of(folder: Path, train: Rows = GOOD, test: Rows | None = TEST, validation: Rows | None = None, **fields: object) -> Task:
    splits = {"train": train, "test": test, "validation": validation}
    files = {name: write_csv(folder / f"{name}.csv", rows) for name, rows in splits.items() if rows is not None}
    return Task(**(files | fields))  # type: ignore[arg-type]


def faults_of(task: Task) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        load_task("mine", task)
    assert all("\n" not in fault and fault.startswith("tasks.mine.") for fault in error.value.faults)
    return error.value.faults


# Splits


def test_a_given_validation_split_is_taken(tmp_path: Path) -> None:
    data = load_task("mine", task_of(tmp_path, validation=[("v", "b"), ("w", "a")]))
    assert data.train.texts == tuple(text for text, _ in GOOD)
    assert data.validation.texts == ("v", "w")
    assert data.validation.labels.tolist() == [1, 0]
    assert data.labels == ("a", "b")


def test_labels_in_the_order_asked_for_and_numbers_by_size(tmp_path: Path) -> None:
    assert load_task("mine", task_of(tmp_path, labels=("b", "a"))).train.labels[:2].tolist() == [1, 0]
    (tmp_path / "n").mkdir()
    rows = [(f"text {i}", str(i % 11)) for i in range(44)]
    data = load_task("mine", task_of(tmp_path / "n", rows, rows[:11], rows[:11]))
    assert data.labels == tuple(map(str, range(11)))


@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=5),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 3),
    shuffle=st.randoms(use_true_random=False),
)
def test_carving_is_stratified_and_blind_to_the_order_of_rows(counts: list[int], share: float, seed: int, shuffle: object) -> None:
    pairs = [(f"{label} {i}", label) for label, count in enumerate(counts) for i in range(count)]
    rest, carved = carve(as_split(pairs), share, seed)
    assert sorted((*rest.texts, *carved.texts)) == sorted(text for text, _ in pairs)
    for label, count in enumerate(counts):
        taken = int((carved.labels == label).sum())
        assert 1 <= taken < count
        assert abs(taken - share * count) <= 1
    shuffle.shuffle(pairs)  # type: ignore[attr-defined]
    again = carve(as_split(pairs), share, seed)[1]
    assert sorted(again.texts) == sorted(carved.texts)


def as_split(pairs: list[tuple[str, int]]) -> Split:
    return Split(tuple(text for text, _ in pairs), np.array([label for _, label in pairs], dtype=np.int64))


def test_carving_takes_the_share_and_the_seed_decides() -> None:
    split = as_split([(text, int(label == "positive")) for text, label in reviews()])
    chosen = [carve(split, 0.1, seed)[1] for seed in (0, 1)]
    assert [len(part) for part in chosen] == [80, 80]
    assert len(set(chosen[0].texts) & set(chosen[1].texts)) < 30
    # Written down, so that a change of machine, library or code that moves the split is seen.
    assert chosen[0].texts[:2] == (
        "The lighting is awful.",
        "The basic premise is wasted since it is sidelined by the inexplicable focus on the documentary crew.",
    )
    assert chosen[0].digest[:16] == "f55ca068fadf788d"


def test_a_share_of_the_training_texts_becomes_the_test_split(tmp_path: Path) -> None:
    rows = [(f"text {i}", "abc"[i % 3 if i % 10 else 0]) for i in range(100)]
    copies = [(f"Text {i}!", label) for i, (_, label) in enumerate(rows[:40])]
    data = load_task("mine", task_of(tmp_path, [*rows, *copies], None, test_share=0.25))
    assert [len(data.train), len(data.validation), len(data.test)] == [95, 10, 35]
    forms = [{bare(text) for text in part.texts} for part in (data.train, data.validation, data.test)]
    assert not (forms[0] | forms[1]) & forms[2], "a copy of a test text is trained on"
    counts = [np.bincount(part.labels, minlength=3) for part in (data.train, data.test)]
    assert np.abs(counts[1] / counts[1].sum() - counts[0] / counts[0].sum()).max() < 0.03
    taken = "35 of 140 texts of train are the test split, by test_share 0.25 and split_seed 0, copies of a text on one side"
    assert data.notices[0] == f"tasks.mine.test: {taken}"
    again = load_task("mine", task_of(tmp_path, [*copies, *rows][::-1], None, test_share=0.25))
    assert sorted(again.test.texts) == sorted(data.test.texts), "the order of rows plays a part"
    other = load_task("mine", task_of(tmp_path, [*rows, *copies], None, test_share=0.25, split_seed=1))
    assert set(other.test.texts) != set(data.test.texts)
    # Written down, so that a change of machine, library or code that moves the split is seen.
    assert data.digest("test")[:16] == "f1367fe6eeeabcac"


def test_a_class_of_copies_only_is_not_tested_and_that_is_said(tmp_path: Path) -> None:
    rows = [*GOOD, *[("same text", "c")] * 4]
    data = load_task("mine", task_of(tmp_path, rows, None, test_share=0.2))
    assert "; it has no text of 'c'" in data.notices[0]


def test_one_test_split_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test_share is 0\.2, and test names a test split: give one of them"):
        task_of(tmp_path, test_share=0.2)
    with pytest.raises(ValueError, match="test_split names a test split"):
        Task(hub="a/b", test_split="dev", test_share=0.2)


def test_digests_are_of_content(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = load_task("one", task_of(tmp_path)), load_task("other", task_of(tmp_path / "other"))
    splits = ("train", "validation", "test")
    assert [one.digest(split) for split in splits] == [other.digest(split) for split in splits]
    assert len({one.digest(split) for split in splits}) == 3
    assert one.digest("test") != load_task("one", task_of(tmp_path, labels=("b", "a"))).digest("test")
    assert Split(("ab", "c"), np.zeros(2, np.int64)).digest != Split(("a", "bc"), np.zeros(2, np.int64)).digest


def test_digests_are_the_same_in_another_process(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    code = (
        "import sys; from trainables.settings.task import Task; from trainables.data.splits import load_task;"
        f"d = load_task('mine', Task(train={task.train!r}, test={task.test!r})); print(d.digest('train'), d.digest('validation'))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    data = load_task("mine", task)
    assert found.stdout.split() == [data.digest("train"), data.digest("validation")]


def test_importing_it_is_light() -> None:
    heavy = {"torch", "transformers", "sklearn", "datasets", "pandas", "ray"}
    names = ("data.splits", "data.corpus", "data.known_tasks", "batches.tokenise", "batches.masking", "scores.bag_of_words")
    modules = ", ".join(f"trainables.{name}" for name in names)
    code = f"import sys, {modules}; print([*{heavy} & {{*sys.modules}}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# What is noticed


def test_empty_texts_are_dropped_and_counted(tmp_path: Path) -> None:
    data = load_task("mine", task_of(tmp_path, [*GOOD, ("", "a"), (" \t", "")], [*TEST, ("", "c")]))
    assert len(data.train) + len(data.validation) == 20
    assert len(data.test) == 6
    assert data.notices == (
        "tasks.mine.train: 2 of 22 texts are empty and were dropped",
        "tasks.mine.test: 1 of 7 texts are empty and were dropped",
    )


def test_texts_in_two_splits_are_kept_and_counted(tmp_path: Path) -> None:
    copies = [("TEXT  3 ", "b"), ("text 4", "a"), ("v", "a")]
    data = load_task("mine", task_of(tmp_path, test=[*TEST, *copies], validation=[("v", "a"), ("text 0", "b")]))
    assert len(data.test) == 9
    notice = "they are kept, and make the error look better than it is"
    assert data.notices == (
        f"tasks.mine.validation: 1 of 2 texts also occur in train; {notice}",
        f"tasks.mine.test: 3 of 9 texts also occur in train or validation; {notice}",
    )


def test_a_named_label_that_never_occurs_is_noticed(tmp_path: Path) -> None:
    data = load_task("mine", task_of(tmp_path, labels=("a", "b", "c"), validation_share=0.2))
    assert data.notices == ("tasks.mine.labels: 'c' does not occur in the training split",)
    assert data.labels == ("a", "b", "c")


# What is wrong


def test_all_faults_at_once(tmp_path: Path) -> None:
    task = task_of(tmp_path, text="txt", validation=[("v", "a")])
    (tmp_path / "test.csv").unlink()
    (tmp_path / "validation.csv").write_bytes(b"txt,label\n\xff,a\n")
    way = "save the file as UTF-8, or set `encoding: cp1252` or what else it is in"
    assert faults_of(task) == (
        "tasks.mine.train: there is no column 'txt'; did you mean 'text'?",
        f"tasks.mine.validation: {tmp_path}/validation.csv: not UTF-8: byte 0xff at offset 10 (line 2); {way}",
        f"tasks.mine.test: {tmp_path}/test.csv: there is no such file",
    )


def test_missing_doubled_and_confused_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,Label,text\nx,1,y\n", encoding="utf-8")
    assert faults_of(Task(train=str(tmp_path / "a.csv"), test=str(tmp_path / "a.csv")))[:2] == (
        "tasks.mine.train: there is no column 'label'; did you mean 'Label'?",
        "tasks.mine.train: the column 'text' occurs 2 times",
    )
    assert faults_of(task_of(tmp_path, text="label"))[0] == "tasks.mine.train: 'label' is named as both text and label column"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"text": 3, "label": 1}', "the column 'text' holds int64, not text"),
        ('{"text": "x", "label": [1, 2]}', "several labels for one text: set multi_label"),
        ('{"text": "x", "label": 0.37}', "the column 'label' holds 0.37: classes are learnt here, no numbers (regression)"),
    ],
)
def test_columns_of_the_wrong_type(rows: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(rows, encoding="utf-8")
    assert message in faults_of(Task(train=str(tmp_path / "a.jsonl")))[0]


def test_missing_labels_are_named_by_row(tmp_path: Path) -> None:
    faults = faults_of(task_of(tmp_path, [*GOOD, ("x", ""), ("y", "a"), ("z", " ")], [(f"t {i}", "") for i in range(8)]))
    assert faults == (
        "tasks.mine.train: no label in rows 21, 23 (counted from 1, without the header); `missing_labels: drop` leaves them out",
        "tasks.mine.test: no label in any of 8 rows: such a split cannot be used",
    )


def test_labels_that_training_lacks(tmp_path: Path) -> None:
    rows = [(text, {"a": "positive", "b": "negative"}[label]) for text, label in GOOD]
    faults = faults_of(task_of(tmp_path, rows, [("x", "positve"), ("y", "positive"), ("z", "7")], [("v", "Negative")]))
    assert faults == (
        "tasks.mine.validation: the label 'Negative' (1 text) is not in the training split; did you mean 'negative'?",
        "tasks.mine.test: the label '7' (1 text) is not in the training split; there: negative, positive",
        "tasks.mine.test: the label 'positve' (1 text) is not in the training split; did you mean 'positive'?",
    )


def test_a_column_of_numbers_taken_for_labels_does_not_flood_the_screen(tmp_path: Path) -> None:
    faults = faults_of(task_of(tmp_path, test=[(f"t {i}", str(i)) for i in range(500)]))
    assert len(faults) == 21
    assert faults[-1] == "tasks.mine.test: 480 more labels are not in the training split; is 'label' the label?"


def test_labels_outside_the_named_ones(tmp_path: Path) -> None:
    assert faults_of(task_of(tmp_path, labels=("a", "c", "c")))[:2] == (
        "tasks.mine.labels: 'c' is given twice",
        "tasks.mine.train: the label 'b' (10 texts) is not in `labels`; there: a, c, c",
    )


def test_one_class_only(tmp_path: Path) -> None:
    faults = faults_of(task_of(tmp_path, [(text, "a") for text, _ in GOOD], [("x", "a")]))
    assert faults == ("tasks.mine.train: one class only: 20 texts, all with the label 'a'; a task needs at least two",)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_a_metric_of_ranks_needs_texts_with_and_without_a_class(metric: str, tmp_path: Path) -> None:
    """With one class on validation every trial would have the same score."""
    alike: Rows = [("v", "b"), ("w", "b")]
    assert load_task("mine", task_of(tmp_path, validation=alike)).notices == ()  # other metrics rank trials by it
    (fault,) = faults_of(task_of(tmp_path, validation=alike, metric=metric))
    assert fault.startswith(f"tasks.mine.validation: metric {metric} needs a label that some texts have and others lack, but all 2")
    assert faults_of(task_of(tmp_path, test=alike, metric=metric))[0].startswith(f"tasks.mine.test: metric {metric} needs")
    three = [(f"text {i}", "abc"[i % 3]) for i in range(30)]
    (notice,) = load_task(
        "mine", task_of(tmp_path, three, [("t", "a"), ("u", "b"), ("x", "c")], three[:2] + alike, metric=metric)
    ).notices[:1]
    assert notice == f"tasks.mine.validation: all texts or none have 'c', so that {metric} leaves this out of its mean"


def test_splits_smaller_than_the_number_of_classes(tmp_path: Path) -> None:
    rows = [(f"text {i}", "abc"[i % 3]) for i in range(30)]
    assert faults_of(task_of(tmp_path, rows, rows[:2], rows[:1])) == (
        "tasks.mine.validation: 1 text for 3 classes are too few: at least 3 are needed; give more texts",
        "tasks.mine.test: 2 texts for 3 classes are too few: at least 3 are needed; give more texts",
    )
    # Two texts of two classes cannot give a validation split of their own.
    (tmp_path / "two").mkdir()
    few = "tasks.mine.validation: 0 texts for 2 classes are too few: at least 2 are needed; give more texts"
    assert faults_of(task_of(tmp_path / "two", GOOD[:2])) == (few,)


def test_only_empty_texts(tmp_path: Path) -> None:
    assert faults_of(task_of(tmp_path, [(" ", "a"), (" ", "b")])) == ("tasks.mine.train: all 2 texts are empty",)


def test_without_a_test_split_a_task_is_only_a_corpus(tmp_path: Path) -> None:
    task = task_of(tmp_path, test=None)
    way = "give one that is read once, at the end, or set `test_share: 0.2` to take it from train"
    assert faults_of(task) == (f"tasks.mine.test: the task has no test split; {way}",)
    assert len(load_task("mine", task, needs_test=False).test) == 0
    assert len(load_corpus(["mine"], {"mine": task}).texts) == 18
