"""The models of a study file: what it holds, what each field means, its unit and default. Imports no torch, ray or optuna."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from operator import or_
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, create_model, model_validator

from analysis.records.metric import METRICS, Metric
from study.definition import space as spaces
from study.definition.samplers import SAMPLERS, Sampler
from study.definition.space import Dimension, Params, Space, Value
from trainables.settings import corpus_names, file_names
from trainables.settings.base import Settings
from trainables.settings.encoder import Encoder
from trainables.settings.execution import Execution, Precision
from trainables.settings.plain_yaml import FLOAT
from trainables.settings.recipe import Recipe
from trainables.settings.stage_rules import marks_of
from trainables.settings.stages import KINDS, Marks, Multitask, Pretrain, Stage, head_in_proportion
from trainables.settings.task import Task
from trainables.settings.validate import validate


def _unchecked(stage: type[Stage]) -> type[Stage]:
    """The model of a stage's fixed settings: what they must be together is checked with the space over them."""
    checks = stage.__pydantic_decorators__.model_validators
    passed: dict[str, Any] = {name: model_validator(mode="after")(lambda self: self) for name in checks}
    return create_model(f"Fixed{stage.__name__}", __base__=stage, __module__=__name__, __validators__=passed)


STAGE_KINDS = {kind: _unchecked(stage) for kind, stage in KINDS.items()}
if TYPE_CHECKING:
    FixedStage = Stage
else:
    FixedStage = Annotated[reduce(or_, STAGE_KINDS.values()), Field(discriminator="kind")]


class EarlyStopping(Settings):
    """When a trial ends before its last epoch (asynchronous successive halving, Li et al. 2020)."""

    kind: Literal["asha", "none"] = "asha"
    """asha stops a trial that is not among the best 1/reduction at a rung, by the task's metric on validation; none runs every
    trial to its end."""
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    """Epochs that every trial gets: the first rung."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """Each rung lies at so many times the epochs of the one before, and keeps one in so many trials."""


class SearchSettings(Settings):
    """How settings are chosen."""

    sampler: Literal[*SAMPLERS] = "tpe"  # type: ignore[valid-type]
    """tpe: tree-structured Parzen estimator. random: independent draws. grid: every combination of choices and whole numbers.
    given: the points of `first` and no other, in their order; what they name need not be in the space."""
    seed: int = 0
    """Seed of the sampler. A resumed study asks what an undisturbed one would have asked."""
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Trials before tpe starts to learn; until then it draws at random."""
    first: tuple[dict[str, Value], ...] = ()
    """Settings to try first, {path: value}. What a point does not name stands at its fixed value."""
    labels: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Under `given`: what each point is called in records and tables, in the order of `first`. Empty: by its settings."""
    early_stopping: EarlyStopping = EarlyStopping()
    """Early stopping: its kind (`asha`, `none`), or its settings."""

    @property
    def how(self) -> Sampler:
        """The sampler's line in the table."""
        return SAMPLERS[self.sampler]


class Budget(Settings):
    """Where the search ends."""

    trials: Annotated[int, Field(ge=1)] = 20
    """Trials of the search, failed ones included."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """No trial is started after so many hours, over all sessions; null: no limit."""


class Final(Settings):
    """What happens with the best settings: chosen on validation, rerun over seeds, tested once."""

    top_k: Annotated[int, Field(ge=1)] = 1
    """Number of settings that are rerun over seeds. Where the sampler is given, those that diverged come after all that did not."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Seeds for each of them, counted up from the study's `seed`; what the search has run already is not run again."""
    label_of_first: str | None = None
    """Under this label the first of `search.first` joins the finals, for comparison; null leaves it out."""
    keep_weights: Literal["finals", "all", "none"] = "finals"
    """Whose fine-tuned weights stay in the store."""


class Resources(Settings):
    """What one trial gets, and how it is run. Nothing here changes a result."""

    workers: Annotated[int, Field(ge=1)] = 1
    """Processes of one trial, each with its share of every batch."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """CPUs of one worker: its threads."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of one worker; a fraction lets several trials of one worker share one."""
    concurrent: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; null: as many as fit."""
    wait_minutes: Annotated[float, Field(ge=0)] = 0
    """How long to wait at the start for a cluster that grows by itself until `concurrent` trials fit; 0 takes it as it is."""
    execution: Literal["auto", "actor", "train"] = "auto"
    """actor: a warm process, one worker. train: Ray Train. auto: actor for one worker, train for several."""
    micro_batch: Annotated[int, Field(ge=0)] = 0
    """Sequences per forward pass; 0 takes the whole batch. Halved by itself when memory runs out."""
    gradient_checkpointing: bool = False
    """Compute what a block of the encoder keeps for the backward pass once more there: less memory for one more forward pass."""
    patience_seconds: Annotated[float, Field(ge=0)] = 120
    """How long a trial waits and tries again where a store or a network fails, before the study stops. A full disk, or one that is
    not writable, stops it at once."""
    state_every_steps: Annotated[int, Field(ge=0)] = 0
    """Save the state for a resume also every so many steps; 0: at every evaluation only."""

    @model_validator(mode="after")
    def _runnable(self) -> Resources:
        if self.execution == "actor" and self.workers > 1:
            raise ValueError(f"execution actor runs one worker, but workers is {self.workers}; use train or auto")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus is {self.gpus:g}: above 1 only whole GPUs can be asked")
        if self.workers > 1 and 0 < self.gpus < 1:
            raise ValueError(
                f"gpus is {self.gpus:g} and workers is {self.workers}: the workers of a trial cannot share a GPU;"
                " give each a whole one (gpus: 1), or every trial one worker (workers: 1)"
            )
        return self


class Study(Settings):
    """One study: a recipe, the space around it, how to search it, and what to do with the best."""

    name: str
    """Name of the study in records and reports."""
    tasks: dict[str, Task]
    """Data sets by name: `known` for one that is shipped or in the table of known tasks, or where it lies."""
    task: str
    """The target task: the one of `tasks` that is fine-tuned and evaluated."""
    encoder: Encoder
    """Where training starts."""
    recipe: tuple[FixedStage, ...] = (STAGE_KINDS["finetune"](),)
    """Stages in order, each `{pretrain: {...}}`, `{multitask: {...}}`, `{marks: {...}}` or `{finetune: {...}}` with its fixed
    settings; the last one is finetune. Or a recipe of the papers by its name, `TAPT`, or `{TAPT: {finetune.epochs: 3}}` with
    settings over it: see [named recipes](recipes.md)."""
    precision: Precision = "auto"
    """Arithmetic of matrix products: weights stay float32. auto takes bfloat16 where it is faster."""
    seed: int = 0
    """Seed of the search's trials: head, order and dropout."""
    space: dict[str, Dimension] = Field(default_factory=dict)
    """Dimensions by path, `<stage name>.<field>`. Empty: the recipe as it is."""
    search: SearchSettings = SearchSettings()
    """How settings are chosen."""
    budget: Budget = Budget()
    """Where the search ends."""
    final: Final = Final()
    """What happens with the best settings."""
    resources: Resources = Resources()
    """What one trial gets."""
    baseline: bool = True
    """Whether a bag of words is fitted for comparison."""
    store: str | None = None
    """Folder or fsspec URL of the artifacts; null: the user's cache, shared by all studies."""

    @property
    def stages(self) -> dict[str, Stage]:
        """Fixed settings by name of the stage, in order."""
        return {stage.name: stage for stage in self.recipe}

    @property
    def fixed(self) -> dict[str, Any]:
        """{path: fixed value} of every field that could be searched."""
        return spaces.fixed_values(self.stages)

    @property
    def metric(self) -> Metric:
        """What trials are compared by: the target task's metric."""
        return METRICS[self.tasks[self.task].measured_by]

    @property
    def used_tasks(self) -> dict[str, Task]:
        """The target task and those whose texts some trial reads; others play no part."""
        read, _ = corpus_names.members(corpora(self.recipe, self.space), self.task, self.tasks)
        named = {self.task, *read, *members(self.recipe, self.space)}
        return {name: self.tasks[name] for name in sorted(self.tasks if takes_all(self.recipe, self.space) else named)}

    @property
    def local_paths(self) -> list[str]:
        """Files and folders that tasks, corpora and encoder are read from: every machine that trains must see them."""
        given = [getattr(task, name) for task in self.used_tasks.values() for name in ("train", "validation", "test", "folder")]
        given += filter(file_names.is_file, corpora(self.recipe, self.space))
        if self.encoder.package is None:
            given.append(self.encoder.folder)
        return sorted({path for path in given if path is not None and "://" not in path})

    def recipe_for(self, params: Params, seed: int) -> Recipe:
        """The recipe of one trial: fixed settings with the trial's over them, without marks that nothing in it uses."""
        masked = {stage.name: params.get(f"{stage.name}.masking", getattr(stage, "masking", None)) for stage in self.recipe}
        used = marks_of(self.recipe, lambda stage: masked[stage.name] != "random").values()
        kept = [stage for stage in self.recipe if not isinstance(stage, Marks) or stage.name in used]
        stages = [spaces.with_params(stage.name, stage, params) for stage in kept]
        tasks = {name: task.canonical() for name, task in self.used_tasks.items()}
        data = {"tasks": tasks, "task": self.task, "encoder": self.encoder.canonical(), "stages": stages}
        return validate(Recipe, data | {"seed": seed, "precision": self.precision})

    def execution_for(self, keep_weights: bool) -> Execution:
        """How trainables computes a trial with these resources."""
        given = self.resources
        return Execution(
            device="cuda" if given.gpus else "cpu",
            threads=given.cpus,
            micro_batch=given.micro_batch,
            gradient_checkpointing=given.gradient_checkpointing,
            state_every_steps=given.state_every_steps,
            whole_gpu=given.gpus >= 1,
            keep_weights=keep_weights,
        )

    def first_points(self) -> list[Params]:
        """The points of `search.first`, complete."""
        return [spaces.complete(point, self.space, self.fixed) for point in self.search.first]

    def label_of(self, params: Params) -> str | None:
        """What `search.labels` calls a setting; None where it has no name."""
        if not self.search.labels:
            return None
        return next((label for point, label in zip(self.first_points(), self.search.labels, strict=True) if point == params), None)

    def final_seeds(self) -> tuple[int, ...]:
        """Seeds over which the best settings are run; the first is the search's own."""
        return tuple(range(self.seed, self.seed + self.final.seeds))

    def max_epochs(self) -> int:
        """Epochs of the longest trial."""
        return int(max(spaces.extremes(f"{self.recipe[-1].name}.epochs", self.space, self.fixed)))

    def identity(self) -> dict[str, Any]:
        """What makes it this study: all but MAY_CHANGE, unused tasks, and the folders that files lie in."""
        data = {key: value for key, value in self.canonical().items() if key not in MAY_CHANGE}
        tasks = {name: data["tasks"][name] | {"metric": None} for name in self.used_tasks}
        tasks[self.task]["metric"] = "error_rate" if self.metric.share else self.metric.name  # whichever way it is shown
        for settings in (*tasks.values(), *([data["encoder"]] if self.encoder.package is None else [])):
            settings |= {key: PurePath(settings[key]).name for key in PATHS if settings.get(key)}
        for stage in data["recipe"]:
            if "corpus" in stage:
                stage["corpus"] = _short_entries(stage["corpus"])
            if stage.get("head_tokens", 0) is None and f"{stage['name']}.max_length" not in self.space:
                stage["head_tokens"] = head_in_proportion(stage["max_length"])
        for path in [f"{stage.name}.corpus" for stage in self.recipe if isinstance(stage, Pretrain)]:
            for point in data["search"]["first"]:
                point |= {path: _short_entries(point[path])} if path in point else {}
            if path in data["space"]:
                data["space"][path]["choice"] = [_short_entries(each) for each in data["space"][path]["choice"] or ()]
        return data | {"tasks": tasks}

    def digest(self) -> str:
        """Hash of the identity: equal for two files that may share a run folder."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Study) -> list[str]:
        """Lines that say where another study's identity differs from this one's; empty for the same study.

        Data or an encoder under another file name are none: what is in them is compared where a run goes on.
        """
        return [f"{path}: {here} here, {there} there" for path, here, there in self._differing(other, names=False)]

    def renamed(self, other: Study) -> list[str]:
        """Lines that say what is named otherwise in another study."""
        return [f"{path}: {there}, was {here}" for path, here, there in self._differing(other, names=True)]

    def _differing(self, other: Study, names: bool) -> Iterator[tuple[str, str, str]]:
        """(path, value here, value there) of what differs: of file names that both give, or of all else."""
        mine, theirs = (dict(_leaves(study.identity())) for study in (self, other))
        for path in dict.fromkeys((*mine, *theirs)):
            both = mine.get(path) is not None and theirs.get(path) is not None
            is_name = both and path.rpartition(".")[2] in PATHS
            if is_name == names and mine.get(path, _ABSENT) != theirs.get(path, _ABSENT):
                yield path, _text(mine, path), _text(theirs, path)

    def to_yaml(self) -> str:
        """The whole study with every default, in the form of a study file; loads back equal."""
        data = self.canonical()
        data["recipe"] = [{stage.pop("kind"): stage} for stage in data["recipe"]]
        data["space"] = {path: dimension.model_dump(mode="json", exclude_defaults=True) for path, dimension in self.space.items()}
        return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


MAY_CHANGE = ("name", "budget", "final", "resources", "baseline", "store")
"""What may change when a run goes on: a study that differs elsewhere is another study and needs another run folder."""
PATHS = ("train", "validation", "test", "folder", "tokenizer")
"""Fields of tasks and encoders that hold paths."""
_ABSENT = object()


class Dumper(yaml.SafeDumper):
    """Plain data without aliases, such that reading it back gives the same: text that looks like 2e-5 is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))


def _short_entries(entries: Iterable[str]) -> list[str]:
    """The entries of a corpus, text files by their own names."""
    return [corpus_names.short(entry) for entry in entries]


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything that is no mapping."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list) and any(isinstance(each, dict) for each in data):
        yield from _leaves({str(index): each for index, each in enumerate(data)}, path)
    else:
        yield path, data


def _text(leaves: Mapping[str, Any], path: str) -> str:
    return json.dumps(leaves[path], ensure_ascii=False) if path in leaves else "absent"


def corpora(recipe: Iterable[Stage], space: Space) -> dict[str, str]:
    """{entry of a corpus that some further pre-training reads: the place that names it}."""
    return _named(recipe, space, Pretrain, "corpus")


def members(recipe: Iterable[Stage], space: Space) -> dict[str, str]:
    """{task that some multi-task stage is trained on: the place that names it}."""
    return _named(recipe, space, Multitask, "tasks")


def _named(recipe: Iterable[Stage], space: Space, kind: type[Settings], field: str) -> dict[str, str]:
    """{entry of this field of the stages of a kind: the place that names it}."""
    found: dict[str, str] = {}
    for index, stage in enumerate(recipe):
        if isinstance(stage, kind):
            found |= dict.fromkeys(getattr(stage, field), f"recipe.{index}.{stage.kind}.{field}")
            path = f"{stage.name}.{field}"
            choices = (space[path].choice or ()) if path in space else ()
            found |= {str(name): f"space.{path}" for names in choices if isinstance(names, tuple) for name in names}
    return found


def takes_all(recipe: Iterable[Stage], space: Space) -> bool:
    """Whether some multi-task stage can be trained on all tasks."""
    fixed = spaces.fixed_values({stage.name: stage for stage in recipe})
    paths = [f"{stage.name}.tasks" for stage in recipe if isinstance(stage, Multitask)]
    return any(not names for path in paths for names in spaces.extremes(path, space, fixed))
