"""Memory that runs out on one of two ranks: both repeat the step, or both end."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import tiny_recipe
from tests.trainables.ranks import group
from tests.trainables.training.test_loop import job_of
from trainables.batches.pack import Batch
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate
from trainables.store.store import Store
from trainables.training.loop import Position, train
from trainables.training.runtime import Runtime
from trainables.training.world import World


def _rank(rank: int, size: int, folder: str, recipe: dict[str, Any]) -> tuple[list[float], list[int], str]:
    """(losses, texts of the passes that were tried, why another run ends). The last rank has memory for one text, then for none."""
    with group(f"{folder}/rendezvous", rank, size):
        torch.set_num_threads(1)
        runtime, tried = Runtime(torch.device("cpu"), World(rank, size)), []

        def losses(most: int) -> list[float]:
            job = job_of(validate(Recipe, recipe), Store(f"{folder}/store-{rank}-{size}"), 0)
            plain = job.loss

            def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
                tried.append(len(batch.lengths))
                if rank == 1 and len(batch.lengths) > most:
                    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
                return plain(model, batch)

            job.loss, job.evaluate_at, job.evaluate = loss, frozenset(range(1, 5)), lambda step, model: {}
            return [row["train_loss"] for row in train(job, runtime, Position(), 4, lambda at: None)]

        found, why = losses(1), ""
        passes = tried.copy()
        try:
            losses(0)
        except MemoryError as error:
            why = str(error)
    return found, passes, why


def test_ranks_repeat_a_step_together_and_end_together(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path).canonical()
    expected, whole, nothing = _rank(0, 1, str(tmp_path), recipe)
    assert (whole, nothing) == ([8] * 4, "")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool:
        asked = [pool.submit(_rank, rank, 2, str(tmp_path), recipe) for rank in range(2)]
        (first, easy, other), (second, tight, own) = (each.result(timeout=120) for each in asked)
    assert first == pytest.approx(expected, abs=1e-5)
    assert second == pytest.approx(expected, abs=1e-5)
    assert min(easy) >= 3, "only the rank without memory divides its share"
    assert tight[0] >= 3
    assert tight.count(1) >= 9
    assert other == "memory ran out on another worker"
    assert own.startswith("a single text does not fit into memory: CUDA error: CUBLAS_STATUS_ALLOC_FAILED")
