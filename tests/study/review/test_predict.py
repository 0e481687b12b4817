"""`study predict` with the model of a run, calibrated by the temperature that the run recorded."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis.stats.calibration import scaled
from analysis.text.terminal import stream
from tests.study.conftest import Run
from tests.study.review.test_export import TEXTS, best_of
from tests.study.tiny import answer, inside, records, refused
from trainables.prediction import windows


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def probabilities(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(value) for name, value in row.items() if name.startswith("probability_")] for row in rows])


def test_a_run_predicts_its_test_file_as_recorded(finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    test = finished.file.parent / "test.csv"
    best = best_of(finished.folder)["trial"]
    recorded = pq.read_table(finished.folder / "predictions" / f"{best}-test.parquet").to_pydict()
    known = np.array(recorded["probabilities"])
    raw = table(answer(capsys, "predict", finished.folder, test, "--raw", "--store", finished.store))
    assert [row["text"] for row in raw] == TEXTS
    assert np.abs(probabilities(raw) - known).max() < 1e-5
    (temperature,) = {
        row["temperature"] for row in records(finished.folder, "evaluation") if row.get("trial") == best and row["split"] == "test"
    }
    assert temperature != 1
    out = tmp_path / "out.csv"
    done = inside(capsys, "predict", finished.folder, test, "--out", out, "--store", finished.store)
    assert done == (0, "", f"{out}: {len(TEXTS)} rows\n")
    calibrated = table((tmp_path / "out.csv").read_text(encoding="utf-8"))
    assert np.abs(probabilities(calibrated) - scaled(known, temperature, False)).max() < 1e-5
    assert [row["predicted_label"] for row in calibrated] == [row["predicted_label"] for row in raw]
    kept = [[row["text"], row["label"]] for row in table(test.read_text(encoding="utf-8"))]
    assert [[row["text"], row["label"]] for row in calibrated] == kept


def test_an_exported_folder_and_standard_input(
    finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(capsys, "export", finished.folder, "--to", tmp_path / "model", "--store", finished.store)
    of_run, of_folder = (
        _printed(capsys, monkeypatch, where, "--store", finished.store) for where in (finished.folder, tmp_path / "model")
    )
    assert of_run == of_folder
    assert [json.loads(line)["text"] for line in of_run.splitlines()] == TEXTS[:3]
    described = json.loads((tmp_path / "model" / "study_model.json").read_text())
    (tmp_path / "model" / "study_model.json").write_text(json.dumps(described | {"temperature": 10.0}))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"good\n")))
    said = inside(capsys, "predict", tmp_path / "model", "-")[2]
    assert said.startswith("the temperature is 10, the end of its range (0.1 to 10): too few validation texts")


def _printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    lines = "\n".join(json.dumps({"body": text}) for text in TEXTS[:3])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.replace("body", "text").encode())))
    return answer(capsys, "predict", arguments[0], "-", *arguments[1:])


def test_standard_output_is_utf8_and_ends_with_its_reader(
    finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.csv").write_text("text,note\ngood,ä–電\n", encoding="utf-8")
    with open(tmp_path / "out.csv", "wb") as file, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream(file.fileno(), "latin-1", own=False))
        answer(capsys, "predict", finished.folder, tmp_path / "x.csv", "--store", finished.store)
        assert sys.stdout.encoding == "latin-1", "the stream did not get its encoding back"
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[1].startswith("good,ä–電,")
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(windows, "ROWS", 1)
    taken = iter(range(1000))
    lines = io.BufferedReader(Lines(taken))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
    monkeypatch.setattr(sys, "stdout", stream(write, own=True))
    assert inside(capsys, "predict", finished.folder, "-", "--store", finished.store)[0] == 0
    assert next(taken) < 1000, "all of the input was read though nobody reads the output"


class Lines(io.RawIOBase):
    """A stream with a line per number."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.numbers = numbers

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        line = next((f"text {number}\n".encode() for number in self.numbers), b"")
        into[: len(line)] = line
        return len(line)


def test_faults_name_options(finished: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("text\ncaf\xe9 au lait\n".encode("cp1252"))
    said = refused(capsys, "predict", finished.folder, tmp_path / "x.csv", "--store", finished.store)
    assert "give `--encoding cp1252`" in said
    assert "no exported model" in refused(capsys, "predict", tmp_path, tmp_path / "x.csv")
    assert "--delimiter" in refused(capsys, "predict", tmp_path, tmp_path / "x.csv", "--delimiter", "ab")
