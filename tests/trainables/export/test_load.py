"""A folder that was exported gives the model back, whatever its head; one that was altered is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import trainables
from tests.helpers import reviews
from tests.trainables.export.models import LABELS, fine_tuned
from trainables.export.write import write

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
