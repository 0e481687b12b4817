"""A folder that was exported gives the model back, whatever its head; one that was altered is refused."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainables
from tests.helpers import reviews
from tests.trainables.export.models import LABELS, THRESHOLDS, fine_tuned
from trainables.export.load import load
from trainables.export.write import check_place, write
from trainables.settings.errors import ConfigError

TEXTS = [text for text, _ in reviews(limit=12)] + ["", "word " * 300]


def test_a_plain_model_comes_back(tmp_path: Path) -> None:
    model = fine_tuned("bert", tmp_path)
    assert write(model, tmp_path / "out", lambda described: "card").plain
    loaded = trainables.load(tmp_path / "out", "cpu")
    assert np.array_equal(loaded.logits(TEXTS), model.logits(TEXTS))
    found = loaded.predict(TEXTS)
    assert (loaded.labels, loaded.multi_label, loaded.pairs, loaded.temperature) == (LABELS, False, False, 1.0)
    assert found.labels == [LABELS[place] for place in found.probabilities.argmax(axis=1)]
    assert np.ptp(found.probabilities, axis=0).max() > 0.05  # the texts matter
    assert found.probabilities.dtype == np.float32
    assert np.allclose(found.probabilities.sum(axis=1), 1)
    one_by_one = np.concatenate([loaded.predict([text]).probabilities for text in TEXTS])
    assert np.abs(one_by_one - found.probabilities).max() < 1e-5
    assert loaded.predict([]).labels == []


HEADS: list[dict[str, Any]] = [
    {"pooling": "bilstm", "lstm_width": 5, "attention_width": 6, "attention_hops": 2, "freeze": "encoder"},
    {"pooling": "mean", "layers": (0, 2), "combine": "concat", "head": "mlp", "head_width": 7},
    {"pooling": "pooled", "truncation": "hier-attention", "max_length": 12, "max_fractions": 9},
]


@pytest.mark.parametrize("how", HEADS, ids=str)
def test_every_head_comes_back_bit_for_bit(how: dict[str, Any], tmp_path: Path) -> None:
    model = fine_tuned("bert", tmp_path, **how)
    described = write(model, tmp_path / "out", lambda described: described.reason)
    assert not described.plain
    assert (tmp_path / "out" / "README.md").read_text() == described.reason != ""
    assert np.array_equal(load(tmp_path / "out", "cpu").logits(TEXTS), model.logits(TEXTS))


def test_labels_reach_their_own_thresholds(tmp_path: Path) -> None:
    model = fine_tuned("bert", tmp_path, several=True)
    found = model.predict(TEXTS)
    expected = 1 / (1 + np.exp(-model.logits(TEXTS).astype(float)))
    assert np.allclose(found.probabilities, expected, atol=1e-6)
    has = expected >= np.array(THRESHOLDS)
    assert found.labels == [tuple(name for name, there in zip(LABELS, row, strict=True) if there) for row in has]
    assert 0 < has.sum() < has.size


def test_the_temperature_changes_probabilities_and_no_label(tmp_path: Path) -> None:
    model = fine_tuned("bert", tmp_path)
    warm = replace(model, described=model.described.model_copy(update={"temperature": 2.0}))
    assert warm.predict(TEXTS).labels == model.predict(TEXTS).labels
    assert np.array_equal(warm.predict(TEXTS, raw=True).probabilities, model.predict(TEXTS).probabilities)
    halved = np.exp(model.logits(TEXTS).astype(float) / 2)
    assert np.allclose(warm.predict(TEXTS).probabilities, halved / halved.sum(axis=1, keepdims=True), atol=1e-6)


def test_what_is_not_of_its_kind_is_refused(tmp_path: Path) -> None:
    single, pairs = fine_tuned("bert", tmp_path), fine_tuned("bert", tmp_path, pairs=True)
    with pytest.raises(ConfigError, match=r"texts: number 1 is \('a', 'b'\), but it must be a text"):
        single.predict(["a", ("a", "b")])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="texts: number 0 is 'ab', but it must be a pair of texts"):
        pairs.predict(["ab"])
    with pytest.raises(ConfigError, match="texts: number 0 is None"):
        single.predict([None])  # type: ignore[list-item]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    write(fine_tuned("bert", folder), folder / "model", lambda described: "card")
    return folder / "model"


def altered(folder: Path, name: str, change: Callable[[bytes], bytes | None]) -> None:
    content = change((folder / name).read_bytes())
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("head.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "head.safetensors is not the file that was exported"),
        ("model.safetensors", lambda data: data[:-100], "model.safetensors is not the file that was exported"),
        ("tokenizer.json", lambda data: None, "tokenizer.json is gone"),
        ("study_model.json", lambda data: None, "no exported model, which has a study_model.json: it has none"),
        ("study_model.json", lambda data: data[:-9], "damaged: it is not JSON"),
        ("study_model.json", lambda data: data.replace(b'"format": 1', b'"format": 2'), "format 2 given"),
        ("study_model.json", lambda data: data.replace(b'"pairs"', b'"pears"'), "pears: unknown field; did you mean 'pairs'"),
        ("study_model.json", lambda data: data.replace(b'"fair"', b'"good"'), "labels: a name occurs twice"),
        ("study_model.json", lambda data: data.replace(b'"head.safetensors"', b'"../head.safetensors"'), "is no name of a file"),
        ("study_model.json", lambda data: data.replace(b'"head": "linear"', b'"head": "mlp"'), "does not fit the head"),
    ],
)
def test_an_altered_folder_is_refused(
    exported: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes | None], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    altered(folder, name, change)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(folder, "cpu")


def test_an_unknown_device_is_refused(exported: Path) -> None:
    with pytest.raises(ConfigError, match="device: 'cdua' given; did you mean 'cuda'"):
        load(exported, "cdua")


def test_a_full_disk_leaves_the_earlier_model(exported: Path, tmp_path: Path) -> None:
    folder, model = tmp_path / "model", fine_tuned("bert", tmp_path)
    shutil.copytree(exported, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 1024, limit[1]))
    try:
        with pytest.raises(ConfigError, match="File too large; nothing was changed there"):
            write(model, folder, lambda described: "another card", force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "weights.safetensors"]


def test_a_folder_with_anything_else_is_never_replaced(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty, and it holds no exported model"):
        check_place(tmp_path, force=True)
    with pytest.raises(ConfigError, match="--force replaces it"):
        check_place(exported, force=False)
    with pytest.raises(ConfigError, match="exists and is no folder"):
        check_place(tmp_path / "notes.txt", force=True)
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds what no export wrote: notes.txt"):
        check_place(tmp_path / "model", force=True)
    check_place(tmp_path / "new", force=False)
    check_place(exported, force=True)


def test_what_killed_exports_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """A process that ends releases its locks, however it ends."""
    dead, old, running, others = (
        tmp_path / name for name in (".out.12-0a1b2c3d.new", ".out.12-0a1b2c3d.new.before", ".out.9-0a1b2c3d.new", ".other.new")
    )
    for folder in (dead, old, running, others):
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
    place = os.open(running, os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    write(fine_tuned("bert", tmp_path), tmp_path / "out", lambda described: "card")
    assert not dead.exists()
    assert not old.exists()
    assert running.exists()
    assert others.exists()
    os.close(place)
