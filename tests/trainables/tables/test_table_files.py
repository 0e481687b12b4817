"""Tables of JSON and parquet, documents, and what a task says of its files."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.helpers import write_csv
from tests.trainables.made_tables import ROWS, fault, parquet_of, rows, written
from trainables.data.corpus import load_corpus
from trainables.data.splits import load_task
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task
from trainables.settings.validate import validate
from trainables.tables import free_memory
from trainables.tables.table_files import read_documents, read_file


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delimiter": ";;"}, "delimiter: ';;' is not one ASCII character"),
        ({"delimiter": "§"}, "delimiter: '§' is not one ASCII character"),
        ({"delimiter": '"'}, "delimiter: '\"' is not one ASCII character"),
        ({"quoting": "dubble"}, "quoting: 'dubble' is not one of double, backslash, none; did you mean 'double'?"),
        ({"encoding": "utf9"}, "encoding: 'utf9' is not known; did you mean 'utf"),
        ({"encoding": "cp1253x"}, "encoding: 'cp1253x' is not known; did you mean 'cp1253'?"),
        ({"encoding": "rot13"}, "encoding: 'rot13' is no encoding of text files"),
        (
            {"train": "a.parquet", "encoding": "cp1252"},
            "encoding: 'cp1252' given, but it applies only to csv and tsv and jsonl files",
        ),
        ({"train": "a.jsonl", "quoting": "none"}, "quoting: 'none' given, but it applies only to csv and tsv files"),
        (
            {"train": None, "hub": "x/y", "delimiter": ";"},
            "delimiter: ';' given, but it applies only to csv and tsv files, and there is none",
        ),
    ],
)
def test_fields_of_a_task_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Task, {"train": "a.csv"} | fields)
    assert message in str(caught.value)


def test_a_tab_may_be_spelt_and_one_file_of_the_kind_is_enough() -> None:
    assert Task(train="a.csv", delimiter="\\t").delimiter == Task(train="a.csv", delimiter="\t").delimiter == "\t"
    assert Task(train="a.zip", test="b.parquet", quoting="none", encoding="Latin-1").encoding == "iso8859-1"


def test_how_a_file_is_written_does_not_enter_the_data(tmp_path: Path) -> None:
    more = [(f"{text} {i}", label) for i in range(6) for text, label in [("grün – “naïve”", "pos"), *ROWS]]
    plain = Task(train=write_csv(tmp_path / "a.csv", more))
    other = written(tmp_path, "b.csv", ("text;label\n" + "\n".join(map(";".join, more))).encode("cp1252"))
    task = Task(train=other, delimiter=";", quoting="none", encoding="cp1252")
    digests = [load_task("mine", each, needs_test=False).digest("train") for each in (plain, task)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "a"}', "", '{"text": "b"', '{"text": "c"}'], "line 3: Expecting ',' delimiter"),
        (['{"text": "a"}', '{"text": "b\\ud800"}'], "line 2 holds half of a character"),
        (['{"text": "a", "label": 1}', '{"text": "b", "label": "1"}'], "'label' is str on line 2 and number on line 1"),
        (['{"text": "a"}', '"b"'], "line 2 is no object"),
        (['[{"text": "a"},', '{"text": "b"}]'], "the file is one array; write each object on a line of its own"),
        (['{"text": "a"},', '{"text": "b"}'], "line 1: Extra data"),
        (['{"text": "a", "text": "b"}'], "was specified twice"),
    ],
)
def test_the_line_of_a_faulty_object_is_named(lines: list[str], message: str, tmp_path: Path) -> None:
    url = written(tmp_path, "a.json", "\n".join(lines))
    assert message in fault(url)
    assert "one JSON object a line" in fault(url)


def test_objects_with_other_keys_and_nested_ones(tmp_path: Path) -> None:
    url = written(tmp_path, "a.jsonl", '{"text": "a", "label": 1, "more": {"x": [1]}}\n{"label": 2, "text": "b \\ud83d\\ude00"}\n')
    assert rows(url) == [("a", "1"), ("b 😀", "2")]
    nested = Task(train=written(tmp_path, "b.jsonl", '{"text": {"body": "a"}, "label": 1}\n'))
    with pytest.raises(ConfigError, match="the column 'text' holds struct<body: string>, not text"):
        load_task("mine", nested, needs_test=False)


@pytest.mark.parametrize("kind", ["large_string", "dictionary", "string_view"])
def test_texts_of_parquet_of_any_string_type(kind: str, tmp_path: Path) -> None:
    texts = pa.array(["fine", "poor"])
    texts = texts.dictionary_encode() if kind == "dictionary" else texts.cast(getattr(pa, kind)())
    assert rows(written(tmp_path, "a.parquet", parquet_of(text=texts, label=["pos", "neg"]))) == ROWS


def test_bytes_in_parquet_are_refused(tmp_path: Path) -> None:
    for column, message in [
        (pa.array([b"fine"]), "the column 'text' holds binary, not text"),
        (
            pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers()),
            "the column 'text' holds bytes that are not UTF-8",
        ),
    ]:
        task = Task(train=written(tmp_path, "a.parquet", parquet_of(text=column, label=["x"])))
        with pytest.raises(ConfigError, match=message):
            load_task("mine", task, needs_test=False)
    whole = parquet_of(text=["some text"] * 50, label=["x"] * 50)
    damaged = whole[:4] + b"\xff" * 60 + whole[64:]
    assert "not parquet, or a damaged file" in fault(written(tmp_path, "b.parquet", damaged))


def test_a_corpus_tells_what_was_strange_in_its_files(tmp_path: Path) -> None:
    task = Task(train=write_csv(tmp_path / "train.csv", [(f"text {i}", "ab"[i % 2]) for i in range(20)]))
    corpus = load_corpus([], {"mine": task}, [written(tmp_path, "a.tsv", 'text\tn\n"so it\t1\nfine\t2\n')])
    assert corpus.texts == ('"so it', "fine")
    assert corpus.notices[0] == "corpus a.tsv: 2 documents in a.tsv, one a row"
    assert corpus.notices[1].startswith("corpus a.tsv: a.tsv: every quote is read as part of a text")


@pytest.mark.parametrize("name", ["a.parquet", "b.parquet", "a.jsonl", "b.jsonl"])
def test_characters_that_were_lost_are_told_in_any_format(name: str, tmp_path: Path) -> None:
    texts = ["fine", "caf\ufffd\nna\ufffdve", "poor"]
    if name.endswith("parquet"):
        column = pa.array(texts).dictionary_encode() if name.startswith("b") else texts
        content: Any = parquet_of(text=column, label=["pos", "neg", "pos"])
    else:
        content = "\n".join(json.dumps({"text": text, "label": "pos"}, ensure_ascii=name.startswith("b")) for text in texts)
    (said,) = read_file(written(tmp_path, name, content), ("text", "label"))[1]
    where = "on line 2" if name == "a.jsonl" else "in row 2"
    assert f"2 characters were lost before the file was written (U+FFFD, first {where})" in said


def test_a_parquet_file_that_memory_does_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = written(tmp_path, "long.parquet", parquet_of(text=[f"{i} " + "x" * 100_000 for i in range(100)], label=["pos"] * 100))
    many = written(tmp_path, "many.parquet", parquet_of(text=["x"] * 2_000_000, label=["pos"] * 2_000_000))
    assert max(Path(url).stat().st_size for url in (long, many)) < 2_000_000, "packed it is small"
    monkeypatch.setattr(free_memory, "available", lambda: (5_000_000, 10**9))
    for url in (long, many):
        assert "unpacked it is at least 0.0 GiB, but 0.0 GiB of memory are free: is it damaged?" in fault(url)
    monkeypatch.setattr(free_memory, "available", lambda: None)
    assert len(rows(long)) == 100


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz", "zst", "zip"])
def test_a_packed_file_that_memory_does_not_hold_is_refused(packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"text,label\n" + b"fine,pos\n" * 200_000
    path = tmp_path / f"a.csv.{packed}"
    if packed == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", content)
    elif packed == "zst":
        path.write_bytes(pa.compress(content, "zstd", asbytes=True))
    else:
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[packed].compress(content))
    assert len(rows(str(path))) == 200_000
    monkeypatch.setattr(free_memory, "available", lambda: (1_000_000, 10**9))
    assert "GiB of memory are free: is it damaged?" in fault(str(path))


def test_a_pipe_is_refused_since_it_can_be_read_only_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    assert "is a pipe or a device" in fault(str(tmp_path / "a.csv"))
    with pytest.raises(ConfigError, match="is a pipe or a device"):
        read_documents(str(tmp_path / "a.csv"))
