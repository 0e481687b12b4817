"""Further pre-training (Sun et al. 2019, section 5.4): its objectives and its job for the loop.

The objective is masked language modelling, optionally with next-sentence prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainables.batches import sentence_pairs, sentences
from trainables.batches.masking import as_many, chunks, corrupt, corrupt_at, marked
from trainables.batches.pack import Batch, Example
from trainables.batches.tokenise import Pieces
from trainables.data.corpus import Corpus
from trainables.data.splits import digest_of
from trainables.encoder.load import Base, load_encoder_weights
from trainables.heads import next_sentence
from trainables.heads.masked_lm import MaskedLM, masked_lm
from trainables.settings.errors import ConfigError
from trainables.settings.pretraining import Pretrain
from trainables.stages.selective import Logits, write_chosen
from trainables.training import optimizer
from trainables.training.loop import Job, Row
from trainables.training.runtime import Runtime

EVALUATIONS = 20
"""Number of evaluations along the schedule, which report the loss and save the state, in addition to the milestones."""
Tokenise = Callable[[Sequence[str], str], Pieces]
"""Pieces of texts with a digest."""


@dataclass(frozen=True)
class Objective:
    """A training objective on a corpus."""

    model: MaskedLM | next_sentence.PairedLM
    sequences: int
    """Number of sequences in a pass over the corpus."""
    example: Callable[[int, np.random.Generator], Example]
    """The sequence with an index, with the masks of one visit."""
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    artifact_files: Callable[[Path], dict[str, Path]] = lambda folder: {}
    """Files of the artifact besides the weights, written into a folder."""


def job(
    stage: Pretrain,
    base: Base,
    parent: Path | None,
    corpus: Corpus,
    tokenise: Tokenise,
    milestones: frozenset[int],
    runtime: Runtime,
    marks: Path | None = None,
) -> Job:
    """Continue pre-training `base`, or the weights of `parent`, on a corpus, masked at random or by `marks`, a file of logits.

    Raises ConfigError if the encoder does not support the objective, and for a corpus without any piece.
    """
    objective = _objective(stage, base, corpus, tokenise, marks)
    model, sequences = objective.model, objective.sequences
    if not sequences:
        raise ConfigError(["corpus: the tokenizer finds no pieces in its texts"])
    if parent is not None:
        load_encoder_weights(model, parent)
    model.to(runtime.device)
    model.notices += corpus.notices

    def batch(step: int) -> list[Example]:
        # Endless passes over the corpus, each in its own order; a batch may span two passes.
        start = step * stage.batch_size
        return sentence_pairs.weighed([example(start + i) for i in range(stage.batch_size)])

    orders: dict[int, np.ndarray] = {}

    def example(position: int) -> Example:
        epoch, index = divmod(position, sequences)
        if epoch not in orders:
            orders.clear()
            orders[epoch] = np.random.default_rng((stage.seed, epoch)).permutation(sequences)
        rng = np.random.default_rng((stage.seed, 1, position))  # fresh masks at every visit (dynamic masking)
        return objective.example(int(orders[epoch][index]), rng)

    def evaluate(step: int, model: nn.Module) -> Row:
        return {"split": "train", "epoch": step * stage.batch_size / sequences}

    groups = optimizer.parameter_groups(
        model, model.encoder, base.layers, learning_rate=stage.learning_rate, weight_decay=stage.weight_decay
    )
    every = max(1, stage.schedule_steps // EVALUATIONS)
    return Job(
        base=base,
        model=model,
        **optimizer.for_job(stage, groups, stage.schedule_steps),
        examples=batch,
        loss=objective.loss,
        weight=predicted_pieces,
        evaluate_at=milestones | frozenset(range(every, stage.schedule_steps + 1, every)),
        evaluate=evaluate,
        seed=stage.seed,
        artifact_files=objective.artifact_files,
    )


def _objective(stage: Pretrain, base: Base, corpus: Corpus, tokenise: Tokenise, marks: Path | None) -> Objective:
    """The stage's objective. If the corpus has no pairs, next-sentence prediction is off, with a notice."""
    if marks is not None:
        return _by_marks(stage, base, tokenise(corpus.texts, corpus.digest), Logits(marks))
    if stage.objective == "mlm":
        return _masked(stage, base, tokenise(corpus.texts, corpus.digest))
    parts, counts = sentences.split(corpus.texts, stage.language)
    if (reason := sentences.why_no_pairs(counts)) is None:
        return _paired(stage, base, sentence_pairs.documents(tokenise(parts, digest_of(parts)), counts))
    objective = _masked(stage, base, tokenise(corpus.texts, corpus.digest))
    objective.model.notices += (reason,)
    return objective


def _masked(stage: Pretrain, base: Base, pieces: Pieces) -> Objective:
    """Masked language modelling on documents cut into sequences."""
    sequences = chunks(pieces, stage.max_length - base.special.count)

    def example(index: int, rng: np.random.Generator) -> Example:
        ids, words = sequences[index]
        inputs, places, targets = corrupt(ids, base.special, stage.mask_share, rng, words if stage.whole_word else None)
        return Example(base.special.wrap(inputs), masked=(places + len(base.special.prefix), targets))

    return Objective(masked_lm(base, stage.dropout, stage.seed), len(sequences), example, masked_cross_entropy)


def _by_marks(stage: Pretrain, base: Base, pieces: Pieces, logits: Logits) -> Objective:
    """Masked language modelling at the marked pieces (Gu et al. 2020), or at the same number of random pieces.

    Sequences without a marked piece are left out. Raises ConfigError if no sequence has one.
    """
    sequences = chunks(pieces, stage.max_length - base.special.count)
    document, first, last = sequences.places
    starts = (np.cumsum(pieces.lengths) - pieces.lengths)[document]  # of the documents, among all pieces
    used = np.flatnonzero(logits.any_marked(starts + first))
    if len(sequences) and not len(used):
        raise ConfigError([f"{stage.name}: the marker marks no piece of the corpus; give the marks a higher threshold"])

    def logits_of(index: int) -> np.ndarray:
        return logits[int(starts[index] + first[index]) : int(starts[index] + last[index])]

    def example(index: int, rng: np.random.Generator) -> Example:
        ids, scores = sequences[int(used[index])][0], logits_of(int(used[index]))
        share = stage.mask_share
        chosen = marked(scores, share) if stage.masking == "selective" else as_many(scores, share, rng)
        inputs, places, targets = corrupt_at(chosen, ids, base.special, rng)
        return Example(base.special.wrap(inputs), masked=(places + len(base.special.prefix), targets))

    def artifact_files(folder: Path) -> dict[str, Path]:
        texts = ((sequences[index], marked(logits_of(index), stage.mask_share)) for index in range(len(sequences)))
        return write_chosen(folder, base, texts) if stage.masking == "selective" else {}

    model = masked_lm(base, stage.dropout, stage.seed)
    if left := len(sequences) - len(used):
        model.notices += (f"{stage.name}: {left} of {len(sequences)} sequences have no marked piece and are left out",)
    return Objective(model, len(used), example, masked_cross_entropy, artifact_files)


def _paired(stage: Pretrain, base: Base, documents: sentence_pairs.Documents) -> Objective:
    """Masked language modelling and next-sentence prediction on pairs from chunks of sentences."""
    cut = sentence_pairs.chunks(documents, stage.max_length - base.special.pair.count)

    def example(index: int, rng: np.random.Generator) -> Example:
        chunk: Any = cut[index].tolist()
        parts, label = sentence_pairs.draw(documents, chunk, base.special, stage.max_length, rng)
        whole = sentence_pairs.joined(parts)
        inputs, *masked = corrupt(whole.ids, base.special, stage.mask_share, rng, whole.words if stage.whole_word else None)
        return sentence_pairs.wrapped(base.special, inputs, (masked[0], masked[1]), parts, label)

    model = next_sentence.paired_lm(base, stage.dropout, stage.seed)
    return Objective(model, len(cut), example, next_sentence.paired_cross_entropy)


def predicted_pieces(batch: Sequence[Example]) -> int:
    """Number of pieces that a batch predicts; 1 if its texts have no piece that can be predicted."""
    return max(1, sum(len(example.masked[1]) for example in batch if example.masked))


def masked_cross_entropy(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of a micro-batch, summed over its predicted pieces."""
    assert batch.masked_targets is not None
    return F.cross_entropy(model(batch).float(), batch.masked_targets, reduction="sum")
