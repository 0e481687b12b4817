"""Two workers share the global batch and give what one gives."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import documents_file, marks_recipe, multitask_recipe, pair_task, tiny_recipe
from trainables.batches.pack import Batch
from trainables.scores import evaluate
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate
from trainables.stages import finetune
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.artifact_files import FEATURES
from trainables.store.store import Store
from trainables.training.loop import Position, Row, train
from trainables.training.runtime import Runtime
from trainables.training.world import World

PASS = 150
"""Pieces in a pass without gradients: so few that there are several passes for each rank."""


def _rank(rank: int, size: int, folder: str, recipe: dict[str, Any], interrupted_at: int) -> tuple[list[Row], list[str]]:
    """Both ranks stop in the middle of an epoch, go on, and then find everything done: (rows, sources of the rows at last)."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    evaluate.EVALUATION_TOKENS = PASS
    loss, calls = finetune.cross_entropy, iter(range(1, 10**6))

    def interrupted(model: torch.nn.Module, batch: Batch, **more: Any) -> torch.Tensor:
        if next(calls) == interrupted_at:
            raise KeyboardInterrupt
        return loss(model, batch, **more)

    careful = Execution(threads=1, state_every_steps=1, gradient_checkpointing=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "cross_entropy", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            list(runner.run(validate(Recipe, recipe), Store(f"{folder}/two"), careful))
        rows = list(runner.run(validate(Recipe, recipe), Store(f"{folder}/two"), Execution(threads=1)))
        assert next(calls) > interrupted_at
    again = list(runner.run(validate(Recipe, recipe), Store(f"{folder}/two"), Execution(threads=1)))
    torch.distributed.destroy_process_group()
    return rows, [row["source"] for row in again]


@pytest.fixture(scope="module")
def ranks() -> Iterator[list[ProcessPoolExecutor]]:
    """A process for each of two ranks, which all cases use one after the other."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as first, ProcessPoolExecutor(1, context) as second:
        yield [first, second]


@pytest.mark.parametrize("first", ["mlm", "mlm+nsp", "select", "multitask", "features", "marks", "pairs", "adapters"])
def test_two_workers_equal_one(
    tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch, ranks: list[ProcessPoolExecutor]
) -> None:
    """Dropout on, a batch that does not split evenly, a stage and fine-tuning after it: the same losses and weights to 1e-5.

    Features are computed by both, and are the same bits as those of one.
    """
    monkeypatch.setattr(evaluate, "EVALUATION_TOKENS", PASS)
    if first == "multitask":
        recipe = multitask_recipe(tmp_path, {"batch_size": 7, "learning_rate": 2e-4}, learning_rate=2e-4)
    elif first == "features":
        recipe = tiny_recipe(tmp_path, freeze="encoder", pooling="bilstm", attention_penalty=0.1, lstm_width=8, learning_rate=2e-4)
    elif first == "marks":  # every word is marked, so that no score lies so near the threshold that rounding decides
        marks = {"batch_size": 7, "learning_rate": 2e-4, "scorer_learning_rate": 2e-4, "threshold": 0.9, "stop_words": "none"}
        recipe = marks_recipe(tmp_path, marks, {"batch_size": 7, "masking": "matched"}, learning_rate=2e-4)
    else:
        corpus = (documents_file(tmp_path, *(1, 4, 1, 3) * 8),) if first == "mlm+nsp" else ()  # pairs on one rank, on both, on none
        pretrain = {"steps": 3, "batch_size": 7, "objective": "mlm+nsp" if first == "mlm+nsp" else "mlm", "corpus": corpus}
        if first == "select":
            corpus = ("within-task", documents_file(tmp_path, *[1] * 90))
            pretrain |= {"corpus": corpus, "select": "nearest", "neighbours": 1, "embeddings": "encoder"}
        recipe = tiny_recipe(tmp_path, pretrain=pretrain, learning_rate=2e-4, lora_rank=2 if first == "adapters" else 0)
        if first == "pairs":
            recipe = recipe.model_copy(update={"tasks": {"reviews": pair_task(tmp_path)}})
    alone = Store(str(tmp_path / "one"))
    rows = list(runner.run(recipe, alone, Execution(threads=1)))
    steps_per_epoch = rows[-2]["step"]
    assert steps_per_epoch > 3
    asked = [each.submit(_rank, rank, 2, str(tmp_path), recipe.canonical(), 3) for rank, each in enumerate(ranks)]
    for shared, sources in (each.result(timeout=120) for each in asked):
        assert set(sources) == {"loaded"}
        for one, two in zip(rows, shared, strict=True):
            for key in ("step", "tokens", "split", "stage_id", "error_rate_percent", "mark_f1"):
                assert one.get(key) == two.get(key), key
            assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-5)
    for node in nodes(Inputs(recipe)):
        one, two = (store.get(node.stage_id) for store in (alone, Store(str(tmp_path / "two"))))
        assert one is not None
        assert two is not None
        ours, theirs = load_file(one.path("model.safetensors")), load_file(two.path("model.safetensors"))
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-5, msg=f"{node.stage.kind} {name}")
    shared = Store(str(tmp_path / "two"))
    names = set(alone.files.names("artifacts"))
    assert names == set(shared.files.names("artifacts"))
    features = [name for name in names if (artifact := alone.get(name)) is not None and artifact.has(FEATURES)]
    assert len(features) == (2 if first == "features" else 0)
    for name in features:
        made, also = alone.get(name), shared.get(name)
        assert made is not None
        assert also is not None
        assert made.files == also.files


SHORT = 14
"""Pieces of a text that reaches a weight of its own if it has no more: in some batches, on one rank or on both."""


Seen = tuple[dict[str, float], list[float], list[bool]]


def _reached(rank: int, size: int, folder: str, recipe: dict[str, Any], micro: int) -> Seen:
    """({weight: value, steps of it}, all weights of the head) after some steps of the loop, and which steps had a short text."""
    if size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/reached-{micro}", rank=rank, world_size=size)
    made, runtime = validate(Recipe, recipe), Runtime(torch.device("cpu"), World(rank, size), False, micro)
    job = runner.job_of(Inputs(made), nodes(Inputs(made))[0], None, frozenset(), Store(f"{folder}/store-{rank}-{size}"), runtime)
    extra = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.ones(())) for name in ("short", "none")})
    job.model.extra = extra  # type: ignore[assignment]
    job.optimizer = torch.optim.AdamW(job.model.parameters(), lr=1e-3, weight_decay=20.0, fused=True)
    plain = job.loss

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        short = sum(length <= SHORT for length in batch.lengths)
        return plain(model, batch) + (0.1 * extra["short"] * short if short else 0)

    job.loss, job.rate = loss, lambda step: 1.0
    steps = 12
    list(train(job, runtime, Position(), steps, lambda at: None))
    found = {name: float(value.detach()) for name, value in extra.items()}
    found["steps"] = float(job.optimizer.state[extra["short"]]["step"])
    if size > 1:
        torch.distributed.destroy_process_group()
    seen = [any(len(example.ids) <= SHORT for example in job.examples(step)) for step in range(steps)]
    return found, job.model.classifier.weight.flatten().tolist(), seen  # type: ignore[union-attr]


@pytest.mark.parametrize("micro", [0, 1])
def test_weights_that_no_text_reached_stay(tmp_path: Path, ranks: list[ProcessPoolExecutor], micro: int) -> None:
    """Decay and momentum move a weight in those steps alone in which some text of some rank reaches it, as with one worker."""
    recipe = tiny_recipe(tmp_path, batch_size=3).canonical()
    alone, head, seen = _reached(0, 1, str(tmp_path), recipe, micro)
    assert 0 < sum(seen) < len(seen)
    assert alone["steps"] == sum(seen)
    assert alone["none"] == 1.0
    assert alone["short"] < 1.0
    asked = [each.submit(_reached, rank, 2, str(tmp_path), recipe, micro) for rank, each in enumerate(ranks)]
    for found, weights, _ in (each.result(timeout=120) for each in asked):
        assert found == pytest.approx(alone, abs=1e-5)
        assert found["none"] == 1.0
        assert weights == pytest.approx(head, abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_shares_cover_the_batch_once_in_order(size: int) -> None:
    batch = list(range(7))
    parts = [World(rank, size).share(batch) for rank in range(size)]
    assert [text for _, part in parts for text in part] == batch
    assert all(part == [] or part[0] == first for first, part in parts)
