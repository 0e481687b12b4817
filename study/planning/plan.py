"""The plan of a study: its stage tree, which stages are in the store, and the cost of the others. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from study.cluster.ray_session import machine_for
from study.definition import space as spaces
from study.definition.models import Study
from study.definition.space import Params
from study.planning import estimate
from study.search.search import Search, different_settings, given_points, trial_count
from trainables.settings.corpus_names import short

if TYPE_CHECKING:
    from trainables.settings.recipe import Recipe
    from trainables.stages.inputs import Reader
    from trainables.stages.node import Node
    from trainables.store.store import Store

MOST_COMBINATIONS = 256
"""Largest number of combinations of further pre-training that are shared stages; with more, every trial computes its own."""
DRAWS = 32
"""Number of random draws over which the tokens of a trial are averaged."""


@dataclass(frozen=True)
class Trajectory:
    """One run of a shared stage, with all milestones that trials of a study can start from."""

    trajectory_id: str
    name: str
    """Name of the stage."""
    kind: str
    recipe: Recipe
    """A recipe whose stage of that name ends at the last milestone."""
    nodes: tuple[Node, ...]
    """The milestones by step."""

    @property
    def milestones(self) -> tuple[int, ...]:
        """Steps at which artifacts are published."""
        return tuple(node.steps for node in self.nodes)

    def missing(self, store: Store) -> tuple[Node, ...]:
        """Milestones that are not in the store."""
        return tuple(node for node in self.nodes if store.get(node.stage_id, digests=False) is None)


@dataclass(frozen=True)
class PlannedStage:
    """One node of the stage tree, as in the records."""

    stage_id: str
    parent_id: str | None
    kind: str
    name: str
    label: str
    cached: bool
    tokens: int
    """Pieces to train on from the start of the stage."""


@dataclass(frozen=True)
class Plan:
    """The plan of a study. Tokens are estimates, for full trials: none is stopped early, nothing is cached."""

    study: str
    recipe: str
    """The paper's name of the longest recipe."""
    task: str
    encoder: str
    trials: int
    finals: int
    """Trials over seeds after the search, without those that the search has run."""
    stages: tuple[PlannedStage, ...]
    """Shared stages, parents first."""
    tokens_shared: int
    """Tokens if each shared stage runs once."""
    tokens_unshared: int
    """Tokens if every trial runs its own stages."""
    tokens_missing: int
    """The part of `tokens_shared` that is not in the store. Which trials are in the store is unknown in advance."""
    least_tokens: int
    """Missing tokens if early stopping lets exactly one in `reduction` trials pass each rung."""
    pieces_per_word: float | None
    """Pieces per word of the target task, counted on a sample; None where the encoder has no vocabulary yet."""
    tokens_per_s: float
    """Rate of the whole machine, over all trials that run at the same time."""
    rate_from: str
    """Source of that rate."""
    seconds: tuple[float, float]
    """Estimated time: with the sharpest early stopping, and without any."""
    disk_bytes: int
    """Weights and states that the study leaves in the store."""
    disk_from: str
    """How `disk_bytes` was estimated."""
    metric: str
    """Metric by which trials are compared."""
    labels: tuple[str, ...]
    """Names of the target task's classes."""
    splits: Mapping[str, int]
    """Examples in each split of the target task."""

    def as_record(self) -> dict[str, Any]:
        """Fields of the `plan` record."""
        return {
            "tokens_shared": self.tokens_shared,
            "tokens_unshared": self.tokens_unshared,
            "trials": self.trials,
            "metric": self.metric,
            "labels": list(self.labels),
            "splits": dict(self.splits),
            "stages": [{key: value for key, value in asdict(stage).items() if key != "tokens"} for stage in self.stages],
        }


def with_precision(study: Study) -> Study:
    """The study with `precision: auto` resolved for this machine; stages have no ids without a precision."""
    if study.precision != "auto":
        return study
    from trainables.training.precision import resolve

    here = study.on(machine_for(study.resources).gpus_for(study.resources))
    return study.model_copy(update={"precision": resolve("auto", here.execution_for(True).device)})


def trajectories(study: Study, reader: Reader | None = None) -> list[Trajectory]:
    """The shared stages of a study, parents first: every run before fine-tuning that some trial can start from.

    Stages that depend on a range, or on more combinations than MOST_COMBINATIONS, are computed by the trials, and so are all stages
    after them. The study's precision must be resolved. `reader` may have read some of its data.
    """
    from trainables.stages.identity import nodes
    from trainables.stages.inputs import Inputs, Reader

    reader = reader or Reader()
    runs: dict[str, dict[int, tuple[Node, Recipe]]] = {}
    depths: dict[str, int] = {}
    early, settings = _shared_settings(study)
    for params in settings:
        recipe = study.recipe_for(params, study.seed)
        for depth, node in enumerate(node for node in nodes(Inputs(recipe, reader, counts=True)) if node.whole.name in early):
            runs.setdefault(node.trajectory_id, {})[node.steps] = (node, recipe)
            depths[node.trajectory_id] = depth
    shared = []
    for trajectory_id in sorted(runs, key=lambda name: (depths[name], name)):
        milestones = [runs[trajectory_id][steps] for steps in sorted(runs[trajectory_id])]
        last, recipe = milestones[-1]
        shared.append(Trajectory(trajectory_id, last.stage.name, last.whole.kind, recipe, tuple(node for node, _ in milestones)))
    return shared


def _shared_settings(study: Study) -> tuple[set[str], list[Params]]:
    """(names of the first stages that can be shared; a point of the space for each combination of settings they depend on)."""
    if study.search.how.only_first:
        return {stage.name for stage in study.recipe[:-1]}, given_points(study)
    for count in range(len(study.recipe) - 1, 0, -1):
        early = {stage.name for stage in study.recipe[:count]}
        if points := _combinations(study, early):
            return early, points
    return set(), []


def _combinations(study: Study, early: set[str]) -> list[Params]:
    """A point of the space for each combination of settings these stages depend on; none if they are too many, or a range."""
    relevant: set[str] = set()
    todo = [path for path in study.space if path.partition(".")[0] in early]
    while todo:
        path = todo.pop()
        relevant.add(path)
        todo += [parent for parent in study.space[path].when if parent in study.space and parent not in relevant]
    chosen = {path: study.space[path] for path in relevant}
    if any(dimension.values is None for dimension in chosen.values()):
        return []
    points = list(islice(spaces.grid(chosen, study.fixed), MOST_COMBINATIONS + 1))
    if len(points) > MOST_COMBINATIONS:
        return []
    rest = {path: dimension for path, dimension in study.space.items() if path not in relevant}
    return [point | spaces.any_point(rest, study.fixed | point) for point in points]


def plan(study: Study, store: Store, reader: Reader | None = None) -> Plan:
    """Plan a study. `reader` may have read some of its data. Raises ConfigError for faults of its data or encoder."""
    from trainables.stages.identity import nodes, recipe_name
    from trainables.stages.inputs import Inputs, Reader

    study, reader = with_precision(study), reader or Reader()
    shared = trajectories(study, reader)
    common = {node.stage_id for trajectory in shared for node in trajectory.nodes}
    drawn = [nodes(Inputs(study.recipe_for(params, study.seed), reader, counts=True)) for params in _draws(study)]
    own = _mean(sum(node.tokens_estimate for node in tree if node.stage_id not in common) for tree in drawn)
    whole = _mean(sum(node.tokens_estimate for node in tree) for tree in drawn)
    last = _mean(tree[-1].tokens_estimate for tree in drawn)
    trials, trained, finals = trial_count(study), different_settings(study), _final_count(study)
    once = sum(trajectory.nodes[-1].tokens_estimate for trajectory in shared)
    missing = sum(_missing_tokens(trajectory, store) for trajectory in shared) + own * trained + last * finals
    least = missing - last * trained * (1 - _survival(study))
    target = study.recipe_for(spaces.any_point(study.space, study.fixed), study.seed)
    rate, source = estimate.rate(study, store, [node for tree in drawn for node in tree])
    data = Inputs(target, reader).target
    features = estimate.features_bytes(study, [node for tree in drawn for node in tree], len(data.validation) + len(data.test))
    disk, disk_from = estimate.disk(study, sum(len(trajectory.nodes) for trajectory in shared), finals, trained, features)
    return Plan(
        study=study.name,
        recipe=recipe_name(shared[-1].recipe if shared else target),
        task=study.task,
        encoder=estimate.encoder_name(study.encoder),
        trials=trials,
        finals=finals,
        stages=tuple(_stages(study, shared, store)),
        tokens_shared=round(once + own * trained + last * finals),
        tokens_unshared=round(whole * (trials + finals)),
        tokens_missing=round(missing),
        least_tokens=round(least),
        pieces_per_word=reader.pieces_per_word(study.encoder, data.train),
        tokens_per_s=rate,
        rate_from=source,
        seconds=(least / rate, missing / rate),
        disk_bytes=disk,
        disk_from=disk_from,
        metric=study.metric.name,
        labels=data.labels,
        splits={split: len(getattr(data, split)) for split in ("train", "validation", "test")},
    )


def _stages(study: Study, shared: Iterable[Trajectory], store: Store) -> Iterator[PlannedStage]:
    for trajectory in shared:
        for node in trajectory.nodes:
            label = f"{trajectory.name}, {node.steps} steps on {', '.join(_reads(study, node))}{_selects(node)}"
            cached = store.get(node.stage_id, digests=False) is not None
            yield PlannedStage(node.stage_id, node.parent_id, trajectory.kind, trajectory.name, label, cached, node.tokens_estimate)


def _reads(study: Study, node: Node) -> Iterable[str]:
    """Names of the tasks whose texts a shared stage reads."""
    if node.stage.kind == "multitask":
        return node.stage.tasks or study.used_tasks
    return map(short, getattr(node.stage, "corpus", ()) or (study.task,))


def _selects(node: Node) -> str:
    """How a shared stage selects from its corpus; empty if it reads all of it."""
    how = getattr(node.stage, "select", "all")
    return "" if how == "all" else f", {how} {getattr(node.stage, 'neighbours', '')}"


def _draws(study: Study) -> list[Params]:
    """Settings that the search may try: those of a grid, else the points of the study file and random draws."""
    if study.search.how.only_first:
        return given_points(study)
    settings = study.search if study.search.how.enumerated else study.search.model_copy(update={"sampler": "random"})
    draws = max(DRAWS, min(study.budget.trials, 4 * DRAWS))
    search = Search(study.model_copy(update={"search": settings, "budget": study.budget.model_copy(update={"trials": draws})}))
    drawn = []
    while (trial := search.ask()) is not None:
        drawn.append(trial[1])
    return drawn


def _final_count(study: Study) -> int:
    settings = min(study.final.top_k, different_settings(study)) + (study.final.label_of_first is not None)
    return settings * (study.final.seeds - 1)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _missing_tokens(trajectory: Trajectory, store: Store) -> int:
    """Tokens after the last milestone before the first missing one: the state is kept until the trajectory ends."""
    missing = {node.steps for node in trajectory.missing(store)}
    if not missing:
        return 0
    before = [node.tokens_estimate for node in trajectory.nodes if node.steps < min(missing)]
    return trajectory.nodes[-1].tokens_estimate - max(before, default=0)


def _survival(study: Study) -> float:
    """Share of the epochs that is trained if one in `reduction` trials passes each rung."""
    settings, epochs = study.search.early_stopping, study.max_epochs()
    if settings.kind == "none":
        return 1.0
    done, share, rung = 0.0, 1.0, 0
    while rung < epochs:
        step = min(epochs, settings.grace_epochs if rung == 0 else rung * settings.reduction)
        done += share * (step - rung)
        share, rung = share / settings.reduction, step
    return done / epochs
