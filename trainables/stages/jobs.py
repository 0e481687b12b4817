"""From a stage of a recipe to the job of the loop: the encoder, the pieces, and what other stages have left for it to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from trainables.batches.tokenise import Pieces, pieces
from trainables.data.corpus import Corpus
from trainables.data.similarity import Rows
from trainables.data.splits import TaskData
from trainables.data.task_mixture import head_key
from trainables.encoder.load import Base, load_base
from trainables.heads.marker import marker
from trainables.settings.stages import Finetune, Marks, Multitask, Pretrain
from trainables.stages import finetune, multitask, pretrain, selective
from trainables.stages.derived import once
from trainables.stages.features import Features
from trainables.stages.identity import Node, logits_id, scores_id
from trainables.stages.inputs import Inputs, scored_texts
from trainables.stages.selection import selected
from trainables.stages.text_vectors import embedded
from trainables.store.artifact_files import WEIGHTS
from trainables.store.store import Artifact, Store
from trainables.training.loop import Job
from trainables.training.runtime import Runtime


def job_of(inputs: Inputs, node: Node, parent: Path | None, steps: frozenset[int], store: Store, runtime: Runtime) -> Job:
    """What the loop needs to train a stage of a recipe, from `parent`'s weights or from the encoder, through these steps."""
    base = base_of(inputs)
    if isinstance(node.stage, Pretrain):
        tokenise = partial(tokens, base=base, store=store)
        corpus = corpus_read(inputs, node.stage, store, runtime.device)
        marks = _logits(inputs, corpus, node.reads, store, runtime) if node.reads else None
        return pretrain.job(node.stage, base, parent, corpus, tokenise, steps, runtime, marks)
    if isinstance(node.stage, Marks):
        scores, train = _scores(inputs, node, store, runtime), _pieces(inputs.target, base, store)["train"]
        return selective.job(node.stage, base, parent, train, scores, node.steps, runtime)
    if isinstance(node.stage, Multitask):
        members = inputs.members(node.stage)
        each = {key: _pieces(data, base, store) for key, data in members.tasks.items()}
        return multitask.job(node.stage, base, parent, members, each, runtime)
    whole = inputs.target
    data = replace(whole, train=inputs.train_split(node.stage, node.seed))
    kept = features_of(inputs, node, store)
    return finetune.job(node.stage, base, parent, data, _pieces(data, base, store), node.seed, runtime, head_key(whole), kept)


def _scores(inputs: Inputs, node: Node, store: Store, runtime: Runtime) -> Path:
    """The scores that a marker learns from: made once for all markers of this threshold."""
    stage, data, base = node.stage, inputs.target, base_of(inputs)
    assert isinstance(stage, Marks)
    assert node.reads is not None
    scorer = node.reads

    def make(folder: Path) -> dict[str, Path]:
        model = finetune.model_of(stage.scorer, base, len(data.labels), node.seed)
        _put_weights(model, store, scorer, runtime)
        pieces = _pieces(data, base, store)["train"]
        return selective.write_scores(folder, stage, model, base, pieces, data.train.labels, scored_texts(stage, data), runtime)

    about = {"kind": "scores", "parent": scorer}
    return once(store, runtime.world, scores_id(stage, scorer), about, selective.SCORES, make)


def _logits(inputs: Inputs, corpus: Corpus, marks: str, store: Store, runtime: Runtime) -> Path:
    """The marker's logits on a corpus: made once for all stages that are masked by them."""
    base = base_of(inputs)

    def make(folder: Path) -> dict[str, Path]:
        artifact = store.get(marks)
        assert artifact is not None, f"artifact {marks} vanished from the store"
        model, length = marker(base, 0.0, 0), artifact.manifest["settings"]["max_length"]
        _put_weights(model, store, marks, runtime)
        return selective.write_logits(folder, model, length, base, tokens(corpus.texts, corpus.digest, base, store), runtime)

    about = {"kind": "logits", "parent": marks}
    return once(store, runtime.world, logits_id(marks, corpus), about, selective.LOGITS, make)


def weights_of(artifact: Artifact) -> Path:
    """The file of an artifact's weights. Raises DamagedArtifact for one that is none of safetensors."""
    path = artifact.path(WEIGHTS)
    try:
        with safe_open(path, "pt"):
            return path
    except SafetensorError as error:
        raise artifact.damaged(f"{WEIGHTS}: {error}") from None


def _put_weights(model: torch.nn.Module, store: Store, name: str, runtime: Runtime) -> None:
    """Give a model the weights of an artifact, for evaluation."""
    artifact = store.get(name)
    assert artifact is not None, f"artifact {name} vanished from the store"
    copy_weights(load_file(weights_of(artifact)), dict(model.named_parameters()))
    model.to(runtime.device).eval()


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


def copy_weights(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.nn.Parameter]) -> None:
    """Raises KeyError for a parameter that the source lacks, ValueError for one of another shape, which would be spread over it."""
    with torch.no_grad():
        for name, parameter in target.items():
            if source[name].shape != parameter.shape:
                raise ValueError(f"{name} has the shape {tuple(source[name].shape)}, not {tuple(parameter.shape)}")
            parameter.copy_(source[name])
