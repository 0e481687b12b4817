"""Several tasks at once: against a plain torch loop, what a batch holds, resume, what a later stage takes over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F
from transformers import BertModel, get_linear_schedule_with_warmup

from tests.helpers import multitask_recipe, reviews, three_classes, write_csv
from tests.trainables.resume import (
    ONE_THREAD,
    Whole,
    assert_goes_on,
    begin,
    interrupt,
    saved_step,
    undisturbed,
    weights,
)
from tests.trainables.stages.test_identity import change
from tests.trainables.training.test_loop import CPU, job_of, losses_of, padded
from trainables.batches.pack import collate
from trainables.data.splits import load_task
from trainables.data.task_mixture import head_key
from trainables.encoder.load import model_state
from trainables.settings.execution import Execution
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.task import Task
from trainables.stages import run_recipe as runner
from trainables.stages.identity import nodes, recipe_name
from trainables.stages.inputs import Inputs
from trainables.stages.multitask import Heads
from trainables.store.store import Store
from trainables.training.loop import Job


def heads_of(job: Job) -> Heads:
    heads = job.model.classifier
    assert isinstance(heads, Heads)
    return heads


def task_of(job: Job, step: int) -> str:
    """Key of the head that a step uses."""
    job.thaw(step)
    return heads_of(job).used


def start_of(recipe: Recipe, store: Store, index: int) -> Job:
    """The job of a stage whose parents are in the store, before its first step."""
    node = nodes(Inputs(recipe))[index]
    parent = store.get(node.parent_id) if node.parent_id else None
    path = parent.path("model.safetensors") if parent is not None else None
    return runner.job_of(Inputs(recipe), node, path, frozenset([node.steps]), store, CPU)


@pytest.mark.parametrize("sampling", ["proportional", "even"])
def test_equals_a_plain_torch_loop_over_10_steps(tmp_path: Path, sampling: str) -> None:
    """One BertModel, two linear layers of two and three classes, torch's own AdamW; dropout 0, layer-wise decay, clipping."""
    recipe = multitask_recipe(tmp_path, {"sampling": sampling, "dropout": 0.0, "xi": 0.8, "seed": 2})
    recipe = recipe.model_copy(update={"tasks": {"reviews": recipe.tasks["reviews"], "thirds": three_classes(tmp_path)}})
    job = job_of(recipe, Store(str(tmp_path / "store")), 0)
    config = type(job.base.config).from_dict(
        job.base.config.to_dict() | dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    )
    config._attn_implementation = "eager"
    bert = BertModel(config).train()
    state = model_state(job.model)
    encoder = {name.removeprefix("encoder."): tensor for name, tensor in state.items() if name.startswith("encoder.")}
    pooler = {f"pooler.dense.{name}": state[f"pooler.{name}"] for name in ("weight", "bias")}
    bert.load_state_dict(encoder | pooler)
    heads = {}
    for key, head in heads_of(job).heads.items():
        heads[key] = torch.nn.Linear(32, int(head.weight.shape[0]))
        heads[key].load_state_dict(head.state_dict())
    assert sorted(head.out_features for head in heads.values()) == [2, 3]
    places = {"embeddings": 0.8**2, "encoder.layer.0": 0.8, "encoder.layer.1": 1.0, "pooler": 1.0}
    rates = {
        name: 1e-3 * next(rate for place, rate in places.items() if name.startswith(place)) for name, _ in bert.named_parameters()
    }
    every = [(p, rates[name]) for name, p in bert.named_parameters()] + [
        (p, 1e-3) for head in heads.values() for p in head.parameters()
    ]
    groups = [{"params": [p], "lr": rate, "weight_decay": 0.0 if p.ndim < 2 else 0.01} for p, rate in every]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6, foreach=False, fused=False)
    schedule = get_linear_schedule_with_warmup(optimizer, round(job.steps * 0.1), job.steps)
    expected, used = [], [task_of(job, step) for step in range(10)]
    for step, key in enumerate(used):
        examples = job.examples(step)
        optimizer.zero_grad()
        logits = heads[key](bert(**padded(examples, 24)).pooler_output)
        loss = F.cross_entropy(logits, torch.tensor([example.label for example in examples]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p, _ in every], 1.0)
        optimizer.step()
        schedule.step()
        expected.append(loss.item())
    assert len(set(used)) == 2
    np.testing.assert_allclose(losses_of(job, 10), expected, atol=1e-5)
    after = model_state(job.model)
    for name, parameter in bert.named_parameters():
        ours = name.replace("pooler.dense", "pooler") if name.startswith("pooler") else f"encoder.{name}"
        torch.testing.assert_close(after[ours], parameter.detach(), rtol=0, atol=1e-5, msg=name)
    for key, head in heads.items():
        torch.testing.assert_close(after[f"classifier.heads.{key}.weight"], head.weight.detach(), rtol=0, atol=1e-5)


def test_a_batch_is_of_one_task_and_a_pass_holds_every_text_once(tmp_path: Path) -> None:
    recipe = multitask_recipe(tmp_path, {"epochs": 12, "sampling": "even"})
    job = job_of(recipe, Store(str(tmp_path / "store")), 0)
    stage = recipe.stages[0]
    assert stage.kind == "multitask"
    seen: dict[str, list[int]] = {}
    for step in range(job.steps):
        batch = job.examples(step)
        assert len(batch) == 8
        seen.setdefault(task_of(job, step), []).extend(map(id, batch))
    sizes = {key: len(data.train) for key, data in Inputs(recipe).members(stage).tasks.items()}
    assert sorted(sizes.values()) == [24, 45]
    assert seen.keys() == sizes.keys()
    assert not set.intersection(*map(set, seen.values()))
    for key, texts in seen.items():
        passes = [texts[start : start + sizes[key]] for start in range(0, len(texts), sizes[key])]
        assert len(passes) > 4
        assert all(len(set(each)) == len(each) for each in passes)
        assert all(set(each) == set(passes[0]) for each in passes[:-1])
        assert passes[0] != passes[1]


def test_a_step_leaves_the_other_heads_alone(tmp_path: Path) -> None:
    job = job_of(multitask_recipe(tmp_path), Store(str(tmp_path / "store")), 0)
    steps = next(step for step in range(1, job.steps) if task_of(job, step) != task_of(job, 0))
    (other,) = set(heads_of(job).heads) - {task_of(job, 0)}
    before = heads_of(job).heads[other].weight.detach().clone()
    losses_of(job, steps)
    assert torch.equal(before, heads_of(job).heads[other].weight)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    return undisturbed(multitask_recipe(folder), folder)


def test_rows(whole: Whole) -> None:
    recipe, _, rows = whole
    assert [(row["stage"], row["epoch"]) for row in rows] == [("multitask", 1), ("multitask", 2), ("finetune", 1), ("finetune", 2)]
    row = rows[1]
    assert row["step"] == nodes(Inputs(recipe))[0].steps == 2 * -(-(45 + 24) // 8)
    assert {name: scores["examples"] for name, scores in row["by_task"].items()} == {"reviews": 15, "places": 8}
    assert {key: row[key] for key in row["by_task"]["reviews"]} == row["by_task"]["reviews"]
    assert row["recipe"] == "BERT-MFiT-FiT"
    assert row["seed"] == 0


def test_rows_are_told_in_the_names_and_for_the_target_of_who_asks(whole: Whole) -> None:
    recipe, store, rows = whole
    scores = rows[0]["by_task"]
    named = {"plots": recipe.tasks["reviews"], "food": recipe.tasks["places"]}
    renamed = recipe.model_copy(update={"tasks": named, "task": "food"})
    row = next(runner.run(renamed, store, ONE_THREAD, last="multitask"))
    assert row["source"] == "loaded"
    assert row["by_task"] == {"plots": scores["reviews"], "food": scores["places"]}
    assert row["error_rate_percent"] == scores["places"]["error_rate_percent"]


def test_a_target_that_is_not_among_the_tasks_gets_their_mean(tmp_path: Path) -> None:
    recipe = multitask_recipe(tmp_path, {"epochs": 1})
    recipe = recipe.model_copy(update={"tasks": {**recipe.tasks, "thirds": three_classes(tmp_path)}})
    recipe = change(recipe, 0, tasks=("places", "thirds"))
    row = next(runner.run(recipe, Store(str(tmp_path / "store")), ONE_THREAD))
    for key in ("error_rate_percent", "loss"):
        assert row[key] == pytest.approx(np.mean([scores[key] for scores in row["by_task"].values()]))
    assert "macro_f1" not in row


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resume_is_bit_for_bit(whole: Whole, tmp_path: Path, stop_after: int) -> None:
    other = Store(str(tmp_path / "store"))
    begin(whole.recipe, other, stop_after)
    assert_goes_on(whole, other)


def test_resume_in_the_middle_of_an_epoch(whole: Whole, tmp_path: Path) -> None:
    broken = Store(str(tmp_path / "store"))
    interrupt(whole.recipe, broken, 7)
    assert saved_step(whole.recipe, broken, 0) == 4  # nine steps are an epoch
    assert_goes_on(whole, broken)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_do_not_change_the_result(whole: Whole, tmp_path: Path, micro_batch: int) -> None:
    recipe, _, rows = whole
    split = runner.run(recipe, Store(str(tmp_path / "b")), Execution(threads=1, micro_batch=micro_batch), last="multitask")
    assert [row["train_loss"] for row in split] == pytest.approx([row["train_loss"] for row in rows[:2]], abs=1e-5)


def test_fine_tuning_starts_from_the_encoder_and_its_own_head(whole: Whole) -> None:
    """Both tasks have two classes, so that the other's head would fit."""
    recipe, store, _ = whole
    stored = weights(store, nodes(Inputs(recipe))[0].stage_id)
    for target in recipe.tasks:
        aimed = recipe.model_copy(update={"task": target})
        state = model_state(start_of(aimed, store, 1).model)
        for name, tensor in state.items():
            if not name.startswith("classifier."):
                assert torch.equal(tensor, stored[name]), name
        own = f"classifier.heads.{head_key(Inputs(aimed).target)}"
        assert torch.equal(state["classifier.weight"], stored[f"{own}.weight"])
        assert torch.equal(state["classifier.bias"], stored[f"{own}.bias"])


def test_the_own_head_is_kept_where_fewer_texts_are_used(whole: Whole) -> None:
    recipe, store, _ = whole
    state = model_state(start_of(change(recipe, 1, train_share=0.5), store, 1).model)
    own = head_key(load_task("reviews", recipe.tasks["reviews"]))
    assert torch.equal(
        state["classifier.weight"], weights(store, nodes(Inputs(recipe))[0].stage_id)[f"classifier.heads.{own}.weight"]
    )


def test_no_other_task_s_head_is_taken_over(tmp_path: Path) -> None:
    recipe, store = multitask_recipe(tmp_path, {"tasks": ("places",), "epochs": 1}), Store(str(tmp_path / "store"))
    list(runner.run(recipe, store, ONE_THREAD, last="multitask"))  # one task alone is allowed
    new = model_state(start_of(recipe.model_copy(update={"stages": recipe.stages[1:]}), store, 0).model)
    state = model_state(start_of(recipe, store, 1).model)
    assert torch.equal(state["classifier.weight"], new["classifier.weight"])
    assert not torch.equal(state["pooler.weight"], new["pooler.weight"])


def test_a_head_of_another_form_is_new(whole: Whole) -> None:
    recipe, store, _ = whole
    two_layers = change(recipe, 1, head="mlp")
    alone = two_layers.model_copy(update={"stages": two_layers.stages[1:]})
    state, new = (model_state(start_of(each, store, index).model) for each, index in ((two_layers, 1), (alone, 0)))
    names = [name for name in state if name.startswith("classifier.")]
    assert len(names) == 4
    assert all(torch.equal(state[name], new[name]) for name in names)


def test_a_task_with_several_labels_is_one_of_them(tmp_path: Path) -> None:
    """Its loss is binary; each step's equals that of its task alone."""
    labels = ["good;long", "good", "long", ""]
    rows = {
        split: [(text, labels[i % 4]) for i, (text, _) in enumerate(reviews("sls_yelp", split, 32))] for split in ("train", "test")
    }
    files = {split: write_csv(tmp_path / f"labels-{split}.csv", rows[split]) for split in rows}
    several = Task(**files, multi_label=True, label_separator=";", validation_share=0.25)
    recipe = multitask_recipe(tmp_path, {"dropout": 0.0, "sampling": "even"})
    recipe = recipe.model_copy(update={"tasks": {"reviews": recipe.tasks["reviews"], "several": several}, "task": "several"})
    job = job_of(recipe, Store(str(tmp_path / "store")), 0)
    own, step = head_key(Inputs(recipe).target), 0
    while task_of(job, step) != own:
        step += 1
    examples = job.examples(step)
    batch = collate(examples, job.base)
    logits = job.model(batch)
    targets = torch.tensor(np.stack([example.label for example in examples]), dtype=torch.float32)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 2
    torch.testing.assert_close(job.loss(job.model, batch), expected)
    row, *_, last = runner.run(recipe, Store(str(tmp_path / "store")), ONE_THREAD)
    assert row["by_task"]["several"].keys() > row["by_task"]["reviews"].keys() - {"mcc"}
    assert row["f1_by_label"] == row["by_task"]["several"]["f1_by_label"]
    artifact = Store(str(tmp_path / "store")).get(row["stage_id"])
    assert artifact is not None
    final = artifact.manifest["rows"][-1]["by_task"]
    for key, data in Inputs(recipe).members(recipe.stages[0]).tasks.items():  # type: ignore[arg-type]
        kept = pq.read_table(artifact.path(f"predictions-validation-{key}.parquet")).to_pydict()
        assert len(kept["label"]) == len(data.validation)
        wrong = sum(label != given for label, given in zip(kept["label"], kept["prediction"], strict=True))
        assert final[key]["error_rate_percent"] == pytest.approx(100 * wrong / len(kept["label"]))
    assert last["stage"] == "finetune"


def test_it_stands_between_pre_training_and_fine_tuning(tmp_path: Path) -> None:
    recipe, store = multitask_recipe(tmp_path, {"epochs": 1}), Store(str(tmp_path / "store"))
    pretrain = Pretrain(schedule_steps=4, steps=4, batch_size=8, max_length=24, corpus=("reviews", "places"), learning_rate=1e-3)
    recipe = recipe.model_copy(update={"stages": (pretrain, *recipe.stages)})
    rows = list(runner.run(recipe, store, ONE_THREAD))
    assert [row["stage"] for row in rows[-3:]] == ["multitask", "finetune", "finetune"]
    assert rows[-1]["recipe"] == recipe_name(recipe) == "BERT-CDPT-MFiT-FiT"
    state, stored = model_state(start_of(recipe, store, 1).model), weights(store, nodes(Inputs(recipe))[0].stage_id)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in state.items() if name.startswith("encoder."))
    behind = recipe.model_copy(update={"stages": (recipe.stages[1], pretrain, recipe.stages[2])})
    assert [row["stage"] for row in runner.run(behind, store, ONE_THREAD)][0::5] == ["multitask", "finetune"]
