"""Models of the study file: its fields with meaning, unit and default. Imports no torch, Ray or Optuna."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from operator import or_
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from analysis.records.metric import METRICS, Metric
from analysis.text.places import without_credentials
from analysis.trackers.names import TRACKERS
from study.definition import space as spaces
from study.definition.samplers import SAMPLERS, Sampler
from study.definition.space import Dimension, Params, Space, Value
from trainables.settings import corpus_names, file_names
from trainables.settings.base import Settings
from trainables.settings.encoder import Encoder
from trainables.settings.errors import near
from trainables.settings.execution import Execution, Precision
from trainables.settings.plain_yaml import FLOAT
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stage_rules import marks_of
from trainables.settings.stages import SETTINGS, Marks, Multitask, Stage, head_in_proportion
from trainables.settings.task import Task
from trainables.settings.validate import validate


def _unchecked(stage: type[Stage]) -> type[Stage]:
    """Return a stage's model without the checks between fields: these run later, with the search space applied."""
    checks = stage.__pydantic_decorators__.model_validators
    skipped: dict[str, Any] = {name: model_validator(mode="after")(lambda self: self) for name in checks}
    return create_model(f"Fixed{stage.__name__}", __base__=stage, __module__=__name__, __validators__=skipped)


STAGE_KINDS = {kind: _unchecked(stage) for kind, stage in SETTINGS.items()}
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
    given: the points of `first` and no others, in their order; their fields need not be in the space."""
    seed: int = 0
    """Seed of the sampler. A resumed study tries the same settings as an uninterrupted one."""
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Trials before tpe starts to learn; until then it draws at random."""
    first: tuple[dict[str, Value], ...] = ()
    """Settings to try first, {path: value}. A field that is not listed has its fixed value."""
    labels: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Under `given`: names of the points in records and tables, in the order of `first`. Empty: their settings are shown."""
    early_stopping: EarlyStopping = EarlyStopping()
    """Early stopping: its kind (`asha`, `none`), or its settings."""

    @property
    def how(self) -> Sampler:
        """The sampler of the study."""
        return SAMPLERS[self.sampler]


class Budget(Settings):
    """Where the search ends."""

    trials: Annotated[int, Field(ge=1)] = 20
    """Trials of the search, failed ones included."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """No trial is started after so many hours, over all sessions; null: no limit."""
    session_hours: Annotated[float, Field(gt=0)] | None = None
    """A command stops after so many hours as at Ctrl-C, exit code 130; the same command resumes. For jobs with a time limit: a few
    minutes less than it. null: no limit."""


class Final(Settings):
    """The finals: the best settings on validation are rerun over seeds and tested once."""

    top_k: Annotated[int, Field(ge=1)] = 1
    """Number of settings that are rerun over seeds. With the sampler `given`, settings that diverged rank last."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Seeds of every such setting, counted up from the study's `seed`. Trials that the search has run are not run again."""
    label_of_first: str | None = None
    """Label under which the first of `search.first` joins the finals for comparison; null: it does not join."""
    keep_weights: Literal["finals", "all", "none"] = "finals"
    """Trials whose fine-tuned weights stay in the store."""


def _gpus(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
        raise ValueError(f"{value!r} given; a number from 0 on, or auto{near(value, ('auto',)) if isinstance(value, str) else ''}")
    return value


class Resources(Settings):
    """Resources of one trial, and how it is run. No field here changes a result."""

    workers: Annotated[int, Field(ge=1)] = 1
    """Processes of one trial. Every process computes its share of every batch."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """CPUs of one worker, which is also its number of threads."""
    gpus: Annotated[Annotated[float, Field(ge=0)] | Literal["auto"], BeforeValidator(_gpus)] = "auto"
    """GPUs of one worker; with a fraction several trials of one worker share a GPU, each with this share of its memory; 0: trials
    run on CPUs. auto: one if this machine, or the cluster that is joined, has any, else none; looked up at the start of every
    session."""
    concurrent: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; null: as many as fit."""
    wait_minutes: Annotated[float, Field(ge=0)] = 0
    """Time to wait at the start until an autoscaling cluster has room for `concurrent` trials; 0: do not wait."""
    execution: Literal["auto", "actor", "train"] = "auto"
    """actor: one worker in a process that is reused. train: Ray Train. auto: actor for one worker, train for several."""
    micro_batch: Annotated[int, Field(ge=0)] = 0
    """Sequences per forward pass; 0: as many as fit into a GPU's free memory, or into 1 GiB on a CPU, by an estimate. Halved
    automatically when memory runs out. On a GPU it changes which elements dropout drops, but not their distribution."""
    gradient_checkpointing: bool = False
    """Recompute the activations of the encoder's blocks in the backward pass: less memory for one more forward pass."""
    patience_seconds: Annotated[float, Field(ge=0)] = 120
    """Time for which a trial retries after a failure of the store or the network, before the study stops. A full or read-only disk
    stops the study at once."""
    state_every_steps: Annotated[int, Field(ge=0)] = 0
    """Also save the state of a trial every so many steps; 0: at every evaluation only."""

    @model_validator(mode="after")
    def _runnable(self) -> Resources:
        if self.execution == "actor" and self.workers > 1:
            raise ValueError(f"execution actor runs one worker, but workers is {self.workers}; use train or auto")
        if isinstance(self.gpus, str):
            if self.wait_minutes:
                raise ValueError(
                    f"gpus is auto and wait_minutes is {self.wait_minutes:g}: it is unknown whether to wait for machines with GPUs;"
                    " set gpus: 1, or gpus: 0"
                )
            return self
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus is {self.gpus:g}: above 1 only whole GPUs are possible")
        if self.workers > 1 and 0 < self.gpus < 1:
            raise ValueError(
                f"gpus is {self.gpus:g} and workers is {self.workers}: the workers of a trial cannot share a GPU;"
                " give each a whole one (gpus: 1), or every trial one worker (workers: 1)"
            )
        return self


def _by_name(value: Any) -> Any:
    """Return one name or a list of names as {name: None}."""
    return dict.fromkeys([value] if isinstance(value, str) else map(str, value)) if isinstance(value, str | list) else value


def _known_trackers(track: dict[str, str | None]) -> dict[str, str | None]:
    for name, address in track.items():
        if name not in TRACKERS:
            raise ValueError(f"no tracker is called {name!r}{near(name, TRACKERS)}")
        if address is not None and without_credentials(address) != address:
            raise ValueError(
                f"the address of {name} holds a user or password, which this file must not; give it in an environment variable of"
                f" {name} (mlflow: MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            )
    return track


Track = Annotated[dict[str, str | None], BeforeValidator(_by_name), AfterValidator(_known_trackers)]
"""{tracker: its address, or null for its default}."""


class Study(Settings):
    """A study: a recipe, a search space over its settings, the search, and the finals."""

    name: str
    """Name of the study in records and reports."""
    tasks: dict[str, Task]
    """Data sets by name: `known` for an included or known task, else the files, folder or hub name of your own."""
    task: str
    """The target task: the entry of `tasks` for which the encoder is fine-tuned and evaluated."""
    encoder: Encoder
    """The pretrained encoder from which training starts."""
    recipe: tuple[FixedStage, ...] = (STAGE_KINDS["finetune"](),)
    """Stages in order, each `{pretrain: {...}}`, `{multitask: {...}}`, `{marks: {...}}` or `{finetune: {...}}` with its fixed
    settings; the last one is finetune. Or the name of a paper's recipe, `TAPT`, also with changed settings:
    `{TAPT: {finetune.epochs: 3}}`; see [named recipes](recipes.md)."""
    precision: Precision = "auto"
    """Arithmetic of matrix products; weights, sums and the optimizer stay float32. tf32: as float32, but GPUs from Ampere on
    round what they multiply to 10 bits of mantissa; other devices refuse it. float16: with loss scaling, for GPUs that lack
    bfloat16. auto: bfloat16 where it is faster, float16 on GPUs before Ampere that have tensor cores, else float32."""
    seed: int = 0
    """Seed of the search's trials: head, order and dropout."""
    space: dict[str, Dimension] = Field(default_factory=dict)
    """Dimensions of the search by path, `<stage name>.<field>`. Empty: one trial of the recipe as it is."""
    search: SearchSettings = SearchSettings()
    """How the settings of trials are chosen."""
    budget: Budget = Budget()
    """Where the search ends."""
    final: Final = Final()
    """How the best settings are rerun and tested."""
    resources: Resources = Resources()
    """Resources of one trial."""
    baseline: bool = True
    """Whether a bag-of-words baseline is fitted for comparison."""
    store: str | None = None
    """Folder or fsspec URL of the artifacts; null: the cache of the user, which all studies share."""
    track: Track = Field(default_factory=dict)
    """Experiment trackers that get the run while it is running: names (`[mlflow, tensorboard, wandb, trackio]`), or
    `{mlflow: URI}` with addresses; see [trackers](trackers.md). A tracker that fails does not disturb the study."""

    @property
    def stages(self) -> dict[str, Stage]:
        """{name of the stage: its fixed settings}, in order."""
        return {stage.name: stage for stage in self.recipe}

    @property
    def fixed(self) -> dict[str, Any]:
        """{path: fixed value} of every field that could be searched."""
        return spaces.fixed_values(self.stages)

    @property
    def metric(self) -> Metric:
        """The metric that ranks the trials: that of the target task."""
        return METRICS[self.tasks[self.task].measured_by]

    @property
    def used_tasks(self) -> dict[str, Task]:
        """The target task and all tasks whose texts some trial reads; other tasks have no effect."""
        read, _ = corpus_names.members(corpora(self.recipe, self.space), self.task, self.tasks)
        named = {self.task, *read, *members(self.recipe, self.space)}
        return {name: self.tasks[name] for name in sorted(self.tasks if takes_all(self.recipe, self.space) else named)}

    @property
    def local_paths(self) -> list[str]:
        """Files and folders of tasks, corpora and encoder. Every machine that trains must have them."""
        paths = [getattr(task, name) for task in self.used_tasks.values() for name in ("train", "validation", "test", "folder")]
        paths += filter(file_names.is_file, corpora(self.recipe, self.space))
        if self.encoder.package is None:
            paths.append(self.encoder.folder)
        return sorted({path for path in paths if path is not None and "://" not in path})

    def recipe_for(self, params: Params, seed: int) -> Recipe:
        """Return the recipe of one trial: its params replace fixed settings, and stages of marks that no stage uses are removed."""
        masked = {stage.name: params.get(f"{stage.name}.masking", getattr(stage, "masking", None)) for stage in self.recipe}
        used = marks_of(self.recipe, lambda stage: masked[stage.name] != "random").values()
        kept = [stage for stage in self.recipe if not isinstance(stage, Marks) or stage.name in used]
        stages = [spaces.with_params(stage.name, stage, params) for stage in kept]
        tasks = {name: task.canonical() for name, task in self.used_tasks.items()}
        data = {"tasks": tasks, "task": self.task, "encoder": self.encoder.canonical(), "stages": stages}
        return validate(Recipe, data | {"seed": seed, "precision": self.precision})

    def on(self, gpus: float) -> Study:
        """Return the study with so many GPUs for a worker: `gpus: auto` as resolved for a machine."""
        return self.model_copy(update={"resources": self.resources.model_copy(update={"gpus": gpus})})

    def execution_for(self, keep_weights: bool) -> Execution:
        """Return the execution settings of a trial with these resources. Raises ValueError while the GPUs are `auto`."""
        resources = self.resources
        if isinstance(resources.gpus, str):
            raise ValueError("resources.gpus is auto: a machine resolves it first")
        return Execution(
            device="cuda" if resources.gpus else "cpu",
            threads=resources.cpus,
            micro_batch=resources.micro_batch,
            gradient_checkpointing=resources.gradient_checkpointing,
            state_every_steps=resources.state_every_steps,
            gpu_share=min(1.0, resources.gpus) or 1.0,
            keep_weights=keep_weights,
        )

    def first_points(self) -> list[Params]:
        """Return the points of `search.first`, completed with the fixed values."""
        return [spaces.complete(point, self.space, self.fixed) for point in self.search.first]

    def label_of(self, params: Params) -> str | None:
        """Return the label of a setting in `search.labels`; None if it has none."""
        if not self.search.labels:
            return None
        return next((label for point, label in zip(self.first_points(), self.search.labels, strict=True) if point == params), None)

    def final_seeds(self) -> tuple[int, ...]:
        """Return the seeds of the finals; the first is the seed of the search's trials."""
        return tuple(range(self.seed, self.seed + self.final.seeds))

    def max_epochs(self) -> int:
        """Return the number of epochs of the longest trial."""
        return int(max(spaces.extremes(f"{self.recipe[-1].name}.epochs", self.space, self.fixed)))

    def identity(self) -> dict[str, Any]:
        """Return the fields that identify the study: all except MAY_CHANGE, unused tasks, and the folders of files."""
        data = {key: value for key, value in self.canonical().items() if key not in MAY_CHANGE}
        tasks = {name: data["tasks"][name] | {"metric": None} for name in self.used_tasks}
        for task in tasks.values():
            if task["test_share"] is None:  # a later field: at its default, older run folders are of the same study
                del task["test_share"]
        tasks[self.task]["metric"] = "error_rate" if self.metric.share else self.metric.name  # both rank alike
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
                data["space"][path]["choice"] = [_short_entries(corpus) for corpus in data["space"][path]["choice"] or ()]
        return data | {"tasks": tasks}

    def digest(self) -> str:
        """Return a hash of the identity: equal for two study files that may share a run folder."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Study) -> list[str]:
        """Return a line for every difference between the identities of two studies; empty for the same study.

        Names of data files and of the encoder's folder do not count: their content is compared when a run is resumed.
        """
        return [f"{path}: {here} here, {there} there" for path, here, there in self._differing(other, names=False)]

    def renamed(self, other: Study) -> list[str]:
        """Return a line for every file or folder that has another name in the other study."""
        return [f"{path}: {there}, was {here}" for path, here, there in self._differing(other, names=True)]

    def _differing(self, other: Study, names: bool) -> Iterator[tuple[str, str, str]]:
        """Yield (path, value here, value there) of differing fields: with `names` file names that both have, else all others."""
        mine, theirs = (dict(_leaves(study.identity())) for study in (self, other))
        for path in dict.fromkeys((*mine, *theirs)):
            both = mine.get(path) is not None and theirs.get(path) is not None
            is_name = both and path.rpartition(".")[2] in PATHS
            if is_name == names and mine.get(path, _ABSENT) != theirs.get(path, _ABSENT):
                yield path, _text(mine, path), _text(theirs, path)

    def to_yaml(self) -> str:
        """Return the whole study with every default as a study file, which loads as an equal study."""
        data = self.canonical()
        data["recipe"] = [{stage.pop("kind"): stage} for stage in data["recipe"]]
        data["space"] = {path: dimension.model_dump(mode="json", exclude_defaults=True) for path, dimension in self.space.items()}
        return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


MAY_CHANGE = ("name", "budget", "final", "resources", "baseline", "store", "track")
"""Fields that may change when a run is resumed. With any other change it is another study and needs another run folder."""
PATHS = ("train", "validation", "test", "folder", "tokenizer")
"""Fields of tasks and encoders that hold paths."""
_ABSENT = object()


class Dumper(yaml.SafeDumper):
    """Writes plain data without aliases that reads back equal: text that looks like a number, such as 2e-5, is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))


def _short_entries(entries: Iterable[str]) -> list[str]:
    """Return the entries of a corpus; text files without their folders."""
    return [corpus_names.short(entry) for entry in entries]


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of everything that is not a mapping."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list) and any(isinstance(item, dict) for item in data):
        yield from _leaves({str(index): item for index, item in enumerate(data)}, path)
    else:
        yield path, data


def _text(leaves: Mapping[str, Any], path: str) -> str:
    return json.dumps(leaves[path], ensure_ascii=False) if path in leaves else "absent"


def corpora(recipe: Iterable[Stage], space: Space) -> dict[str, str]:
    """Return {entry of a corpus that some stage of further pre-training reads: its place in the study file}."""
    return _named(recipe, space, Pretrain, "corpus")


def members(recipe: Iterable[Stage], space: Space) -> dict[str, str]:
    """Return {task that some multi-task stage is trained on: its place in the study file}."""
    return _named(recipe, space, Multitask, "tasks")


def _named(recipe: Iterable[Stage], space: Space, kind: type[Settings], field: str) -> dict[str, str]:
    """Return {entry of this field in the stages of a kind: its place in the study file}."""
    places: dict[str, str] = {}
    for index, stage in enumerate(recipe):
        if isinstance(stage, kind):
            places |= dict.fromkeys(getattr(stage, field), f"recipe.{index}.{stage.kind}.{field}")
            path = f"{stage.name}.{field}"
            choices = (space[path].choice or ()) if path in space else ()
            places |= {str(name): f"space.{path}" for names in choices if isinstance(names, tuple) for name in names}
    return places


def takes_all(recipe: Iterable[Stage], space: Space) -> bool:
    """Return whether some multi-task stage can be trained on all tasks."""
    fixed = spaces.fixed_values({stage.name: stage for stage in recipe})
    paths = [f"{stage.name}.tasks" for stage in recipe if isinstance(stage, Multitask)]
    return any(not names for path in paths for names in spaces.extremes(path, space, fixed))
