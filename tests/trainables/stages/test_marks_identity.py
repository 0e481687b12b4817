"""What changes the identity of marks and of what is masked by them, what does not, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import marks_recipe, reviews, tiny_recipe, tiny_task, write_csv
from tests.trainables.resume import ONE_THREAD
from tests.trainables.stages.test_identity import change, ids
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune, Marks
from trainables.settings.task import Task
from trainables.settings.validate import validate
from trainables.stages import run_recipe as runner
from trainables.stages import selective
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.node import logits_id, scores_id, settings_of
from trainables.store.store import Store

OF_BOTH = [
    {"batch_size": 4},
    {"warmup": 0.2},
    {"schedule": "cosine"},
    {"weight_decay": 0.0},
    {"beta1": 0.8},
    {"beta2": 0.98},
    {"epsilon": 1e-8},
    {"clip_norm": 0.5},
    {"dropout": 0.2},
    {"max_length": 20},
    {"scorer_epochs": 3},
    {"scorer_learning_rate": 2e-3},
    {"seed": 1},
]
"""Settings of the scorer, and with it of the marker."""
OF_THE_MARKER = [
    {"threshold": 0.01},
    {"scored_texts": 20},
    {"stop_words": "none"},
    {"learning_rate": 2e-3},
    {"epochs": 4},
    {"held_out_share": 0.5},
    {"mark_weight": 1.0},
]
SCORER, MARKER, PRETRAIN, FINETUNE = range(4)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return marks_recipe(tmp_path)


def names(recipe: Recipe) -> list[str]:
    """Identities of all four nodes, and of the trajectory."""
    return [node.trajectory_id for node in nodes(Inputs(recipe))]


def same(one: Recipe, two: Recipe) -> list[bool]:
    return [a == b for a, b in zip(names(one), names(two), strict=True)]


@pytest.mark.parametrize("fields", OF_BOTH, ids=lambda fields: next(iter(fields)))
def test_settings_of_the_scorer_determine_all(recipe: Recipe, fields: dict[str, Any]) -> None:
    assert not any(same(recipe, change(recipe, 0, **fields)))


@pytest.mark.parametrize("fields", OF_THE_MARKER, ids=lambda fields: next(iter(fields)))
def test_settings_of_the_marker_leave_the_scorer_as_it_is(recipe: Recipe, fields: dict[str, Any]) -> None:
    assert same(recipe, change(recipe, 0, **fields)) == [True, False, False, False]


def test_every_setting_is_among_those_tested() -> None:
    tested = {name for fields in (*OF_BOTH, *OF_THE_MARKER) for name in fields}
    assert tested == set(Marks.model_fields) - {"name", "kind"}


@pytest.mark.parametrize("masking", ["selective", "matched"])
def test_masking_by_marks_determines_further_pre_training_alone(recipe: Recipe, tmp_path: Path, masking: str) -> None:
    marked = change(recipe, 1, masking=masking)
    plain = tiny_recipe(tmp_path, {"schedule_steps": 6, "steps": 6, "learning_rate": 1e-3})
    assert "masking" in settings_of(marked.stages[1])
    assert "masking" not in settings_of(plain.stages[0])
    assert ids(marked)[:2] == ids(recipe)[:2]
    assert not set(ids(marked)[2:]) & set(ids(plain))
    assert (ids(marked)[2:] == ids(recipe)[2:]) == (masking == "selective")


def test_marks_that_nothing_uses_are_not_made(recipe: Recipe) -> None:
    without = recipe.model_copy(update={"stages": recipe.stages[1:]})
    random = [change(each, len(each.stages) - 2, masking="random") for each in (recipe, without)]
    assert ids(random[0]) == ids(random[1])
    none = change(recipe, 1, steps=0)
    assert ids(none) == ids(recipe.model_copy(update={"stages": recipe.stages[2:]}))


def test_what_follows_starts_from_where_the_marks_started(recipe: Recipe) -> None:
    before = Pretrain(name="first", schedule_steps=2, steps=2, batch_size=8, max_length=24)
    first, scorer, marker, second, last = nodes(Inputs(recipe.model_copy(update={"stages": (before, *recipe.stages)})))
    assert [each.parent_id for each in (first, scorer, marker, second)] == [None, *[first.stage_id] * 3]
    assert (marker.reads, second.reads) == (scorer.stage_id, marker.stage_id)
    assert last.parent_id == second.stage_id


def test_each_stage_takes_the_nearest_marks(recipe: Recipe) -> None:
    marks, pretrain, last = recipe.stages
    other = Marks(**marks.model_dump() | {"name": "again", "threshold": 0.01})
    second = Pretrain(**pretrain.model_dump() | {"name": "second"})
    found = nodes(Inputs(recipe.model_copy(update={"stages": (marks, pretrain, other, second, last)})))
    assert [node.stage.name for node in found] == [
        *("marks.scorer", "marks", "pretrain", "again.scorer", "again", "second", "finetune")
    ]
    assert (found[2].reads, found[5].reads) == (found[1].stage_id, found[4].stage_id)


def test_names_seeds_and_test_texts_do_not_matter(recipe: Recipe, tmp_path: Path) -> None:
    others = [recipe.model_copy(update={"seed": 5}), change(recipe, 0, name="words"), change(recipe, 2, learning_rate=2e-4)]
    (tmp_path / "b").mkdir()
    test = write_csv(tmp_path / "b" / "other-test.csv", reviews(split="test")[50:80])
    task = recipe.tasks["reviews"].model_copy(update={"test": test})
    others.append(recipe.model_copy(update={"tasks": {"reviews": task}}))
    assert [ids(other)[:3] for other in others] == [ids(recipe)[:3]] * len(others)
    more = recipe.model_copy(update={"tasks": {"reviews": tiny_task(tmp_path / "b", train=61)}})
    assert not set(ids(recipe)) & set(ids(more))


def test_scores_and_logits_are_shared_where_they_can_be(recipe: Recipe) -> None:
    def scores(**fields: Any) -> str:
        changed = change(recipe, 0, **fields)
        stage = changed.stages[0]
        assert isinstance(stage, Marks)
        return scores_id(stage, nodes(Inputs(changed))[0].stage_id)

    assert scores() == scores(stop_words="none") == scores(learning_rate=1e-4) == scores(held_out_share=0.5)
    assert len({scores(), scores(threshold=0.01), scores(scored_texts=20), scores(scorer_epochs=1), scores(seed=1)}) == 5

    def logits(recipe: Recipe) -> str:
        stage = recipe.stages[1]
        assert isinstance(stage, Pretrain)
        return logits_id(nodes(Inputs(recipe))[1].stage_id, Inputs(recipe).corpus(stage))

    assert (
        logits(recipe) == logits(change(recipe, 1, masking="matched")) == logits(change(recipe, 1, max_length=16, mask_share=0.3))
    )
    assert logits(recipe) != logits(change(recipe, 0, mark_weight=1.0))


def test_estimates_count_the_work(recipe: Recipe, tmp_path: Path) -> None:
    scorer, marker = nodes(Inputs(recipe))[:2]
    assert (scorer.steps, marker.steps) == (2 * -(-45 // 8), 3 * -(-(45 - 11) // 8))
    half = nodes(Inputs(change(recipe, 0, scored_texts=22)))[1]
    assert half.steps == 3 * -(-(22 - 6) // 8)
    assert half.tokens_estimate == pytest.approx(marker.tokens_estimate * 22 / 45, rel=0.02)
    rows = list(runner.run(recipe, Store(str(tmp_path / "store")), ONE_THREAD, last="marks"))
    assert rows[-1]["step"] == marker.steps


def test_the_scorer_has_the_settings_of_its_stage() -> None:
    scorer = Marks(scorer_learning_rate=3e-5, scorer_epochs=2, dropout=0.3, max_length=64, batch_size=16).scorer
    assert isinstance(scorer, Finetune)
    given = (scorer.name, scorer.learning_rate, scorer.epochs, scorer.dropout, scorer.max_length, scorer.truncation)
    assert given == ("marks.scorer", 3e-5, 2, 0.3, 64, "head")


# --- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ((1, 2), "pretrain: masking by marks needs a stage that marks: put {marks: {}} before it, or use masking random"),
        ((1, 0, 2), "pretrain: masking by marks needs a stage that marks"),
        ((0, 2), "marks: nothing uses these marks: give a later pretrain stage masking selective or matched, or leave it out"),
        ((1, 0, 2), "marks: nothing uses these marks"),
    ],
)
def test_marks_and_masking_go_together(recipe: Recipe, stages: tuple[int, ...], fault: str) -> None:
    data = recipe.canonical()
    data["stages"] = [data["stages"][index] for index in stages]
    with pytest.raises(ConfigError) as caught:
        validate(Recipe, data)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"objective": "mlm+nsp"}, "masking selective supports only objective mlm"),
        ({"whole_word": True}, "whole_word draws words, but masking selective takes pieces by their marks: give one of them"),
    ],
)
def test_settings_that_contradict_masking_by_marks(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Pretrain(masking="selective", **fields)


def test_a_task_with_several_labels_cannot_be_scored(recipe: Recipe) -> None:
    data = recipe.canonical()
    data["tasks"]["reviews"]["multi_label"] = True
    with pytest.raises(ConfigError, match="by the probability of its text's one class, but the target task is multi-label"):
        validate(Recipe, data)


def test_more_texts_than_there_are(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"marks.scored_texts: 46 given, but reviews has 45 training texts"):
        nodes(Inputs(change(recipe, 0, scored_texts=46)))


def words_task(folder: Path, texts: list[tuple[str, str]]) -> Task:
    rest = [("good film", "good"), ("bad film", "bad")] * 3
    files = {split: write_csv(folder / f"words-{split}.csv", rows) for split, rows in (("train", texts), ("test", rest))}
    return Task(**files, validation=write_csv(folder / "words-validation.csv", rest))


def test_no_text_is_classified_correctly(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a scorer of its training texts hardly does: here every label is turned round before they are scored."""
    score = selective.write_scores

    def turned(*given: Any) -> Any:
        *head, labels, places, runtime = given
        return score(*head, labels + 2, places, runtime)

    monkeypatch.setattr(selective, "write_scores", turned)
    store = Store(str(tmp_path / "store"))
    with pytest.raises(ConfigError, match=r"marks: the scorer classifies 0 of 45 texts correctly, marks need two; train it longer"):
        list(runner.run(recipe, store, ONE_THREAD))
    monkeypatch.undo()
    assert list(runner.run(recipe, store, ONE_THREAD))[-1]["stage"] == "finetune"  # nothing wrong was kept


def test_one_class_predicted_only(recipe: Recipe, tmp_path: Path) -> None:
    """Its texts are scored, the others are not."""
    texts = [(f"{word} film", "good") for word in ("fine", "great", "nice", "fair")] * 6 + [
        ("dull film", "bad"),
        ("poor film", "bad"),
    ]
    recipe = recipe.model_copy(update={"tasks": {"reviews": words_task(tmp_path, texts)}})
    recipe = change(recipe, 0, stop_words="none", threshold=0.5)
    store = Store(str(tmp_path / "store"))
    rows = list(runner.run(recipe, store, ONE_THREAD))
    assert rows[-1]["stage"] == "finetune"
    artifact = store.get(nodes(Inputs(recipe))[1].stage_id)
    assert artifact is not None
    table = selective.pq.read_table(artifact.path("marks.parquet")).to_pydict()
    assert {texts[index][1] for index in table["index"]} == {"good"}
    assert len(table["index"]) == 24


def test_nothing_but_stop_words(recipe: Recipe, tmp_path: Path) -> None:
    texts = [("it is the", "good"), ("was not of", "bad")] * 8
    recipe = recipe.model_copy(update={"tasks": {"reviews": words_task(tmp_path, texts)}})
    with pytest.raises(ConfigError, match=r"marks: no word of \d+ texts is marked; give a higher threshold, or stop_words none"):
        list(runner.run(recipe, Store(str(tmp_path / "store")), Execution(threads=1)))


def test_a_corpus_without_a_mark(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    margins = selective.piece_margins
    monkeypatch.setattr(selective, "piece_margins", lambda *given: [-abs(each) - 1 for each in margins(*given)])
    with pytest.raises(ConfigError, match="pretrain: the marker marks no piece of the corpus"):
        list(runner.run(recipe, Store(str(tmp_path / "store")), ONE_THREAD))
