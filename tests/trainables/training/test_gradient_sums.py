"""Sums that start within the backward pass: the same on every rank, also where memory runs out on one of them in its middle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.helpers import tiny_recipe
from tests.trainables.ranks import Ranks, group
from trainables.batches.pack import Batch
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate
from trainables.stages import run_recipe
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.state_files import StateWriter, restore
from trainables.store.background import background
from trainables.store.store import Store
from trainables.training import gradient_sums, loop
from trainables.training.gradient_sums import GradientSums
from trainables.training.loop import Position, train
from trainables.training.runtime import Runtime
from trainables.training.world import World

STEPS = 4


class Seen(NamedTuple):
    head: list[float]
    early: list[int]
    """Buckets that started within the backward pass of each try."""
    parts: list[int]
    """Micro-batches of each try."""


def _trained(rank: int, size: int, folder: str, recipe: dict[str, Any], micro: int, short: str) -> Seen:
    """Some steps of the loop; on rank 1 memory runs out once, in the second step, in the `short` part of it."""
    made, runtime = validate(Recipe, recipe), Runtime(torch.device("cpu"), World(rank, size), micro_batch=micro)
    with group(f"{folder}/rendezvous-{micro}-{short}", rank, size):
        job = run_recipe.job_of(
            Inputs(made), nodes(Inputs(made))[0], None, frozenset(), Store(f"{folder}/store-{rank}-{size}"), runtime
        )
        early, left, parts = list[int](), [short] if rank == 1 else [], list[int]()
        plain, start_all, accumulate = job.loss, GradientSums.start_all, loop._accumulate

        def run_out(place: str) -> None:
            if place in left and len(parts) == 2:
                left.remove(place)
                raise MemoryError("out of memory")

        def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
            run_out("forward")
            return plain(model, batch)

        def counted(sums: GradientSums) -> None:
            early.append(len(sums._works))
            start_all(sums)

        def noted(*arguments: Any) -> Any:
            parts.append(len(arguments[3].parts))
            return accumulate(*arguments)

        job.loss = loss
        first = next(parameter for name, parameter in job.model.named_parameters() if "layer.0." in name)
        first.register_post_accumulate_grad_hook(lambda _: run_out("backward"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gradient_sums, "BUCKET", 2000)
            patch.setattr(GradientSums, "start_all", counted)
            patch.setattr(loop, "_accumulate", noted)
            list(train(job, runtime, Position(), STEPS, lambda at: None))
    return Seen(job.model.classifier.weight.flatten().tolist(), early, parts)  # type: ignore[union-attr]


@pytest.mark.parametrize("short", ["never", "forward", "backward"])
@pytest.mark.parametrize("micro", [0, 2])
def test_ranks_come_to_the_weights_of_one(tmp_path: Path, ranks: Ranks, micro: int, short: str) -> None:
    recipe = tiny_recipe(tmp_path, batch_size=7).canonical()
    alone = _trained(0, 1, str(tmp_path), recipe, 0, "never")
    assert alone.early == [0] * STEPS
    asked = ranks.ask(_trained, 2, str(tmp_path), recipe, micro, short)
    for rank, seen in enumerate(each.result(timeout=120) for each in asked):
        assert seen.head == pytest.approx(alone.head, abs=1e-6)
        assert len(seen.parts) == STEPS + (short != "never")
        assert short == "never" or (seen.parts[2] > seen.parts[1]) == (rank == 1), "that rank alone has smaller passes"
        assert all(count > 5 for step, count in enumerate(seen.early) if step != 1 or short == "never" or rank == 0)
        if rank == 1 and short == "backward" and micro == 0:  # else in the first of several passes
            assert seen.early[1] > 5, "memory ran out when some sums were under way"


def _order_of_sums(rank: int, size: int, folder: str, recipe: dict[str, Any], stop: int) -> list[float]:
    """Weights after some steps, of which every second one reaches a weight of its own; written and read after `stop` steps."""
    made, runtime, store = (
        validate(Recipe, recipe),
        Runtime(torch.device("cpu"), World(rank, size)),
        Store(f"{folder}/state"),
    )

    def job() -> loop.Job:
        torch.set_num_threads(1)
        new = run_recipe.job_of(Inputs(made), nodes(Inputs(made))[0], None, frozenset(), Store(f"{folder}/{rank}"), runtime)
        extra, plain, step = torch.nn.Parameter(torch.ones(999)), new.loss, [0]
        new.model.last = torch.nn.ParameterList([extra])  # type: ignore[assignment]  # else it would be the first
        new.optimizer = torch.optim.AdamW(new.model.parameters(), lr=1e-3, fused=True)
        new.loss = lambda model, batch: plain(model, batch) + (extra.sum() / 999 if step[0] % 2 else 0)
        new.thaw = lambda now: step.__setitem__(0, now)
        new.evaluate_at, new.rate = frozenset(), lambda step: 1.0
        return new

    with group(f"{folder}/order-{stop}", rank, size):
        trained, at = job(), Position()
        list(train(trained, runtime, at, stop, lambda at: None))
        if stop < STEPS:
            if rank == 0:
                with background() as writes:
                    StateWriter(trained, store, "0" * 32, writes).complete(asdict(at), {})
            runtime.world.broadcast(None)  # now it is there for all
            trained = job()
            at, _ = restore(trained, "finetune", store, "0" * 32, STEPS, runtime.world)
            assert at.step == stop
            list(train(trained, runtime, at, STEPS, lambda at: None))
    return torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()]).tolist()


def test_three_ranks_come_to_the_same_bits_after_a_resume(tmp_path: Path, ranks: Ranks) -> None:
    """The order in which they add a gradient depends on which parameters some step did not reach."""
    recipe = tiny_recipe(tmp_path, batch_size=7, learning_rate=1e-2).canonical()
    whole, resumed = (
        [each.result(timeout=300) for each in ranks.ask(_order_of_sums, 3, str(tmp_path), recipe, stop, size=3)]
        for stop in (STEPS, STEPS - 1)
    )
    assert whole[0] == whole[1] == whole[2]
    assert resumed == whole


def test_a_gradient_that_comes_twice_is_an_error() -> None:
    weight, sums = torch.nn.Parameter(torch.ones(3)), GradientSums(World(0, 2))
    sums.begin([weight, torch.nn.Parameter(torch.ones(2))])
    with sums.overlapped():
        weight.sum().backward()
        with pytest.raises(RuntimeError, match="came twice"):
            weight.sum().backward()
