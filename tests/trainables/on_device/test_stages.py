"""Every kind of stage on a device, through `run_recipe` and a local store: as on the CPU without dropout, and resumed with it.

The run on the device is computed in micro-batches and with checkpointing, so that it takes another way than the reference does.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import documents_file, marks_recipe, multitask_recipe, tiny_encoder, tiny_recipe
from tests.trainables.resume import results, same_bits, weights
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store

BRIEF: dict[str, Any] = {"epochs": 1, "dropout": 0.0, "learning_rate": 2e-4}
"""Without dropout, so that all devices compute the same."""
PRETRAIN: dict[str, Any] = {"steps": 3, "schedule_steps": 3, "dropout": 0.0, "learning_rate": 2e-4}
MARKS = BRIEF | {"scorer_epochs": 1, "scorer_learning_rate": 2e-4, "threshold": 0.9, "stop_words": "none"}
"""Every word is marked: no score lies so near the threshold that rounding decides."""
FEATURES = {"freeze": "encoder", "pooling": "bilstm", "attention_penalty": 0.1, "lstm_width": 8}
KINDS: dict[str, Callable[[Path], Recipe]] = {
    "pretrain mlm": lambda folder: tiny_recipe(folder, PRETRAIN, **BRIEF),
    "pretrain mlm+nsp": lambda folder: tiny_recipe(
        folder, PRETRAIN | {"objective": "mlm+nsp", "corpus": (documents_file(folder, *(1, 4, 1, 3) * 6),)}, **BRIEF
    ),
    "multitask": lambda folder: multitask_recipe(folder, BRIEF, **BRIEF),
    "marks": lambda folder: marks_recipe(folder, MARKS, PRETRAIN | {"masking": "matched"}, **BRIEF),
    "fractions": lambda folder: tiny_recipe(folder, truncation="hier-attention", **BRIEF | {"max_length": 12}),
    "features": lambda folder: tiny_recipe(folder, **BRIEF, **FEATURES),
    "heads of 26 channels": lambda folder: tiny_recipe(folder, **BRIEF).model_copy(
        update={"encoder": tiny_encoder(hidden_size=52)}
    ),
    "layers": lambda folder: tiny_recipe(folder, layers=(0, 1), combine="mean", unfreeze_layers=1, **BRIEF),
    "adapters": lambda folder: tiny_recipe(folder, lora_rank=2, **BRIEF),
}
NEEDS = {"pretrain mlm+nsp": "sentencex", "adapters": "peft"}
"""Packages that a kind of stage needs beyond those of all."""


def on(device: torch.device, **more: Any) -> Execution:
    return Execution(threads=1, device=device.type, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_gives_what_it_gives_on_the_cpu(device: torch.device, kind: str, tmp_path: Path) -> None:
    """Losses and weights in float32; Adam's first steps enlarge rounding where a gradient is nearly zero."""
    if (package := NEEDS.get(kind)) and not find_spec(package):
        pytest.skip(f"{package} is not installed")
    recipe = KINDS[kind](tmp_path)
    reference, store = Store(str(tmp_path / "cpu")), Store(str(tmp_path / "device"))
    expected = list(runner.run(recipe, reference, on(torch.device("cpu"))))
    rows = list(runner.run(recipe, store, on(device, micro_batch=3, gradient_checkpointing=True)))
    assert {row["device"] for row in rows} == {runner.device_name(device)}
    for found, wanted in zip(rows, expected, strict=True):
        for name in ("train_loss", "loss"):
            assert (name in found) == (name in wanted)
            if name in found:
                assert found[name] == pytest.approx(wanted[name], rel=1e-3), f"{name} of step {found['step']}"
    for node in nodes(Inputs(recipe)):
        theirs = weights(reference, node.stage_id)
        for name, tensor in weights(store, node.stage_id).items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=2e-4, msg=f"{node.stage.kind} {name}")
    test, reference_test = (runner.evaluate_test(recipe, place, on(where)) for place, where in places(store, reference, device))
    assert test["loss"] == pytest.approx(reference_test["loss"], rel=1e-3)


def places(store: Store, reference: Store, device: torch.device) -> list[tuple[Store, torch.device]]:
    return [(store, device), (reference, torch.device("cpu"))]


@pytest.mark.parametrize(("precision", "pretrain"), [("float32", {"steps": 3}), ("bfloat16", None)])
def test_a_resumed_run_is_an_uninterrupted_one(
    device: torch.device, precision: str, pretrain: dict[str, Any] | None, tmp_path: Path
) -> None:
    """With dropout, which follows the step: after each evaluation, left and taken up again."""
    recipe = tiny_recipe(tmp_path, pretrain).model_copy(update={"precision": precision})
    whole, parts = Store(str(tmp_path / "whole")), Store(str(tmp_path / "parts"))
    expected = list(runner.run(recipe, whole, on(device)))
    for reached in range(1, len(expected)):
        running = runner.run(recipe, parts, on(device))
        for _ in range(reached):
            next(running)
        running.close()
    rows = list(runner.run(recipe, parts, on(device)))
    assert [row["source"] for row in rows] == ["loaded"] * (len(rows) - 1) + ["computed"]
    names = [node.stage_id for node in nodes(Inputs(recipe))]
    if device.type == "cpu":
        assert results(rows) == results(expected)
        assert all(same_bits(weights(whole, name), weights(parts, name)) for name in names)
        return
    # Atomic sums differ in their last bits, which Adam enlarges where a gradient is nearly zero. With other masks of dropout all
    # weights would differ by about the learning rate, 1e-3.
    for found, wanted in zip(rows, expected, strict=True):
        assert found["train_loss"] == pytest.approx(wanted["train_loss"], rel=5e-3)
    for name in names:
        theirs = weights(whole, name)
        for parameter, tensor in weights(parts, name).items():
            assert (tensor - theirs[parameter]).abs().mean() < 1e-4, parameter


@pytest.mark.parametrize("width", [32, 52])
def test_a_recipe_in_bfloat16_stays_near_float32(device: torch.device, width: int, tmp_path: Path) -> None:
    """52 channels in two heads are 26 each, as TinyBERT's: no multiple of 8, for which kernels of this precision ask."""
    recipe = tiny_recipe(tmp_path, **BRIEF | {"epochs": 2}).model_copy(update={"encoder": tiny_encoder(hidden_size=width)})
    half = recipe.model_copy(update={"precision": "bfloat16"})
    expected = list(runner.run(recipe, Store(str(tmp_path / "store")), on(torch.device("cpu"))))
    rows = list(runner.run(half, Store(str(tmp_path / "store")), on(device)))
    losses = [[row[name] for row in each for name in ("train_loss", "loss")] for each in (rows, expected)]
    np.testing.assert_allclose(*losses, atol=0.02)
    assert losses[0] != losses[1]
