"""The plan: the stage tree, tokens with and without sharing, what the store holds already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.records import record
from study.cluster.work import Work, here
from study.definition.models import Study
from study.definition.study_file import load_study
from study.planning import estimate
from study.planning.plan import Plan, plan, trajectories, with_precision
from study.planning.plan_text import render, show
from study.run.scribe import scored
from tests.helpers import TINY_BERT, chinese_reviews, tiny_task, word_pieces
from tests.study.definition.test_study_file import CONFIGS, ROOT
from tests.study.tiny import answer, refused
from trainables.data import sources, splits
from trainables.settings.execution import Execution
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.node import milestone_id
from trainables.store.store import Store

SPACE: dict[str, Any] = {
    "finetune.learning_rate": {"log_uniform": [1e-4, 1e-2]},
    "pretrain.steps": {"choice": [0, 2, 4, 8]},
}


FINETUNE = {"finetune": {"max_length": 24, "head_tokens": 6, "epochs": 2, "batch_size": 8}}


def tiny(folder: Path, space: dict[str, Any] | None = None, **changes: Any) -> Study:
    """A study on slices of the shipped sets with a two-layer encoder from scratch."""
    data: dict[str, Any] = {
        "name": "tiny",
        "tasks": {name: tiny_task(folder, name).canonical() for name in ("sls_imdb", "sls_yelp")},
        "task": "sls_imdb",
        "encoder": {"config": TINY_BERT, "vocabulary": 400},
        "recipe": [
            {"pretrain": {"corpus": ["sls_imdb", "sls_yelp"], "schedule_steps": 8, "steps": 0, "batch_size": 8, "max_length": 24}},
            FINETUNE,
        ],
        "precision": "float32",
        "space": SPACE if space is None else space,
        "budget": {"trials": 5},
        "final": {"top_k": 2, "seeds": 3},
    }
    return load_study(data | changes)


def test_a_plan_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its check, its tree, and the stages of all points that it draws."""
    read: list[Any] = []

    def counted(task: Any) -> Any:
        read.append(task.train)
        return sources.read(task)

    monkeypatch.setattr(splits, "read", counted)
    study = tiny(tmp_path)
    show(study, Store(str(tmp_path / "store")))
    assert sorted(read) == sorted(task.train for task in study.tasks.values())


def test_milestones_of_one_trajectory(tmp_path: Path) -> None:
    study = tiny(tmp_path)
    (shared,) = trajectories(study)
    assert shared.milestones == (2, 4, 8)
    assert (shared.name, shared.kind, shared.recipe.stages[0].canonical()["steps"]) == ("pretrain", "pretrain", 8)
    for node in shared.nodes:  # they are what trials will ask for
        recipe = study.recipe_for({"pretrain.steps": node.steps, "finetune.learning_rate": 1e-3}, 1)
        assert nodes(Inputs(recipe))[0] == node
        assert nodes(Inputs(recipe))[1].parent_id == node.stage_id


def test_one_trajectory_per_setting_that_makes_another(tmp_path: Path) -> None:
    space = SPACE | {
        "pretrain.corpus": {"choice": [["sls_imdb"], ["sls_imdb", "sls_yelp"]]},
        "pretrain.mask_share": {"choice": [0.15, 0.3], "when": {"pretrain.steps": 8}},
    }
    found = {shared.milestones: 0 for shared in trajectories(tiny(tmp_path, space))}
    for shared in trajectories(tiny(tmp_path, space)):
        found[shared.milestones] += 1
    # With a mask share of .15 to every milestone, of .3 to the last one only; each for two corpora.
    assert found == {(2, 4, 8): 2, (8,): 2}


def test_a_fixed_number_of_steps_is_one_milestone(tmp_path: Path) -> None:
    study = tiny(tmp_path, {"finetune.learning_rate": SPACE["finetune.learning_rate"]})
    assert trajectories(study) == []  # zero steps are no stage
    data = [{"pretrain": {"schedule_steps": 8, "steps": 3}}, {"finetune": {"max_length": 24, "head_tokens": 6}}]
    (shared,) = trajectories(tiny(tmp_path, {"finetune.learning_rate": SPACE["finetune.learning_rate"]}, recipe=data))
    assert shared.milestones == (3,)


def test_what_depends_on_a_range_is_left_to_the_trials(tmp_path: Path) -> None:
    study = tiny(tmp_path, SPACE | {"pretrain.learning_rate": {"log_uniform": [1e-5, 1e-3]}})
    assert trajectories(study) == []
    made = plan(study, Store(str(tmp_path / "store")))
    assert made.stages == ()
    assert made.tokens_shared > 5 * made.tokens_unshared / (5 + 4) * 0.9  # nothing to share but what the finals take over


def test_stages_in_order_are_parents_first(tmp_path: Path) -> None:
    recipe = [
        {"pretrain": {"name": "domain", "corpus": ["sls_yelp"], "schedule_steps": 8, "steps": 8, "max_length": 24}},
        {"pretrain": {"name": "task", "schedule_steps": 4, "steps": 4, "max_length": 24}},
        {"finetune": {"max_length": 24, "head_tokens": 6}},
    ]
    space = {"domain.steps": {"choice": [0, 4, 8]}, "task.steps": {"choice": [0, 2, 4]}}
    study = tiny(tmp_path, space, recipe=recipe)
    shared = trajectories(study)
    assert sorted((each.name, each.milestones) for each in shared) == [("domain", (4, 8))] + [("task", (2, 4))] * 3
    known: set[str | None] = {None}
    for each in shared:
        assert {node.parent_id for node in each.nodes} <= known
        known |= {node.stage_id for node in each.nodes}
    text = show(study, Store(str(tmp_path / "store")))
    assert "│  ├─ task, 2 steps on sls_imdb" in text


SEVERAL = [
    {"pretrain": {"schedule_steps": 4, "steps": 4, "batch_size": 8, "max_length": 24}},
    {"multitask": {"epochs": 1, "max_length": 24, "head_tokens": 6, "batch_size": 8}},
    {"finetune": {"max_length": 24, "head_tokens": 6, "epochs": 1, "batch_size": 8}},
]
"""A recipe with a stage on several tasks between the others."""


def test_a_stage_on_several_tasks_is_shared(tmp_path: Path) -> None:
    space = {"finetune.learning_rate": SPACE["finetune.learning_rate"], "multitask.sampling": {"choice": ["sqrt", "even"]}}
    study, store = tiny(tmp_path, space, recipe=SEVERAL), Store(str(tmp_path / "store"))
    first, *others = trajectories(study)
    assert (first.name, [each.name for each in others]) == ("pretrain", ["multitask"] * 2)
    steps = -(-2 * 45 // 8)
    for each in others:
        assert each.milestones == (steps,)
        assert each.nodes[0].parent_id == first.nodes[0].stage_id
        assert nodes(Inputs(each.recipe))[2].parent_id == each.nodes[0].stage_id
    assert f"multitask, {steps} steps on sls_imdb, sls_yelp" in show(study, store)
    chosen = others[0]
    for row in here(Work("shared", chosen.recipe, store.url, Execution(threads=1), chosen.name, chosen.milestones)):
        record.Records(tmp_path / "records.jsonl", study="tiny").append("evaluation", **scored(row))
    rows, problems = record.read(tmp_path / "records.jsonl")
    assert not problems
    assert rows[-1]["by_task"].keys() == {"sls_imdb", "sls_yelp"}
    assert not chosen.missing(store)
    assert store.get(milestone_id(chosen.trajectory_id, steps)) is None
    assert [(stage.kind, stage.cached) for stage in plan(study, store).stages].count(("multitask", True)) == 1


def test_what_comes_before_a_range_is_shared_all_the_same(tmp_path: Path) -> None:
    space = {"multitask.learning_rate": {"log_uniform": [1e-5, 1e-3]}, "pretrain.steps": {"choice": [2, 4]}}
    study = tiny(tmp_path, space, recipe=SEVERAL)
    assert [(each.name, each.milestones) for each in trajectories(study)] == [("pretrain", (2, 4))]
    made = plan(study, Store(str(tmp_path / "store")))
    assert made.tokens_shared < made.tokens_unshared


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("plan")
    return plan(tiny(folder), Store(str(folder / "store")))


def test_tokens_with_and_without_sharing(made: Plan) -> None:
    pretraining = max(stage.tokens for stage in made.stages)
    assert [stage.tokens for stage in made.stages] == sorted(stage.tokens for stage in made.stages)
    trials = made.trials + made.finals
    assert (made.trials, made.finals) == (5, 2 * 2)
    finetuning = made.tokens_shared - pretraining
    assert finetuning % trials == 0  # every trial has the same epochs
    # Unshared, each pays its own way: on average over the choices (0 + 2 + 4 + 8) / 4 = 3.5 of 8 steps, as drawn.
    own = (made.tokens_unshared - finetuning) / trials / pretraining
    assert 0.2 < own < 0.7
    assert made.tokens_missing == made.tokens_shared
    assert made.least_tokens < made.tokens_missing
    assert made.seconds[0] < made.seconds[1]
    assert made.seconds[1] == pytest.approx(made.tokens_missing / made.tokens_per_s)
    assert "formula" in made.rate_from


def test_the_record_is_one_that_records_take(made: Plan, tmp_path: Path) -> None:
    record.Records(tmp_path / "records.jsonl").append("plan", **made.as_record())
    (row,), problems = record.read(tmp_path / "records.jsonl")
    assert not problems
    assert row["splits"] == {"train": 45, "validation": 15, "test": 24}
    assert [stage["cached"] for stage in row["stages"]] == [False] * 3
    assert json.loads(json.dumps(made.as_record())) == made.as_record()


def test_text_fits_the_terminal(made: Plan) -> None:
    lines = render(made).splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in (
        "tiny: 5 trials of BERT-",
        "bert from scratch",
        "2 steps",
        "8 steps",
        "missing",
        "without sharing",
        "rate from",
        "disk",
    ):
        assert part in text
    assert text.count("missing") == 3 + 1


def test_what_is_in_the_store_is_not_missing(tmp_path: Path) -> None:
    from trainables.stages import run_recipe

    study, store = tiny(tmp_path), Store(str(tmp_path / "store"))
    (shared,) = trajectories(study)
    before = plan(study, store)
    for _ in run_recipe.run(shared.recipe, store, Execution(device="cpu"), last="pretrain", milestones=shared.milestones[:-1]):
        pass
    after = plan(study, store)
    assert [stage.cached for stage in after.stages] == [True] * 3
    assert after.tokens_shared == before.tokens_shared
    assert before.tokens_missing - after.tokens_missing == after.stages[-1].tokens
    assert "in the store" in after.rate_from
    assert render(after).count("cached") == 3


def test_a_frozen_encoder_reads_once_and_its_features_take_room(tmp_path: Path) -> None:
    from trainables.stages import run_recipe

    store = Store(str(tmp_path / "store"))
    frozen = {"max_length": 24, "head_tokens": 6, "epochs": 4, "batch_size": 8, "freeze": "encoder", "lstm_width": 8}
    space = {"finetune.learning_rate": SPACE["finetune.learning_rate"]}
    vectors, pieces, several = (
        tiny(tmp_path, space, recipe=[{"finetune": frozen | fields}])
        for fields in ({"pooling": "cls"}, {"pooling": "bilstm"}, {"pooling": "bilstm", "layers": [0, 1]})
    )
    trained = tiny(tmp_path, space, recipe=[{"finetune": frozen | {"freeze": "none"}}])
    made = plan(pieces, store)
    assert made.recipe == "BERT-Feat"
    assert plan(trained, store).tokens_missing == 4 * made.tokens_missing
    estimated = made.disk_bytes - plan(vectors, store).disk_bytes
    assert plan(several, store).disk_bytes - plan(vectors, store).disk_bytes == 2 * estimated
    assert "of features" in made.disk_from
    target = pieces.recipe_for({"finetune.learning_rate": 1e-3}, 0)
    for _ in run_recipe.run(target, store, Execution(device="cpu")):
        pass
    run_recipe.evaluate_test(target, store, Execution(device="cpu"))
    found = sum(path.stat().st_size for path in (tmp_path / "store").rglob("features.safetensors"))
    assert estimated == pytest.approx(found, rel=0.3)
    assert "formula" in estimate.rate(pieces, store, nodes(Inputs(target)))[1], (
        "what trained on features tells nothing of the encoder's rate"
    )


def test_repeated_settings_are_planned_once_and_told(tmp_path: Path) -> None:
    space = {"finetune.learning_rate": {"choice": [1e-4, 1e-3]}}
    best = {2: 2, 6: 5}
    two, six = (tiny(tmp_path, space, budget={"trials": n}, recipe=[FINETUNE], final={"top_k": best[n]}) for n in (2, 6))
    store = Store(str(tmp_path / "store"))
    told = {trials: plan(study, store) for trials, study in ((2, two), (6, six))}
    assert (told[2].trials, told[6].trials) == (2, 6)
    assert told[2].tokens_shared == told[6].tokens_shared == told[6].tokens_missing
    assert told[2].tokens_unshared < told[6].tokens_unshared
    assert told[2].finals == told[6].finals
    note = "note space: it holds 2 different settings, and the budget is 6 trials: at least 4 trials repeat earlier ones"
    assert note in " ".join(show(six, store).split())
    assert "different settings" not in show(two, store)


def test_counting_trials(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    space = {"pretrain.steps": {"choice": [0, 8]}, "finetune.truncation": {"choice": ["head", "tail"]}}
    grid = plan(tiny(tmp_path, space, search={"sampler": "grid"}, budget={"trials": 50}), store)
    assert grid.trials == 4
    one = plan(tiny(tmp_path, {}, final={"seeds": 5}), store)
    assert (one.trials, one.finals) == (1, 4)
    first = tiny(tmp_path, search={"first": [{"finetune.learning_rate": 1e-3}]}, final={"seeds": 2, "label_of_first": "a"})
    assert plan(first, store).finals == 2


def test_early_stopping_bounds_the_estimate(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    none = plan(tiny(tmp_path, search={"early_stopping": "none"}), store)
    assert none.least_tokens == none.tokens_missing
    sharp = plan(tiny(tmp_path, search={"early_stopping": {"reduction": 2}}), store)
    # Two epochs, a rung after the first that half of the trials pass: a quarter of the search's tokens goes.
    search = (sharp.tokens_shared - max(stage.tokens for stage in sharp.stages)) * 5 / 9
    assert sharp.tokens_missing - sharp.least_tokens == pytest.approx(search / 4, rel=0.01)


def test_weights_of_a_known_encoder() -> None:
    bert = load_study({"name": "a", "tasks": ["sls_imdb"], "task": "sls_imdb", "encoder": {"config": TINY_BERT}}).encoder
    base = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "vocab_size": 30522}
    assert estimate.matrix_weights(bert.model_copy(update={"config": {"model_type": "bert", **base}})) == 84_934_656
    assert estimate.weights_bytes(bert.model_copy(update={"config": {"model_type": "bert", **base}})) == pytest.approx(
        4 * 109e6, rel=0.02
    )


def test_precision_is_resolved_for_this_machine(tmp_path: Path) -> None:
    assert with_precision(tiny(tmp_path, precision="auto")).precision in ("float32", "bfloat16")


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem == "quickstart"], ids=lambda path: path.stem)
def test_quickstart_without_ray_or_training(path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from study.definition.study_file import load_study; from study.planning.plan_text import show;"
        " from trainables.store.store import Store;"
        f"print(show(load_study({str(path)!r}, ['precision=float32']), Store({str(tmp_path)!r})));"
        "print([m for m in ('ray',) if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "quickstart: 12 trials of BERT-CDPT-FiT" in done.stdout or "BERT-IDPT-FiT" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_the_worked_example_of_chinese_reviews(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "chinese.md").read_text(encoding="utf-8")
    path, rows = tmp_path / "hotel-reviews.yaml", chinese_reviews(120)
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    for name, part in (("train", rows[:90]), ("test", rows[90:])):
        lines = ["review,stars", *(f"{text},{stars}" for text, stars in part)]
        (tmp_path / f"{name}.csv").write_bytes("\n".join(lines).encode("gb18030"))
    encoder = f"encoder={json.dumps(word_pieces(tmp_path / 'tokenizer').model_dump(mode='json', exclude_defaults=True))}"
    given = ("plan", path, "--set", encoder, "--set", "recipe.finetune.max_length=64", "--store", tmp_path / "store")
    said = " ".join(answer(capsys, *given).split())
    assert "the bag of words looks at 1 to 4 characters in a row" in said
    assert "the encoder's tokenizer on samples of the texts: 1.0" in said, said
    wrong = " ".join(refused(capsys, *given, "--set", "tasks.hotels.encoding=null").split())
    assert f"by gb18030 it begins '{rows[0][0]},{rows[0][1]}'" in wrong
