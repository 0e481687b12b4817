"""Low-rank adapters against their formula, merged into what an artifact holds, resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call

from tests.helpers import tiny_recipe
from tests.trainables.encoder.test_families import texts_of
from tests.trainables.families import FAMILIES, base
from trainables.batches.pack import collate
from trainables.encoder import lora
from trainables.encoder.load import model_state
from trainables.heads.classifier import Classifier, classifier
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.stages import jobs
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.run_recipe import evaluate_test
from trainables.store.store import Store
from trainables.training import optimizer


def adapted(kind: str, **fields: Any) -> tuple[Classifier, Classifier]:
    """(a classifier with adapters that do something, the same without any)."""
    plain, model = (classifier(base(kind), 2, "cls", 0.0, 0).eval() for _ in range(2))
    lora.adapt(model.encoder, 3, Finetune(**({"lora_rank": 2, "lora_alpha": 3.0} | fields)), seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                assert not parameter.any(), "an adapter begins as nothing"
                parameter.normal_(0, 0.05, generator=generator)
    return model, plain


def by_formula(model: Classifier, plain: Classifier, scale: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights W + scale * B A of the plain model's names, the A and B that they are made of, as leaves)."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters() if "lora_" in name}
    weights = {name: value.detach() for name, value in plain.named_parameters()}
    for name in [name for name in leaves if "lora_A" in name]:
        layer = name.removesuffix(".lora_A.default.weight")
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + scale * leaves[f"{layer}.lora_B.default.weight"] @ leaves[name]
    return weights, leaves


@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_and_gradients_are_those_of_the_formula(kind: str) -> None:
    model, plain = adapted(kind)
    batch = collate(texts_of(base(kind)), base(kind))
    weights, leaves = by_formula(model, plain, 3.0 / 2)
    assert leaves
    found, expected = model(batch), functional_call(plain, weights, (batch,))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - plain(batch)).abs().max() > 1e-3, "the adapters do something"
    for logits in (found, expected):
        torch.nn.functional.cross_entropy(logits, batch.labels % 2).backward()
    trained = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    assert {f"encoder.{name}" for name in trained} == leaves.keys(), "the encoder's own weights are frozen"
    size = max(float(leaf.grad.abs().max()) for leaf in leaves.values())
    for name, leaf in leaves.items():
        torch.testing.assert_close(model.get_parameter(name).grad, leaf.grad, rtol=1e-3, atol=1e-5 * size, msg=name)


@pytest.mark.parametrize("kind", FAMILIES)
def test_merged_weights_give_the_same_logits(kind: str) -> None:
    model, plain = adapted(kind)
    batch = collate(texts_of(base(kind)), base(kind))
    state = model_state(model)
    assert state.keys() == model_state(plain).keys()
    with torch.inference_mode():
        expected = model(batch)
        plain.load_state_dict(state, strict=False)
        torch.testing.assert_close(plain(batch), expected, rtol=0, atol=1e-5)


def test_merging_is_that_of_peft() -> None:
    from peft.tuners.lora import LoraLayer

    model, _ = adapted("bert")
    state = model_state(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            torch.testing.assert_close(state[f"{name}.weight"], module.base_layer.weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "wanted", "expected"),
    [
        ("bert", None, {"query", "value"}),
        ("deberta-v2", None, {"query_proj", "value_proj"}),
        ("bert", ("query", "key", "dense"), {"query", "key", "dense"}),
        ("modernbert", None, {"Wqkv", "Wo", "Wi"}),
        ("distilbert", None, {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"}),
        ("distilbert", ("q_lin", "v_lin"), {"q_lin", "v_lin"}),
    ],
)
def test_which_layers_are_adapted(kind: str, wanted: Any, expected: set[str]) -> None:
    model, _ = adapted(kind, lora_targets=wanted)
    found = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert found == expected


def test_layers_do_not_depend_on_the_version_of_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage's id has their names only where the settings give them."""
    from peft.utils import constants

    theirs = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    monkeypatch.setitem(theirs, "bert", ["dense"])
    monkeypatch.setitem(theirs, "distilbert", ["lin1"])
    for kind, expected in (("bert", {"query", "value"}), ("distilbert", {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"})):
        encoder = base(kind).model
        assert set(lora.chosen(encoder, 3, None).values()) == expected


def test_rates_follow_the_layer_of_an_adapter() -> None:
    model, _ = adapted("bert")
    groups = optimizer.parameter_groups(model, model.encoder, 3, learning_rate=1.0, xi=0.5)
    members = [id(parameter) for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert optimizer.rates(groups) == {"layer 0": 0.25, "layer 1": 0.5, "layer 2": 1.0, "head": 1.0}


def run(recipe: Recipe, store: Store, **execution: Any) -> tuple[list[Any], dict[str, Tensor]]:
    rows = list(runner.run(recipe, store, Execution(threads=1, **execution)))
    artifact = store.get(nodes(Inputs(recipe))[-1].stage_id)
    assert artifact is not None
    return rows, load_file(artifact.path("model.safetensors"))


def test_a_stage_with_adapters_publishes_a_plain_encoder_and_resumes_to_the_bit(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, lora_rank=2, epochs=3, learning_rate=5e-3)
    rows, weights = run(recipe, Store(str(tmp_path / "whole")))
    assert "adapters of rank 2 on query, value train 512 weights in the encoder's place" in " ".join(rows[0]["notices"])
    before = {f"encoder.{name}": value for name, value in jobs.base_of(Inputs(recipe)).model.named_parameters()}
    moved = {name for name, value in before.items() if not torch.equal(value, weights[name])}
    assert moved == {name for name in before if name.endswith(("query.weight", "value.weight"))}
    for name in moved:
        assert torch.linalg.matrix_rank(weights[name] - before[name], atol=1e-5) == 2
    store = Store(str(tmp_path / "halves"))
    for _ in range(2):  # closed after one more evaluation each time
        part = runner.run(recipe, store, Execution(threads=1))
        next(row for row in part if row["source"] == "computed")
        part.close()
    again, resumed = run(recipe, store)
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    small, other = run(recipe, Store(str(tmp_path / "small")), gradient_checkpointing=True, micro_batch=3)
    assert [row["loss"] for row in small] == pytest.approx([row["loss"] for row in rows], abs=1e-4)
    assert other.keys() == weights.keys()
    assert evaluate_test(recipe, store, Execution(threads=1))["split"] == "test"


def test_adapters_start_from_what_an_earlier_stage_left(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, {"learning_rate": 1e-2}, lora_rank=1)
    _, weights = run(recipe, Store(str(tmp_path / "store")))
    artifact = Store(str(tmp_path / "store")).get(nodes(Inputs(recipe))[0].stage_id)
    assert artifact is not None
    pretrained = load_file(artifact.path("model.safetensors"))
    key = "encoder.encoder.layer.0.attention.self.key.weight"
    assert torch.equal(weights[key], pretrained[key])
    assert not torch.equal(weights[key], dict(jobs.base_of(Inputs(recipe)).model.named_parameters())[key.removeprefix("encoder.")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": "encoder"}, "lora_rank is 4, .* but freeze encoder given"),
        ({"freeze": 1, "reinit_layers": 1}, "but freeze 1 and reinit_layers 1 given"),
        ({"unfreeze_layers": 1}, "but unfreeze_layers 1 given"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Finetune(lora_rank=4, **fields)
    assert Finetune(**fields).lora_rank == 0


def test_targets_that_no_block_has(tmp_path: Path) -> None:
    message = r"finetune.lora_targets: 'querry' is no linear layer in the blocks of this bert; did you mean 'query'"
    with pytest.raises(ConfigError, match=message):
        run(tiny_recipe(tmp_path, lora_rank=1, lora_targets=("querry", "value")), Store(str(tmp_path / "store")))


def test_without_peft_nothing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    store = Store(str(tmp_path / "store"))
    recipe = tiny_recipe(tmp_path, {}, lora_rank=1)
    with pytest.raises(ConfigError, match=r'finetune.lora_rank: 1 given, but .* pip install "finetune-study\[lora\]"'):
        next(runner.run(recipe, store, Execution(threads=1)))
    assert store.get(nodes(Inputs(recipe))[0].stage_id) is None
