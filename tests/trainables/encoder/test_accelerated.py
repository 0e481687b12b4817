"""What is computed on an accelerator is what is computed on the CPU: the same attention, gradients, and distribution of dropout.

The CPU is treated as an accelerator, with kernels behind torch's own operations and with torch's own random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import tiny_recipe
from tests.trainables.cpu_kernels import as_on_a_gpu, registered
from tests.trainables.encoder.test_families import gradients, texts_of
from tests.trainables.encoders import examples_of, tiny_base
from tests.trainables.families import FAMILIES, base
from trainables.batches import pack
from trainables.batches.pack import Example, collate
from trainables.encoder import attention, dropout
from trainables.encoder.dropout import dropout_bits
from trainables.encoder.load import fresh_encoder, hidden_states
from trainables.encoder.recompute import recompute_blocks
from trainables.heads.classifier import classifier
from trainables.kernels import choice
from trainables.settings.execution import Execution
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store

every_family = pytest.mark.parametrize("kind", FAMILIES)
LENGTHS = (9, 5, 26, 40, 64, 9)


def states_and_gradients(kind: str) -> dict[str, Tensor]:
    """Of all texts in one batch, without dropout."""
    model = fresh_encoder(base(kind), 0.0).train()
    states = hidden_states(model, collate(texts_of(base(kind), LENGTHS), base(kind)))
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"states": states.detach(), **found, "ran": attention.ran_in(model)}


@every_family
def test_states_and_gradients_are_those_of_the_cpu(kind: str) -> None:
    """In float32: full attention by the kernel, ModernBERT's windows by matrix products, padded families by their own attention."""
    expected = states_and_gradients(kind)
    with as_on_a_gpu() as kernels:
        found = states_and_gradients(kind)
    ran = {"modernbert": ["efficient", "plain"]}.get(kind, ["efficient"]) if base(kind).packable else []
    assert (expected.pop("ran"), found.pop("ran")) == (([], []), (ran, []))
    assert bool(kernels.calls["efficient"]) == base(kind).packable
    assert found.keys() == expected.keys()
    size = max(float(each.abs().max()) for name, each in expected.items() if name != "states")
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each, rtol=1e-3, atol=2e-5 * (1 if name == "states" else size), msg=name)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_bfloat16_goes_through_flash(kind: str) -> None:
    """ModernBERT's windows included."""
    model, batch = fresh_encoder(base(kind), 0.0).eval(), collate(texts_of(base(kind), LENGTHS), base(kind))
    with torch.no_grad():
        expected = hidden_states(model, batch)
        with as_on_a_gpu() as kernels, torch.autocast("cpu", torch.bfloat16):
            found = hidden_states(model, batch)
    assert attention.ran_in(model) == (["flash"], [])
    assert kernels.calls["flash"] > 0
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@every_family
def test_a_recomputation_drops_the_same(kind: str) -> None:
    """Of every block, and of every fraction of long texts: with other masks the gradients would be wrong."""
    texts = texts_of(base(kind), (40, 9, 21, 9))
    whole = Example(np.concatenate([text.ids for text in texts]), 1, fractions=tuple(len(text.ids) for text in texts))
    with as_on_a_gpu():
        for fractions, batch in ((None, texts), ("attention", [whole, whole])):
            plain, again = (classifier(base(kind), 3, "pooled", 0.2, seed=0, fractions=fractions).train() for _ in range(2))
            recompute_blocks(again.encoder)
            expected, found = (gradients(model, base(kind), batch, 2) for model in (plain, again))
            assert expected.keys() == found.keys()
            assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
            assert not torch.equal(expected["logits"], gradients(plain.eval(), base(kind), batch, 2)["logits"]), (
                "something is dropped"
            )


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_fractions_that_are_computed_again_drop_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several parts, against the same parts without recomputation."""
    monkeypatch.setattr(pack, "CHUNK", 20)
    of = tiny_base(kind)
    sequences = examples_of(of, (12, 9, 15, 11))
    batch = [Example(np.concatenate([each.ids for each in sequences]), 1, fractions=tuple(len(each.ids) for each in sequences))] * 2
    model = classifier(of, 3, "pooled", 0.2, seed=0, fractions="mean").train()
    with as_on_a_gpu():
        found = gradients(model, of, batch, 2)
        monkeypatch.setattr(dropout, "checkpoint", lambda function, part, **options: function(part))
        expected = gradients(model, of, batch, 2)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("wrong", ["", "raises"])
def test_dropout_is_a_function_of_seed_step_and_place(wrong: str) -> None:
    """By kernels and by matrix products; whatever was drawn before, and nobody else's random numbers change."""
    of = tiny_base("bert")
    model = classifier(of, 3, "cls", 0.3, 0).train()

    def logits(seed: int, step: int, before: Sequence[int] = ()) -> Tensor:
        batch = collate(examples_of(of, (9, 12)), of, before=examples_of(of, before))
        torch.rand(3)
        state = torch.get_rng_state()
        with dropout_bits(seed, step, batch):
            found = model(batch).detach()
        assert torch.equal(torch.get_rng_state(), state)
        return found

    with as_on_a_gpu(wrong):
        first = logits(0, 0)
        assert torch.equal(logits(0, 0), first)
        assert not any(torch.equal(each, first) for each in (logits(1, 0), logits(0, 1), logits(0, 0, (4,))))
        batch = collate(examples_of(of, (9, 12)), of)
        assert torch.equal(model(batch), model(batch)), "no bits, no dropout"


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_dropout_has_its_rate_and_scale_everywhere(kind: str) -> None:
    """Over 80 steps dropout averages to the answer without, and spreads as far as on the CPU."""
    of = tiny_base(kind)
    model, batch = classifier(of, 3, "cls", 0.1, 0).train(), collate(examples_of(of, (9, 12)), of)

    def many() -> Tensor:
        found = []
        for step in range(80):
            with dropout_bits(0, step, batch), torch.no_grad():
                found.append(model(batch))
        return torch.stack(found)

    ours = many()
    with as_on_a_gpu():
        theirs = many()
    spread = ours.std(0)
    assert not torch.equal(ours, theirs)
    assert ((ours.mean(0) - theirs.mean(0)).abs() / spread).max() < 0.5
    assert (theirs.std(0) / spread - 1).abs().max() < 0.5


def test_few_groups_and_small_masks() -> None:
    """An accelerator pays for launches, a CPU for its cache. A mask is stored for all heads only with padding, within a limit."""
    lengths, heads = [20 + 5 * (i % 24) for i in range(24)], 12
    on_cpu = attention.PackedLayout(lengths).groups
    with as_on_a_gpu():
        layout = attention.PackedLayout(lengths)
        assert len(layout.groups) <= 2 < len(on_cpu)
        for group in layout.groups:
            bias = layout.bias(group, heads, 8, torch.float32)
            assert bias is not None
            assert bias.untyped_storage().nbytes() <= 4 * heads * attention.CELLS_ACCELERATED
        alone = attention.PackedLayout([2000])
        bias = alone.bias(alone.groups[0], heads, 8, torch.float32)
    assert bias is not None
    assert bias.shape == (heads, 2000, 2000)
    assert bias.untyped_storage().nbytes() == 4 * 2000**2


def rows(folder: Path, wrong: str = "", **execution: Any) -> tuple[list[Any], Any]:
    """(rows of a run, manifest of its last stage)."""
    recipe, store = tiny_recipe(folder, {}), Store(str(folder / f"store-{wrong}-{execution}"))
    with as_on_a_gpu(wrong):
        found = list(runner.run(recipe, store, Execution(threads=1, **execution)))
        assert runner.evaluate_test(recipe, store)["attention"] == "efficient", "nothing is dropped there"
    artifact = store.get(nodes(Inputs(recipe))[-1].stage_id)
    assert artifact is not None
    return [row for row in found if row["source"] == "computed"], artifact.manifest


def test_the_kernel_is_recorded_and_failed_ones_are_told(tmp_path: Path) -> None:
    found, manifest = rows(tmp_path)
    assert [row["attention"] for row in [*found, *manifest["rows"]]] == ["efficient"] * (len(found) + len(manifest["rows"]))
    torch.manual_seed(7)  # whatever was drawn before, and recomputed or not
    again, _ = rows(tmp_path, gradient_checkpointing=True)
    assert [row["train_loss"] for row in again if "train_loss" in row] == [
        row["train_loss"] for row in found if "train_loss" in row
    ]
    found, manifest = rows(tmp_path, "drops nothing")
    assert [row["attention"] for row in manifest["rows"]] == ["efficient, plain"] * 2, "without dropout, in validation, it is right"
    (notice,) = manifest["rows"][-1]["notices"]
    assert notice.endswith("it drops 0.0% at a rate of 25%; computed by plain attention")


def test_kernels_are_tested_before_the_clock_of_training_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, train, begun = choice.fault, runner.train, list[bool]()
    tested_after: list[bool] = []

    def noted(*arguments: Any) -> Any:
        tested_after.append(bool(begun))
        return fault(*arguments)

    def started(*arguments: Any) -> Any:
        begun.append(True)
        return train(*arguments)

    monkeypatch.setattr(choice, "fault", noted)
    monkeypatch.setattr(runner, "train", started)
    with as_on_a_gpu():
        next(runner.run(tiny_recipe(tmp_path), Store(tmp_path / "store"), Execution(threads=1)))
    assert begun
    assert tested_after == [False, False], "with dropout and, for evaluations, without"


def test_the_kernel_of_cached_features_is_recorded(tmp_path: Path) -> None:
    """By the trial that computes them, and by one that finds them; unknown names in a shared store are left out."""
    store, found = Store(tmp_path / "store"), list[Any]()
    with as_on_a_gpu():
        for rate in (1e-3, 2e-3):
            recipe = tiny_recipe(tmp_path, freeze="encoder", epochs=1, learning_rate=rate)
            found += runner.run(recipe, store, Execution(threads=1))
    assert [row["attention"] for row in found] == ["efficient"] * 2
    model = torch.nn.Linear(1, 1)
    attention.ran_before(model, ["plain", "unknown\n", {}])
    assert attention.ran_in(model) == (["plain"], [])


def test_nothing_is_recorded_on_a_cpu(tmp_path: Path) -> None:
    with registered():
        found = list(runner.run(tiny_recipe(tmp_path, epochs=1), Store(str(tmp_path / "store")), Execution(threads=1)))
    assert found
    assert not any("attention" in row for row in found)
