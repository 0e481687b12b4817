"""Kinds of task at their limits: what works at the edge, and in bounded memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests.helpers import tiny_encoder, tiny_recipe, write_csv
from tests.trainables.encoders import examples_of, tiny_base
from trainables.batches import pack
from trainables.batches.pack import Example, collate
from trainables.encoder.dropout import dropout_bits
from trainables.heads.classifier import classifier
from trainables.scores.bag_of_words import bag_of_words
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.task import Task
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store

ONE_THREAD = Execution(threads=1)
Rows = list[tuple[str, str]]


def recipe_of(folder: Path, train: Rows, test: Rows, about: dict[str, Any], **finetune: Any) -> Recipe:
    """Fine-tuning for one epoch on these rows."""
    files = {"train": write_csv(folder / "train.csv", train), "test": write_csv(folder / "test.csv", test)}
    tiny = tiny_recipe(folder, **{"epochs": 1} | finetune)
    return tiny.model_copy(update={"tasks": {"mine": Task(**files | about)}, "task": "mine", "encoder": tiny_encoder()})


def finite(row: dict[str, Any]) -> bool:
    return all(np.isfinite(value) for value in row.values() if isinstance(value, float))


# Texts without letters


def test_texts_without_letters_are_fine_tuned_on(tmp_path: Path) -> None:
    """Marks, digits, emoji, and one that has not a single piece."""
    signs = ["!!! ?", "12 - 7", "🙂🙂", "...", ":-)", "\u200b"]
    rows = [(f"{sign}{sign * (i % 3)}", "ab"[i % 2]) for i, sign in enumerate(signs * 4)]
    for name, about in (("single", {}), ("pairs", {"text_pair": "other"})):
        folder = tmp_path / name
        folder.mkdir()
        recipe = recipe_of(folder, rows, rows[:6], {"validation_share": 0.25} | about)
        if about:
            for split in ("train", "test"):
                lines = [f"{text},{text[::-1]},{label}" for text, label in (rows if split == "train" else rows[:6])]
                (folder / f"{split}.csv").write_text("\n".join(["text,other,label", *lines]) + "\n", encoding="utf-8")
        store = Store(str(folder / "store"))
        assert finite(list(runner.run(recipe, store, ONE_THREAD))[-1])
        assert runner.evaluate_test(recipe, store, ONE_THREAD)["examples"] == 6
        assert finite(bag_of_words(Inputs(recipe).target)["test"])


# Rare labels


@pytest.mark.parametrize("thresholds", ["half", "one", "per-label"])
def test_a_label_that_occurs_once_and_never_in_validation(thresholds: str, tmp_path: Path) -> None:
    """It stays in training, however much it weighs there, and its F1 is 0 where no text has it: no division by zero, no fault."""
    rows = [(f"text {i} of many", "common" if i % 2 else "") for i in range(23)] + [("the only one", "rare|common")]
    about = {"multi_label": True, "validation_share": 0.25}
    settings = {"thresholds": thresholds, "class_weights": "balanced", "label_smoothing": 0.1}
    recipe = recipe_of(tmp_path, rows, rows, about, **settings)
    data = Inputs(recipe).target
    assert data.train.labels.sum(axis=0).tolist()[1] == 1
    assert data.validation.labels.sum(axis=0).tolist()[1] == 0
    store = Store(str(tmp_path / "store"))
    row = list(runner.run(recipe, store, ONE_THREAD))[-1]
    assert finite(row)
    assert row["f1_by_label"]["rare"] == 0
    assert all(0 <= threshold <= 1 for threshold in row["thresholds"])
    if thresholds == "per-label":
        assert row["thresholds"][1] == 0.5, "nothing to tune it on"
    assert finite(runner.evaluate_test(recipe, store, ONE_THREAD))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_loss_follows_from_the_task_whatever_the_head(head: str, tmp_path: Path) -> None:
    """No setting asks for a softmax over several labels: their probabilities are independent, and need not add up to one."""
    rows = [(f"text {i}", ["a|b|c", "a|c", "b", ""][i % 4]) for i in range(32)]
    recipe = recipe_of(tmp_path, rows, rows[:8], {"multi_label": True, "validation_share": 0.25}, head=head)
    store = Store(str(tmp_path / "store"))
    list(runner.run(recipe, store, ONE_THREAD))
    artifact = store.get(nodes(Inputs(recipe))[-1].stage_id)
    assert artifact is not None
    probabilities = np.array(pq.read_table(artifact.path("predictions-validation.parquet")).to_pydict()["probabilities"])
    assert not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)


# Many classes


def test_a_thousand_classes(tmp_path: Path) -> None:
    """Every class is in every split, a step is made, and what a record says does not grow with their number."""
    rows = [(f"number {i} and {i % 37}", f"class {i}") for i in range(1000) for _ in range(4)]
    recipe = recipe_of(tmp_path, rows, rows[::4], {"validation_share": 0.25}, batch_size=1024, class_weights="balanced")
    data = Inputs(recipe).target
    assert [len(set(split.labels.tolist())) for split in (data.train, data.validation, data.test)] == [1000] * 3
    assert [len(data.train), len(data.validation)] == [3000, 1000]
    store = Store(str(tmp_path / "store"))
    row = list(runner.run(recipe, store, ONE_THREAD))[-1]
    assert row["step"] == 3
    test = runner.evaluate_test(recipe, store, ONE_THREAD)
    for each in (row, test):
        assert finite(each)
        assert each["error_rate_percent"] > 90, "three steps teach next to nothing"
        told = {name: value for name, value in each.items() if name != "notices"}
        assert len(json.dumps(told)) < 2000


# Long texts


def test_the_gradient_of_95_fractions_is_that_of_the_naive_loop_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all fractions through the encoder one by one, with everything kept for the backward pass."""
    monkeypatch.setattr(pack, "CHUNK", 64)
    base = tiny_base("bert")
    sequences = [example.ids for example in examples_of(base, (16,) * 94 + (5,))]
    text = Example(np.concatenate(sequences), label=1, fractions=tuple(map(len, sequences)))
    model = classifier(base, 2, "pooled", 0.0, 0, layers=(1, 2), combine="mean", fractions="attention").train()
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(0 if isinstance(tensor, nn.Parameter) else tensor.numel())
        return tensor

    batch = collate([text], base)
    assert len(batch.chunks) == 24
    with dropout_bits(0, 0, batch), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(model(batch), torch.tensor([1]))
    in_chunks = sum(kept)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        vectors = torch.cat([model.vectors(collate([Example(ids)], base)) for ids in sequences])  # [95, H]
        scores = model.join.score(torch.tanh(model.join.inner(vectors)))[:, 0]
        naive = nn.functional.cross_entropy(model.classifier((scores.softmax(0) @ vectors)[None]), torch.tensor([1]))
    naive.backward()
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert in_chunks < sum(kept) / 10, "what is kept for the backward pass is one vector per fraction, and not every hidden state"
