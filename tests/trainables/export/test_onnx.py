"""`model.onnx` in onnxruntime against our own prediction. Needs the extra onnx, which is not installed for the other tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import reviews
from tests.trainables.export.models import LABELS, fine_tuned
from trainables.export import onnx_file
from trainables.export.load import load
from trainables.export.write import write
from trainables.scores.evaluate import probabilities
from trainables.settings.errors import ConfigError

TEXTS = [text for text, _ in reviews(limit=12)]


@pytest.mark.parametrize(("kind", "pairs"), [("bert", True), ("roberta", False)])
def test_onnxruntime_gives_the_probabilities(kind: str, pairs: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'finetune-study[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'finetune-study[onnx]'")
    stage = {"pooling": "pooled"} if kind == "bert" else {"pooling": "cls"}
    described = write(fine_tuned(kind, tmp_path, pairs=pairs, **stage), tmp_path / "model", lambda _: "card")
    assert described.plain
    path = onnx_file.write_onnx(tmp_path / "model")
    session = runtime.InferenceSession(str(path))
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == list(LABELS)
    ours = load(tmp_path / "model", "cpu")
    entries = list(zip(TEXTS, TEXTS[::-1], strict=True)) if pairs else TEXTS
    sides = [list(side) for side in zip(*entries, strict=True)] if pairs else [entries]
    for size in (1, 5, len(TEXTS)):
        encoded = ours.base.tokenizer(*[side[:size] for side in sides], padding=True, truncation=True, return_tensors="np")
        (logits,) = session.run(None, {entry.name: encoded[entry.name].astype(np.int64) for entry in session.get_inputs()})
        assert np.abs(probabilities(logits, False) - ours.predict(entries[:size]).probabilities).max() < 1e-5  # type: ignore[index]
    assert not list((tmp_path / "model").glob(".*"))


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = write(fine_tuned("bert", tmp_path, head="mlp"), tmp_path / "model", lambda _: "card")
    assert not described.plain
    before = sorted((tmp_path / "model").iterdir())
    monkeypatch.setattr(onnx_file, "PACKAGES", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"needs no_such_package: pip install 'finetune-study\[onnx\]'"):
        onnx_file.write_onnx(tmp_path / "model")
    monkeypatch.setattr(onnx_file, "PACKAGES", ())
    with pytest.raises(ConfigError, match="transformers has no classifier with this head"):
        onnx_file.write_onnx(tmp_path / "model")
    assert sorted((tmp_path / "model").iterdir()) == before
