"""Losses of texts: their mean is the score, their spread that of the score over draws of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from analysis.losses import Predictions, losses, read

RNG = np.random.default_rng(0)


def predictions(texts: int = 500, classes: int = 4) -> Predictions:
    truth = RNG.integers(0, classes, texts) ** 2 // classes
    given = np.where(RNG.random(texts) < 0.7, truth, RNG.integers(0, classes, texts))
    return Predictions(truth, given)


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1"])
def test_the_mean_is_the_f1(metric: str) -> None:
    found = predictions()
    expected = f1_score(found.truth, found.given, average=metric.partition("_")[0])
    assert 1 - losses(found, metric).mean(dtype=float) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1"])
def test_the_mean_is_the_f1_of_several_labels(metric: str) -> None:
    truth, given = (RNG.random((2, 300, 5)) < 0.4).astype(int)
    expected = f1_score(truth, given, average=metric.partition("_")[0])
    assert 1 - losses(Predictions(truth, given), metric).mean(dtype=float) == pytest.approx(expected, abs=1e-6)


def test_the_spread_is_that_of_a_bootstrap() -> None:
    found = predictions(800)
    scores = []
    for _ in range(600):
        drawn = RNG.integers(0, 800, 800)
        scores.append(f1_score(found.truth[drawn], found.given[drawn], average="macro"))
    assert losses(found, "macro_f1").std() / np.sqrt(800) == pytest.approx(np.std(scores), rel=0.1)


def test_errors_are_zero_or_one() -> None:
    found = predictions()
    assert losses(found, "error_rate").tolist() == (found.truth != found.given).astype(int).tolist()
    assert losses(found, "accuracy").tolist() == losses(found, "error_rate").tolist()
    several = Predictions(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]]))
    assert losses(several, "error_rate").tolist() == [0, 1]


def write(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_texts_come_in_their_order(tmp_path: Path) -> None:
    found = read(write(tmp_path / "p.parquet", index=[2, 0, 1], label=[5, 3, 4], prediction=[5, 0, 4]))
    assert found.truth.tolist() == [3, 4, 5]
    assert losses(found, "error_rate").tolist() == [1, 0, 0]
    same = read(write(tmp_path / "q.parquet", index=[0, 1, 2], label=[3, 4, 5], prediction=[0, 0, 0]))
    assert found.digest == same.digest
    assert found.digest != read(write(tmp_path / "r.parquet", index=[0, 1], label=[3, 4], prediction=[3, 4])).digest


def test_lists_of_labels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    columns = {"label": [[0], [], [0, 2]], "prediction": [[0], [1], [2]], "probabilities": [[0.5] * 4] * 3}
    found = read(write(path, index=[0, 1, 2], **columns))
    assert found.truth.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert found.given.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.parquet")
    (tmp_path / "p.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ValueError, match=r"p\.parquet"):
        read(tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="numbered from 0"):
        read(write(tmp_path / "q.parquet", index=[1, 2], label=[0, 0], prediction=[0, 0]))
    with pytest.raises(ValueError, match=r"r\.parquet"):
        read(write(tmp_path / "r.parquet", index=[0, 1], label=[0, 0]))
