"""Files in every format come back with predictions, row by row, and with all that they held before."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import reviews
from trainables.export.load import LoadedModel
from trainables.prediction import windows
from trainables.prediction.lines import Columns
from trainables.prediction.predict_file import Done, checked, predict_file
from trainables.settings.dialect import Dialect
from trainables.settings.errors import ConfigError

TEXTS = [text for text, _ in reviews(limit=23)]
TEXTS[3] = 'A "quoted" text, with a comma;\nand a second line \u2014 caf\u00e9'
TEXTS[7] = "A long one. " * 40
ROWS = [{"text": text, "id": f"{i:03d}", "label": "old", "note": "=1+1" if i % 2 else ""} for i, text in enumerate(TEXTS)]
TEXT = Columns()
NAMES = ["predicted_label", "probability_bad", "probability_fair", "probability_good"]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows of a small file."""
    monkeypatch.setattr(windows, "ROWS", 5)


def predicted(
    model: LoadedModel,
    url: Path | str,
    out: Path | None = None,
    columns: Columns = TEXT,
    stdin: bytes = b"",
    raw: bool = False,
    **dialect: Any,
) -> tuple[Done, str]:
    """(what was done, what was printed)."""
    stdout = io.StringIO()
    source = checked(model, str(url), out, columns, Dialect.of(**dialect), io.BytesIO(stdin))
    return predict_file(model, source, out, stdout, raw=raw), stdout.getvalue()


def written(path: Path, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def read(path: Path, delimiter: str = ",") -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))


def made_csv(folder: Path) -> Path:
    return written(folder / "in.csv")


def made_tsv(folder: Path) -> Path:
    return written(folder / "in.tsv", "\t")


def made_gzip(folder: Path) -> Path:
    path = folder / "in.csv.gz"
    path.write_bytes(gzip.compress(written(folder / "whole.csv").read_bytes()))
    return path


def made_jsonl(folder: Path) -> Path:
    path = folder / "in.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(ROWS)) + "\n\n", encoding="utf-8")
    return path


def made_parquet(folder: Path) -> Path:
    path = folder / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)
    return path


@pytest.mark.parametrize("make", [made_csv, made_tsv, made_gzip, made_jsonl, made_parquet])
def test_every_row_keeps_its_place_and_its_columns(make: Callable[[Path], Path], model: LoadedModel, tmp_path: Path) -> None:
    path = make(tmp_path)
    out = tmp_path / f"out{path.with_suffix('').suffix or path.suffix}"
    done, printed = predicted(model, path, out)
    found = read(out, "\t" if out.suffix == ".tsv" else ",")
    assert (done.rows, done.empty, printed) == (len(TEXTS), 0, "")
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS
    assert list(found[0]) == [*ROWS[0], *NAMES]
    expected = model.predict(TEXTS)
    assert [row["predicted_label"] for row in found] == expected.labels
    assert len(set(expected.probabilities[:, 0].tolist())) > 10
    np.testing.assert_allclose([[float(row[name]) for name in NAMES[1:]] for row in found], expected.probabilities, atol=1e-6)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(
        {path.name, out.name, *(["whole.csv"] * (make is made_gzip))}
    )


def test_raw_probabilities_have_no_temperature(model: LoadedModel, tmp_path: Path) -> None:
    path = made_jsonl(tmp_path)
    found = {raw: [json.loads(line) for line in predicted(model, path, raw=raw)[1].splitlines()] for raw in (False, True)}
    logits = {raw: np.array([np.log(row[NAMES[2]] / row[NAMES[1]]) for row in rows]) for raw, rows in found.items()}
    np.testing.assert_allclose(logits[True], model.temperature * logits[False], atol=1e-4)
    assert [row[NAMES[0]] for row in found[True]] == [row[NAMES[0]] for row in found[False]]


def test_plain_text_becomes_json_lines_and_an_empty_line_is_a_row(model: LoadedModel, tmp_path: Path) -> None:
    lines = ["good film", "", "bad film", "\u00e4\u00f6\u00fc \U0001f600"]
    path = tmp_path / "in.txt"
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    done, printed = predicted(model, path)
    assert [json.loads(line)["text"] for line in printed.splitlines()] == lines
    assert (done.rows, done.empty, done.first_empty) == (4, 1, 2)
    assert "1 of 4 rows have no text, first row 2" in done.notices[0]
    assert predicted(model, "-", stdin="\n".join(lines).encode())[1] == printed


@pytest.mark.parametrize("kind", ["lines", "jsonl"])
def test_standard_input(kind: str, model: LoadedModel) -> None:
    texts = [text.replace("\n", " ") for text in TEXTS]
    lines = texts if kind == "lines" else [json.dumps({"n": 1e400 if i == 2 else i, "text": text}) for i, text in enumerate(texts)]
    done, printed = predicted(model, "-", stdin="\n".join(lines).encode())
    found = [json.loads(line) for line in printed.splitlines()]
    assert (done.rows, [row["text"] for row in found]) == (len(texts), texts)
    assert [row["predicted_label"] for row in found] == model.predict(texts).labels
    if kind == "jsonl":
        assert [line.split(', "predicted')[0] + "}" for line in printed.splitlines()] == lines, "digits stay as they are written"


def test_several_labels_are_lists(several: LoadedModel, tmp_path: Path) -> None:
    expected = [list(labels) for labels in several.predict(TEXTS).labels]
    assert len({len(labels) for labels in expected}) > 1
    for make, parse in ((made_csv, json.loads), (made_jsonl, list), (made_parquet, list)):
        path = make(tmp_path)
        out = tmp_path / f"out{path.suffix}"
        predicted(several, path, out)
        assert [parse(row["predicted_label"]) for row in read(out)] == expected


def test_pairs(pairs: LoadedModel, tmp_path: Path) -> None:
    rows = [{"a": text, "b": other} for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    _, printed = predicted(pairs, path, columns=Columns(("a",), ("b",)))
    expected = pairs.predict([(row["a"], row["b"]) for row in rows])
    found = [json.loads(line) for line in printed.splitlines()]
    np.testing.assert_allclose([[row[name] for name in NAMES[1:]] for row in found], expected.probabilities, atol=1e-6)


def test_a_file_that_was_predicted_before_gets_columns_with_a_number(model: LoadedModel, tmp_path: Path) -> None:
    predicted(model, made_csv(tmp_path), tmp_path / "once.csv")
    done, _ = predicted(model, tmp_path / "once.csv", tmp_path / "twice.csv")
    assert list(read(tmp_path / "twice.csv")[0])[-4:] == [f"{name}_2" for name in NAMES] == list(done.added)
    assert "predicted_label_2" in done.notices[0]


def test_a_table_of_another_dialect(model: LoadedModel, tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", ";", "cp1252")
    with pytest.raises(ConfigError, match=r"not UTF-8.*encoding: cp1252"):
        predicted(model, path)
    predicted(model, path, tmp_path / "out.csv", encoding="cp1252", delimiter=";")
    assert [row["text"] for row in read(tmp_path / "out.csv", ";")] == TEXTS
    declared = tmp_path / "declared.csv"
    declared.write_bytes(b"sep=;\n" + written(tmp_path / "in.csv", ";").read_bytes())
    assert predicted(model, declared)[1].startswith("text;id;label;note;predicted_label;")
    quoted = tmp_path / "quoted.tsv"
    quoted.write_text('text\tid\na "lone quote\t1\n"another\t2\nx\t3\n', encoding="utf-8")
    predicted(model, quoted, tmp_path / "out.tsv", quoting="none")
    assert [row["text"] for row in read(tmp_path / "out.tsv", "\t")] == ['a "lone quote', '"another', "x"]
