"""Two processes that train together: with a GPU each they give what one gives, on one GPU they are refused with words.

On CPUs `tests/trainables/training/test_world.py` compares them, for every kind of stage.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import tiny_recipe
from tests.trainables.ranks import group
from tests.trainables.resume import tuned_weights
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.validate import validate
from trainables.stages import run_recipe as runner
from trainables.store.store import Store

Answer = tuple[list[dict[str, Any]], str]
"""(rows, the error that ended the run: its class and its text)."""
ON_GPU = Execution(threads=1, device="cuda")


def _rank(rank: int, card: int, folder: str, recipe: dict[str, Any]) -> Answer:
    torch.cuda.set_device(card)
    with group(f"{folder}/rendezvous", rank, 2, "nccl"):
        try:
            return list(runner.run(validate(Recipe, recipe), Store(f"{folder}/two"), ON_GPU)), ""
        except Exception as error:
            return [], f"{type(error).__name__}: {error}"


def together(cards: list[int], folder: Path, recipe: Recipe) -> list[Answer]:
    """What each rank answers, with the CUDA devices of these numbers; processes that hang are ended."""
    with multiprocessing.get_context("spawn").Pool(2) as ranks:
        given = [(rank, card, str(folder), recipe.canonical()) for rank, card in enumerate(cards)]
        answers = [ranks.apply_async(_rank, each) for each in given]  # one for each process: both wait for the other
        return [answer.get(timeout=90) for answer in answers]


@pytest.mark.gpu
def test_two_ranks_give_what_one_gives(tmp_path: Path) -> None:
    """A batch that does not split evenly; without dropout, whose draws depend on the rank on GPUs."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device, and two ranks need one each")
    recipe = tiny_recipe(tmp_path, batch_size=7, learning_rate=2e-4, dropout=0.0)
    alone = Store(str(tmp_path / "one"))
    expected = list(runner.run(recipe, alone, ON_GPU))
    for rows, fault in together([0, 1], tmp_path, recipe):
        assert not fault
        assert [row["train_loss"] for row in rows] == pytest.approx([row["train_loss"] for row in expected], rel=1e-4)
    shared = tuned_weights(Store(str(tmp_path / "two")), recipe)
    for name, tensor in tuned_weights(alone, recipe).items():
        torch.testing.assert_close(shared[name], tensor, rtol=0, atol=1e-4, msg=name)


@pytest.mark.gpu
def test_two_ranks_on_one_gpu_are_refused(tmp_path: Path) -> None:
    """NCCL would fail in the first step, or hang: both ranks say before it what is wrong."""
    for rows, fault in together([0, 0], tmp_path, tiny_recipe(tmp_path)):
        assert not rows
        assert fault.startswith(f"{ConfigError.__name__}: ")
        assert "GPU" in fault
