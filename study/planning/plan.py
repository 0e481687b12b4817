"""What a study will do before it does it: its stage tree, what of it is in the store, and what the rest costs. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

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
"""More combinations of further pre-training are not shared stages any more: each trial computes its own."""
DRAWS = 32
"""Random draws over which the tokens of a trial are averaged."""


@dataclass(frozen=True)
class Trajectory:
    """One run of further pre-training with all the milestones that trials of a study can ask for."""

    trajectory_id: str
    name: str
    """Name of the stage."""
    kind: str
    recipe: Recipe
    """A recipe whose stage of that name goes to the last milestone."""
    nodes: tuple[Node, ...]
    """The milestones by step."""

    @property
    def milestones(self) -> tuple[int, ...]:
        """Steps at which artifacts are left."""
        return tuple(node.steps for node in self.nodes)

    def missing(self, store: Store) -> tuple[Node, ...]:
        """Milestones that are not in the store."""
        return tuple(node for node in self.nodes if store.get(node.stage_id, digests=False) is None)


@dataclass(frozen=True)
class PlannedStage:
    """One node of the stage tree as the records keep it."""

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
    """What a study will do. Tokens are estimated from words, of full trials: none stopped early, nothing cached."""

    study: str
    recipe: str
    """The paper's name of the longest recipe."""
    task: str
    encoder: str
    trials: int
    finals: int
    """Trials over seeds after the search, those that the search has run left out."""
    stages: tuple[PlannedStage, ...]
    """Shared stages, parents first."""
    tokens_shared: int
    """Each shared stage once."""
    tokens_unshared: int
    """Every trial runs its own stages."""
    tokens_missing: int
    """Of the shared ones, what is not in the store; trials that are there cannot be told in advance."""
    least_tokens: int
    """Missing tokens where early stopping lets exactly one in `reduction` trials pass each rung."""
    tokens_per_s: float
    """Of the whole machine, all trials that run at once together."""
    rate_from: str
    """How that rate was found."""
    seconds: tuple[float, float]
    """Estimated time: with early stopping as sharp as it gets, and without any trial stopped."""
    disk_bytes: int
    """Weights and states that the study leaves in the store."""
    disk_from: str
    """How that was reckoned."""
    metric: str
    """What trials are compared by."""
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
    """The study with `precision: auto` as this machine would resolve it: without that, stages have no identity."""
    if study.precision != "auto":
        return study
    from trainables.training.precision import resolve

    return study.model_copy(update={"precision": resolve("auto", study.execution_for(True).device)})


def trajectories(study: Study, reader: Reader | None = None) -> list[Trajectory]:
    """The shared stages of a study, parents first: every run of pre-training, of several tasks, or for marks, that some trial can
    ask for.

    Those that depend on a range, or on more combinations than MOST_COMBINATIONS, are left to the trials, and all after them.
    The study's precision must be resolved. `reader` has read some of its data, perhaps.
    """
    from trainables.stages.identity import nodes
    from trainables.stages.inputs import Inputs, Reader

    reader = reader or Reader()
    found: dict[str, dict[int, tuple[Node, Recipe]]] = {}
    order: dict[str, int] = {}
    early, settings = _shared_settings(study)
    for params in settings:
        recipe = study.recipe_for(params, study.seed)
        for depth, node in enumerate(node for node in nodes(Inputs(recipe, reader)) if node.whole.name in early):
            found.setdefault(node.trajectory_id, {})[node.steps] = (node, recipe)
            order[node.trajectory_id] = depth
    made = []
    for trajectory_id in sorted(found, key=lambda each: (order[each], each)):
        milestones = [found[trajectory_id][steps] for steps in sorted(found[trajectory_id])]
        last, recipe = milestones[-1]
        made.append(Trajectory(trajectory_id, last.stage.name, last.whole.kind, recipe, tuple(node for node, _ in milestones)))
    return made


def _shared_settings(study: Study) -> tuple[set[str], list[Params]]:
    """(the first stages, as many as can be shared; a point of the space for each combination of what they depend on)."""
    if study.search.how.only_first:
        return {stage.name for stage in study.recipe[:-1]}, given_points(study)
    for count in range(len(study.recipe) - 1, 0, -1):
        early = {stage.name for stage in study.recipe[:count]}
        if points := _combinations(study, early):
            return early, points
    return set(), []


def _combinations(study: Study, early: set[str]) -> list[Params]:
    """A point of the space for each combination of what these stages depend on; none where they cannot be counted."""
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
    """Plan a study, of whose data `reader` may have read some. Raises ConfigError for faults of its data or encoder."""
    from trainables.stages.identity import nodes, recipe_name
    from trainables.stages.inputs import Inputs, Reader

    study, reader = with_precision(study), reader or Reader()
    shared = trajectories(study, reader)
    common = {node.stage_id for each in shared for node in each.nodes}
    drawn = [nodes(Inputs(study.recipe_for(params, study.seed), reader)) for params in _draws(study)]
    own = _mean(sum(node.tokens_estimate for node in each if node.stage_id not in common) for each in drawn)
    whole = _mean(sum(node.tokens_estimate for node in each) for each in drawn)
    last = _mean(each[-1].tokens_estimate for each in drawn)
    trials, trained, finals = trial_count(study), different_settings(study), _final_count(study)
    once = sum(each.nodes[-1].tokens_estimate for each in shared)
    missing = sum(_missing_tokens(each, store) for each in shared) + own * trained + last * finals
    least = missing - last * trained * (1 - _survival(study))
    target = study.recipe_for(spaces.any_point(study.space, study.fixed), study.seed)
    rate, source = estimate.rate(study, store, [node for each in drawn for node in each])
    data = Inputs(target, reader).target
    features = estimate.features_bytes(study, [node for each in drawn for node in each], len(data.validation) + len(data.test))
    disk, reckoned = estimate.disk(study, sum(len(each.nodes) for each in shared), finals, trained, features)
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
        tokens_per_s=rate,
        rate_from=source,
        seconds=(least / rate, missing / rate),
        disk_bytes=disk,
        disk_from=reckoned,
        metric=study.metric.name,
        labels=data.labels,
        splits={split: len(getattr(data, split)) for split in ("train", "validation", "test")},
    )


def _stages(study: Study, shared: Iterable[Trajectory], store: Store) -> Iterator[PlannedStage]:
    for each in shared:
        for node in each.nodes:
            label = f"{each.name}, {node.steps} steps on {', '.join(_reads(study, node))}{_selects(node)}"
            cached = store.get(node.stage_id, digests=False) is not None
            yield PlannedStage(node.stage_id, node.parent_id, each.kind, each.name, label, cached, node.tokens_estimate)


def _reads(study: Study, node: Node) -> Iterable[str]:
    """Names of the tasks whose texts a shared stage reads."""
    if node.stage.kind == "multitask":
        return node.stage.tasks or study.used_tasks
    return map(short, getattr(node.stage, "corpus", ()) or (study.task,))


def _selects(node: Node) -> str:
    """What a shared stage takes of its corpus, where that is not all."""
    how = getattr(node.stage, "select", "all")
    return "" if how == "all" else f", {how} {getattr(node.stage, 'neighbours', '')}"


def _draws(study: Study) -> list[Params]:
    """Settings such as the search may ask for: a grid's own, else the given points and random draws."""
    if study.search.how.only_first:
        return given_points(study)
    settings = study.search if study.search.how.gone_through else study.search.model_copy(update={"sampler": "random"})
    draws = max(DRAWS, min(study.budget.trials, 4 * DRAWS))
    search = Search(study.model_copy(update={"search": settings, "budget": study.budget.model_copy(update={"trials": draws})}))
    found = []
    while (asked := search.ask()) is not None:
        found.append(asked[1])
    return found


def _final_count(study: Study) -> int:
    settings = min(study.final.top_k, different_settings(study)) + (study.final.label_of_first is not None)
    return settings * (study.final.seeds - 1)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _missing_tokens(trajectory: Trajectory, store: Store) -> int:
    """Tokens from the last milestone before the first missing one, whose state is kept while the trajectory is not at its end."""
    missing = {node.steps for node in trajectory.missing(store)}
    if not missing:
        return 0
    before = [node.tokens_estimate for node in trajectory.nodes if node.steps < min(missing)]
    return trajectory.nodes[-1].tokens_estimate - max(before, default=0)


def _survival(study: Study) -> float:
    """Share of the epochs that is trained where one in `reduction` trials passes each rung."""
    settings, epochs = study.search.early_stopping, study.max_epochs()
    if settings.kind == "none":
        return 1.0
    done, share, rung = 0.0, 1.0, 0
    while rung < epochs:
        step = min(epochs, settings.grace_epochs if rung == 0 else rung * settings.reduction)
        done += share * (step - rung)
        share, rung = share / settings.reduction, step
    return done / epochs
