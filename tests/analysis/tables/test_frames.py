"""Data frames of a study: the cells of the csv files, with the types of what they hold."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pandas as pd

from analysis.records.run_folder import load
from analysis.tables import csv_export, frames
from tests.analysis.made_records import make


def same(frame: pd.DataFrame, text: str) -> None:
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(frame.columns) == list(rows[0])
    assert len(frame) == len(rows) > 3
    for name in frame.columns:
        for value, cell in zip(frame[name], (row[name] for row in rows), strict=True):
            if value is None or value != value:
                assert cell == "", name
            elif isinstance(value, str):
                assert cell == value, name
            else:
                assert math.isclose(float(cell), value, rel_tol=1e-7), name


def test_they_hold_what_the_csv_files_hold(finished: Path) -> None:
    run = load(finished)
    same(frames.trials(run), csv_export.trials_csv(run))
    same(frames.evaluations(run), "".join(csv_export.results_csv(run)))


def test_numbers_are_numbers_also_where_none_is_known_yet(tmp_path: Path) -> None:
    run = load(make(tmp_path, part="started"))
    trials, evaluations = frames.trials(run), frames.evaluations(run)
    assert trials["test_percent"].isna().all()
    assert {trials[name].dtype.kind for name in frames.TRIAL_NUMBERS} <= {"i", "f"}
    assert {evaluations[name].dtype.kind for name in frames.RESULT_NUMBERS if name in evaluations} <= {"i", "f"}
