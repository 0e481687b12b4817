"""Selective masking: scores against a naive loop, the marker against plain torch, what is masked, resume, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from torch.nn import functional as F
from transformers import BertForSequenceClassification, BertForTokenClassification

from tests.helpers import marks_recipe
from tests.trainables.resume import (
    ONE_THREAD,
    Whole,
    assert_goes_on,
    begin,
    interrupt,
    results,
    same_bits,
    saved_step,
    undisturbed,
    weights,
)
from tests.trainables.stages.test_identity import change
from tests.trainables.training.test_loop import CPU
from trainables.batches.masking import as_many, chunks, corrupt_at, marked
from trainables.batches.pack import collate
from trainables.encoder.load import model_state
from trainables.settings.execution import Execution
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Marks
from trainables.stages import jobs, selective
from trainables.stages import run_recipe as runner
from trainables.stages.finetune import model_of
from trainables.stages.identity import nodes, recipe_name
from trainables.stages.inputs import Inputs
from trainables.stages.node import logits_id, scores_id
from trainables.store.artifact_files import CHOSEN, MARKS
from trainables.store.store import Store
from trainables.training.loop import Job


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    return undisturbed(marks_recipe(folder, {"stop_words": "none", "threshold": 1e-5}), folder)


def stage_of(recipe: Recipe) -> Marks:
    stage = recipe.stages[0]
    assert isinstance(stage, Marks)
    return stage


def start_of(recipe: Recipe, store: Store, index: int) -> Job:
    """The job of a node before its first step."""
    node = nodes(Inputs(recipe))[index]
    return runner.job_of(Inputs(recipe), node, None, frozenset([node.steps]), store, CPU)


def naive_scores(model: Any, base: Any, text: selective.Text, label: int, delta: float) -> list[float] | None:
    """The paper's loop, one text and one word at a time, through transformers' own classifier."""

    def probability(pieces: list[int]) -> torch.Tensor:
        wrapped = torch.tensor([[*base.special.prefix, *pieces, *base.special.suffix]])
        with torch.no_grad():
            return model(input_ids=wrapped).logits.softmax(dim=1)[0]

    pieces, numbers = (part.tolist() for part in text)
    whole = probability(pieces)
    if not pieces or int(whole.argmax()) != label:
        return None
    kept: list[int] = []
    scores = []
    for word in sorted(set(numbers)):
        tried = kept + [piece for piece, number in zip(pieces, numbers, strict=True) if number == word]
        scores.append(float(whole[label] - probability(tried)[label]))
        if scores[-1] >= delta:
            kept = tried
    return scores


def test_scores_equal_the_naive_loop(whole: Whole) -> None:
    """Texts of 0 to 22 pieces; weights made large, so that words move the probability and some are kept and some are not."""
    recipe, store, _ = whole
    base, data = jobs.base_of(Inputs(recipe)), Inputs(recipe).target
    model = model_of(stage_of(recipe).scorer, base, 2, 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(12 if parameter.ndim == 2 else 1)
    reference = BertForSequenceClassification(type(base.config).from_dict(base.config.to_dict() | {"num_labels": 2})).eval()
    state = model_state(model)
    reference.bert.load_state_dict({key.removeprefix("encoder."): state[key] for key in state if key.startswith("encoder.")}, False)
    reference.bert.pooler.dense.load_state_dict({name: state[f"pooler.{name}"] for name in ("weight", "bias")})
    reference.classifier.load_state_dict({name: state[f"classifier.{name}"] for name in ("weight", "bias")})
    pieces = jobs.train_and_validation(data, base, store)["train"]
    texts = selective.beginnings(pieces, range(20), 22)
    texts += [(ids[:0], numbers[:0]) for ids, numbers in texts[:1]] + [(texts[0][0][:1], texts[0][1][:1])]
    labels = [*data.train.labels[:20].tolist(), 0, 0]
    found = selective.word_scores(model, base, texts, labels, 0.05, CPU)
    expected = [naive_scores(reference, base, text, label, 0.05) for text, label in zip(texts, labels, strict=True)]
    assert [each is None for each in found] == [each is None for each in expected]
    assert 5 < sum(each is not None for each in found) < 20
    kept = 0
    for ours, theirs in zip(found, expected, strict=True):
        if ours is not None and theirs is not None:
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
            assert ((ours < 0.05) == (np.array(theirs) < 0.05)).all()
            kept += int((ours >= 0.05).sum())
    assert kept > 20


def test_a_text_of_one_word_has_the_score_0(whole: Whole) -> None:
    """Its only word is the whole text; so is a text without letters, whose marks of punctuation are words like others."""
    recipe, _, _ = whole
    base = jobs.base_of(Inputs(recipe))
    model = model_of(stage_of(recipe).scorer, base, 2, 0).eval()
    words = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("good", "! ! !", "")]
    texts = [(np.array(ids, dtype=np.int32), np.arange(1, len(ids) + 1, dtype=np.int32)) for ids in words]
    one, marks, none = (
        next(s for label in (0, 1) if (s := selective.word_scores(model, base, [text], [label], 0.05, CPU)[0]) is not None)
        if len(text[0])
        else selective.word_scores(model, base, [text], [0], 0.05, CPU)[0]
        for text in texts
    )
    assert one is not None
    assert one.tolist() == pytest.approx([0.0] * len(words[0]), abs=0.05 if len(words[0]) > 1 else 1e-12)
    assert marks is not None
    assert len(marks) == 3
    assert none is None


def test_marks_follow_from_scores_and_stop_words() -> None:
    words, scores = ["The", "plot", "is", "dull"], [0.01, 0.2, -0.3, 0.04]
    assert selective.important(words, scores, Marks()) == [False, False, False, True]
    assert selective.important(words, scores, Marks(stop_words="none")) == [True, False, True, True]
    assert selective.important(words, scores, Marks(threshold=0.01)) == [False] * 4


def test_the_artifact_holds_what_was_marked(whole: Whole) -> None:
    recipe, store, _ = whole
    scorer, marker = nodes(Inputs(recipe))[:2]
    artifact, scores = store.get(marker.stage_id), store.get(scores_id(stage_of(recipe), scorer.stage_id))
    assert artifact is not None
    assert scores is not None
    table, scored = (pq.read_table(path).to_pydict() for path in (artifact.path(MARKS), scores.path(selective.SCORES)))
    assert list(table) == ["index", "words", "scores", "marked"]
    assert {name: table[name] for name in scored} == scored
    data = Inputs(recipe).target
    for index, words, values, marks in zip(*table.values(), strict=True):
        text = "".join(data.train.texts[index].lower().split())
        assert "".join(words)[:6] == text[:6]
        assert [value < 1e-5 for value in values] == marks
    assert len(set(table["index"])) == len(table["index"]) > 20


def test_the_loss_is_that_of_a_token_classifier(whole: Whole) -> None:
    """Weighted cross-entropy over the pieces of the texts, special tokens left out, as torch and transformers have it."""
    recipe, store, _ = whole
    job = start_of(recipe, store, 1)
    job.model.eval()
    config = type(job.base.config).from_dict(job.base.config.to_dict() | {"num_labels": 2})
    reference = BertForTokenClassification(config).eval()
    state = model_state(job.model)
    own = {name.replace("encoder.", "bert.", 1) if name.startswith("encoder.") else name: state[name] for name in state}
    reference.load_state_dict({name.replace("marks.", "classifier."): own[name] for name in own})
    batch = job.examples(0)
    found, targets = [], []
    for example in batch:
        assert example.masked is not None
        logits = reference(input_ids=torch.from_numpy(example.ids.astype(np.int64))[None]).logits[0]
        found.append(logits[1:-1])
        targets.append(torch.from_numpy(example.masked[1]))
        assert example.masked[0].tolist() == list(range(1, len(example.ids) - 1))
    assert 0 < sum(int(each.sum()) for each in targets) < sum(map(len, targets))
    expected = F.cross_entropy(torch.cat(found), torch.cat(targets), torch.tensor([1.0, 3.0]))
    ours = job.loss(job.model, collate(batch, job.base)) / job.weight(batch)
    torch.testing.assert_close(ours, expected)


def test_f1_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.2, 1.0):
        classes, found = rng.random(50) < 0.3, rng.random(50) < share
        row = selective.mark_scores(classes.astype(np.int64), found)
        assert row["mark_f1"] == pytest.approx(f1_score(classes, found, zero_division=0))
        assert row["marked_percent"] == pytest.approx(100 * found.mean())
    assert selective.mark_scores(np.zeros(3, np.int64), np.zeros(3, bool))["mark_f1"] == 0


def test_rows(whole: Whole) -> None:
    recipe, store, rows = whole
    told = [(row["stage"], row["stage_name"], row["split"]) for row in rows]
    scorer, marker = ("marks", "marks.scorer", "validation"), ("marks", "marks", "heldout")
    pretrain, finetune = ("pretrain", "pretrain", "train"), ("finetune", "finetune", "validation")
    assert told == [scorer] * 2 + [marker] * 3 + [pretrain] * 6 + [finetune] * 2
    assert rows[0]["recipe"] == recipe_name(recipe) == "BERT-ITPT(selective)-FiT"
    assert {row["seed"] for row in rows} == {0}
    assert all(0 <= row["mark_f1"] <= 1 and 0 <= row["marked_percent"] <= 100 for row in rows[2:5])
    assert results(list(runner.run(recipe, store, ONE_THREAD))) == results(rows)
    only = list(runner.run(recipe, store, ONE_THREAD, last="marks.scorer"))
    assert [row["stage_name"] for row in only] == ["marks.scorer"] * 2


def test_the_scorer_is_an_ordinary_artifact(whole: Whole) -> None:
    """A study that fine-tunes with these very settings loads it."""
    recipe, store, _ = whole
    alone = recipe.model_copy(update={"stages": (stage_of(recipe).scorer,)})
    assert nodes(Inputs(alone))[0].stage_id == nodes(Inputs(recipe))[0].stage_id
    assert [row["source"] for row in runner.run(alone, store, ONE_THREAD)] == ["loaded"] * 2


def test_a_scorer_without_weights_is_trained_again(tmp_path: Path) -> None:
    """As they are dropped from trials that nobody asks for any more."""
    recipe, store = marks_recipe(tmp_path), Store(str(tmp_path / "store"))
    scorer = nodes(Inputs(recipe))[0]
    alone = recipe.model_copy(update={"stages": (stage_of(recipe).scorer,)})
    list(runner.run(alone, store, Execution(threads=1, keep_weights=False)))
    artifact = store.get(scorer.stage_id)
    assert artifact is not None
    assert not artifact.has("model.safetensors")
    rows = list(runner.run(recipe, store, Execution(threads=1, keep_weights=False), last="marks"))
    assert [row["source"] for row in rows] == ["computed"] * 5
    assert store.get(scorer.stage_id, ["model.safetensors"]) is not None


@pytest.mark.parametrize("stop_after", [3, 4])
def test_resume_is_bit_for_bit(whole: Whole, tmp_path: Path, stop_after: int) -> None:
    other = Store(str(tmp_path / "store"))
    begin(whole.recipe, other, stop_after)
    assert_goes_on(whole, other)


def test_resume_in_the_middle_of_the_marker_s_epoch(whole: Whole, tmp_path: Path) -> None:
    broken = Store(str(tmp_path / "store"))
    list(runner.run(whole.recipe, broken, ONE_THREAD, last="marks.scorer"))
    interrupt(whole.recipe, broken, 9)
    assert 0 < saved_step(whole.recipe, broken, 1) < nodes(Inputs(whole.recipe))[1].steps
    assert_goes_on(whole, broken)


def test_the_best_weights_stay_and_survive_a_resume(tmp_path: Path) -> None:
    """A rate that spoils the marker: the artifact holds the weights of the best pass, which is not the last."""
    spoilt = {
        "learning_rate": 0.05,
        "epochs": 4,
        "stop_words": "none",
        "threshold": 1e-5,
        "schedule": "constant",
        "mark_weight": 1.0,
    }
    recipe = marks_recipe(tmp_path, spoilt)
    straight, broken = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    rows = list(runner.run(recipe, straight, ONE_THREAD, last="marks"))[2:]
    f1 = [row["mark_f1"] for row in rows]
    best, marker = int(np.argmax(f1)), nodes(Inputs(recipe))[1]
    assert best < 3, f1
    assert f1[-1] < f1[best], f1
    running = runner.run(recipe, broken, ONE_THREAD, last="marks")
    for _ in range(2 + best + 1):
        next(running)
    running.close()
    state = broken.load_state(marker.trajectory_id)
    assert state is not None
    after_best = load_file(state.path("model.safetensors"))
    list(runner.run(recipe, broken, ONE_THREAD, last="marks"))
    kept = weights(straight, marker.stage_id)
    assert same_bits(kept, weights(broken, marker.stage_id))
    shared = [name for name in after_best if "word_embeddings" not in name]
    assert all(torch.equal(kept[name], after_best[name]) for name in shared)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_do_not_change_the_marker(whole: Whole, tmp_path: Path, micro_batch: int) -> None:
    recipe, _, rows = whole
    split = runner.run(recipe, Store(str(tmp_path / "b")), Execution(threads=1, micro_batch=micro_batch), last="marks")
    assert [row["train_loss"] for row in split] == pytest.approx([row["train_loss"] for row in rows[:5]], abs=1e-5)


# --- what is masked --------------------------------------------------------------------------------------------------------------


def test_at_most_the_share_is_taken_and_the_largest_logits_first() -> None:
    rng = np.random.default_rng(0)
    for length in (1, 5, 6, 7, 20, 100):
        logits = rng.normal(size=length)
        logits[rng.random(length) < 0.1] = -np.inf
        positions = marked(logits, 0.15)
        most = max(1, int(0.15 * np.isfinite(logits).sum() + 1e-9))
        assert len(positions) == min(most, (logits > 0).sum())
        assert sorted(logits[logits > 0].tolist())[::-1][: len(positions)] == sorted(logits[positions].tolist())[::-1]
        assert (np.diff(positions) > 0).all()
        control = as_many(logits, 0.15, rng)
        assert len(control) == len(positions) == len(set(control.tolist()))
        assert np.isfinite(logits[control]).all()
    assert len(marked(np.full(9, -1.0), 0.15)) == len(as_many(np.full(9, -1.0), 0.15, rng)) == 0
    assert marked(np.zeros(20) + 1.0, 0.15).tolist() == [0, 1, 2]  # equal ones: the first
    assert len(as_many(np.full(4, -np.inf), 0.15, rng)) == 0


def test_80_10_10(whole: Whole) -> None:
    special = jobs.base_of(Inputs(whole[0])).special
    ordinary = special.ordinary
    ids, rng = ordinary[np.arange(40_000) % len(ordinary)], np.random.default_rng(0)
    inputs, positions, targets = corrupt_at(np.arange(0, 40_000, 2), ids, special, rng)
    assert (targets == ids[positions]).all()
    assert (inputs[1::2] == ids[1::2]).all()
    masked = (inputs[positions] == special.mask).mean()
    stays = (inputs[positions] == targets).mean()
    assert masked == pytest.approx(0.8, abs=0.01)
    assert stays == pytest.approx(0.1, abs=0.01)


def test_pretraining_masks_what_the_marker_marks_and_the_control_as_many(
    whole: Whole,
) -> None:
    """Logits are those of transformers' token classifier on the documents as the marker's own length cuts them."""
    recipe, store, _ = whole
    marker = nodes(Inputs(recipe))[1]
    recipe = change(recipe, 1, max_length=13)  # other than the marker's
    matched = change(recipe, 1, masking="matched")
    ours, control = start_of(recipe, store, 2), start_of(matched, store, 2)
    base, kept = ours.base, weights(store, marker.stage_id)
    reference = BertForTokenClassification(type(base.config).from_dict(base.config.to_dict() | {"num_labels": 2})).eval()
    names = {name: name.replace("encoder.", "bert.", 1).replace("marks.", "classifier.") for name in kept}
    reference.load_state_dict({names[name]: kept[name] for name in kept})
    pretrain = recipe.stages[1]
    assert isinstance(pretrain, Pretrain)
    corpus = Inputs(recipe).corpus(pretrain)
    pieces = jobs.tokens(corpus.texts, corpus.digest, base, store)
    flat = []
    for ids_, _ in chunks(pieces, 22):
        with torch.no_grad():
            logits = reference(input_ids=torch.from_numpy(base.special.wrap(ids_).astype(np.int64))[None]).logits[0, 1:-1]
        flat += (logits[:, 1] - logits[:, 0]).tolist()
    sequences, at = chunks(pieces, 11), 0
    expected: dict[bytes, set[int]] = {}
    for ids_, _ in sequences:
        values = np.array(flat[at : at + len(ids_)], dtype=np.float16).astype(np.float32)
        at += len(ids_)
        expected[ids_.tobytes()] = set(marked(values, 0.15).tolist())
    visited = 0
    for step in range(6):
        for one, two in zip(ours.examples(step), control.examples(step), strict=True):
            assert one.masked is not None
            assert two.masked is not None
            assert len(one.masked[0]) == len(two.masked[0]) > 0
            original = one.ids.copy()
            original[one.masked[0]] = one.masked[1]
            assert set((one.masked[0] - 1).tolist()) == expected[original[1:-1].tobytes()]
            visited += 1
    assert visited == 48
    assert any(len(each) > 1 or not each for each in expected.values()) or len(expected) > 48


def test_both_read_the_same_logits(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, store, _ = whole
    pretrain = recipe.stages[1]
    assert isinstance(pretrain, Pretrain)
    name = logits_id(nodes(Inputs(recipe))[1].stage_id, Inputs(recipe).corpus(pretrain))
    assert store.get(name) is not None
    monkeypatch.setattr(selective, "write_logits", None)  # it would be called
    start_of(change(recipe, 1, masking="matched"), store, 2)


def test_examples_of_what_was_masked_are_kept(whole: Whole) -> None:
    recipe, store, _ = whole
    artifact = store.get(nodes(Inputs(recipe))[2].stage_id)
    assert artifact is not None
    rows = pq.read_table(artifact.path(CHOSEN)).to_pylist()
    assert 45 <= len(rows) <= selective.SAMPLE
    counts = Counter(sum(row["marked"]) for row in rows)
    assert max(counts) <= 3
    assert all(len(row["words"]) == len(row["marked"]) for row in rows)
