"""The kinds of stage: for each its nodes in the stage tree, its cost, its part of a recipe's name, its notices and its job.

The settings of a kind are its model in `SETTINGS` of `settings/stages.py`. Imports torch only when a job is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from trainables.data.task_mixture import head_key
from trainables.settings.corpus_names import members
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stage_rules import by_marks
from trainables.settings.stages import Finetune, Marks, Multitask, Stage
from trainables.stages.inputs import Inputs, held_out, scored_texts
from trainables.stages.node import Node, milestone_id, settings_of
from trainables.store.store import stage_id

if TYPE_CHECKING:
    from trainables.stages.jobs import Place
    from trainables.training.loop import Job, Row

Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Start:
    """Where a stage of a recipe starts."""

    inputs: Inputs
    parent: str | None
    """Artifact whose weights it starts from; None: the encoder."""
    marks: Mapping[str, str | None]
    """{name of a pretrain stage that masks by marks: name of its `marks` stage}."""
    before: Mapping[str, Node]
    """{name of a stage: its node}, of the stages before this one."""

    def common(self, stage: Any) -> dict[str, Any]:
        """What determines the result of a stage of any kind."""
        parent = self.parent or self.inputs.encoder_id
        return {"settings": settings_of(stage), "parent": parent, "precision": self.inputs.recipe.precision}


class Size(Protocol):
    """Number and length of a task's texts."""

    @property
    def train(self) -> int:
        """Training texts."""

    @property
    def length(self) -> float:
        """Mean pieces of a text."""


class Sketch(NamedTuple):
    """What a stage costs, from the sizes of its tasks alone."""

    stage: Stage
    """The stage with steps instead of `epochs`, if its kind has steps."""
    reads: list[str]
    """Names of the tasks and files that it reads."""
    steps: int
    """Optimizer steps."""
    tokens: float
    """Pieces to train on."""


@dataclass(frozen=True)
class Kind:
    """A kind of stage; every function takes a stage of this kind first."""

    nodes: Callable[[Any, Start], Iterator[Node]]
    """Its nodes in the stage tree, the last of which is the stage itself; none if no other stage uses its result."""
    label: Callable[[Any, Recipe], str]
    """Its part of the recipe's name; empty: it has none."""
    sketch: Callable[[Any, Recipe, Mapping[str, Size]], Sketch]
    """Its cost where the data are not here, from the sizes of the recipe's tasks."""
    job: Callable[[Any, Place], Job]
    """What the loop needs to train it."""
    notices: Callable[[Any, Inputs], tuple[str, ...]]
    """Notices of the tasks that it is trained on; those of a corpus come with its job."""
    row: Callable[[Any, Inputs, Row], Row] = lambda stage, inputs, row: row
    """A row of its artifact with the names and the target task of a recipe."""
    continues: bool = True
    """Whether the next stage starts from its weights, instead of from the weights that it started from itself."""
    milestones: bool = False
    """Whether one run can leave artifacts at several steps."""
    per_seed: bool = False
    """Whether the trial's seed is that of the stage."""


def cut(length: float, longest: int) -> float:
    """Pieces of a text of mean length after truncation, with two special tokens."""
    return min(length, longest - 2) + 2


def pieces_read(stage: Finetune, length: float) -> float:
    """Pieces that the encoder reads of a text of mean length."""
    if stage.fractions is None:
        return cut(length, stage.max_length)
    fractions = min(stage.max_fractions, max(1, math.ceil(length / (stage.max_length - 2))))
    return min(length, fractions * (stage.max_length - 2)) + 2 * fractions


# Further pre-training ------------------------------------------------------------------------------------------------------------


def _pretrain_nodes(stage: Pretrain, start: Start) -> Iterator[Node]:
    corpus = start.inputs.corpus(stage)
    stage = stage.counted(len(corpus.texts))
    marker = start.before[start.marks[stage.name] or ""].stage_id if by_marks(stage) else None
    read: object = corpus.digest
    if stage.select != "all":
        pool = start.inputs.pool(stage)
        read = (*pool.digests, *pool.rule(stage.neighbours, stage.embeddings))
    run = stage_id("pretrain", start.common(stage) | {"data": read} | ({} if marker is None else {"marker": marker}))
    tokens = _pretrain_tokens(stage, start.inputs.lengths(corpus))
    yield Node(stage, milestone_id(run, stage.steps), start.parent, run, stage.steps, tokens, stage.seed, marker)


def _pretrain_tokens(stage: Pretrain, lengths: Counts) -> int:
    """Pieces of the stage's steps, on sequences that a corpus of texts of these lengths is cut into."""
    sequences = int((-(-lengths // (stage.max_length - 2))).sum())
    return round(stage.steps * stage.batch_size * (int(lengths.sum()) / max(1, sequences) + 2))


def _pretrain_sketch(stage: Pretrain, recipe: Recipe, sizes: Mapping[str, Size]) -> Sketch:
    names, files = members(stage.corpus, recipe.task, recipe.tasks)
    stage = stage.counted(0 if files else sum(sizes[name].train for name in names))
    mean = _mean_sequence([sizes[name] for name in names], stage.max_length) if not files else stage.max_length
    reads = [*sorted((*names, *files)), *([recipe.task] if by_marks(stage) else [])]
    return Sketch(stage, reads, stage.steps, stage.steps * stage.batch_size * mean)


def _mean_sequence(sizes: Sequence[Size], longest: int) -> float:
    """Mean pieces of the sequences that texts are cut into."""
    cuts = [(size.train, max(1, math.ceil(size.length / (longest - 2))), size.length) for size in sizes]
    return sum(n * length for n, _, length in cuts) / sum(n * k for n, k, _ in cuts) + 2


def _pretrain_label(stage: Pretrain, recipe: Recipe) -> str:
    names, files = members(stage.corpus, recipe.task, recipe.tasks)
    domains = {recipe.tasks[name].domain for name in (*names, recipe.task)} | {None for _ in files}
    within_domain = len(domains) == 1 and None not in domains
    label = "ITPT" if (names, files) == ((recipe.task,), ()) else "IDPT" if within_domain else "CDPT"
    label = {"nearest": "kNN-TAPT", "random": "RAND-TAPT"}.get(stage.select, label)
    return label + (f"({stage.masking})" if by_marks(stage) else "")


def _pretrain_job(stage: Pretrain, place: Place) -> Job:
    from trainables.stages import jobs, pretrain, selective

    corpus, marks = jobs.corpus_read(place.inputs, stage, place.store, place.runtime.device), None
    tokenise = partial(jobs.tokens, base=place.base, store=place.store)
    if place.node.reads is not None:
        pieces = tokenise(corpus.texts, corpus.digest)
        marks = selective.logits(place.node.reads, place.base, corpus, pieces, place.store, place.runtime)
    return pretrain.job(stage, place.base, place.parent, corpus, tokenise, place.steps, place.runtime, marks)


# Fine-tuning on several tasks ----------------------------------------------------------------------------------------------------


def _multitask_nodes(stage: Multitask, start: Start) -> Iterator[Node]:
    tasks = start.inputs.members(stage)
    run = stage_id("multitask", start.common(stage) | {"data": tasks.digests()})
    steps = tasks.steps_per_epoch(stage.batch_size) * stage.epochs
    yield Node(stage, run, start.parent, run, steps, _multitask_tokens(stage, start.inputs, steps), stage.seed)


def _multitask_tokens(stage: Multitask, inputs: Inputs, steps: int) -> int:
    """Pieces of so many steps, each on a task drawn by the stage's sampling."""
    tasks = inputs.members(stage)
    means = [np.minimum(inputs.lengths(data.train), stage.max_length - 2).mean() + 2 for data in tasks.tasks.values()]
    return round(steps * stage.batch_size * float(tasks.probabilities(stage.sampling) @ means))


def _multitask_sketch(stage: Multitask, recipe: Recipe, sizes: Mapping[str, Size]) -> Sketch:
    names = tuple(stage.tasks or recipe.tasks)
    steps = sum(-(-sizes[name].train // stage.batch_size) for name in names) * stage.epochs
    tokens = stage.epochs * sum(sizes[name].train * cut(sizes[name].length, stage.max_length) for name in names)
    return Sketch(stage, sorted(names), steps, tokens)


def _multitask_job(stage: Multitask, place: Place) -> Job:
    from trainables.stages import jobs, multitask

    tasks = place.inputs.members(stage)
    pieces = {key: jobs.train_and_validation(data, place.base, place.store) for key, data in tasks.tasks.items()}
    return multitask.job(stage, place.base, place.parent, tasks, pieces, place.runtime)


def _multitask_row(stage: Multitask, inputs: Inputs, row: Row) -> Row:
    """Scores by the tasks' names, and as those of the stage the target task's; their means over the tasks if it is none of them.

    An artifact keeps scores by the keys of heads, since names and target are the recipe's.
    """
    by_task = inputs.members(stage).named(row["by_task"])
    means = {name: float(np.mean([scores[name] for scores in by_task.values()])) for name in ("error_rate_percent", "loss")}
    return {**row, **row["by_task"].get(head_key(inputs.target), means), "by_task": by_task}


# Marks for selective masking -----------------------------------------------------------------------------------------------------


def _marks_nodes(stage: Marks, start: Start) -> Iterator[Node]:
    """The scorer and the marker; none if no stage masks by these marks."""
    if stage.name not in start.marks.values():
        return
    target = start.inputs.target
    scorer = replace(_finetuned(stage.scorer, start, stage.seed), part_of=stage)
    yield scorer
    run = stage_id("marks", start.common(stage) | {"data": target.digest("train"), "scorer": scorer.stage_id})
    whole, texts = len(target.train), len(scored_texts(stage, target))
    steps = -(-(texts - held_out(stage, texts)) // stage.batch_size) * stage.epochs
    tokens = scorer.tokens_estimate * stage.epochs * texts // (stage.scorer_epochs * whole)
    yield Node(stage, run, start.parent, run, steps, tokens, stage.seed, scorer.stage_id)


def _marks_sketch(stage: Marks, recipe: Recipe, sizes: Mapping[str, Size]) -> Sketch:
    size = sizes[recipe.task]
    texts, passes = stage.scored_texts or size.train, stage.scorer_epochs + stage.epochs
    tokens = texts * passes * cut(size.length, stage.max_length)
    return Sketch(stage, [recipe.task], -(-texts // stage.batch_size) * passes, tokens)


def _marks_job(stage: Marks, place: Place) -> Job:
    from trainables.stages import jobs, selective

    assert place.node.reads is not None
    data = place.inputs.target
    train = jobs.train_and_validation(data, place.base, place.store)["train"]
    scores = selective.scores(stage, place.node.reads, place.base, data, train, place.store, place.runtime)
    return selective.job(stage, place.base, place.parent, train, scores, place.node.steps, place.runtime)


# Fine-tuning ---------------------------------------------------------------------------------------------------------------------


def _finetune_nodes(stage: Finetune, start: Start) -> Iterator[Node]:
    yield _finetuned(stage, start, start.inputs.recipe.seed)


def _finetuned(stage: Finetune, start: Start, seed: int) -> Node:
    inputs = start.inputs
    data = inputs.target
    determines = start.common(stage) | {"seed": seed, "data": [data.digest("train"), data.digest("validation")]}
    run = stage_id("finetune", determines)
    places = inputs.train_places(stage, seed)
    lengths = inputs.lengths(data.train) if places is None else inputs.lengths(data.train)[places]
    steps = -(-len(lengths) // stage.batch_size) * stage.epochs
    return Node(stage, run, start.parent, run, steps, _finetune_tokens(stage, lengths), seed)


def _finetune_tokens(stage: Finetune, lengths: Counts) -> int:
    """Pieces of the passes over training texts of these lengths; one pass if the encoder's outputs are cached."""
    budget = stage.max_length - 2
    fractions = np.minimum(-(-lengths // budget), 1 if stage.fractions is None else stage.max_fractions)
    passes = 1 if stage.fixed_encoder else stage.epochs
    return passes * int((np.minimum(lengths, fractions * budget) + 2 * fractions).sum())


def _finetune_sketch(stage: Finetune, recipe: Recipe, sizes: Mapping[str, Size]) -> Sketch:
    size = sizes[recipe.task]
    texts = stage.train_examples or max(1, round(size.train * stage.train_share))
    tokens = texts * stage.epochs * pieces_read(stage, size.length)
    return Sketch(stage, [recipe.task], -(-texts // stage.batch_size) * stage.epochs, tokens)


def _finetune_label(stage: Finetune, recipe: Recipe) -> str:
    return "Feat" if stage.freeze == "encoder" and stage.pooling == "bilstm" else "FiT"


def _finetune_job(stage: Finetune, place: Place) -> Job:
    from trainables.stages import finetune, jobs

    whole, seed = place.inputs.target, place.node.seed
    data = replace(whole, train=place.inputs.train_split(stage, seed))
    cached = jobs.features_of(place.inputs, place.node, place.store)
    pieces = jobs.train_and_validation(data, place.base, place.store)
    return finetune.job(stage, place.base, place.parent, data, pieces, seed, place.runtime, head_key(whole), cached)


# The table -----------------------------------------------------------------------------------------------------------------------


def _target_notices(stage: Marks | Finetune, inputs: Inputs) -> tuple[str, ...]:
    return inputs.target.notices


KINDS: dict[str, Kind] = {
    "pretrain": Kind(
        nodes=_pretrain_nodes,
        label=_pretrain_label,
        sketch=_pretrain_sketch,
        job=_pretrain_job,
        notices=lambda stage, inputs: (),
        milestones=True,
    ),
    "multitask": Kind(
        nodes=_multitask_nodes,
        label=lambda stage, recipe: "MFiT",
        sketch=_multitask_sketch,
        job=_multitask_job,
        notices=lambda stage, inputs: inputs.members(stage).notices,
        row=_multitask_row,
    ),
    "marks": Kind(
        nodes=_marks_nodes,
        label=lambda stage, recipe: "",
        sketch=_marks_sketch,
        job=_marks_job,
        notices=_target_notices,
        continues=False,
    ),
    "finetune": Kind(
        nodes=_finetune_nodes,
        label=_finetune_label,
        sketch=_finetune_sketch,
        job=_finetune_job,
        notices=_target_notices,
        per_seed=True,
    ),
}
"""{kind of stage, as a recipe names it: its functions}."""
