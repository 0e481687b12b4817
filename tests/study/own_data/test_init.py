"""`study init`: what it understands of files, what it refuses, and the study file that it writes."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from study.definition.study_file import load_study
from tests.helpers import reviews
from tests.study.tiny import answer, fits, inside, refused
from tests.trainables.families import checkpoint

ROWS = reviews(limit=120)
REVIEWS = [(text, {"positive": 5, "negative": 1}[label]) for text, label in ROWS]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: Iterable[tuple[object, ...]], head: str = "review,stars", encoding: str = "utf-8") -> str:
    with open(name, "w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([head.split(","), *rows])
    return name


def init(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    return answer(capsys, "init", "--store", "store", "--encoder", checkpoint("bert"), *arguments)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    said = refused(capsys, "init", "--store", "store", "--encoder", checkpoint("bert"), *arguments)
    assert not list(Path().glob("*.yaml")), "a study file was written"
    return said


# What is understood ---------------------------------------------------------------------------------------------------------------


def test_a_table_becomes_a_study_with_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    other = [(f" {text.upper()}", 6 - label) for text, label in REVIEWS[:3]]  # copies with the other label
    rows = [(i, *row) for i, row in enumerate([*REVIEWS[:60], *[row for row in REVIEWS[60:] if row[1] == 5], *other])]
    said = init(capsys, "--data", write("shop.csv", rows, "id,review,stars"))
    assert fits(said)
    words = " ".join(said.split())
    assert "text 'review', label 'stars'" in words
    assert "2 classes: '5' " in words
    assert "(test: 20% of all, validation: 20% of the rest; drawn by class, seed 0)" in words
    assert "3 texts repeat another one; 3 texts occur with different labels, such as" in words
    assert "written: shop.yaml\nnext: study run shop.yaml" in said
    study, text = load_study("shop.yaml"), Path("shop.yaml").read_text(encoding="utf-8")
    task = study.tasks["shop"]
    assert (task.text, task.label, task.test_share, task.validation_share) == ("review", "stars", 0.2, 0.2)
    assert task.train == str(Path("shop.csv").absolute())
    assert "train: shop.csv\n" in text, "the path is not relative to the study file"
    assert "test_share: 0.2 # no test split was given" in text
    assert study.encoder.folder == str(checkpoint("bert"))
    assert set(study.space) == {"finetune.learning_rate", "finetune.xi"}
    assert study.recipe[0].epochs == 10  # type: ignore[union-attr]  # few texts
    assert study.budget.trials == 40, "a tiny encoder is not long"
    assert study.resources.gpus == "auto", "the file is for machines with and without GPUs"
    assert all(line == line.rstrip() for line in text.splitlines())


def test_uneven_classes_are_ranked_by_macro_f1_and_a_given_test_file_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    rare = [row for row in REVIEWS if row[1] == 1][:4]
    often = [row for row in REVIEWS if row[1] == 5]
    data = write("uneven.csv", [*often, *rare])
    test = write("held.csv", often[:6])
    said = init(capsys, "--data", data, "--test", test, "--validation", write("dev.csv", [*often[:5], *rare[:2]]))
    assert "no test text has the label '1'" in said
    study = load_study("uneven.yaml")
    task = study.tasks["uneven"]
    assert (task.metric, task.test_share) == ("macro_f1", None)
    assert [Path(path or "").name for path in (task.test, task.validation)] == ["held.csv", "dev.csv"]
    assert study.space["finetune.class_weights"].choice == ("none", "balanced")
    assert "texts also occur in train" in " ".join(said.split()), "copies in held-out splits were not said"


def test_long_texts_search_truncation_and_overrides_stand_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"{text} " * 9, label) for text, label in REVIEWS] + [("no label", "")]
    data = write("long.csv", rows)
    said = refusal(capsys, "--data", data)
    assert "(here: --set tasks.long.missing_labels=drop)" in said
    said = init(capsys, "--data", data, "--set", "tasks.long.missing_labels=drop", "--set", "budget.trials=7")
    study = load_study("long.yaml")
    assert study.tasks["long"].missing_labels == "drop"
    assert study.budget.trials == 7
    assert "budget: {trials: 7}" in Path("long.yaml").read_text(encoding="utf-8")
    assert "finetune.truncation" in study.space
    assert study.search.first[0]["finetune.truncation"] == "head+tail"


def test_other_formats(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import datasets

    lines = [json.dumps({"question": text, "labels": ["a"] * (i % 2) + ["b"] * (i % 3 == 0)}) for i, (text, _) in enumerate(ROWS)]
    Path("lists.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    init(capsys, "--data", "lists.jsonl")
    assert load_study("lists.yaml").tasks["lists"].multi_label
    parts = {"train": ROWS[:80], "validation": ROWS[80:100], "test": ROWS[100:]}
    columns = {name: {"text": [text for text, _ in part], "y": [label for _, label in part]} for name, part in parts.items()}
    made = {name: datasets.Dataset.from_dict(part) for name, part in columns.items()}
    datasets.DatasetDict(made).save_to_disk("saved")
    init(capsys, "--data", "saved")
    task = load_study("saved.yaml").tasks["saved"]
    assert (task.folder, task.validation_split, task.test_share) == (str(tmp_path / "saved"), "validation", None)


def test_a_file_that_exists_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("shop.yaml").write_text("name: mine\n", encoding="utf-8")
    write("shop.csv", REVIEWS)
    assert "shop.yaml: exists; give another file with --out" in refused(capsys, "init", "--data", "shop.csv")
    assert "shop.yaml: exists and is no file of `study init`; give --name" in refused(capsys, "run", "--data", "shop.csv")
    assert Path("shop.yaml").read_text(encoding="utf-8") == "name: mine\n"


# What is refused ------------------------------------------------------------------------------------------------------------------

BOTH = [(text, text[::-1], label, i % 3) for i, (text, label) in enumerate(REVIEWS)]
CASES: dict[str, tuple[Callable[[], str], str, tuple[str, ...]]] = {
    "one class": (lambda: write("a.csv", [(t, "x") for t, _ in ROWS]), "--label stars", ("one class only: 120 texts, all with",)),
    "identifiers": (
        lambda: write("a.csv", [(i, *row) for i, row in enumerate(REVIEWS)], "id,review,stars"),
        "--label id",
        ("--label id: 120 classes for 120 texts: is 'id' an identifier?",),
    ),
    "names as identifiers": (
        lambda: write("a.csv", [(f"user{i}", *row) for i, row in enumerate(REVIEWS)], "id,review,stars"),
        "--label id",
        ("120 classes for 120 texts: is 'id' an identifier?",),
    ),
    "fractions to predict": (
        lambda: write("a.csv", [(t, 1.25 * len(t)) for t, _ in ROWS], "review,price"),
        "--label price",
        ("to predict a number is regression, which is out of scope here", "pandas.qcut(table['price'], 3"),
    ),
    "amounts to predict": (
        lambda: write("a.csv", [(t, 7 * len(t)) for t, _ in ROWS], "review,price"),
        "--label price",
        ("different numbers, such as", "regression"),
    ),
    "equal texts": (
        lambda: write("a.csv", [("the same text", y) for _, y in ROWS]),
        "--text review --label stars",
        ("--text review: all 120 texts are equal ('the same text')",),
    ),
    "a missing column": (
        lambda: write("a.csv", REVIEWS),
        "--text reviw --label star",
        ("--text: there is no column 'reviw'; did you mean 'review'?", "--label: there is no column 'star'; did you mean 'stars'?"),
    ),
    "an empty file": (lambda: write_bytes("a.csv", b""), "", ("a.csv: the file is empty",)),
    "a header alone": (lambda: write("a.csv", []), "", ("a.csv: the file has a header but no rows",)),
    "one column for both": (
        lambda: write("a.csv", REVIEWS),
        "--text review --label review",
        ("--label review: is a column of the text too",),
    ),
    "another class in the test": (
        lambda: write("a.csv", REVIEWS),
        "--test other.csv",
        ("test: the label '3' (1 text) is not in the training split; there: 1, 5",),
    ),
    "another encoding": (
        lambda: write("a.csv", [(f"caf\xe9 cr\xe8me {i}", y) for i, (_, y) in enumerate(REVIEWS)], encoding="cp1252"),
        "",
        ("a.csv: not UTF-8", "give `--encoding cp1252`"),
    ),
    "an encoding to find": (
        lambda: write(
            "a.csv", [(f"\u5267\u60c5\u65e0\u804a\u900f\u9876 {i}", y) for i, (_, y) in enumerate(REVIEWS)], encoding="gb18030"
        ),
        "",
        ("give `--encoding NAME`, what it is in",),
    ),
    "no name": (lambda: "", "", ("--data '': no name of a file",)),
    "a folder that cannot be written": (
        lambda: write("a.csv", REVIEWS),
        "--out a.csv/a.yaml",
        ("a.csv/a.yaml: cannot be written: ", "give a place that can be"),
    ),
    "another delimiter": (lambda: write_bytes("a.csv", b'review;stars\n"good; food";5\n'), "", ('`--delimiter ";"`',)),
    "two texts, two labels": (
        lambda: write("a.csv", BOTH, "title,body,stars,rating"),
        "",
        (
            "--text: which column holds the text? Of 4 columns with 120 rows 'title' and 'body' may be it:",
            "--label: which column holds the label? Of 4 columns with 120 rows 'stars' and 'rating' may be it:",
            "  rating: 3 different values, such as '0', '1', '2'",
            "--text title --label stars",
        ),
    ),
    "several files": (
        lambda: write("a.csv", REVIEWS),
        "--data test.csv",
        ("2 files given, but a task has one file for each", "did you mean --data a.csv --test test.csv?"),
    ),
    "a folder of files": (
        lambda: str(Path(write("a.csv", REVIEWS)).absolute().parent),
        "",
        ("it holds a.csv", "give one, such as"),
    ),
    "no such file": (lambda: str(Path(write("a.csv", REVIEWS)).with_name("b.csv")), "", ("no such file; did you mean 'a.csv'?",)),
}


def write_bytes(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_learnt_is_refused_before_anything_is_written(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, options, parts = CASES[case]
    write("other.csv", [*REVIEWS[:9], ("fine", 3)])
    said = refusal(capsys, "--data", make(), *shlex.split(options))
    for part in parts:
        assert part in said
    assert "Traceback" not in said


def test_a_column_with_a_line_break_stands_in_one_line_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with open("a.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("review", "stars\n(1 or 5)"), *REVIEWS])
    said = init(capsys, "--data", "a.csv", "--label", "stars\n(1 or 5)", "--out", "my study.yaml")
    assert "next: study run 'my study.yaml'" in said
    assert load_study("my study.yaml").tasks["a"].label == "stars\n(1 or 5)"
    assert r"# written from: --data a.csv --label $'stars\U0000000a(1 or 5)'" in Path("my study.yaml").read_text(encoding="utf-8")


def test_the_command_to_type_works(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--data", write("a.csv", BOTH, "title,body,stars,rating"))
    typed = said.rpartition("type: study ")[2].strip()
    code, out, err = inside(capsys, *shlex.split(typed), "--store", "store")
    assert code == 0, out + err
    assert load_study("a.yaml").tasks["a"].text == "title"


def test_own_data_beside_a_study_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--label describes own data" in refused(capsys, "run", "study.yaml", "--label", "x")
    assert "give your texts with --data FILE" in refused(capsys, "run")
