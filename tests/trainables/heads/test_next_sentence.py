"""Next-sentence prediction beside masked language modelling: against transformers' BertForPreTraining, and what must not matter."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, BertForPreTraining

from tests.helpers import documents_file, reviews, tiny_recipe
from tests.trainables.encoders import tiny_base, tiny_config
from tests.trainables.training.test_loop import job_of, losses_of, padded, reference_losses
from trainables.batches.pack import collate
from trainables.batches.sentence_pairs import FOLLOWS, NO_PAIR, RANDOM, Segment, wrapped
from trainables.batches.special_tokens import special_tokens
from trainables.batches.train_wordpiece import train_wordpiece
from trainables.encoder.load import load_base, load_encoder_weights, model_state
from trainables.heads.classifier import classifier
from trainables.heads.next_sentence import NEW_HEAD, PairedLM, pair_fault, paired_lm
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.stages import run_recipe as runner
from trainables.stages import state_files
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.store.store import Store

ONE_THREAD = Execution(threads=1)
TEXTS = [text for text, _ in reviews()]


def paired_recipe(folder: Path, sizes: tuple[int, ...] = (3, 1, 4, 2, 1, 5) * 6, **settings: Any) -> Recipe:
    corpus = (documents_file(folder, *sizes),)
    return tiny_recipe(folder, pretrain={"corpus": corpus, "objective": "mlm+nsp", "max_length": 48, "steps": 6} | settings)


def test_loss_equals_plain_transformers(tmp_path: Path) -> None:
    """Ten steps of BertForPreTraining on padded batches, with the same pairs and masks; dropout 0."""
    tiny = paired_recipe(tmp_path, steps=10, schedule_steps=10, dropout=0.0, learning_rate=1e-3)
    job = job_of(tiny, Store(str(tmp_path / "store")), 0)
    assert isinstance(job.model, PairedLM)
    reference = BertForPreTraining(job.base.config)
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    prefixes = {"encoder.": "bert.", "head.": "", "pooler.": "bert.pooler.dense.", "next_sentence.": "cls.seq_relationship."}
    names = {
        name: next(new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old))
        for name in model_state(job.model)
    }
    _, unexpected = reference.load_state_dict({names[name]: p for name, p in model_state(job.model).items()}, strict=False)
    assert not unexpected
    reference.tie_weights()
    batches = []
    for step in range(10):
        examples = job.examples(step)
        labels, types = torch.full((len(examples), 48), -100), torch.zeros(len(examples), 48, dtype=torch.int64)
        for row, example in enumerate(examples):
            assert example.masked is not None
            labels[row, torch.from_numpy(example.masked[0])] = torch.from_numpy(example.masked[1])
            if example.types is not None:
                types[row, : len(example.ids)] = torch.from_numpy(example.types)
        following = torch.tensor([example.label for example in examples])
        batches.append(padded(examples, 48) | {"labels": labels, "token_type_ids": types, "next_sentence_label": following})
    expected = reference_losses(reference, batches, {id(p): 1e-3 for p in reference.parameters()}, 10, 0.1)
    np.testing.assert_allclose(losses_of(job, 10), expected, atol=1e-5)
    assert {FOLLOWS, RANDOM, NO_PAIR} == {int(label) for batch in batches for label in batch["next_sentence_label"]}
    theirs = dict(reference.named_parameters())
    for name, parameter in model_state(job.model).items():
        torch.testing.assert_close(parameter, theirs[names[name]], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_do_not_change_the_result(tmp_path: Path, micro_batch: int) -> None:
    recipe = paired_recipe(tmp_path, steps=3)
    stores = [Store(str(tmp_path / name)) for name in "ab"]
    whole = list(runner.run(recipe, stores[0], ONE_THREAD, last="pretrain"))
    split = list(runner.run(recipe, stores[1], Execution(threads=1, micro_batch=micro_batch), last="pretrain"))
    assert [row["train_loss"] for row in split] == pytest.approx([row["train_loss"] for row in whole], abs=1e-5)


@pytest.mark.parametrize("stop_after", [1, 4])
def test_resume_is_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    recipe = paired_recipe(tmp_path)
    straight, broken = (Store(str(tmp_path / name)) for name in "ab")
    list(runner.run(recipe, straight, ONE_THREAD))
    running = runner.run(recipe, broken, ONE_THREAD)
    for _ in range(stop_after):
        next(running)
    running.close()
    list(runner.run(recipe, broken, ONE_THREAD))
    for node in nodes(Inputs(recipe)):
        a, b = (load_file(store.get(node.stage_id).path("model.safetensors")) for store in (straight, broken))  # type: ignore[union-attr]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_padded_and_packed_see_the_same_pairs(tmp_path: Path) -> None:
    job = job_of(paired_recipe(tmp_path, dropout=0.0), Store(str(tmp_path / "store")), 0)
    examples = job.examples(0)
    packed = collate(examples, job.base)
    padded_base = dataclasses.replace(job.base, packable=False)
    plain = paired_lm(padded_base, 0.0, 0)
    plain.load_state_dict(job.model.state_dict())
    with torch.no_grad():
        a, b = job.loss(job.model, packed), job.loss(plain, collate(examples, padded_base))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_pooler_goes_on_to_fine_tuning_and_the_pair_layer_does_not(tmp_path: Path) -> None:
    base = tiny_base("bert")
    path = tmp_path / "model.safetensors"
    pretrained = paired_lm(base, 0.1, seed=3)
    state_files.saved(model_state(pretrained), path)
    model = classifier(base, 2, "pooled", 0.1, seed=0)
    before = model.classifier.weight.clone()
    load_encoder_weights(model, path)
    assert model.pooler is not None
    assert torch.equal(model.pooler.weight, pretrained.pooler.weight)
    assert torch.equal(model.classifier.weight, before)


def test_a_checkpoints_own_head_is_taken_and_a_new_one_is_told(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(TEXTS, 400)
    config = tiny_config("bert", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    whole = BertForPreTraining(config)
    whole.save_pretrained(tmp_path / "own")
    AutoModel.from_config(config).save_pretrained(tmp_path / "bare")
    for name in ("own", "bare"):
        tokenizer.save_pretrained(tmp_path / name)
    own = paired_lm(load_base(Encoder(folder=str(tmp_path / "own"))), 0.1, seed=0)
    assert torch.equal(own.next_sentence.weight, whole.cls.seq_relationship.weight)
    assert torch.equal(own.pooler.weight, whole.bert.pooler.dense.weight)
    assert own.notices == ()
    first, again, other = (paired_lm(load_base(Encoder(folder=str(tmp_path / "bare"))), 0.1, seed=seed) for seed in (1, 1, 2))
    assert f"bert: {NEW_HEAD}" in first.notices
    assert torch.equal(first.next_sentence.weight, again.next_sentence.weight)
    assert not torch.equal(first.next_sentence.weight, other.next_sentence.weight)


@pytest.mark.parametrize("kind", ["distilbert", "modernbert", "deberta-v2", "mpnet", "xlnet"])
def test_encoders_without_pairs_are_refused(kind: str) -> None:
    assert "mlm+nsp needs an encoder with two token types for the texts of a pair" in str(pair_fault({"model_type": kind}))
    with pytest.raises(ConfigError, match=f"but this {kind} has 0 token types; use mlm, or an encoder such as BERT"):
        paired_lm(tiny_base(kind), 0.1, seed=0)


def test_one_token_type_is_no_pair() -> None:
    assert pair_fault({"model_type": "bert"}) is None
    assert "has 1 token types" in str(pair_fault({"model_type": "roberta", "type_vocab_size": 1}))


def test_single_sentences_switch_it_off_with_a_notice(tmp_path: Path) -> None:
    """As on TREC: what is left is masked language modelling, bit for bit."""
    settings = {"corpus": (documents_file(tmp_path, *[1] * 40),), "steps": 2}
    off = job_of(tiny_recipe(tmp_path, pretrain=settings | {"objective": "mlm+nsp"}), Store(str(tmp_path / "a")), 0)
    plain = job_of(tiny_recipe(tmp_path, pretrain=settings), Store(str(tmp_path / "b")), 0)
    assert not isinstance(off.model, PairedLM)
    assert any("next-sentence prediction is off: " in notice for notice in off.model.notices)
    assert losses_of(off, 2) == losses_of(plain, 2)


@pytest.mark.parametrize("objective", ["mlm", "mlm+nsp"])
@pytest.mark.parametrize("content", ["Fine. Good.\nBad! So bad.", "?! ... !!\n:-) . 12. 7.", "好。不好！\n我来。你呢？他不来。"])
def test_a_corpus_smaller_than_a_batch_or_without_letters(content: str, objective: str, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text(content, encoding="utf-8")
    recipe = tiny_recipe(tmp_path, pretrain={"corpus": (str(tmp_path / "few.txt"),), "objective": objective, "steps": 3})
    losses = losses_of(job_of(recipe, Store(str(tmp_path / "store")), 0), 3)
    assert np.all(np.isfinite(losses))


@pytest.mark.parametrize("objective", ["mlm", "mlm+nsp"])
def test_texts_without_a_piece_are_refused(objective: str, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\u200b\u200b\n\u200d\n", encoding="utf-8")
    recipe = tiny_recipe(tmp_path, pretrain={"corpus": (str(tmp_path / "none.txt"),), "objective": objective})
    with pytest.raises(ConfigError, match="corpus: the tokenizer finds no pieces in its texts"):
        job_of(recipe, Store(str(tmp_path / "store")), 0)


def test_special_tokens_of_a_pair_are_the_tokenizers_own() -> None:
    """[CLS] A [SEP] B [SEP] and its types, as the tokenizer itself would put them."""
    tokenizer = train_wordpiece(TEXTS, 400)
    a, b = (np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32) for text in ("a good film", "so bad"))
    parts = [Segment(ids, np.arange(len(ids), dtype=np.int32)) for ids in (a, b)]
    none = np.zeros(0, np.int64)
    example = wrapped(special_tokens(tokenizer), np.concatenate((a, b)), (none, none), parts, 0)
    theirs = tokenizer("a good film", "so bad", return_token_type_ids=True)
    assert example.types is not None
    assert (example.ids.tolist(), example.types.tolist()) == (theirs["input_ids"], theirs["token_type_ids"])
