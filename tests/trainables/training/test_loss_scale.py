"""float16 with loss scaling: against torch's GradScaler, against float32, and over skipped and interrupted steps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from tests.helpers import tiny_recipe
from tests.trainables.resume import ONE_THREAD, begin, results, same_bits, tuned_weights, undisturbed
from tests.trainables.training.test_loop import CPU, job_of, losses_of
from trainables.batches.pack import collate
from trainables.encoder.dropout import dropout_bits
from trainables.settings.recipe import Recipe
from trainables.stages import run_recipe as runner
from trainables.stages import state_files
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store
from trainables.training import loss_scale
from trainables.training.loop import Diverged, Job, Position, train
from trainables.training.loss_scale import LossScale

HALF = replace(CPU, precision="float16")
OVERFLOWS = 2.0**33
"""A first scale with which gradients of the tiny model are not finite in float16 at first."""


def in_half(folder: Path) -> Recipe:
    return tiny_recipe(folder, epochs=4).model_copy(update={"precision": "float16"})


def test_the_scale_follows_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, scaler = torch.optim.SGD([weight], lr=0.0), GradScaler("cpu", init_scale=64.0, growth_interval=3)
    ours = LossScale.of(True, torch.device("cpu"), 64.0)
    scaler.scale(weight.sum())  # it begins lazily
    skips = [False] * 3 + [True, False, True, True] + [False] * 7
    for skipped in skips:
        weight.grad = torch.full((1,), math.inf if skipped else 1.0)
        scaler.step(optimizer)
        scaler.update()
        ours.update(torch.tensor(skipped))
        assert (float(ours.value), int(ours.good_steps)) == (scaler.get_scale(), scaler._get_growth_tracker())
    assert ours.numbers() == (64.0 * 2 / 8 * 4, 1, 3)


def by_hand(job: Job, steps: int, first: float) -> tuple[list[float], GradScaler]:
    """Losses in float16 as torch's documentation writes the loop: scale, unscale, clip, step, update."""
    names = ("params", "lr", "weight_decay")
    groups: list[dict[str, Any]] = [{name: group[name] for name in names} for group in job.optimizer.param_groups]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6, foreach=False, fused=False)
    scaler, losses = GradScaler("cpu", init_scale=first), []
    peaks = [group["lr"] for group in groups]
    job.model.train()
    for step in range(steps):
        batch, weight = collate(job.examples(step), job.base), job.weight(job.examples(step))
        optimizer.zero_grad()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * job.rate(step)
        with dropout_bits(job.seed, step, batch):
            with torch.autocast("cpu", torch.float16):
                loss = job.loss(job.model, batch) / weight
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), job.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses, scaler


@pytest.mark.parametrize("first", [loss_scale.FIRST, OVERFLOWS])
def test_training_equals_a_loop_with_torchs_scaler(first: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps whose gradients overflow are skipped in both, moments and Adam's step included."""
    monkeypatch.setattr(loss_scale, "FIRST", first)
    store, recipe, at = Store(str(tmp_path / "store")), tiny_recipe(tmp_path, epochs=4), Position()
    job, other = job_of(recipe, store, 0), job_of(recipe, store, 0)
    job.evaluate_at = frozenset(range(1, 13))
    rows = list(train(job, HALF, at, 12, lambda at: None))
    expected, scaler = by_hand(other, 12, first)
    np.testing.assert_allclose([row["train_loss"] for row in rows], expected, rtol=1e-4)
    for ours, theirs in zip(job.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert at.loss_scale == scaler.get_scale()
    assert at.skipped_steps == rows[-1]["skipped_steps"] == math.log2(first / scaler.get_scale())
    assert (at.skipped_steps > 0) == (first == OVERFLOWS)


def test_float16_is_near_to_float32_and_other_precisions_do_not_scale(tmp_path: Path) -> None:
    store, recipe = Store(str(tmp_path / "store")), tiny_recipe(tmp_path)
    exact, job, at = losses_of(job_of(recipe, store, 0), 6), job_of(recipe, store, 0), Position()
    rough = losses_of(job, 6, HALF)
    assert {parameter.dtype for parameter in job.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(rough, exact, atol=0.02)
    assert rough != exact
    (row,) = train(job_of(recipe, store, 0), CPU, at, 6, lambda at: None)
    assert "skipped_steps" not in row
    assert (at.loss_scale, at.good_steps, at.skipped_steps) == (None, 0, 0)


def test_a_loss_that_is_never_finite_diverges_at_the_smallest_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "FIRST", 4.0)
    job = job_of(tiny_recipe(tmp_path), Store(str(tmp_path / "store")), 0)
    plain = job.loss
    job.loss = lambda model, batch: plain(model, batch) * math.nan
    before = [parameter.clone() for parameter in job.model.parameters()]
    with pytest.raises(Diverged, match="step 3 is nan"):
        losses_of(job, 6, HALF)
    assert all(torch.equal(now, then) for now, then in zip(job.model.parameters(), before, strict=True))


def test_a_resume_goes_on_with_scale_and_skips_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "FIRST", OVERFLOWS)
    monkeypatch.setattr(loss_scale, "INTERVAL", 5)
    recipe = in_half(tmp_path)
    whole, store = undisturbed(recipe, tmp_path), Store(str(tmp_path / "parts"))
    begin(recipe, store, 2)
    name = nodes(Inputs(recipe))[0].trajectory_id
    state = store.load_state(name)
    assert state is not None
    position = state.meta["position"]
    assert position["skipped_steps"] > 0
    assert position["loss_scale"] < OVERFLOWS
    assert results(list(runner.run(recipe, store, ONE_THREAD))) == results(whole.rows)
    assert same_bits(tuned_weights(store, recipe), tuned_weights(whole.store, recipe))
    assert whole.rows[-1]["skipped_steps"] >= position["skipped_steps"]
    assert whole.rows[-1]["precision"] == "float16"


def test_a_state_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    """It has no scale: nothing was scaled then."""
    said: list[str] = []
    recipe, store = tiny_recipe(tmp_path, epochs=2), Store(str(tmp_path / "parts"), notice=said.append)
    whole = undisturbed(recipe, tmp_path)
    begin(recipe, store, 1)
    name = nodes(Inputs(recipe))[0].trajectory_id
    state = store.load_state(name)
    assert state is not None
    old = {key: value for key, value in json.loads(json.dumps(state.meta["position"])).items() if key not in state_files.LATER}
    files = {file: state.path(file) for file in (state_files.WEIGHTS, state_files.MOMENTS)}
    store.save_state(name, state.step, {"position": old}, files)
    rows = list(runner.run(recipe, store, ONE_THREAD))
    assert [row["source"] for row in rows] == ["loaded", "computed"]
    assert results(rows) == results(whole.rows)
    assert said == []
