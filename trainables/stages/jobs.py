"""What the jobs of all kinds of stage need: the encoder, pieces of texts, selected corpora, cached features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from trainables.batches.tokenise import Pieces, pieces
from trainables.data.corpus import Corpus
from trainables.data.similarity import Rows
from trainables.data.splits import TaskData
from trainables.encoder.load import Base, load_base
from trainables.settings.pretraining import Pretrain
from trainables.settings.stages import Finetune
from trainables.stages.features import Features
from trainables.stages.inputs import Inputs
from trainables.stages.node import Node
from trainables.stages.selection import selected
from trainables.stages.text_vectors import embedded
from trainables.store.store import Store
from trainables.training.runtime import Runtime


class Place(NamedTuple):
    """What a job is made from: a node of a recipe, its inputs and starting weights, the store and the runtime."""

    inputs: Inputs
    node: Node
    base: Base
    parent: Path | None
    """File of the weights that it starts from; None: those of `base`."""
    steps: frozenset[int]
    """Steps at which an artifact is published."""
    store: Store
    runtime: Runtime


def features_of(inputs: Inputs, node: Node, store: Store) -> Features | None:
    """The cached outputs of the encoder if they are the same for every trial; None if the encoder has to be run."""
    assert isinstance(node.stage, Finetune)
    source = node.parent_id or inputs.encoder_id
    return Features(node.stage, source, inputs.recipe.precision, store) if node.stage.fixed_encoder else None


def train_and_validation(data: TaskData, base: Base, store: Store) -> dict[str, Pieces]:
    """Pieces of a task's training and validation split, by the split's name."""
    return {name: tokens(getattr(data, name).sides, data.digest(name), base, store) for name in ("train", "validation")}


def corpus_read(inputs: Inputs, stage: Pretrain, store: Store, device: torch.device) -> Corpus:
    """The texts that further pre-training reads: its corpus, or its selection from it, which is cached in the store."""
    if stage.select == "all":
        return inputs.corpus(stage)
    encoder = inputs.encoder_id

    def embed(texts: Sequence[str], digest: str) -> Rows:
        return embedded(texts, digest, base_of(inputs), encoder, store, device)

    return selected(stage, inputs.pool(stage), store, encoder, embed)


def base_of(inputs: Inputs) -> Base:
    """The encoder from which the recipe starts, loaded once per process."""
    return load_base(inputs.recipe.encoder, inputs.vocabulary_texts)


def tokens(texts: Sequence[str], digest: str, base: Base, store: Store) -> Pieces:
    """The pieces of texts with this digest, tokenised once per (data, tokenizer) and memory-mapped."""
    return pieces(texts, base.tokenizer, store.local_cache("tokens"), digest)
