"""Corpora: what their entries mean, what is read from files, and that nothing held out ever enters one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import tiny_task, write_csv
from trainables.data.corpus import load_corpus
from trainables.data.known_tasks import KNOWN
from trainables.data.normal_forms import bare, plain
from trainables.data.splits import load_task
from trainables.settings.corpus_names import WORDS, domain_fault, members, name_faults, unknown
from trainables.settings.errors import ConfigError
from trainables.settings.file_names import is_file
from trainables.settings.task import Task

Rows = list[tuple[str, str]]
GOOD: Rows = [(f"text {i}", "ab"[i % 2]) for i in range(20)]
TEST: Rows = [(f"test {i}", "ab"[i % 2]) for i in range(6)]


def task_of(folder: Path, train: Rows = GOOD, test: Rows | None = TEST, validation: Rows | None = None, **fields: object) -> Task:
    folder.mkdir(exist_ok=True)
    splits = {"train": train, "test": test, "validation": validation}
    files = {name: write_csv(folder / f"{name}.csv", rows) for name, rows in splits.items() if rows is not None}
    return Task(**(files | fields))  # type: ignore[arg-type]


def file_of(folder: Path, name: str, content: str | bytes) -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder / name)


# What entries mean


def test_words_stand_for_unions_of_tasks() -> None:
    tasks = {name: Task(train="x.csv", domain=domain) for name, domain in (("a", "s"), ("b", "s"), ("c", "t"), ("d", None))}
    assert members((), "a", tasks) == members(("within-task",), "a", tasks) == (("a",), ())
    assert members(("in-domain",), "a", tasks) == (("a", "b"), ())
    assert members(("cross-domain",), "a", tasks) == (("a", "b", "c", "d"), ())
    assert members(("within-task", "c", "x.txt", "in-domain"), "a", tasks) == (("a", "b", "c"), ("x.txt",))
    assert members(("s3://b/x.jsonl.gz",), "a", tasks) == ((), ("s3://b/x.jsonl.gz",))
    assert unknown(("a", "e", *WORDS, "x.parquet", "notes.doc"), tasks) == ["e", "notes.doc"]
    assert domain_fault(("in-domain",), "a", tasks) is None
    assert domain_fault(("cross-domain",), "d", tasks) is None
    assert "no other task has the domain 't' of 'c'" in str(domain_fault(("in-domain",), "c", tasks))
    assert "'d' has none; give it a `domain`, or name the tasks" in str(domain_fault(("in-domain",), "d", tasks))


def test_names_that_a_corpus_could_not_tell_apart_are_refused() -> None:
    assert list(name_faults(("fine", "in-domain", "x.txt"))) == [
        "tasks.in-domain: the name is a word for corpora; give the task another one",
        "tasks.x.txt: the name reads as a text file; give the task another one",
    ]
    assert [is_file(name) for name in ("x.txt", "X.CSV.GZ", "a/b.jsonl", "txt", "x.text", "v1.0")] == [True] * 3 + [False] * 3


# What is left out


def test_a_corpus_is_training_text_without_copies_of_any_held_out_text(tmp_path: Path) -> None:
    a = task_of(tmp_path / "a", [*GOOD, ("seen before", "a"), ("v", "b")], validation=[("val 1", "a"), ("val 2", "b")])
    b = task_of(tmp_path / "b", [(f"b {i}", "xy"[i % 2]) for i in range(10)], [("V", "x"), ("q", "y")], [("b 1", "x"), ("r", "y")])
    corpus = load_corpus(["a"], {"a": a, "b": b})
    assert corpus.texts == (*(text for text, _ in GOOD), "seen before")  # "v" is a test text of b, which is no part of the corpus
    assert corpus.removed == 1
    assert corpus.notices == ("corpus a: 1 of 22 texts occur in a test or validation split and were removed",)
    both = load_corpus(["b", "a"], {"a": a, "b": b})
    assert both.removed == 2
    assert set(both.texts) == {*corpus.texts, *(f"b {i}" for i in range(10) if i != 1)}


@pytest.mark.parametrize(
    "copy", ["It's good... REALLY good!", "its good\treally  good", "Ｉｔ's good—really good", "It’s <good> really good"]
)
def test_near_copies_are_left_out_too(copy: str, tmp_path: Path) -> None:
    task = task_of(tmp_path, [*GOOD, (copy, "a")], [*TEST, ("It's good; really good.", "b")], [("v", "a"), ("w", "b")])
    corpus = load_corpus(["mine"], {"mine": task})
    assert corpus.texts == tuple(text for text, _ in GOOD)
    assert corpus.removed == 1


def test_texts_without_letters_are_texts(tmp_path: Path) -> None:
    """Two of them are copies only when they are the same: ":)" in a test split does not take "?!" out."""
    task = task_of(tmp_path, [*GOOD, ("?!", "a"), (":)", "b")], [*TEST, (":)", "b")], [("v", "a"), ("w", "b")])
    assert load_corpus(["mine"], {"mine": task}).texts[-1] == "?!"


WORDY = st.text(st.sampled_from("aAéßﬁ我 .,'!１1\u00a0"), max_size=6)


@given(
    train=st.lists(WORDY, min_size=1, max_size=8),
    test=st.lists(WORDY, max_size=6),
    other=st.lists(WORDY, max_size=6),
    held=st.lists(WORDY, max_size=6),
    lines=st.lists(WORDY, max_size=5),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_test_text_is_in_any_corpus(
    train: list[str],
    test: list[str],
    other: list[str],
    held: list[str],
    lines: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    rows = [[(text, "ab"[i % 2]) for i, text in enumerate(["x", "y", *texts])] for texts in (train, test, other, held)]
    keep = [("left 1", "a"), ("left 2", "b")]
    one = task_of(folder / "one", [*keep, *rows[0]], rows[1], [("m", "a"), ("n", "b")], domain="s")
    two = task_of(folder / "two", [*keep, *rows[2]], rows[3], [("o", "a"), ("p", "b")], domain="s")
    tasks = {"one": one, "two": two}
    file = file_of(folder, "more.txt", "\n".join([*lines, "left 3"]))
    held_out = [text for task in tasks.values() for text in load_task("t", task).test.texts]
    for entries in ((), ("in-domain",), ("cross-domain", file), (file,), ("two",)):
        names, files = members(entries, "one", tasks)
        corpus = load_corpus(names, tasks, files)
        assert not {plain(text) for text in corpus.texts} & set(map(plain, held_out))
        assert not {bare(text) for text in corpus.texts} & set(map(bare, held_out))
        assert corpus.texts


def test_a_text_that_two_tasks_share_is_read_once_and_one_that_a_task_repeats_stays(tmp_path: Path) -> None:
    held = [("v", "a"), ("w", "b")]
    full = task_of(tmp_path / "full", [*GOOD, ("text 13", "a"), ("more", "a"), ("Text 14!", "b")], validation=held)
    part = task_of(tmp_path / "part", GOOD[:8], validation=held)
    alone = load_corpus(["full"], {"full": full, "part": part})
    assert len(alone.texts) == 23
    assert alone.notices == ("corpus full: 2 of 23 texts repeat an earlier one, exactly or nearly, and are kept",)
    both = load_corpus(["full", "part"], {"full": full, "part": part})
    assert set(both.texts) == set(alone.texts)
    assert "corpus full, part: 8 of 31 texts occur in another of its parts as well and are read once" in both.notices


def test_a_corpus_is_named_by_content_alone() -> None:
    tasks = {name: KNOWN[name] for name in ("sls_imdb", "sls_yelp", "sls_amazon")}
    corpus = load_corpus(list(tasks), tasks)
    assert corpus.digest == load_corpus(list(reversed(tasks)), tasks).digest
    assert corpus.digest == load_corpus(["x", "y", "z"], dict(zip("xyz", tasks.values(), strict=True))).digest
    assert corpus.digest != load_corpus(["sls_imdb"], tasks).digest
    assert len(corpus.texts) + corpus.removed <= sum(len(load_task(name, task).train) for name, task in tasks.items())


# Files

BLANK = "separated by blank lines, of up to 2 lines; if each line is a text, remove the blank lines"


@pytest.mark.parametrize(
    ("name", "content", "texts", "how"),
    [
        ("a.txt", "one\r\ntwo two\n", ("one", "two two"), "2 documents in a.txt, one a line"),
        ("b.txt", "One.\nTwo.\n\n \nThree.\n\n", ("One. Two.", "Three."), f"2 documents in b.txt, {BLANK}"),
        ("e.txt", "One.\n \t \nTwo.", ("One.", "Two."), "2 documents in e.txt, separated by blank lines"),
        ("f.txt", "\n\n\u3000\nOne.\r\r\nTwo.\r\r\n\f\n", ("One.", "Two."), "2 documents in f.txt, one a line"),
        ("g.txt", "One.\rTwo.\r", ("One.", "Two."), "2 documents in g.txt, one a line"),
        ("h.txt", "One.\u2028Two.\u2028\u2028Three.", ("One. Two.", "Three."), f"2 documents in h.txt, {BLANK}"),
        ("c.txt.gz", gzip.compress("\ufeff好。\n".encode(), mtime=0), ("好。",), "1 document in c.txt.gz, one a line"),
        ("d.csv", 'id,text\n1,"a, b"\n2,\n', ("a, b",), "1 document in d.csv, one a row"),
        ("e.jsonl", '{"text": "x", "more": 1}\n{"text": null}\n{"text": "y"}\n', ("x", "y"), "2 documents in e.jsonl, one a row"),
    ],
)
def test_text_files(name: str, content: str | bytes, texts: tuple[str, ...], how: str, tmp_path: Path) -> None:
    corpus = load_corpus([], {"mine": tiny_task(tmp_path)}, [file_of(tmp_path, name, content)])
    assert corpus.texts == texts
    assert corpus.notices[0] == f"corpus {name}: {how}"
    assert load_corpus([], {"mine": tiny_task(tmp_path)}, [file_of(tmp_path, f"moved-{name}", content)]).digest == corpus.digest


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.txt", " \n\n", "the file is empty"),
        ("a.txt", b"fine\nna\xefve\n", "not UTF-8: byte 0xef at offset 7 (line 2); save the file as UTF-8"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "txt\nfoo\n", "there is no column 'text'; did you mean 'txt'?"),
        ("a.jsonl", '{"text": " "}', "all 1 texts are empty"),
        ("a.jsonl", '{"text": 3}', "the column 'text' holds int64, not text"),
    ],
)
def test_text_files_that_are_refused(name: str, content: str | bytes, fault: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, name, content)
    with pytest.raises(ConfigError) as error:
        load_corpus([], {"mine": tiny_task(tmp_path)}, [path])
    assert error.value.faults == (f"corpus: {path}: {fault}",)


def test_faults_of_a_corpus(tmp_path: Path) -> None:
    tasks = {"good": tiny_task(tmp_path), "bad": Task(train="nowhere.csv")}
    with pytest.raises(ConfigError) as error:
        load_corpus(["good", "other"], tasks, ["nowhere.txt"])
    assert error.value.faults == (
        "tasks.bad.train: nowhere.csv: there is no such file",
        "corpus: 'other' is not among the tasks",
        "corpus: nowhere.txt: there is no such file",
    )
    task = task_of(tmp_path, test=GOOD, validation=TEST)
    with pytest.raises(ConfigError, match="no text is left: all 20 occur"):
        load_corpus(["mine"], {"mine": task})
