"""Faults of files and options, all told before anything is predicted, and outputs that are whole or not there."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.export.load import LoadedModel
from trainables.prediction import windows
from trainables.prediction.lines import Columns
from trainables.prediction.predict_file import checked, predict_file
from trainables.settings.dialect import Dialect
from trainables.settings.errors import ConfigError

TEXT = Columns()


def faults(model: LoadedModel, url: Path | str, out: Path | None = None, columns: Columns = TEXT, **more: Any) -> list[str]:
    stdin = io.BytesIO(more.pop("stdin", b""))
    with pytest.raises(ConfigError) as error:
        checked(model, str(url), out, columns, Dialect.of(**more), stdin)
    return list(error.value.faults)


CONTENT: dict[str, tuple[str, bytes, str]] = {
    "near miss": ("x.csv", b"txet,a\nx,1\n", "there is no column 'text'; did you mean 'txet'?"),
    "no rows": ("x.csv", b"text,a\n", "the file has a header but no rows"),
    "empty csv": ("x.csv", b"", "the file is empty"),
    "empty lines": ("x.txt", b"\n\n", "the file is empty"),
    "empty jsonl": ("x.jsonl", b"", "the file is empty"),
    "key of no line": ("x.jsonl", b'{"txt": "x"}\n', "there is no column 'text'; did you mean 'txt'?"),
    "half of a line": ("x.jsonl", b'{"text": "x"}\n{"text": "y\n', "line 2: not JSON"),
    "no object": ("x.jsonl", b'[{"text": "x"}]\n', "line 1: a list, not a JSON object"),
    "no text": ("x.jsonl", b'{"text": "x"}\n{"text": 3}\n', "line 2: 'text' is a number, not text"),
    "surrogate": ("x.jsonl", b'{"text": "\\ud800"}\n', "line 1: 'text' holds half of a character"),
    "latin jsonl": ("x.jsonl", b'{"text": "caf\xe9"}\n', "not UTF-8: byte 0xe9 at offset 13 (line 1)"),
    "latin lines": ("x.txt", b"good\ncaf\xe9 au lait\n", "set `encoding: cp1252`"),
    "nul": ("x.txt", b"a\0b\n", "line 1 holds a NUL character"),
    "json as text": ("x.txt", b'{"text": "x"}\n{"text": "y"}\n', "is JSON lines, not plain text"),
    "json as csv": ("x.csv", b'{"text": "x"}\n{"text": "y"}\n', "is JSON lines"),
    "old line ends": ("x.txt", b"a\rb\rc", "carriage returns or other signs end its lines"),
    "no parquet": ("x.parquet", b"PAR1 no", "not parquet, or a damaged file"),
    "packed": ("x.jsonl", b"\x1f\x8b\x08\0\0", "is packed by gzip"),
    "other format": ("x.docx", b"x", "the format '.docx' is not one of"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_file_that_cannot_be_read(name: str, model: LoadedModel, tmp_path: Path) -> None:
    file, content, message = CONTENT[name]
    (tmp_path / file).write_bytes(content)
    (fault,) = faults(model, tmp_path / file, tmp_path / f"out.{'jsonl' if file.endswith('txt') else file[2:]}")
    assert message in fault
    assert fault.startswith(str(tmp_path / file))
    assert [entry.name for entry in tmp_path.iterdir()] == [file]


def test_ten_faulty_lines_are_told(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": 1}\n' * 30, encoding="utf-8")
    found = faults(model, tmp_path / "x.jsonl")
    assert len(found) == 11
    assert found[9].endswith("line 10: 'text' is a number, not text")


def test_columns_of_parquet_must_be_text(model: LoadedModel, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "x.parquet")
    out = tmp_path / "out.parquet"
    assert "the column 'text' holds int64, not text" in faults(model, tmp_path / "x.parquet", out)[0]
    assert "the file has no rows" in faults(model, _empty(tmp_path / "y.parquet"), out)[0]
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    assert faults(model, tmp_path / "x.parquet") == ["--out: a parquet file cannot be printed; give --out FILE.parquet"]


def _empty(path: Path) -> Path:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    return path


def test_all_faults_at_once(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("txet\nx\n", encoding="utf-8")
    found = faults(model, tmp_path / "x.csv", tmp_path / "nowhere" / "out.csv", Columns(("text",), ("other",)))
    assert [fault.split(":")[0] for fault in found] == [
        "--text-pair other",
        *[str(tmp_path / "x.csv")] * 2,
        f"--out {tmp_path}/nowhere/out.csv",
    ]


def test_places_of_the_output(model: LoadedModel, pairs: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text\nx\n", encoding="utf-8")
    (tmp_path / "same.csv").symlink_to(path)
    assert "is the file that is read" in faults(model, path, tmp_path / "same.csv")[0]
    assert "ends in .csv" in faults(model, path, tmp_path / "out.jsonl")[0]
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in faults(model, path, tmp_path / "folder.csv")[0]
    assert "--text-pair: not given" in faults(pairs, path)[0]
    (tmp_path / "x.txt").write_text("x\n", encoding="utf-8")
    assert "plain text has no columns" in faults(model, tmp_path / "x.txt", columns=Columns(("body",)))[0]
    assert "applies only to csv and tsv" in faults(model, tmp_path / "x.txt", delimiter=";")[0]


STDIN = {
    b"": "standard input: it is empty",
    b"\n\n": "standard input: it is empty",
    b'{"txt": "x"}\n': "did you mean 'txt'?",
    b"caf\xe9": "line 1: not utf-8: byte 0xe9",
}


@pytest.mark.parametrize("content", STDIN)
def test_standard_input_that_cannot_be_read(content: bytes, model: LoadedModel) -> None:
    assert STDIN[content] in faults(model, "-", stdin=content)[0]


def test_a_fault_in_the_middle_of_standard_input_leaves_the_file_as_it_was(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "ROWS", 2)
    out = tmp_path / "out.jsonl"
    out.write_text("before", encoding="utf-8")
    for last, message in (("{", "line 4: not JSON"), ('{"text": "x", "predicted_label": 1}', "line 4 has predicted_label")):
        content = '{"text": "good"}\n' * 3 + last
        source = checked(model, "-", out, Columns(), Dialect(), io.BytesIO(content.encode()))
        told: list[int] = []
        with pytest.raises(ConfigError, match=f"standard input: {message}"):
            predict_file(model, source, out, io.StringIO(), progress=lambda rows, total, told=told: told.append(rows))
        assert told == [2], "the first window was predicted"
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]
        assert out.read_text(encoding="utf-8") == "before"


def test_an_interrupt_leaves_no_file(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text\nx\n", encoding="utf-8")

    def interrupted(rows: int, total: int | None) -> None:
        assert len(list(tmp_path.iterdir())) == 2, "written aside"
        raise KeyboardInterrupt

    source = checked(model, str(tmp_path / "x.csv"), tmp_path / "out.csv", Columns(), Dialect())
    with pytest.raises(KeyboardInterrupt):
        predict_file(model, source, tmp_path / "out.csv", io.StringIO(), progress=interrupted)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_lines_that_are_appended_while_it_is_read_are_left_out(kind: str, model: LoadedModel, tmp_path: Path) -> None:
    path, out = tmp_path / f"x.{kind}", tmp_path / ("out.csv" if kind == "csv" else "out.jsonl")
    line, head = '{"text": "good"}' if kind == "jsonl" else "good", "text\n" * (kind == "csv")
    path.write_text(f"{head}{line}\n{line}", encoding="utf-8")
    source = checked(model, str(path), out, Columns(), Dialect())
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line[-1:]} more\n{line}\n")
    done = predict_file(model, source, out, io.StringIO())
    rows = out.read_text(encoding="utf-8").splitlines()
    assert [row.partition(",")[0] if kind == "csv" else json.loads(row)["text"] for row in rows][-2:] == ["good", "good"]
    assert done.notices == [f"{path}: it has grown since it was checked; its first 2 rows were predicted"]


def test_a_file_that_is_replaced_while_it_is_read_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for content, message in ((b'{"text": 5}\n' * 3, "changed while it was read: line 1"), (b'{"text": "x"}\n', "1 of 3 rows")):
        path.write_text('{"text": "x"}\n' * 3, encoding="utf-8")
        source = checked(model, str(path), tmp_path / "out.jsonl", Columns(), Dialect())
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            predict_file(model, source, tmp_path / "out.jsonl", io.StringIO())
        assert not (tmp_path / "out.jsonl").exists()
