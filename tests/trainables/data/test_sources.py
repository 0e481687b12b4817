"""Every format that texts come in, and what a file that cannot be read is answered."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from trainables.data.sources import read
from trainables.data.splits import load_task
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task
from trainables.tables.table_files import read_file

ROWS = [("good film", "yes"), ('bad, "very" bad', "no"), ("two\nlines", "yes"), ("naïve 電影 🎬", "no")]


def csv_of(rows: list[tuple[str, str]], separator: str = ",") -> str:
    quoted = ['"{}"{}{}'.format(text.replace('"', '""'), separator, label) for text, label in rows]
    return "\n".join([f"text{separator}label", *quoted]) + "\n"


def as_jsonl(rows: list[tuple[str, str]]) -> bytes:
    return "\n".join(json.dumps({"text": text, "label": label, "other": [1]}) for text, label in rows).encode()


def as_parquet(rows: list[tuple[str, str]]) -> bytes:
    table = pa.table({"text": [text for text, _ in rows], "label": pa.array([label for _, label in rows]).dictionary_encode()})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


FILES: dict[str, Callable[[list[tuple[str, str]]], bytes]] = {
    "a.csv": lambda rows: csv_of(rows).encode(),
    "bom.csv": lambda rows: b"\xef\xbb\xbf" + csv_of(rows).encode(),
    "crlf.csv": lambda rows: csv_of(rows).replace("\n", "\r\n").replace("two\r\n", "two\n").encode(),
    "a.tsv": lambda rows: csv_of(rows, "\t").encode(),
    "a.jsonl": as_jsonl,
    "a.parquet": as_parquet,
    "a.csv.gz": lambda rows: gzip.compress(csv_of(rows).encode()),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("remote", [False, True], ids=["local", "memory"])
def test_every_format_gives_the_same_rows(name: str, remote: bool, tmp_path: Path) -> None:
    url = f"memory://formats/{name}" if remote else str(tmp_path / name)
    with fsspec.open(url, "wb") as file:
        file.write(FILES[name](ROWS))
    splits, faults = read(Task(train=url))
    assert faults == []
    assert list(zip(splits["train"].texts, splits["train"].labels, strict=True)) == ROWS


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 10], ["0", "1", "10"]),
        ([0.0, 1.0, None], ["0", "1", None]),
        ([float("nan"), 1.0, 2.0], [None, "1", "2"]),
        ([True, False, True], ["True", "False", "True"]),
        (["1.0", "0.0", "-2"], ["1", "0", "-2"]),  # what a table program made of whole numbers
        (["01", "1.10", "x"], ["01", "1.10", "x"]),  # names that only look like numbers stay
        ([" a ", "", None], ["a", None, None]),
    ],
)
def test_labels_of_any_type_become_names(labels: list[Any], expected: list[str | None], tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["x", "y", "z"], "label": labels}), tmp_path / "a.parquet")
    assert read(Task(train=str(tmp_path / "a.parquet")))[0]["train"].labels == expected


def labelled(folder: Path, kind: str, labels: list[Any]) -> dict[str, str]:
    """A training split with these labels, as a file or folder of a kind."""
    import datasets

    rows: dict[str, list[Any]] = {"text": [f"text {i}" for i in range(len(labels))], "label": labels}
    if kind == "folder":
        datasets.disable_progress_bars()
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(str(folder / "saved"))
        return {"folder": str(folder / "saved")}
    if kind == "parquet":
        parquet.write_table(pa.table(rows), folder / "a.parquet")
    elif kind == "jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in zip(*rows.values(), strict=True)]
        (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    else:
        lines = [f"{text},{label}" for text, label in zip(*rows.values(), strict=True)]
        (folder / "a.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return {"train": str(folder / f"a.{kind}")}


KINDS = pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "folder"])


@KINDS
@pytest.mark.parametrize("labels", [[0.5, 1.0, -2.25, 4.0] * 3, [3.25] + [1.0, 2.0] * 5, [float("inf"), 1.0, 2.0] * 3])
def test_a_regression_target_is_refused(kind: str, labels: list[float], tmp_path: Path) -> None:
    if kind == "jsonl" and float("inf") in labels:
        pytest.skip("no number of JSON")
    task = Task(**labelled(tmp_path, kind, labels))  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        load_task("mine", task, needs_test=False)
    (fault,) = caught.value.faults
    assert fault.startswith(
        f"tasks.mine.train: the column 'label' holds {labels[0]}: classes are learnt here, no numbers (regression)"
    )
    assert fault.endswith("make classes of them, or if they are classes, list them as `labels`")


@KINDS
def test_the_way_out_for_classes_that_are_fractions(kind: str, tmp_path: Path) -> None:
    task = Task(**labelled(tmp_path, kind, [0.5, 1.0, 1.5] * 4), labels=("0.5", "1.0", "1.5"))  # type: ignore[arg-type]
    data = load_task("stars", task, needs_test=False)
    assert data.train.labels.tolist() == [int(text.split()[1]) % 3 for text in data.train.texts]
    assert data.notices == ()


@KINDS
def test_whole_numbers_written_as_fractions_are_labels_with_a_notice(kind: str, tmp_path: Path) -> None:
    data = load_task("stars", Task(**labelled(tmp_path, kind, [1.0, 2.0, 3.0] * 4)), needs_test=False)  # type: ignore[arg-type]
    assert data.labels == ("1", "2", "3")
    (notice,) = data.notices
    assert notice == "tasks.stars.train: the labels in 'label' are written with fractions of zero: 1.0 is read as 1"


@KINDS
def test_hundreds_of_whole_numbers_are_classes_with_a_notice(kind: str, tmp_path: Path) -> None:
    numbers = [int(n) for n in range(-150, 150)] * 2
    data = load_task("many", Task(**labelled(tmp_path, kind, numbers), validation_share=0.5), needs_test=False)  # type: ignore[arg-type]
    assert data.labels == tuple(map(str, range(-150, 150)))
    (notice,) = data.notices
    assert notice.startswith("tasks.many: the column 'label' holds 300 different whole numbers for 600 training texts")


def test_names_that_look_like_fractions_are_names_where_one_is_none(tmp_path: Path) -> None:
    rows = labelled(tmp_path, "csv", ["3.10", "3.11", "later"] * 4)
    (tmp_path / "test.csv").write_text("text,label\na,3.10\nb,3.11\nc,3.10\n", encoding="utf-8")
    data = load_task("versions", Task(**rows, test=str(tmp_path / "test.csv")))  # type: ignore[arg-type]
    assert data.labels == ("3.10", "3.11", "later")


def test_several_fractions_for_a_text_are_refused_too(tmp_path: Path) -> None:
    for kind, labels in (("csv", ["0.5|1", "0.25", "1"] * 3), ("jsonl", [[0.5, 1.0], [0.25], []] * 3)):
        with pytest.raises(ConfigError, match=r"tasks.mine.train: the column 'label' holds 0\.5: classes are learnt here"):
            load_task("mine", Task(**labelled(tmp_path, kind, labels), multi_label=True), needs_test=False)  # type: ignore[arg-type]


def test_several_text_columns_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title,body,label\nA,b,1\n,c,2\n", encoding="utf-8")
    assert read(Task(train=str(tmp_path / "a.csv"), text=("title", "body")))[0]["train"].texts == ["A b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"\xef\xbb\xbf\n \n", "the file is empty"),
        ("a.csv", b"text,label\n", "the file has a header but no rows"),
        ("a.csv", b"text,label", "the file has a header but no rows"),
        ("a.jsonl", b"\n", "the file is empty"),
        ("a.parquet", b"", "not parquet"),
        ("a.parquet", b"not parquet at all", "not parquet"),
        (
            "a.csv",
            b"text,label\ngood,1\nfine, really,1\n",
            "Row #3: Expected 2 columns, got 3: fine, really,1; is a quote or a comma",
        ),
        ("a.csv", b'text,label\n"open,1\nx,2\n', "line 2: the quote before 'open,1 x,2' is never closed: a lone quote?"),
        ("a.jsonl", b'[{"text": "x", "label": 1}]', "it needs one JSON object a line"),
        ("a.jsonl", b'{"text": "x"\n', "it needs one JSON object a line"),
        ("a.csv", "text,label\ngrün,1\n".encode("latin-1"), "not UTF-8: byte 0xfc at offset 13 (line 2); save the file as UTF-8"),
        ("a.xlsx", b"x", "the format '.xlsx' is not one of csv, tsv, jsonl, ndjson, json, parquet"),
        ("noname", b"x", "the format 'noname' is not one of csv"),
        ("a.csv.gz", b"text,label\nx,1\n", "cannot be read"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_file(str(path), ("text", "label"))
    (fault,) = error.value.faults
    assert fault.startswith(f"{path}: ")
    assert "\n" not in fault
    assert message in fault


def test_a_missing_file_and_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nx,1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"trian\.csv: there is no such file; did you mean 'train\.csv'\?"):
        read_file(str(tmp_path / "trian.csv"), ())
    (tmp_path / "sub.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        read_file(str(tmp_path / "sub.csv"), ())
    with pytest.raises(ConfigError, match="there is no such file"):
        read_file("memory://nowhere/a.csv", ())
    with pytest.raises(ConfigError, match="cannot be read: Protocol not known: nosuch"):
        read_file("nosuch://bucket/a.csv", ())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nx,1\n", encoding="utf-8")
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        read_file(str(path), ())


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_text_of_five_million_characters(suffix: str, tmp_path: Path) -> None:
    rows = [("word " * 1_000_000, "a"), ("short", "b")]
    (tmp_path / f"a.{suffix}").write_bytes(FILES[f"a.{suffix}"](rows))
    assert read(Task(train=str(tmp_path / f"a.{suffix}")))[0]["train"].texts == [text for text, _ in rows]


def saved(tmp_path: Path, **splits: list[int]) -> str:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "glad", "angry"])})
    parts = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {i}" for i in range(len(labels))], "label": labels}, features=features)
        for name, labels in splits.items()
    }
    datasets.disable_progress_bars()
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    parts["train"].to_parquet(tmp_path / "train.parquet")
    return str(tmp_path / "saved")


def test_a_saved_folder_gives_the_names_of_its_classes(tmp_path: Path) -> None:
    folder = saved(tmp_path, train=[1, 0] * 4, dev=[0, 1], test=[0, 1, 1])
    data = load_task("mine", Task(folder=folder, validation_split="dev"))
    assert data.labels == ("sad", "glad")  # their order in the data set, less the one that never occurs
    assert data.validation.texts == ("dev 0", "dev 1")
    assert data.train.labels.tolist() == [1, 0] * 4
    assert read(Task(train=str(tmp_path / "train.parquet")))[0]["train"].labels == ["glad", "sad"] * 4


def test_with_a_share_for_it_a_test_split_of_the_folder_is_not_read(tmp_path: Path) -> None:
    folder = saved(tmp_path, train=[1, 0] * 10, test=[-1, -1])  # labels withheld
    data = load_task("mine", Task(folder=folder, test_share=0.2))
    assert len(data.test) == 4
    assert all(text.startswith("train ") for text in data.test.texts)


def test_faults_of_a_saved_folder(tmp_path: Path) -> None:
    folder = saved(tmp_path, train=[1, 0] * 4, test=[0, -1, 1])
    with pytest.raises(ConfigError) as error:
        load_task("mine", Task(folder=folder, train_split="trian", validation_split="dev"))
    assert error.value.faults == (
        f"tasks.mine.train_split: folder: {folder} has no split 'trian'; did you mean 'train'?",
        f"tasks.mine.validation_split: folder: {folder} has no split 'dev'; allowed: test, train",
    )
    with pytest.raises(ConfigError, match=r"tasks\.mine\.test: no label in row 2 "):  # -1: a test split without labels
        load_task("mine", Task(folder=folder))
    with pytest.raises(ConfigError, match="there is no such folder"):
        load_task("mine", Task(folder=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match="not a folder that `datasets` saved"):
        load_task("mine", Task(folder=str(tmp_path)))


def offline_environment(home: Path, port: int) -> dict[str, str]:
    """Of a machine whose hub is a local port, with nothing in its caches."""
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and not k.startswith("HF_")}
    return kept | {"HF_HOME": str(home), "HF_ENDPOINT": f"http://127.0.0.1:{port}"}


def python(code: str, environment: dict[str, str]) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip().splitlines()


HUB = """
import time
from trainables.settings.task import Task
from trainables.data.splits import load_task
from trainables.settings.errors import ConfigError
began = time.monotonic()
try:
    print(len(load_task("far", Task(hub="somebody/some-set")).train))
except ConfigError as error:
    print(error)
print(time.monotonic() - began)
"""


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_an_unreachable_hub_fails_quickly_and_says_how_to_go_on(silent: bool, tmp_path: Path) -> None:
    with socket.socket() as server:  # a port where nobody listens, or where somebody listens and never answers
        server.bind(("127.0.0.1", 0))
        if silent:
            server.listen()
        message, seconds = python(HUB, offline_environment(tmp_path, server.getsockname()[1]))
    assert message.startswith("tasks.far.hub: somebody/some-set: the hub cannot be reached and the local cache")
    for way in ("csv", "save_to_disk", "`folder`", "HF_HOME"):
        assert way in message
    assert float(seconds) < 20


def test_an_unreachable_known_set_also_says_how_to_bring_that_set(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        environment = offline_environment(tmp_path, server.getsockname()[1])
        message, _ = python(HUB.replace("somebody/some-set", "fancyzhx/dbpedia_14"), environment)
    assert "the hub cannot be reached" in message
    assert "or fetch https://s3.amazonaws.com/fast-ai-nlp/dbpedia_csv.tgz and put the line `label,title,content` above" in message
    assert message.endswith("`tasks: {dbpedia: {train: train.csv, test: test.csv, text: [title, content]}}`")


PREPARE = """
import pathlib, sys
from trainables.settings.task import Task
from trainables.data.splits import load_task
from trainables.settings.errors import ConfigError
here, home = map(pathlib.Path, {!r})
for split in ("train", "test"):
    rows = "".join(f"{{split}} {{i}},{{'ab'[i % 2]}}\\n" for i in range(20))
    (here / f"{{split}}.csv").write_text("text,label\\n" + rows)
print(len(load_task("near", Task(hub=str(here))).train))
for wrong in (dict(hub_config="nope"), dict(train_split="trian")):
    try:
        load_task("near", Task(hub=str(here), **wrong))
    except ConfigError as error:
        print(error)
made = next(home.rglob("dataset_info.json")).parent
cached = home / "datasets" / "somebody___some-set" / "default" / "0.0.0" / "abc"
cached.parent.mkdir(parents=True)
made.rename(cached)
"""


def test_hub_sets_are_loaded_by_datasets_and_from_its_cache_when_offline(tmp_path: Path) -> None:
    here, home = tmp_path / "some-set", tmp_path / "home"
    here.mkdir()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        environment = offline_environment(home, server.getsockname()[1])
        # A folder goes the same way through `datasets`; what it leaves in the cache is what a download would leave.
        count, *faults = python(PREPARE.format((str(here), str(home))), environment)
        assert count == "18"
        assert faults == [
            f"tasks.near.hub: {here}: cannot be loaded: BuilderConfig 'nope' not found. Available: ['default']",
            f"tasks.near.train_split: hub: {here} has no split 'trian'; did you mean 'train'?",
        ]
        assert python(HUB, environment)[0] == "18"
