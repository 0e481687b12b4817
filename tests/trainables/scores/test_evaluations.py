"""Several evaluations an epoch: at even distances, without any trace in the weights, with the error on training texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import tiny_encoder, tiny_recipe
from tests.trainables.resume import tuned_weights
from trainables.batches.pack import Batch, Example
from trainables.encoder.load import load_base
from trainables.scores.evaluate import outputs, predict
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.stages import jobs, run_recipe
from trainables.stages.finetune import evaluation_steps, examples, model_of
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.state_files import copy_weights
from trainables.store.store import Store
from trainables.training.runtime import Runtime
from trainables.training.world import World

CPU = Execution(device="cpu", threads=1)


def test_steps_lie_at_even_distances_and_the_end_of_an_epoch_is_one() -> None:
    assert evaluation_steps(10, 2, 1) == {10, 20}
    assert evaluation_steps(10, 2, 4) == {2, 5, 8, 10, 12, 15, 18, 20}
    assert evaluation_steps(3, 1, 10) == {1, 2, 3}, "no more often than there are steps"
    for per_epoch in range(1, 12):
        for times in range(1, 15):
            steps = evaluation_steps(per_epoch, 3, times)
            assert {per_epoch, 2 * per_epoch, 3 * per_epoch} <= steps <= set(range(1, 3 * per_epoch + 1))
            assert len(steps) == 3 * min(times, per_epoch)


def rows_of(made: Recipe, store: Store) -> list[dict[str, Any]]:
    return list(run_recipe.run(made, store, CPU))


def test_weights_and_whole_epochs_do_not_depend_on_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    once, often = tiny_recipe(tmp_path), tiny_recipe(tmp_path, evaluations_per_epoch=3)
    plain, fine = rows_of(once, store), rows_of(often, store)
    assert [row["epoch"] for row in plain] == [1, 2]
    per_epoch = plain[0]["step"]
    assert [row["epoch"] for row in fine] == [row["step"] / per_epoch for row in fine]
    assert len(fine) == 6
    whole = [row for row in fine if row["epoch"] == int(row["epoch"])]
    assert [(row["loss"], row["error_rate_percent"]) for row in whole] == [
        (row["loss"], row["error_rate_percent"]) for row in plain
    ]
    mine, theirs = tuned_weights(store, once), tuned_weights(store, often)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not any("train_error_rate_percent" in row for row in plain)


def test_a_resume_between_two_evaluations_gives_the_same(tmp_path: Path) -> None:
    made = tiny_recipe(tmp_path, evaluations_per_epoch=3)
    whole = rows_of(made, Store(str(tmp_path / "whole")))
    store = Store(str(tmp_path / "cut"))
    running = run_recipe.run(made, store, CPU)
    for _ in range(4):
        next(running)
    running.close()
    kept = ("epoch", "step", "loss", "error_rate_percent", "train_error_rate_percent", "train_loss")
    assert [[row[name] for name in kept] for row in rows_of(made, store)] == [[row[name] for name in kept] for row in whole]


def test_the_error_on_training_texts_is_that_of_plain_predictions(tmp_path: Path) -> None:
    made = tiny_recipe(tmp_path, evaluations_per_epoch=2)
    store = Store(str(tmp_path / "store"))
    last = rows_of(made, store)[-1]
    data, base, stage = Inputs(made).target, jobs.base_of(Inputs(made)), made.stages[-1]
    assert isinstance(stage, Finetune)
    model = model_of(stage, base, len(data.labels), made.seed)
    copy_weights(tuned_weights(store, made), dict(model.named_parameters()))
    model.eval()
    whole = examples(data.train, jobs.tokens(data.train.texts, data.digest("train"), base, store), base, stage)
    seen = np.sort(np.random.default_rng((made.seed, 0)).permutation(len(whole))[: len(data.validation)])
    logits = predict(model, base, [whole[i] for i in seen], Runtime(torch.device("cpu"), World()))
    wrong = sum(int(row.argmax()) != data.train.labels[i] for i, row in zip(seen, logits, strict=True))
    assert last["train_error_rate_percent"] == pytest.approx(100 * wrong / len(seen))
    assert len(seen) == len(data.validation) == 15


def test_it_is_part_of_the_name_where_it_is_not_the_usual(tmp_path: Path) -> None:
    """The rows of the artifact depend on it."""
    usual, one, four = (
        nodes(Inputs(tiny_recipe(tmp_path, **changes)))[-1].stage_id
        for changes in ({}, {"evaluations_per_epoch": 1}, {"evaluations_per_epoch": 4})
    )
    assert usual == one != four


@pytest.mark.parametrize("size", [2, 5])
def test_ranks_share_an_evaluation_evenly(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text on one rank, the outputs in the order of the texts, and no rank with many more tokens than another."""

    class Lengths(torch.nn.Module):
        def forward(self, batch: Batch) -> torch.Tensor:
            return torch.tensor(batch.lengths, dtype=torch.float32)[:, None]

    lengths = np.random.default_rng(0).integers(3, 129, 200)
    texts = [Example(np.full(length, 7, dtype=np.int32)) for length in lengths]
    base = load_base(tiny_encoder(), ("a few words",) * 50)
    shares: list[list[tuple[int, np.ndarray]]] = []
    monkeypatch.setattr(World, "gather", lambda self, own: [*shares, shares.append(own) or own])
    for rank in range(size):
        found = outputs(Lengths(), base, texts, Runtime(torch.device("cpu"), World(rank, size)))
    assert np.concatenate(found).tolist() == lengths.tolist()
    tokens = [sum(float(rows[0]) for _, rows in share) for share in shares]
    assert max(tokens) < 1.02 * np.mean(tokens)
