"""`model.onnx` in onnxruntime against our own prediction: batches of other sizes and lengths than those that were exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.helpers import reviews
from tests.trainables.export.models import LABELS, fine_tuned
from trainables.export import onnx_file
from trainables.export.load import load
from trainables.export.write import write
from trainables.scores.evaluate import probabilities
from trainables.settings.errors import ConfigError

TEXTS = [text for text, _ in reviews(limit=12)]
SHORT = [text[:60] for text in TEXTS]
"""Pairs of them are not cut: transformers cuts a pair where this package does not."""
MODELS: list[tuple[str, bool, dict[str, Any]]] = [
    ("bert", True, {"pooling": "pooled"}),
    ("bert", False, {"pooling": "pooled"}),
    ("roberta", True, {"pooling": "pooled"}),
    ("distilbert", False, {"pooling": "cls"}),
    ("electra", False, {"pooling": "cls"}),
    ("albert", False, {"pooling": "pooled"}),
    ("deberta-v2", False, {"pooling": "pooled"}),
]
"""The first has every input; an export takes seconds."""


@pytest.mark.parametrize(
    ("kind", "pairs", "stage"),
    [pytest.param(*model, marks=[pytest.mark.slow] if place else [], id=model[0]) for place, model in enumerate(MODELS)],
)
def test_onnxruntime_gives_the_probabilities(kind: str, pairs: bool, stage: dict[str, Any], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'finetune-study[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'finetune-study[onnx]'")
    model = fine_tuned(kind, tmp_path, pairs=pairs, truncation="head", **stage)
    described = write(model, tmp_path / "model", lambda _: "card", onnx=True)
    session = runtime.InferenceSession(str(tmp_path / "model" / "model.onnx"))
    assert "model.onnx" in described.files
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == list(LABELS)
    assert {tuple(entry.shape) for entry in session.get_inputs()} == {("batch", "length")}
    ours, tokenizer = load(tmp_path / "model", "cpu"), AutoTokenizer.from_pretrained(tmp_path / "model")
    for size in (1, 5, len(TEXTS)):
        sides = [SHORT[:size], SHORT[-size:]] if pairs else [TEXTS[:size]]
        encoded = tokenizer(*sides, padding=True, truncation=True, return_tensors="np")
        (logits,) = session.run(None, {entry.name: encoded[entry.name] for entry in session.get_inputs()})
        found = ours.predict(list(zip(*sides, strict=True)) if pairs else sides[0])
        assert np.abs(probabilities(logits, False) - found.probabilities).max() < 1e-5
    assert np.ptp(found.probabilities, axis=0).max() > 1e-3  # the texts matter


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="it needs a head that transformers has: the head of transformers' Bert"):
        write(fine_tuned("bert", tmp_path, pooling="cls", head="mlp"), tmp_path / "model", lambda _: "card", onnx=True)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    with pytest.raises(ConfigError, match="the family longformer is not exported; those that are: albert, bert, "):
        onnx_file.check("longformer")
    monkeypatch.setattr(onnx_file, "PACKAGES", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"needs no_such_package: pip install 'finetune-study\[onnx\]'"):
        onnx_file.check("bert")
