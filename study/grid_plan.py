"""What a whole ablation will do before it does it: the stage tree over the grid, what sharing saves, hours and memory of a GPU."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study import costs, estimate
from study.ablations import AblationTask
from study.costs import Gpu, Size
from study.grid import Grid
from study.plan import count_text, fit, pair, time_text, with_precision
from study.search import given_points
from trainables import corpus_names
from trainables.config import Encoder, Recipe
from trainables.faults import ConfigError
from trainables.stages import Finetune, Marks, Multitask, Pretrain, Stage, by_marks

if TYPE_CHECKING:
    from trainables.store import Store


@dataclass(frozen=True)
class Step:
    """One stage of one cell."""

    stage: Stage
    encoder: Encoder
    task: str
    seed: int
    stage_id: str
    parent_id: str | None
    run: str
    """The trajectory that it is a milestone of; itself for other stages."""
    steps: int
    tokens: float
    """Pieces to train on from the start of the stage."""


@dataclass(frozen=True)
class GridPlan:
    """Tokens are estimated, of full trials."""

    steps: tuple[Step, ...]
    """Every stage once, parents first."""
    cells: int
    """(setting, task, seed) to run."""
    tokens_unshared: float
    """Every cell runs its own stages."""
    tokens_shared: float
    """Every stage once."""
    tokens_missing: float | None
    """Of these, what is not in the store; None where the data are not here, so that stages have no identity."""
    cached: frozenset[str]
    read: float
    """Pieces of validation and test texts, without training."""
    flops: float
    sources: tuple[str, ...]
    """Where sizes come from that were not measured."""


def plan(grid: Grid, store: Store) -> GridPlan:
    """Plan an ablation. Data and encoders that are not on this machine are reckoned with by their published sizes."""
    try:
        cells, sizes = list(_cells(grid)), _sizes(grid)
        walked = [_walked(recipe) for recipe in cells]
        real = True
    except (ConfigError, OSError):
        cells, sizes = list(_cells(grid)), _sizes(grid)
        walked = [list(_sketched(recipe, sizes)) for recipe in cells]
        real = False
    found: dict[str, Step] = {}
    for step in (step for each in walked for step in each):
        found.setdefault(step.stage_id, step)
    furthest = _furthest(found.values())
    cached = frozenset(name for name in found if real and store.get(name, digests=False) is not None)
    missing = _furthest(step for name, step in found.items() if name not in cached)
    have = {run: max((found[n].tokens for n in cached if found[n].run == run), default=0.0) for run in missing}
    once = {each[-1].stage_id: recipe for each, recipe in zip(walked, cells, strict=True)}.values()
    return GridPlan(
        steps=tuple(found.values()),
        cells=len(cells),
        tokens_unshared=sum(step.tokens for each in walked for step in each),
        tokens_shared=sum(step.tokens for step in furthest.values()),
        tokens_missing=sum(step.tokens - have[run] for run, step in missing.items()) if real else None,
        cached=cached,
        read=sum(_read(recipe, sizes) for recipe in once),
        flops=sum(_flops(step) for step in furthest.values()) + sum(_read_flops(recipe, sizes) for recipe in once),
        sources=() if real else tuple(dict.fromkeys(size.source for size in sizes.values() if size.source)),
    )


def _cells(grid: Grid) -> Iterator[Recipe]:
    for part in grid.parts:
        study = with_precision(part.study)
        for params in given_points(study):
            for seed in study.final_seeds():
                yield study.recipe_for(params, seed)


def _furthest(steps: Iterable[Step]) -> dict[str, Step]:
    """{run: its last milestone}."""
    found: dict[str, Step] = {}
    for step in steps:
        if step.run not in found or step.steps > found[step.run].steps:
            found[step.run] = step
    return found


def _walked(recipe: Recipe) -> list[Step]:
    """The stages of a cell by their identity. Raises ConfigError where data or encoder are not here."""
    from trainables.identity import nodes

    return [
        Step(
            n.stage, recipe.encoder, recipe.task, recipe.seed, n.stage_id, n.parent_id, n.trajectory_id, n.steps, n.tokens_estimate
        )
        for n in nodes(recipe)
    ]


# Without the data -----------------------------------------------------------------------------------------------------------------


def _sizes(grid: Grid) -> dict[str, Size]:
    return {name: _size(name, task) for name, task in grid.ablation.tasks.items()}


def _size(name: str, task: AblationTask) -> Size:
    """Counted where the data are here, else published."""
    from trainables.data import load_task
    from trainables.identity import PIECES_PER_WORD

    try:
        data = load_task(name, task.task(), needs_test=task.target)
    except (ConfigError, OSError):
        return costs.published_size(task.known or name, task.validation_share)
    words = sum(len(text.split()) for text in data.train.texts) / max(1, len(data.train))
    return Size(len(data.train), len(data.validation), len(data.test), words * PIECES_PER_WORD, "")


def _sketched(recipe: Recipe, sizes: dict[str, Size]) -> Iterator[Step]:
    """The stages of a cell as they would be, by names of data in place of their content."""
    from trainables.identity import settings_of

    parent: str | None = None
    for stage in recipe.stages:
        if isinstance(stage, Pretrain):
            if not stage.trains:
                continue
            names, files = corpus_names.members(stage.corpus, recipe.task, recipe.tasks)
            stage = stage.counted(0 if files else sum(sizes[name].train for name in names))
        data, steps, tokens = _reckoned(stage, recipe, sizes)
        own = {"settings": settings_of(stage), "parent": parent or recipe.encoder.canonical(), "data": data}
        own |= {"seed": recipe.seed if isinstance(stage, Finetune) else None, "kind": stage.kind}
        run = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:32]
        name = f"{run}/{steps}" if isinstance(stage, Pretrain) else run
        yield Step(stage, recipe.encoder, recipe.task, recipe.seed, name, parent, run, steps, tokens)
        if not isinstance(stage, Marks):  # what follows marks starts from where they started
            parent = name


def _reckoned(stage: Stage, recipe: Recipe, sizes: dict[str, Size]) -> tuple[Any, int, float]:
    """(what is read, optimizer steps, pieces to train on)."""
    if isinstance(stage, Pretrain):
        names, files = corpus_names.members(stage.corpus, recipe.task, recipe.tasks)
        mean = _sequence([sizes[name] for name in names], stage.max_length) if not files else stage.max_length
        marked_for = [recipe.task] if by_marks(stage) else []
        return [*sorted((*names, *files)), *marked_for], stage.steps, stage.steps * stage.batch_size * mean
    if isinstance(stage, Multitask):
        names = tuple(stage.tasks or recipe.tasks)
        steps = sum(-(-sizes[name].train // stage.batch_size) for name in names) * stage.epochs
        tokens = stage.epochs * sum(sizes[name].train * _cut(sizes[name].length, stage.max_length) for name in names)
        return sorted(names), steps, tokens
    size = sizes[recipe.task]
    if isinstance(stage, Marks):
        texts, passes = stage.scored_texts or size.train, stage.scorer_epochs + stage.epochs
        return recipe.task, -(-texts // stage.batch_size) * passes, texts * passes * _cut(size.length, stage.max_length)
    texts = stage.train_examples or max(1, round(size.train * stage.train_share))
    return recipe.task, -(-texts // stage.batch_size) * stage.epochs, texts * stage.epochs * _pieces(stage, size.length)


def _sequence(read: Sequence[Size], longest: int) -> float:
    """Mean pieces of the sequences that texts are cut into."""
    budget = longest - 2
    cuts = [(size.train, max(1, math.ceil(size.length / budget)), size.length) for size in read]
    return sum(n * length for n, _, length in cuts) / sum(n * k for n, k, _ in cuts) + 2


def _cut(length: float, longest: int) -> float:
    return min(length, longest - 2) + 2


def _pieces(stage: Finetune, length: float) -> float:
    """Pieces of a text of mean length as the encoder sees it."""
    if stage.fractions is None:
        return _cut(length, stage.max_length)
    fractions = min(stage.max_fractions, max(1, math.ceil(length / (stage.max_length - 2))))
    return min(length, fractions * (stage.max_length - 2)) + 2 * fractions


# Cost ----------------------------------------------------------------------------------------------------------------------------


def _flops(step: Step) -> float:
    predicted = step.stage.mask_share if isinstance(step.stage, Pretrain) else 0.0
    return step.tokens * costs.flops_per_piece(costs.measurable(step.encoder), predicted)


def _read(recipe: Recipe, sizes: dict[str, Size]) -> float:
    """Pieces that a cell reads without training: validation after every epoch, the test split once."""
    stage, size = recipe.stages[-1], sizes[recipe.task]
    assert isinstance(stage, Finetune)
    times = size.validation * stage.epochs * stage.evaluations_per_epoch + size.test
    return times * _pieces(stage, size.length)


def _read_flops(recipe: Recipe, sizes: dict[str, Size]) -> float:
    return _read(recipe, sizes) * costs.flops_per_piece(costs.measurable(recipe.encoder)) / 3


# On the terminal -----------------------------------------------------------------------------------------------------------------


def show(grid: Grid, store: Store, gpu: str | None = None) -> str:
    """The plan of an ablation for the terminal, 80 columns wide. Raises ConfigError for a GPU that is not in the table."""
    named = costs.gpu_named(gpu) if gpu else None
    if grid.ablation.statistics:
        return f"{grid.name}: statistics of {', '.join(grid.ablation.targets)}; nothing is trained"
    made = plan(grid, store)
    saved = 1 - made.tokens_shared / made.tokens_unshared
    count = f"{len(grid.ablation.settings)} settings x {len(grid.ablation.targets)} tasks x {grid.ablation.seeds} seeds"
    lines = [f"{grid.name}: {count}, {made.cells} cells in {len(grid.parts)} studies", "", *_tree(made), ""]
    texts = f"{count_text(made.tokens_shared)} tokens; without sharing {count_text(made.tokens_unshared)}"
    lines += pair("to train on", f"{texts}: sharing saves {saved:.0%}")
    if made.tokens_missing is not None:
        lines += pair("still missing", f"{count_text(made.tokens_missing)} tokens; {len(made.cached)} stages are in the store")
    lines += pair("to read", f"{count_text(made.read)} tokens of validation and test texts")
    for source in made.sources:
        lines += pair("not here", f"data: {source}")
    lines += _gpu_lines(made, gpu.upper(), named) if gpu and named else _here_lines(grid, made, store)
    return "\n".join(lines)


def _tree(made: GridPlan) -> Iterator[str]:
    """The stages, a line per run: what starts from it is indented below it."""
    shared = [step for step in made.steps if not isinstance(step.stage, Finetune)]
    for encoder in dict.fromkeys(step.encoder for step in made.steps):
        yield estimate.encoder_name(encoder)[:80]
        yield from _below(made, shared, encoder, None, "")


def _below(made: GridPlan, shared: list[Step], encoder: Encoder, parents: frozenset[str] | None, indent: str) -> Iterator[str]:
    """What starts from these milestones, or from the encoder itself."""

    def starts_here(step: Step) -> bool:
        return step.encoder == encoder and (step.parent_id is None if parents is None else step.parent_id in parents)

    for run in dict.fromkeys(step.run for step in shared if starts_here(step)):
        milestones = [step for step in shared if step.run == run]
        last = max(milestones, key=lambda step: step.steps)
        state = "cached " if all(step.stage_id in made.cached for step in milestones) else "missing"
        where = f"{len(milestones)} milestones to " if len(milestones) > 1 else ""
        label = f"{last.stage.name} on {_corpus(last)}, {where}{last.steps:,} steps"
        yield fit(f"{indent}├─ {label}", f"{count_text(last.tokens):>7} tokens  {state}")
        yield from _below(made, shared, encoder, frozenset(step.stage_id for step in milestones), indent + "│  ")
    tuned = [step for step in made.steps if isinstance(step.stage, Finetune) and starts_here(step)]
    for task in dict.fromkeys(step.task for step in tuned):
        cells = [step for step in tuned if step.task == task]
        done = sum(step.stage_id in made.cached for step in cells)
        tokens = count_text(sum(step.tokens for step in cells))
        yield fit(f"{indent}├─ fine-tuning on {task}: {len(cells)} cells", f"{tokens:>7} tokens  {done} cached")


def _corpus(step: Step) -> str:
    if isinstance(step.stage, Multitask):
        return ", ".join(step.stage.tasks) or "all tasks"
    if isinstance(step.stage, Marks):
        return step.task
    assert isinstance(step.stage, Pretrain)
    entries = [step.task if each == corpus_names.WITHIN_TASK else each for each in step.stage.corpus or (step.task,)]
    return ", ".join(map(corpus_names.short, entries))


def _here_lines(grid: Grid, made: GridPlan, store: Store) -> list[str]:
    """Time on this machine."""
    study = with_precision(grid.parts[0].study)
    encoder = costs.measurable(study.encoder)
    rate, source = estimate.rate(study.model_copy(update={"encoder": encoder}), store, ())
    flops_rate = rate * costs.flops_per_piece(encoder)
    return [*pair("time", f"about {time_text(made.flops / flops_rate)} on this machine"), *pair("rate from", source)]


def _gpu_lines(made: GridPlan, name: str, gpu: Gpu) -> list[str]:
    seconds = made.flops / (gpu.flops * costs.UTILISATION)
    peak = f"{costs.UTILISATION:.0%} (assumed) of {gpu.flops / 1e12:.0f} bf16 TFLOP/s"
    how = f"{costs.FLOPS_PER_WEIGHT} FLOPs per weight and token at {peak}"
    lines = pair("time", f"about {time_text(seconds)} of one {name}: {how}, {gpu.source}")
    shapes = {(s.encoder, s.stage.kind, s.stage.batch_size, s.stage.max_length): s for s in made.steps}.values()
    size, step = max(((_memory(step), step) for step in shapes), key=lambda pair: pair[0])
    batch, fits = step.stage.batch_size, costs.micro_batch(costs.measurable(step.encoder), step.stage, gpu.memory_gb * 1e9)
    text = f"{estimate.size_text(size)} at most, in {step.stage.name} with {batch} x {step.stage.max_length} pieces"
    if not fits:
        text += f"; not even one sequence fits into {gpu.memory_gb} GB"
    elif fits < batch:
        text += f"; {gpu.memory_gb} GB hold {fits} at a time: the batch is split by itself, which changes no result"
    return lines + pair("memory", text)


def _memory(step: Step) -> float:
    return costs.memory_bytes(costs.measurable(step.encoder), step.stage, step.stage.batch_size)
