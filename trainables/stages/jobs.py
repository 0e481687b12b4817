"""From a stage of a recipe to the job of the loop: the encoder, the pieces, and what other stages have left for it to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainables.batches.tokenise import Pieces, pieces
from trainables.data.corpus import Corpus
from trainables.data.similarity import Rows
from trainables.data.splits import TaskData
from trainables.data.task_mixture import head_key
from trainables.encoder.load import Base, load_base
from trainables.settings.stages import Finetune, Marks, Multitask, Pretrain
from trainables.stages import finetune, multitask, pretrain, selective
from trainables.stages.features import Features
from trainables.stages.identity import Node
from trainables.stages.inputs import Inputs
from trainables.stages.selection import selected
from trainables.stages.text_vectors import embedded
from trainables.store.store import Store
from trainables.training.loop import Job
from trainables.training.runtime import Runtime


class Place(NamedTuple):
    """Where a job is made: a stage of a recipe and its inputs, what it starts from, and what it may use."""

    inputs: Inputs
    node: Node
    base: Base
    parent: Path | None
    """Weights that it starts from; None for those of `base`."""
    steps: frozenset[int]
    """Steps at which it leaves an artifact."""
    store: Store
    runtime: Runtime


def job_of(inputs: Inputs, node: Node, parent: Path | None, steps: frozenset[int], store: Store, runtime: Runtime) -> Job:
    """What the loop needs to train a stage of a recipe, from `parent`'s weights or from the encoder, through these steps."""
    return JOBS[node.stage.kind](node.stage, Place(inputs, node, base_of(inputs), parent, steps, store, runtime))


def _pretrain(stage: Pretrain, at: Place) -> Job:
    corpus, marks = corpus_read(at.inputs, stage, at.store, at.runtime.device), None
    tokenise = partial(tokens, base=at.base, store=at.store)
    if at.node.reads is not None:
        pieces = tokenise(corpus.texts, corpus.digest)
        marks = selective.logits(at.node.reads, at.base, corpus, pieces, at.store, at.runtime)
    return pretrain.job(stage, at.base, at.parent, corpus, tokenise, at.steps, at.runtime, marks)


def _multitask(stage: Multitask, at: Place) -> Job:
    members = at.inputs.members(stage)
    each = {key: _pieces(data, at.base, at.store) for key, data in members.tasks.items()}
    return multitask.job(stage, at.base, at.parent, members, each, at.runtime)


def _marks(stage: Marks, at: Place) -> Job:
    assert at.node.reads is not None
    data = at.inputs.target
    train = _pieces(data, at.base, at.store)["train"]
    scores = selective.scores(stage, at.node.reads, at.base, data, train, at.store, at.runtime)
    return selective.job(stage, at.base, at.parent, train, scores, at.node.steps, at.runtime)


def _finetune(stage: Finetune, at: Place) -> Job:
    whole, seed = at.inputs.target, at.node.seed
    data = replace(whole, train=at.inputs.train_split(stage, seed))
    kept, pieces = features_of(at.inputs, at.node, at.store), _pieces(data, at.base, at.store)
    return finetune.job(stage, at.base, at.parent, data, pieces, seed, at.runtime, head_key(whole), kept)


JOBS: dict[str, Callable[[Any, Place], Job]] = {
    "pretrain": _pretrain,
    "multitask": _multitask,
    "marks": _marks,
    "finetune": _finetune,
}
"""{kind of stage: makes its job}."""


def features_of(inputs: Inputs, node: Node, store: Store) -> Features | None:
    """Where what the encoder says is kept, if that is the same for every trial; None where it has to be run."""
    assert isinstance(node.stage, Finetune)
    source = node.parent_id or inputs.encoder_id
    return Features(node.stage, source, inputs.recipe.precision, store) if node.stage.fixed_encoder else None


def _pieces(data: TaskData, base: Base, store: Store) -> dict[str, Pieces]:
    """Pieces of a task's training and validation split."""
    return {name: tokens(getattr(data, name).sides, data.digest(name), base, store) for name in ("train", "validation")}


def corpus_read(inputs: Inputs, stage: Pretrain, store: Store, device: torch.device) -> Corpus:
    """The texts that further pre-training reads: its corpus, or what it selects of it, from the store where that is there."""
    if stage.select == "all":
        return inputs.corpus(stage)
    name = inputs.encoder_id

    def embed(texts: Sequence[str], digest: str) -> Rows:
        return embedded(texts, digest, base_of(inputs), name, store, device)

    return selected(stage, inputs.pool(stage), store, name, embed)


def base_of(inputs: Inputs) -> Base:
    """The encoder where the recipe starts, loaded once per process."""
    return load_base(inputs.recipe.encoder, inputs.vocabulary_texts)


def tokens(texts: Sequence[str], digest: str, base: Base, store: Store) -> Pieces:
    """The texts as pieces, tokenised once per (data, tokenizer) and memory-mapped."""
    return pieces(texts, base.tokenizer, store.local_cache("tokens"), digest)
