"""What whole ablations will do before they do it: the stage tree over the grids, what sharing saves, hours and memory of a GPU.

Several ablations are planned as in one store: what two of them have in common is there once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
class Share:
    """What one ablation has in a plan."""

    name: str
    cells: int
    tokens_unshared: float
    """Every cell of it runs its own stages."""
    tokens_shared: float
    """Every stage of it once."""
    tokens_added: float
    """Of these, what the ablations before it have not run."""


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
    flops_missing: float
    """Of these, what is not in the store."""
    sources: tuple[str, ...]
    """Where sizes come from that were not measured."""
    shares: tuple[Share, ...]
    """Of each ablation, in the order given."""


@dataclass(frozen=True)
class _Cell:
    """One cell with its stages, and the size of its task."""

    recipe: Recipe
    steps: tuple[Step, ...]
    size: Size


def plan(grid: Grid, store: Store, *others: Grid) -> GridPlan:
    """Plan an ablation, or several that share a store. Data and encoders that are not on this machine are reckoned with by their
    published sizes; where one lacks its data, stages of all are told apart by names and settings. Raises ConfigError where all are
    here and the settings do not go with them."""
    grids = (grid, *others)
    sizes = [_sizes(each) for each in grids]
    try:
        walked = [[_cell(recipe, _walked(recipe), s) for recipe in _cells(g)] for g, s in zip(grids, sizes, strict=True)]
        real = True
    except (ConfigError, OSError):
        if _all_here(grids, sizes):
            raise  # the settings do not go with the data: `study reproduce` would refuse them too
        walked = [[_cell(recipe, _sketched(recipe, s, g), s) for recipe in _cells(g)] for g, s in zip(grids, sizes, strict=True)]
        real = False
    cells = [cell for each in walked for cell in each]
    found: dict[str, Step] = {}
    for step in (step for cell in cells for step in cell.steps):
        found.setdefault(step.stage_id, step)
    furthest = _furthest(found.values())
    cached = frozenset(name for name in found if real and store.get(name, digests=False) is not None)
    missing = _furthest(step for name, step in found.items() if name not in cached)
    have = {run: max((found[n].tokens for n in cached if found[n].run == run), default=0.0) for run in missing}
    once = {cell.steps[-1].stage_id: cell for cell in cells}
    return GridPlan(
        steps=tuple(found.values()),
        cells=len(cells),
        tokens_unshared=_total(step for cell in cells for step in cell.steps),
        tokens_shared=_total(furthest.values()),
        tokens_missing=_total(missing.values()) - sum(have.values()) if real else None,
        cached=cached,
        read=sum(map(_read, once.values())),
        flops=_flops(furthest.values(), {}, once.values()),
        flops_missing=_flops(missing.values(), have, (cell for name, cell in once.items() if name not in cached)),
        sources=() if real else tuple(dict.fromkeys(size.source for each in sizes for size in each.values() if size.source)),
        shares=tuple(_shares(grids, walked)),
    )


def _all_here(grids: Sequence[Grid], sizes: Sequence[Mapping[str, Size]]) -> bool:
    """Whether data and encoders are on this machine."""
    if any(size.source for each in sizes for size in each.values()):
        return False
    return all(costs.measurable(recipe.encoder) is recipe.encoder for grid in grids for recipe in _cells(grid))


def _cell(recipe: Recipe, steps: Iterable[Step], sizes: Mapping[str, Size]) -> _Cell:
    return _Cell(recipe, tuple(steps), sizes[recipe.task])


def _shares(grids: Sequence[Grid], walked: Sequence[Sequence[_Cell]]) -> Iterator[Share]:
    before: dict[str, Step] = {}
    for grid, cells in zip(grids, walked, strict=True):
        steps = [step for cell in cells for step in cell.steps]
        after = _furthest([*before.values(), *steps])
        added = _total(after.values()) - _total(before.values())
        yield Share(grid.name, len(cells), _total(steps), _total(_furthest(steps).values()), added)
        before = after


def _total(steps: Iterable[Step]) -> float:
    return sum(step.tokens for step in steps)


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
    from trainables.scripts import length

    try:
        data = load_task(name, task.task(), needs_test=task.target)
    except (ConfigError, OSError):
        return costs.published_size(task.known or name, task.validation_share)
    words = sum(map(length, data.train.texts)) / max(1, len(data.train))
    return Size(len(data.train), len(data.validation), len(data.test), words * PIECES_PER_WORD, "")


def _sketched(recipe: Recipe, sizes: dict[str, Size], grid: Grid) -> Iterator[Step]:
    """The stages of a cell as they would be, by where data are in place of their content."""
    from trainables.identity import settings_of

    places = {name: _place(task) for name, task in grid.ablation.tasks.items()}

    parent: str | None = None
    for stage in recipe.stages:
        if isinstance(stage, Pretrain):
            if not stage.trains:
                continue
            names, files = corpus_names.members(stage.corpus, recipe.task, recipe.tasks)
            stage = stage.counted(0 if files else sum(sizes[name].train for name in names))
        data, steps, tokens = _reckoned(stage, recipe, sizes)
        own: dict[str, object] = {"settings": settings_of(stage), "parent": parent or recipe.encoder.canonical()}
        own |= {"data": [places.get(name, name) for name in data], "precision": recipe.precision, "kind": stage.kind}
        own |= {"seed": recipe.seed if isinstance(stage, Finetune) else None}
        run = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:32]
        name = f"{run}/{steps}" if isinstance(stage, Pretrain) else run
        yield Step(stage, recipe.encoder, recipe.task, recipe.seed, name, parent, run, steps, tokens)
        if not isinstance(stage, Marks):  # what follows marks starts from where they started
            parent = name


def _place(task: AblationTask) -> str:
    """What a task's texts and splits depend on."""
    about = {
        name: value for name, value in task.canonical().items() if name not in ("published", "target", "corpora", "stands_for")
    }
    return json.dumps(about, sort_keys=True)


def _reckoned(stage: Stage, recipe: Recipe, sizes: dict[str, Size]) -> tuple[list[str], int, float]:
    """(names of what is read, optimizer steps, pieces to train on)."""
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
        return [recipe.task], -(-texts // stage.batch_size) * passes, texts * passes * _cut(size.length, stage.max_length)
    texts = stage.train_examples or max(1, round(size.train * stage.train_share))
    return [recipe.task], -(-texts // stage.batch_size) * stage.epochs, texts * stage.epochs * _pieces(stage, size.length)


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


def _flops(shared: Iterable[Step], have: Mapping[str, float], cells: Iterable[_Cell]) -> float:
    """Of the runs of shared stages to their last step, less the tokens that these `have`, and of cells that differ in their last.

    What a frozen encoder says of a text is computed once for all cells that start from the same weights.
    """
    total, said = 0.0, set()
    for step in shared:
        if not isinstance(step.stage, Finetune):
            predicted = step.stage.mask_share if isinstance(step.stage, Pretrain) else 0.0
            total += (step.tokens - have.get(step.run, 0.0)) * costs.flops_per_piece(costs.measurable(step.encoder), predicted)
    for cell in cells:
        last = cell.steps[-1]
        stage, whole = last.stage, costs.flops_per_piece(costs.measurable(last.encoder))
        assert isinstance(stage, Finetune)
        forward, read = costs.blocks_used(stage, costs.measurable(last.encoder)) * whole / 3, _read(cell)
        if not stage.fixed_encoder:
            total += 3 * forward * last.tokens + forward * read
            continue
        total += costs.bilstm_flops(stage, costs.measurable(last.encoder)) * (last.tokens + read / 3)
        texts = (last.encoder, last.parent_id, last.task, stage.layers, stage.max_length, stage.truncation, stage.head_tokens)
        if texts not in said:
            said.add(texts)
            total += forward * (
                last.tokens / stage.epochs + _pieces(stage, cell.size.length) * (cell.size.validation + cell.size.test)
            )
    return total


def _read(cell: _Cell) -> float:
    """Pieces that a cell reads without training: validation after every epoch or more often, the test split once."""
    stage, size = cell.steps[-1].stage, cell.size
    assert isinstance(stage, Finetune)
    evaluations = stage.epochs * stage.evaluations_per_epoch
    known = min(size.validation, size.train) if stage.evaluations_per_epoch > 1 else 0  # the error on training texts is read too
    return ((size.validation + known) * evaluations + size.test) * _pieces(stage, size.length)


# On the terminal -----------------------------------------------------------------------------------------------------------------


def show(grid: Grid, store: Store, gpu: str | None = None, *others: Grid) -> str:
    """The plan of an ablation, or of several in one store, for the terminal, 80 columns wide.

    Raises ConfigError for a GPU that is not in the table.
    """
    named = costs.gpu_named(gpu) if gpu else None
    lines = [
        f"{each.name}: statistics of {', '.join(each.ablation.targets)}; nothing is trained"
        for each in (grid, *others)
        if each.ablation.statistics
    ]
    grids = [each for each in (grid, *others) if not each.ablation.statistics]
    if not grids:
        return "\n".join(lines)
    made = plan(grids[0], store, *grids[1:])
    lines += [*_grids(grids, made), "", *_tree(made), "", *_shared(made)]
    if made.tokens_missing is not None:
        lines += pair("still missing", f"{count_text(made.tokens_missing)} tokens; {len(made.cached):,} stages are in the store")
    lines += pair("to read", f"{count_text(made.read)} tokens of validation and test texts")
    lines += _gpu_lines(made, gpu.upper(), named) if gpu and named else _here_lines(grids[0], made, store)
    for text in _assumptions(made):
        lines += pair("reckoned", text)
    for source in made.sources:
        lines += pair("not here", f"data: {source}")
    return "\n".join(lines)


def _grids(grids: Sequence[Grid], made: GridPlan) -> Iterator[str]:
    """What is planned: of several ablations a line each, with what it has to train on."""
    for grid, share in zip(grids, made.shares, strict=True):
        count = f"{len(grid.ablation.settings)} settings x {len(grid.ablation.targets)} tasks x {grid.ablation.seeds} seeds"
        yield f"{grid.name}: {count}, {share.cells:,} cells in {len(grid.parts)} studies"
    if len(grids) == 1:
        return
    yield ""
    yield f"{'tokens':<24}{'each cell alone':>18}{'stages once':>18}{'new here':>18}"
    for share in made.shares:
        values = (share.tokens_unshared, share.tokens_shared, share.tokens_added)
        yield f"{share.name[:23]:<24}" + "".join(f"{count_text(value):>18}" for value in values)


def _shared(made: GridPlan) -> Iterator[str]:
    """What there is to train on, and what sharing saves: within each ablation and between them."""
    less = made.tokens_unshared - made.tokens_shared
    text = f"{count_text(made.tokens_shared)} tokens; without sharing {count_text(made.tokens_unshared)}"
    text += f": sharing saves {less / made.tokens_unshared:.0%}" + (f", {count_text(less)} tokens" if less else "")
    if len(made.shares) > 1:
        between = sum(share.tokens_shared - share.tokens_added for share in made.shares)
        text += f" ({count_text(less - between)} within ablations, {count_text(between)} between them)"
    yield from pair("to train on", text)


def _assumptions(made: GridPlan) -> Iterator[str]:
    """How the numbers were made."""
    from trainables.identity import PIECES_PER_WORD

    if made.sources:
        yield "tokens: every text has its set's mean length, cut at max_length, with special tokens"
    else:
        yield f"tokens: {PIECES_PER_WORD} for a word, each text cut at max_length, with special tokens"
    yield (
        f"time: {costs.FLOPS_PER_WEIGHT} FLOPs for each weight of the blocks in use and token to train on, 2 for one to read, and"
        " for predicted pieces the vocabulary's matrix; a frozen encoder runs once over each text; attention's own products, other"
        " heads, held-out texts of further pre-training and starting up are left out, and partly frozen encoders count as whole"
    )


def estimate_text(grid: Grid, store: Store, here: bool = True) -> str:
    """A line before a run: what is left to do, and how long that takes this machine. Raises ConfigError where data are missing."""
    made = plan(grid, store)
    left = made.tokens_shared if made.tokens_missing is None else made.tokens_missing
    text = f"to train on: {count_text(left)} of {count_text(made.tokens_shared)} tokens"
    text += f" ({count_text(made.tokens_unshared)} without sharing)" if made.tokens_unshared > made.tokens_shared else ""
    if not here:
        return text
    rate, source = _rate_here(grid, store)
    return f"{text}; about {time_text(made.flops_missing / rate)} here, by {source}"


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


def _rate_here(grid: Grid, store: Store) -> tuple[float, str]:
    """(FLOPs a second of training on this machine, how found)."""
    study = with_precision(grid.parts[0].study)
    encoder = costs.measurable(study.encoder)
    rate, source = estimate.rate(study.model_copy(update={"encoder": encoder}), store, ())
    return rate * costs.flops_per_piece(encoder), source


def _here_lines(grid: Grid, made: GridPlan, store: Store) -> list[str]:
    """Time on this machine."""
    rate, source = _rate_here(grid, store)
    text = f"about {time_text(made.flops / rate)} on this machine"
    text += f"; of what is missing {time_text(made.flops_missing / rate)}" if made.cached else ""
    return [*pair("time", text), *pair("rate from", source)]


def _gpu_lines(made: GridPlan, name: str, gpu: Gpu) -> list[str]:
    seconds = made.flops / (gpu.flops * costs.UTILISATION)
    peak = f"{costs.UTILISATION:.0%} (assumed) of {gpu.flops / 1e12:,.0f} bf16 TFLOP/s ({gpu.source})"
    lines = pair("time", f"about {gpu_text(seconds, name)}: {made.flops / 1e18:,.3g} EFLOP at {peak}")
    shapes = {(s.encoder, s.stage.kind, s.stage.batch_size, s.stage.max_length): s for s in made.steps}.values()
    size, step = max(((_memory(step), step) for step in shapes), key=lambda pair: pair[0])
    batch, fits = step.stage.batch_size, costs.micro_batch(costs.measurable(step.encoder), step.stage, gpu.memory_gb * 1e9)
    text = f"{estimate.size_text(size)} at most, in {step.stage.name} with {batch} x {step.stage.max_length} pieces"
    if not fits:
        text += f"; not even one sequence fits into {gpu.memory_gb} GB"
    elif fits < batch:
        text += f"; {gpu.memory_gb} GB hold {fits} at a time: the batch is split by itself, which changes no result"
    text += f"; {costs.STATE_BYTES} bytes a weight, {costs.ACTIVATION_BYTES} a token, layer and unit of width"
    return lines + pair("memory", text)


def gpu_text(seconds: float, name: str) -> str:
    """`12,345 GPU-hours of one H100 (514 days)`."""
    hours = seconds / 3600
    text = f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"
    also = f" ({hours / 24:,.0f} days)" if hours >= 48 else f" ({seconds / 60:.0f} min)" if hours < 1.5 else ""
    return f"{text} GPU-hours of one {name}{also}"


def _memory(step: Step) -> float:
    return costs.memory_bytes(costs.measurable(step.encoder), step.stage, step.stage.batch_size)
