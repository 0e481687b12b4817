"""Each family's own classifier in transformers: used where it is the same function as the trained head, not faked elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

from tests.helpers import reviews
from tests.trainables.export.models import LABELS, fine_tuned
from trainables.encoder.layers import blocks_of
from trainables.export import plain
from trainables.export.load import load
from trainables.export.write import tokenizer_of, write

TEXTS = [text[:30] for text, _ in reviews(limit=5)]
PAIRS = [*zip(TEXTS, reversed(TEXTS), strict=True)]
SAME: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"pooling": "pooled", "several": True}),
    ("bert", {"pooling": "pooled", "pairs": True, "layers": (1,)}),
    ("roberta", {"pooling": "pooled", "pairs": True, "truncation": "tail"}),
    ("electra", {"pooling": "cls", "several": True}),
    ("distilbert", {"pooling": "cls", "head": "mlp", "head_width": 20}),
    ("deberta-v2", {"pooling": "pooled"}),
    ("xlnet", {"pooling": "cls"}),
]
SAME_TOO: list[tuple[str, dict[str, Any]]] = [
    ("distilbert", {"pooling": "cls"}),
    ("deberta-v2", {"pooling": "cls"}),
    ("deberta-v2", {"pooling": "cls", "head": "mlp", "head_width": 20}),
    ("xlnet", {"pooling": "pooled"}),
]
ANOTHER: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"pooling": "cls"}, "BertForSequenceClassification is another function than pooling cls with a linear head"),
    ("electra", {"pooling": "pooled"}, "ElectraForSequenceClassification is another function than pooling pooled"),
    ("modernbert", {"pooling": "cls", "layers": (1,)}, "a norm behind the last layer is not applied to layer 1"),
]
ANOTHER_TOO: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"pooling": "mean"}, "no text vector of pooling mean"),
    ("bert", {"pooling": "cls", "layers": (0, 1)}, "and not layers 0, 1"),
    ("bert", {"pooling": "pooled", "truncation": "hier-max"}, "reads no text in fractions"),
    ("roberta", {"pooling": "pooled", "head": "mlp"}, "RobertaForSequenceClassification is another function"),
    ("modernbert", {"pooling": "cls"}, "ModernBertForSequenceClassification is another function"),
]


@pytest.mark.parametrize(("kind", "how"), SAME)
def test_transformers_gives_the_same_probabilities(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    model, folder = fine_tuned(kind, tmp_path, **how), tmp_path / "out"
    described = write(model, folder, lambda described: "card")
    assert (described.plain, described.reason) == (True, "")
    given: Any = [{"text": one, "text_pair": other} for one, other in PAIRS] if model.pairs else TEXTS
    theirs = pipeline("text-classification", str(folder), device="cpu")(given, top_k=None)
    ours = model.predict(PAIRS if model.pairs else TEXTS).probabilities
    for scores, row in zip(theirs, ours, strict=True):
        by_name = {score["label"]: score["score"] for score in scores}
        assert [by_name[name] for name in LABELS] == pytest.approx(row.tolist(), abs=1e-5)
    assert np.ptp(ours, axis=0).max() > 1e-3  # the texts matter
    assert np.array_equal(
        load(folder, "cpu").logits(PAIRS if model.pairs else TEXTS), model.logits(PAIRS if model.pairs else TEXTS)
    )
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert config.label2id == {name: place for place, name in enumerate(LABELS)}
    assert config.problem_type == ("multi_label_classification" if model.multi_label else "single_label_classification")
    assert {value for name, value in config.to_dict().items() if "hidden_dropout" in name} <= {0.2}
    assert (tokenizer.model_max_length, tokenizer.truncation_side) == (64, "left" if "truncation" in how else "right")


@pytest.mark.parametrize(("kind", "how", "why"), ANOTHER)
def test_a_head_that_transformers_lacks_is_not_faked(kind: str, how: dict[str, Any], why: str, tmp_path: Path) -> None:
    model, folder = fine_tuned(kind, tmp_path, **how), tmp_path / "out"
    described = write(model, folder, lambda described: "card")
    assert not described.plain
    assert why in described.reason
    assert AutoConfig.from_pretrained(folder).architectures == [type(AutoModel.from_pretrained(folder)).__name__]
    assert np.array_equal(load(folder, "cpu").logits(TEXTS), model.logits(TEXTS))
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    said: list[torch.Tensor] = []
    blocks_of(encoder, encoder.config.num_hidden_layers)[-1].register_forward_hook(lambda *call: said.append(call[2]))
    with torch.inference_mode():
        state = encoder(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state
        state = said[0] if "layers" in how else state  # before the norm
        vector = state.mean(1) if how["pooling"] == "mean" else state[:, 0]
        if model.model.pooler is not None:
            vector = torch.tanh(model.model.pooler(vector))
        assert np.allclose(model.model.classifier(vector), model.logits(TEXTS[:1]), atol=1e-4)


@pytest.mark.parametrize(("kind", "how"), SAME_TOO)
def test_a_head_is_found_among_others(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    model = fine_tuned(kind, tmp_path, **how)
    theirs, why = plain.expressed(model, tokenizer_of(model))
    assert (theirs is not None, why) == (True, "")


@pytest.mark.parametrize(("kind", "how", "why"), ANOTHER_TOO)
def test_the_reason_is_stated(kind: str, how: dict[str, Any], why: str, tmp_path: Path) -> None:
    model = fine_tuned(kind, tmp_path, **how)
    theirs, said = plain.expressed(model, tokenizer_of(model))
    assert theirs is None
    assert why in said
