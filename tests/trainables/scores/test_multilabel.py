"""Multi-label tasks: their data, loss, thresholds and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from tests.helpers import reviews, tiny_encoder, write_csv
from tests.trainables.encoders import examples_of, tiny_base
from trainables.batches.pack import Example, collate
from trainables.data.splits import load_task, subset
from trainables.encoder.dropout import dropout_bits
from trainables.heads.classifier import classifier
from trainables.scores.bag_of_words import bag_of_words
from trainables.scores.metrics import best_threshold, label_scores, thresholds_of
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.settings.task import Task
from trainables.stages import run_recipe as runner
from trainables.stages.finetune import binary_cross_entropy, class_weights
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store

TABLES = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.tuples(*[st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.5, 0.51, 0.9, 1.0]))] * k), min_size=1)
)
"""Rows of (has the label, probability) for each label."""


def arrays(table: Any) -> tuple[np.ndarray, np.ndarray]:
    cells = np.array(table, dtype=float)
    return cells[..., 0].astype(np.int64), cells[..., 1]


@given(TABLES)
def test_scores_are_those_of_scikit_learn(table: Any) -> None:
    has, probabilities = arrays(table)
    chosen = (probabilities >= 0.5).astype(int)
    found = label_scores(has, chosen)
    flat = {"y_true": has, "y_pred": chosen} if has.shape[1] > 1 else {"y_true": has[:, 0], "y_pred": chosen[:, 0]}
    assert found["error_rate_percent"] == pytest.approx(100 * (1 - accuracy_score(**flat)))
    assert list(found["f1"]) == pytest.approx([f1_score(has[:, i], chosen[:, i], zero_division=0) for i in range(has.shape[1])])
    assert found["macro_f1"] == pytest.approx(np.mean(found["f1"]))
    assert found["micro_f1"] == pytest.approx(f1_score(has.ravel(), chosen.ravel(), zero_division=0))
    assert found["examples"] == len(has)


@given(TABLES)
def test_thresholds_are_the_best_there_are(table: Any) -> None:
    has, probabilities = arrays(table)

    def f1(threshold: float, columns: slice) -> float:
        return float(f1_score(has[:, columns].ravel(), (probabilities[:, columns] >= threshold).ravel(), zero_division=0))

    candidates = [0.0, 0.1, 0.3, 0.505, 0.6, 0.95, 1.1]
    found = best_threshold(has, probabilities)
    assert 0 <= found <= 1
    assert f1(found, slice(None)) == pytest.approx(max(f1(each, slice(None)) for each in candidates))
    for i, own in enumerate(thresholds_of("per-label", has, probabilities)):
        assert f1(own, slice(i, i + 1)) == pytest.approx(max(f1(each, slice(i, i + 1)) for each in candidates))
    assert thresholds_of("half", has, probabilities) == [0.5] * has.shape[1]
    assert thresholds_of("one", has, probabilities) == [found] * has.shape[1]


def several(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Reviews with labels of their own: their feeling, and what they are about; some have none."""
    words = {"film": "film", "movie": "film", "acting": "acting", "plot": "plot", "script": "plot"}
    made = []
    for text, label in rows:
        names = [label] if label == "positive" else []
        names += sorted({name for word, name in words.items() if word in text.lower()})
        made.append((text, " | ".join(names)))
    return made


def task(folder: Path, **changes: Any) -> Task:
    return Task(**({"multi_label": True, "validation_share": 0.25} | files_of(folder, " | ") | changes))


def files_of(folder: Path, separator: str) -> dict[str, Any]:
    """A training and a test file with this between labels."""
    files = {}
    for split, count in (("train", 80), ("test", 40)):
        rows = [(text, names.replace(" | ", separator)) for text, names in several(reviews("sls_imdb", split, count))]
        files[split] = write_csv(folder / f"{split}{ord(separator[0])}.csv", rows)
    return files


def recipe(folder: Path, **finetune: Any) -> Recipe:
    settings = {"epochs": 2, "batch_size": 8, "max_length": 24, "head_tokens": 6, "learning_rate": 1e-3} | finetune
    stages = (Finetune(**settings),)
    return Recipe(tasks={"several": task(folder)}, task="several", encoder=tiny_encoder(), stages=stages, precision="float32")


def test_labels_of_a_text_from_every_kind_of_column(tmp_path: Path) -> None:
    by_csv = load_task("several", task(tmp_path))
    assert by_csv.labels == ("acting", "film", "plot", "positive")
    assert by_csv.train.labels.shape == (60, 4)
    assert (by_csv.train.labels.sum(axis=1) == 0).any(), "texts without any label"
    lines = [{"text": text, "label": [n.strip() for n in names.split("|") if n.strip()]} for text, names in several(reviews()[:80])]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    by_list = load_task("several", task(tmp_path, train=str(tmp_path / "train.jsonl")))
    assert by_list.digest("train") == by_csv.digest("train")
    by_comma = load_task("several", task(tmp_path, **files_of(tmp_path, ","), label_separator=","))
    assert by_comma.digest("train") == by_csv.digest("train")


def test_shares_keep_every_label(tmp_path: Path) -> None:
    data = load_task("several", task(tmp_path))
    assert (data.validation.labels.sum(axis=0) > 0).all()
    few = subset(data.train, 12, 0)
    assert few.labels.shape == (12, 4)
    assert (few.labels.sum(axis=0) > 0).all()
    rarest = data.train.labels.sum(axis=0).argmin()
    assert (data.train.strata[data.train.labels[:, rarest] > 0] == rarest).all()


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([("a", "x"), ("b", "x"), ("c", "x")], {}, "all texts have the same labels (x): there is nothing to learn"),
        ([("a", ""), ("b", ""), ("c", "")], {}, "all texts have the same labels (none): there is nothing to learn"),
        ([("a", "x|y"), ("b", "x"), ("c", "z")], {"labels": ("x", "y")}, "the label 'z' (1 text) is not in `labels`"),
        ([("a", "x|y"), ("b", "x"), ("c", "y")], {"test": [("d", "yy")]}, "the label 'yy' (1 text) is not in the training split"),
    ],
)
def test_faults_of_labels(tmp_path: Path, rows: Any, changes: dict[str, Any], message: str) -> None:
    files = {"train": write_csv(tmp_path / "a.csv", rows), "validation": write_csv(tmp_path / "b.csv", rows)}
    files["test"] = write_csv(tmp_path / "c.csv", changes.pop("test", rows))
    with pytest.raises(ConfigError) as caught:
        load_task("several", Task(multi_label=True, **files, **changes))
    assert message in "\n".join(caught.value.faults)


def test_a_label_with_one_positive_works(tmp_path: Path) -> None:
    rows = [(f"text {i}", "common" if i % 2 else "") for i in range(20)] + [("the only one", "rare|common")]
    files = {split: write_csv(tmp_path / f"{split}.csv", rows) for split in ("train", "validation", "test")}
    data = load_task("rare", Task(multi_label=True, **files))
    assert data.train.labels.sum(axis=0).tolist() == [11, 1]
    assert bag_of_words(data)["test"]["examples"] == 21


@pytest.mark.parametrize(("smoothing", "weighted"), [(0.0, False), (0.2, True)])
def test_loss_equals_torch(smoothing: float, weighted: bool) -> None:
    base, labels = tiny_base("bert"), np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    texts = [Example(e.ids, label=row) for e, row in zip(examples_of(base, (5, 9, 3, 6)), labels, strict=True)]
    model, batch = classifier(base, 3, "cls", 0.0, 0).eval(), collate(texts, base)
    weights = class_weights(labels, 3) if weighted else None
    assert weights is None or weights.tolist() == pytest.approx([1 / 3, 3.0, 4.0])
    targets = torch.from_numpy(labels).float() * (1 - smoothing) + smoothing / 2
    theirs = nn.BCEWithLogitsLoss(pos_weight=weights)(model(batch), targets)
    torch.testing.assert_close(binary_cross_entropy(model, batch, weights, smoothing) / 4, theirs)


def test_head_of_two_layers_is_the_formula() -> None:
    """[CLS], dropout, linear(50), ReLU, dropout, linear: written out, and with dropout on the same for every micro-batch."""
    base = tiny_base("bert")
    model = classifier(base, 3, "cls", 0.0, 0, hidden=50).eval()
    batch = collate(examples_of(base, (5, 9)), base)
    inner, _, _, out = model.classifier
    assert inner.weight.shape == (50, 32)
    expected = out(torch.relu(inner(model.vectors(batch))))
    torch.testing.assert_close(model(batch), expected)
    dropped = classifier(base, 3, "cls", 0.0, 0, hidden=50, head_dropout=0.5).train()
    examples = examples_of(base, (5, 9, 4))
    with dropout_bits(0, 0, whole := collate(examples, base)):
        together = dropped(whole)
    with dropout_bits(0, 0, last := collate(examples[2:], base, before=examples[:2])):
        torch.testing.assert_close(dropped(last), together[2:])
    assert not torch.allclose(together[:2], model(batch))


@pytest.mark.parametrize("how", ["half", "one", "per-label"])
def test_a_whole_recipe(tmp_path: Path, how: str) -> None:
    made, store = recipe(tmp_path, thresholds=how, head="mlp", class_weights="balanced"), Store(str(tmp_path / "store"))
    rows = list(runner.run(made, store, Execution(threads=1)))
    assert set(rows[-1]["f1_by_label"]) == {"acting", "film", "plot", "positive"}
    thresholds = rows[-1]["thresholds"]
    assert len(thresholds) == 4
    assert (len(set(thresholds)) > 1) == (how == "per-label")
    test = runner.evaluate_test(made, store, Execution(threads=1))
    assert test["thresholds"] == thresholds, "tuned on validation, used on test"
    assert 0 <= test["micro_f1"] <= 1
    artifact = store.get(test["stage_id"])
    assert artifact is not None
    table = pq.read_table(artifact.path("predictions-test.parquet")).to_pydict()
    has = Inputs(made).target.test.labels
    assert table["label"] == [np.flatnonzero(row).tolist() for row in has]
    chosen = [np.flatnonzero(np.array(p) >= np.float32(thresholds)).tolist() for p in table["probabilities"]]
    assert sum(a != b for a, b in zip(chosen, table["prediction"], strict=True)) <= 1  # probabilities are kept in float32
    wrong = sum(label != found for label, found in zip(table["label"], table["prediction"], strict=True))
    assert test["error_rate_percent"] == pytest.approx(100 * wrong / len(has))


def test_bag_of_words(tmp_path: Path) -> None:
    found = bag_of_words(load_task("several", task(tmp_path)))
    assert found["test"]["examples"] == 40
    assert found["predictions"]["test"].shape == found["probabilities"]["test"].shape == (40, 4)
    assert found["test"]["micro_f1"] > 0.4, "words tell the labels here"
    assert set(found["test"]["f1_by_label"]) == {"acting", "film", "plot", "positive"}
    assert found["test"]["macro_f1"] == pytest.approx(np.mean(list(found["test"]["f1_by_label"].values())))
    assert found["test"]["thresholds"] == found["validation"]["thresholds"]


def test_the_strength_of_the_bag_of_words_is_the_best_by_the_metric(tmp_path: Path) -> None:
    data = load_task("several", task(tmp_path))
    tried: list[float] = []

    def by_macro(found: Mapping[str, Any]) -> float:
        tried.append(found["macro_f1"])
        return -tried[-1]

    best, worst = bag_of_words(data, by_macro), bag_of_words(data, lambda found: float(found["macro_f1"]))
    assert best["validation"]["macro_f1"] == max(tried) > min(tried) == worst["validation"]["macro_f1"]


def test_the_metric_is_not_identity(tmp_path: Path) -> None:
    """Weights do not depend on what they are judged by."""
    made = recipe(tmp_path)
    by_macro = made.model_copy(update={"tasks": {"several": task(tmp_path, metric="macro_f1")}})
    assert [node.stage_id for node in nodes(Inputs(by_macro))] == [node.stage_id for node in nodes(Inputs(made))]


def test_the_kind_of_task_is_identity(tmp_path: Path) -> None:
    data = load_task("several", task(tmp_path))
    assert nodes(Inputs(recipe(tmp_path)))[-1].stage_id != nodes(Inputs(recipe(tmp_path, thresholds="half")))[-1].stage_id
    single = write_csv(tmp_path / "single.csv", reviews()[:80])
    assert data.digest("train") != load_task("single", Task(train=single, test=single)).digest("train")


def test_joined_labels_of_a_single_label_task_are_noticed(tmp_path: Path) -> None:
    rows = [(f"text {i}", ("a|b", "b|c", "c")[i % 3]) for i in range(30)]
    files = {split: write_csv(tmp_path / f"{split}.csv", rows) for split in ("train", "test")}
    notices = load_task("joined", Task(**files)).notices
    assert "tasks.joined: 2 of 3 labels hold '|'; several in one? Then set multi_label" in notices
