"""Plan ablations before they run: the stage tree over the grids, the tokens that sharing saves, FLOPs of training.

Several ablations are planned for one store: stages that two of them share are counted once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.ablations import gpu_costs
from study.ablations.ablation_file import AblationTask
from study.ablations.gpu_costs import Size
from study.ablations.grid import AblationGrid
from study.planning.plan import with_precision
from study.search.search import given_points
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune, Stage

if TYPE_CHECKING:
    from trainables.stages.inputs import Reader
    from trainables.store.store import Store


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
    """Id of the trajectory that it is a milestone of; for other stages its own id."""
    steps: int
    tokens: float
    """Pieces to train on from the start of the stage."""


@dataclass(frozen=True)
class Share:
    """The share of one ablation in a plan."""

    name: str
    cells: int
    tokens_unshared: float
    """Tokens if every cell runs its own stages."""
    tokens_shared: float
    """Tokens if every stage runs once."""
    tokens_added: float
    """The part of these that no ablation before it runs."""


@dataclass(frozen=True)
class GridPlan:
    """The plan of one or several ablations. Tokens are estimates for full trials."""

    steps: tuple[Step, ...]
    """Every stage once, parents first."""
    cells: int
    """Number of (setting, task, seed) to run."""
    tokens_unshared: float
    """Tokens if every cell runs its own stages."""
    tokens_shared: float
    """Tokens if every stage runs once."""
    tokens_missing: float | None
    """The part of these that is not in the store; None if data are missing here, so that stages have no identity."""
    cached: frozenset[str]
    """Ids of the stages in the store."""
    read: float
    """Pieces of validation and test texts, which are read without training."""
    flops: float
    flops_missing: float
    """The part of these that is not in the store."""
    sources: tuple[str, ...]
    """Sources of sizes that were not measured."""
    shares: tuple[Share, ...]
    """The share of every ablation, in order."""


@dataclass(frozen=True)
class _Cell:
    """One cell with its stages and the size of its task."""

    recipe: Recipe
    steps: tuple[Step, ...]
    size: Size


def plan(grid: AblationGrid, store: Store, *others: AblationGrid, reader: Reader | None = None) -> GridPlan:
    """Plan an ablation, or several that share a store.

    Data and encoders that are not on this machine count with their published sizes; if any data are missing, the stages of all
    ablations are identified by names and settings. Raises ConfigError if all data are here and the settings do not fit them.
    """
    from trainables.stages.inputs import Reader

    grids, reader = (grid, *others), reader or Reader()
    sizes = [_sizes(ablation, reader) for ablation in grids]
    try:
        walked = [[_cell(recipe, _walked(recipe, reader), s) for recipe in _cells(g)] for g, s in zip(grids, sizes, strict=True)]
        real = True
    except (ConfigError, OSError):
        if _all_here(grids, sizes):
            raise  # the settings do not fit the data: `study reproduce` would refuse them too
        walked = [[_cell(recipe, _sketched(recipe, s, g), s) for recipe in _cells(g)] for g, s in zip(grids, sizes, strict=True)]
        real = False
    cells = [cell for ablation_cells in walked for cell in ablation_cells]
    steps: dict[str, Step] = {}
    for step in (step for cell in cells for step in cell.steps):
        steps.setdefault(step.stage_id, step)
    furthest = _furthest(steps.values())
    cached = frozenset(name for name in steps if real and store.get(name, digests=False) is not None)
    missing = _furthest(step for name, step in steps.items() if name not in cached)
    have = {run: max((steps[n].tokens for n in cached if steps[n].run == run), default=0.0) for run in missing}
    once = {cell.steps[-1].stage_id: cell for cell in cells}
    return GridPlan(
        steps=tuple(steps.values()),
        cells=len(cells),
        tokens_unshared=_total(step for cell in cells for step in cell.steps),
        tokens_shared=_total(furthest.values()),
        tokens_missing=_total(missing.values()) - sum(have.values()) if real else None,
        cached=cached,
        read=sum(map(_read, once.values())),
        flops=_flops(furthest.values(), {}, once.values()),
        flops_missing=_flops(missing.values(), have, (cell for name, cell in once.items() if name not in cached)),
        sources=() if real else tuple(dict.fromkeys(size.source for by_task in sizes for size in by_task.values() if size.source)),
        shares=tuple(_shares(grids, walked)),
    )


def _all_here(grids: Sequence[AblationGrid], sizes: Sequence[Mapping[str, Size]]) -> bool:
    """Whether data and encoders are on this machine."""
    if any(size.source for by_task in sizes for size in by_task.values()):
        return False
    return all(gpu_costs.measurable(recipe.encoder) is recipe.encoder for grid in grids for recipe in _cells(grid))


def _cell(recipe: Recipe, steps: Iterable[Step], sizes: Mapping[str, Size]) -> _Cell:
    return _Cell(recipe, tuple(steps), sizes[recipe.task])


def _shares(grids: Sequence[AblationGrid], walked: Sequence[Sequence[_Cell]]) -> Iterator[Share]:
    before: dict[str, Step] = {}
    for grid, cells in zip(grids, walked, strict=True):
        steps = [step for cell in cells for step in cell.steps]
        after = _furthest([*before.values(), *steps])
        added = _total(after.values()) - _total(before.values())
        yield Share(grid.name, len(cells), _total(steps), _total(_furthest(steps).values()), added)
        before = after


def _total(steps: Iterable[Step]) -> float:
    return sum(step.tokens for step in steps)


def _cells(grid: AblationGrid) -> Iterator[Recipe]:
    for part in grid.parts:
        study = with_precision(part.study)
        for params in given_points(study):
            for seed in study.final_seeds():
                yield study.recipe_for(params, seed)


def _furthest(steps: Iterable[Step]) -> dict[str, Step]:
    """{id of a trajectory: its last milestone}."""
    last: dict[str, Step] = {}
    for step in steps:
        if step.run not in last or step.steps > last[step.run].steps:
            last[step.run] = step
    return last


def _walked(recipe: Recipe, reader: Reader) -> list[Step]:
    """The stages of a cell with their true ids. Raises ConfigError if data or encoder are missing here."""
    from trainables.stages.identity import nodes
    from trainables.stages.inputs import Inputs

    return [
        Step(
            n.stage, recipe.encoder, recipe.task, recipe.seed, n.stage_id, n.parent_id, n.trajectory_id, n.steps, n.tokens_estimate
        )
        for n in nodes(Inputs(recipe, reader, counts=True))
    ]


# Without the data -----------------------------------------------------------------------------------------------------------------


def _sizes(grid: AblationGrid, reader: Reader) -> dict[str, Size]:
    return {name: _size(name, task, reader, grid.ablation.encoder_of(name)) for name, task in grid.ablation.tasks.items()}


def _size(name: str, task: AblationTask, reader: Reader, encoder: Encoder) -> Size:
    """Size of a task: counted if the data are here, else published."""
    from trainables.stages.inputs import PIECES_PER_WORD

    try:
        data = reader.task(name, task.task(), needs_test=task.target)
    except (ConfigError, OSError):
        return gpu_costs.published_size(task.known or name, task.validation_share)
    words = int(data.train.words.sum()) / max(1, len(data.train))
    counted = reader.pieces_per_word(encoder, data.train)
    return Size(len(data.train), len(data.validation), len(data.test), words * (counted or PIECES_PER_WORD), "")


def _sketched(recipe: Recipe, sizes: dict[str, Size], grid: AblationGrid) -> Iterator[Step]:
    """The stages of a cell with ids from the place of the data instead of their content."""
    from trainables.stages.kinds import KINDS
    from trainables.stages.node import settings_of

    places = {name: _place(task) for name, task in grid.ablation.tasks.items()}

    parent: str | None = None
    for stage in (stage for stage in recipe.stages if stage.trains):
        kind = KINDS[stage.kind]
        sketch = kind.sketch(stage, recipe, sizes)
        own: dict[str, object] = {"settings": settings_of(sketch.stage), "parent": parent or recipe.encoder.canonical()}
        own |= {"data": [places.get(name, name) for name in sketch.reads], "precision": recipe.precision, "kind": stage.kind}
        own |= {"seed": recipe.seed if kind.per_seed else None}
        run = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:32]
        name = f"{run}/{sketch.steps}" if kind.milestones else run
        yield Step(sketch.stage, recipe.encoder, recipe.task, recipe.seed, name, parent, run, sketch.steps, sketch.tokens)
        if kind.continues:
            parent = name


def _place(task: AblationTask) -> str:
    """The fields that determine a task's texts and splits, as text."""
    fields = {
        name: value for name, value in task.canonical().items() if name not in ("published", "target", "corpora", "stands_for")
    }
    return json.dumps(fields, sort_keys=True)


# Cost ----------------------------------------------------------------------------------------------------------------------------


def _flops(shared: Iterable[Step], have: Mapping[str, float], cells: Iterable[_Cell]) -> float:
    """FLOPs of shared stages to their last step, without the tokens that they `have`, and of the last stages of `cells`.

    The outputs of a frozen encoder are computed once for all cells that start from the same weights.
    """
    from trainables.stages.kinds import pieces_read

    total, encoded = 0.0, set()
    for step in shared:
        if not isinstance(step.stage, Finetune):
            predicted = step.stage.mask_share if isinstance(step.stage, Pretrain) else 0.0
            total += (step.tokens - have.get(step.run, 0.0)) * gpu_costs.flops_per_piece(
                gpu_costs.measurable(step.encoder), predicted
            )
    for cell in cells:
        last = cell.steps[-1]
        stage, whole = last.stage, gpu_costs.flops_per_piece(gpu_costs.measurable(last.encoder))
        assert isinstance(stage, Finetune)
        forward, read = gpu_costs.blocks_used(stage, gpu_costs.measurable(last.encoder)) * whole / 3, _read(cell)
        if not stage.fixed_encoder:
            total += 3 * forward * last.tokens + forward * read
            continue
        total += gpu_costs.bilstm_flops(stage, gpu_costs.measurable(last.encoder)) * (last.tokens + read / 3)
        texts = (last.encoder, last.parent_id, last.task, stage.layers, stage.max_length, stage.truncation, stage.head_tokens)
        if texts not in encoded:
            encoded.add(texts)
            total += forward * (
                last.tokens / stage.epochs + pieces_read(stage, cell.size.length) * (cell.size.validation + cell.size.test)
            )
    return total


def _read(cell: _Cell) -> float:
    """Pieces that a cell reads without training: validation at every evaluation, the test split once."""
    from trainables.stages.kinds import pieces_read

    stage, size = cell.steps[-1].stage, cell.size
    assert isinstance(stage, Finetune)
    evaluations = stage.epochs * stage.evaluations_per_epoch
    known = (
        min(size.validation, size.train) if stage.evaluations_per_epoch > 1 else 0
    )  # the error on training texts is computed too
    return ((size.validation + known) * evaluations + size.test) * pieces_read(stage, size.length)
