"""Two workers share the global batch and give what one gives."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import documents_file, marks_recipe, multitask_recipe, pair_task, reviews, tiny_recipe
from tests.trainables.ranks import Ranks, group
from trainables.batches.pack import Batch
from trainables.scores import evaluate
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate
from trainables.stages import finetune
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store import store
from trainables.store.artifact_files import FEATURES
from trainables.store.store import Store
from trainables.training import precision, world
from trainables.training.loop import Position, Row, train
from trainables.training.runtime import Runtime
from trainables.training.world import World, current

PASS = 150
"""Pieces in a pass without gradients: so few that there are several passes for each rank."""


def _rank(rank: int, size: int, folder: str, recipe: dict[str, Any], interrupted_at: int) -> tuple[list[Row], list[str]]:
    """Both ranks stop in the middle of an epoch, go on, and then find everything done: (rows, sources of the rows at last)."""
    with group(f"{folder}/rendezvous", rank, size):
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
    return rows, [row["source"] for row in again]


@pytest.mark.parametrize("first", ["mlm", "mlm+nsp", "select", "multitask", "features", "marks", "pairs", "adapters"])
def test_two_workers_equal_one(tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch, ranks: Ranks) -> None:
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
    asked = ranks.ask(_rank, 2, str(tmp_path), recipe.canonical(), 3)
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


def _reached(rank: int, size: int, folder: str, recipe: dict[str, Any], micro: int, in_order: bool) -> Seen:
    """({weight: value, steps of it}, all weights of the head) after some steps of the loop, and which steps had a short text."""
    with group(f"{folder}/reached-{micro}-{in_order}", rank, size):
        made, runtime = validate(Recipe, recipe), Runtime(torch.device("cpu"), World(rank, size), False, micro)
        job = runner.job_of(
            Inputs(made), nodes(Inputs(made))[0], None, frozenset(), Store(f"{folder}/store-{rank}-{size}"), runtime
        )
        extra = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.ones(())) for name in ("short", "none")})
        job.model.extra = extra  # type: ignore[assignment]
        job.optimizer = torch.optim.AdamW(job.model.parameters(), lr=1e-3, weight_decay=20.0, fused=True)
        plain = job.loss

        def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
            short = sum(length <= SHORT for length in batch.lengths)
            return plain(model, batch) + (0.1 * extra["short"] * short if short else 0)

        job.loss, job.rate = loss, lambda step: 1.0
        steps = 12
        with pytest.MonkeyPatch.context() as patch:
            share = World.share
            patch.setattr(World, "share", lambda self, sizes, **_: share(self, sizes, in_order))
            list(train(job, runtime, Position(), steps, lambda at: None))
        found = {name: float(value.detach()) for name, value in extra.items()}
        found["steps"] = float(job.optimizer.state[extra["short"]]["step"])
    seen = [any(len(example.ids) <= SHORT for example in job.examples(step)) for step in range(steps)]
    return found, job.model.classifier.weight.flatten().tolist(), seen  # type: ignore[union-attr]


@pytest.mark.parametrize(("micro", "in_order"), [(0, True), (1, True), (1, False)])
def test_weights_that_no_text_reached_stay(tmp_path: Path, ranks: Ranks, micro: int, in_order: bool) -> None:
    """Without dropout, whose bits need shares in order on the CPU, however the texts are shared.

    Decay and momentum move a weight in those steps alone in which some text of some rank reaches it, as with one worker."""
    recipe = tiny_recipe(tmp_path, batch_size=3, dropout=0.1 if in_order else 0.0).canonical()
    alone, head, seen = _reached(0, 1, str(tmp_path), recipe, micro, in_order)
    assert 0 < sum(seen) < len(seen)
    assert alone["steps"] == sum(seen)
    assert alone["none"] == 1.0
    assert alone["short"] < 1.0
    asked = ranks.ask(_reached, 2, str(tmp_path), recipe, micro, in_order)
    for found, weights, _ in (each.result(timeout=120) for each in asked):
        assert found == pytest.approx(alone, abs=1e-5)
        assert found["none"] == 1.0
        assert weights == pytest.approx(head, abs=1e-5)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("sizes", [[5, 1, 9, 2, 2, 7, 3], [1], [0, 0], [], [512, 3, 3, 3, 3, 3, 3, 3]], ids=str)
def test_every_text_is_in_one_share(sizes: list[int], size: int, in_order: bool) -> None:
    shares = [World(rank, size).share(sizes, in_order) for rank in range(size)]
    everything = [text for _, mine in shares for text in mine]
    assert sorted(everything) == list(range(len(sizes)))
    assert everything == list(range(len(sizes))) or not (in_order or size == 1)
    assert all(everything[: len(before)] == before for before, _ in shares)
    assert all(mine == sorted(mine) for _, mine in shares)


@pytest.mark.parametrize(
    ("batch", "ranks", "in_order", "at_most"),
    [
        (32, 4, True, 1.1),
        (32, 8, True, 1.25),
        (256, 8, True, 1.05),
        (32, 4, False, 1.02),
        (32, 8, False, 1.05),
        (256, 8, False, 1.01),
    ],
)
def test_shares_have_as_many_tokens(batch: int, ranks: int, in_order: bool, at_most: float) -> None:
    """Of shipped reviews: the tokens of the slowest rank over those of the mean, in the mean over batches."""
    lengths, slowest = np.array([len(text.split()) + 2 for text, _ in reviews()]), []
    for seed in range(40):
        sizes = np.random.default_rng(seed).choice(lengths, batch, replace=False).tolist()
        loads = [sum(sizes[text] for text in World(rank, ranks).share(sizes, in_order)[1]) for rank in range(ranks)]
        slowest.append(max(loads) * ranks / sum(sizes))
    assert 1 <= np.mean(slowest) < at_most


def _stale(rank: int, folder: str, seconds: float) -> list[bool]:
    """Both ranks ask for a stage that another process computes for longer than the group's timeout: whether they own it."""
    limit = timedelta(seconds=seconds)
    with group(f"{folder}/stale", rank, 2, timeout=limit):
        world.TELL_S, store.SLOWEST_POLL_S = seconds / 5, seconds / 10
        with current().claimed(Store(f"{folder}/store"), "stage") as owned:
            pass
        return [owned, *current().gather(owned)]


@pytest.mark.parametrize("finished", [True, False])
def test_ranks_wait_for_another_process_longer_than_their_group_waits(tmp_path: Path, ranks: Ranks, finished: bool) -> None:
    there, seconds = Store(tmp_path / "store"), 1.5
    with there.claim("stage") as claim:
        assert claim is not None
        asked = ranks.ask(_stale, str(tmp_path), seconds)
        time.sleep(2 * seconds)
        assert not any(each.done() for each in asked)
        if finished:
            there.publish("stage", {"kind": "features", "rows": []}, {FEATURES: b""})
    assert [each.result(timeout=60) for each in asked] == [[not finished] * 3] * 2


def _of_rank_0(rank: int, folder: str, recipe: dict[str, Any]) -> tuple[str, list[str]]:
    """(precision that this rank computes with where each would choose another, faults of ranks with the same GPU)."""
    with group(f"{folder}/rank-0", rank, 2):
        speedups, faults = [2.0, 1.0], list[str]()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(precision, "cpu_speedup", lambda: speedups[rank])
            resolved = runner.resolved(validate(Recipe, recipe), Execution(device="cpu"), current())
        for uuids in (("GPU-1", "GPU-2"), ("", ""), ("GPU-1", "GPU-1")):
            try:
                current().check_devices(uuids[rank])
            except ConfigError as error:
                faults += [str(uuids), *error.faults]
    return resolved.precision, faults


def test_ranks_have_one_precision_and_a_gpu_each(tmp_path: Path, ranks: Ranks) -> None:
    recipe = tiny_recipe(tmp_path).model_copy(update={"precision": "auto"}).canonical()
    asked = ranks.ask(_of_rank_0, str(tmp_path), recipe)
    for found, (uuids, fault) in (each.result(timeout=60) for each in asked):
        assert found == "bfloat16"
        assert uuids == "('GPU-1', 'GPU-1')"
        assert fault.startswith("workers 0, 1 of a trial have the same GPU (GPU-1), and each needs one of its own")
