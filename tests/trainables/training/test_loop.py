"""The loop against plain transformers and torch.optim, and what it does when memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, get_linear_schedule_with_warmup

from tests.helpers import tiny_recipe
from trainables.encoder.load import model_state
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.stages import finetune, run_recipe
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store
from trainables.training import loop
from trainables.training.loop import Job, Position, train
from trainables.training.runtime import Runtime
from trainables.training.world import World

CPU = Runtime(device=torch.device("cpu"), world=World())


def job_of(recipe_: Recipe, store: Store, index: int) -> Job:
    node = nodes(Inputs(recipe_))[index]
    return run_recipe.job_of(Inputs(recipe_), node, None, frozenset([node.steps]), store, CPU)


def losses_of(job: Job, steps: int, runtime: Runtime = CPU) -> list[float]:
    """Training loss of every step."""
    job.evaluate_at = frozenset(range(1, steps + 1))
    return [row["train_loss"] for row in train(job, runtime, Position(), steps, lambda at: None)]


def reference_losses(
    model: Any, batches: list[dict[str, torch.Tensor]], rates: dict[int, float], total: int, warmup: float
) -> list[float]:
    """Padded batches through a transformers model and torch's own AdamW, written out as anyone would."""
    plain = [
        {"params": [p], "lr": rates[id(p)], "weight_decay": 0.0 if p.ndim < 2 else 0.01}
        for p in model.parameters()
        if id(p) in rates
    ]
    optimizer = torch.optim.AdamW(plain, betas=(0.9, 0.999), eps=1e-6, foreach=False, fused=False)
    schedule = get_linear_schedule_with_warmup(optimizer, round(total * warmup), total)
    model.train()
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def padded(examples: Any, width: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.from_numpy(example.ids.astype(np.int64))
        mask[row, : len(example.ids)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def test_finetune_equals_plain_transformers_over_20_steps(tmp_path: Path) -> None:
    """Layer-wise decay, warm-up, clipping and weight decay together; dropout 0, so that both see the same function."""
    tiny = tiny_recipe(tmp_path, epochs=4, dropout=0.0, xi=0.8, learning_rate=5e-4)
    job = job_of(tiny, Store(str(tmp_path / "store")), 0)
    ours = job.model
    reference = BertForSequenceClassification(type(job.base.config).from_dict(job.base.config.to_dict() | {"num_labels": 2}))
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    reference.config._attn_implementation = "eager"
    reference.config.attention_probs_dropout_prob = 0.0
    prefixes = {"encoder.": "bert.", "pooler.": "bert.pooler.dense.", "classifier.": "classifier."}
    names = {
        name: next(new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old))
        for name in dict(ours.named_parameters())
    }
    missing, unexpected = reference.load_state_dict({names[name]: p for name, p in model_state(ours).items()}, strict=False)
    assert not missing
    assert not unexpected
    peaks = {id(parameter): group["lr"] for group in job.optimizer.param_groups for parameter in group["params"]}
    theirs = dict(reference.named_parameters())
    rates = {id(theirs[names[name]]): peaks[id(parameter)] for name, parameter in ours.named_parameters()}
    assert len(rates) == len(theirs)
    assert len({round(rate, 12) for rate in rates.values()}) == 3  # embeddings, layer 0, layer 1 and head
    batches = [
        padded(job.examples(step), 24) | {"labels": torch.tensor([e.label for e in job.examples(step)])} for step in range(20)
    ]
    expected = reference_losses(reference, batches, rates, job.steps, 0.1)
    np.testing.assert_allclose(losses_of(job, 20), expected, atol=1e-5)
    assert np.ptp(expected) > 0.02  # it moved
    for name, parameter in model_state(ours).items():  # rows of pieces that do not occur among them
        torch.testing.assert_close(parameter, theirs[names[name]], rtol=0, atol=1e-5, msg=name)


def test_pretrain_equals_plain_transformers_over_20_steps(tmp_path: Path) -> None:
    settings = {"steps": 20, "schedule_steps": 20, "dropout": 0.0, "learning_rate": 1e-3}
    job = job_of(tiny_recipe(tmp_path, pretrain=settings), Store(str(tmp_path / "store")), 0)
    reference = BertForMaskedLM(job.base.config)
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    head = {name.removeprefix("head."): tensor for name, tensor in job.model.named_parameters() if name.startswith("head.")}
    state = {f"bert.{name}": tensor for name, tensor in job.model.encoder.state_dict().items()} | head
    reference.load_state_dict(state, strict=False)
    reference.tie_weights()
    rates = {id(parameter): 1e-3 for parameter in reference.parameters()}
    batches = []
    for step in range(20):
        examples = job.examples(step)
        labels = torch.full((len(examples), 24), -100)
        for row, example in enumerate(examples):
            assert example.masked is not None
            labels[row, torch.from_numpy(example.masked[0])] = torch.from_numpy(example.masked[1])
        batches.append(padded(examples, 24) | {"labels": labels})
    expected = reference_losses(reference, batches, rates, 20, 0.1)
    np.testing.assert_allclose(losses_of(job, 20), expected, atol=1e-5)
    assert expected[-1] < expected[0]


def test_memory_that_runs_out_halves_the_micro_batch_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass of more than three texts fails here as it does on a full GPU."""
    tiny = tiny_recipe(tmp_path)
    expected = losses_of(job_of(tiny, Store(str(tmp_path / "store")), 0), 6)
    job = job_of(tiny, Store(str(tmp_path / "store")), 0)
    sizes = []

    def tight(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        sizes.append(len(batch.lengths))
        if len(batch.lengths) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return finetune.cross_entropy(model, batch)

    job.loss = tight
    np.testing.assert_allclose(losses_of(job, 6), expected, atol=1e-5)
    assert sizes[:3] == [8, 4, 2]
    assert sum(size > 3 for size in sizes) <= 4, "the limit is kept for steps of as many tokens"


def test_a_single_text_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    job = job_of(tiny_recipe(tmp_path), Store(str(tmp_path / "store")), 0)

    def full(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    job.loss = full
    with pytest.raises(MemoryError, match="a single text does not fit into memory"):
        losses_of(job, 1)


def test_other_errors_are_not_taken_for_full_memory(tmp_path: Path) -> None:
    job = job_of(tiny_recipe(tmp_path), Store(str(tmp_path / "store")), 0)

    def broken(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    job.loss = broken
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        losses_of(job, 1)


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(tmp_path: Path) -> None:
    job = job_of(tiny_recipe(tmp_path), Store(str(tmp_path / "store")), 0)
    plain = job.loss
    calls: list[int] = []

    def poisoned(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        calls.append(1)
        return plain(model, batch) * (float("nan") if len(calls) == 3 else 1.0)

    job.loss = poisoned
    job.evaluate_at = frozenset([2])
    rows = train(job, CPU, Position(), 6, lambda at: None)
    next(rows)
    kept = {name: parameter.detach().clone() for name, parameter in job.model.named_parameters()}
    with pytest.raises(loop.Diverged, match="step 3 is nan") as error:
        next(rows)
    assert error.value.step == 3
    assert all(torch.equal(kept[name], parameter) for name, parameter in job.model.named_parameters())


def test_the_backward_pass_is_outside_autocast(tmp_path: Path) -> None:
    """There torch would compute gradients in 16 bits of what the forward pass computed in 32, as the biLSTM's."""
    job = job_of(tiny_recipe(tmp_path, pooling="bilstm", lstm_width=8), Store(str(tmp_path / "store")), 0)
    seen: list[bool] = []
    plain = job.loss

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        found = plain(model, batch)
        found.register_hook(lambda grad: seen.append(torch.is_autocast_enabled("cpu")))
        return found

    job.loss = loss
    losses_of(job, 2, Runtime(device=torch.device("cpu"), world=World(), precision="bfloat16"))
    assert seen == [True, False] * 2


def test_bfloat16_keeps_float32_weights_and_learns(tmp_path: Path) -> None:
    tiny = tiny_recipe(tmp_path)
    assert isinstance(tiny.stages[0], Finetune)
    store = Store(str(tmp_path / "store"))
    exact = losses_of(job_of(tiny, store, 0), 6)
    job = job_of(tiny, store, 0)
    rough = losses_of(job, 6, Runtime(device=torch.device("cpu"), world=World(), precision="bfloat16"))
    assert {parameter.dtype for parameter in job.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(rough, exact, atol=0.05)
    assert rough != exact
