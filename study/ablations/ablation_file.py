"""The models of an ablation file, a grid of settings x tasks x seeds to compare with a published table. No torch, ray, optuna."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from study.definition.models import Resources
from study.definition.recipes import stages_of
from study.definition.space import Value
from trainables.settings.base import Settings
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError, near
from trainables.settings.execution import Precision
from trainables.settings.plain_yaml import parse_yaml, read_yaml
from trainables.settings.task import Task
from trainables.settings.validate import validate

FOLDER = Path(__file__).parents[1] / "configs" / "ablations"
PUBLISHED = Path(__file__).parents[2] / "analysis" / "published"
SCALES = ("paper", "small", "smoke")
Name = Annotated[str, Field(min_length=1)]
Values = dict[str, Value | None]
"""{`<stage name>.<field>`: value}."""
Stages = tuple[dict[str, dict[str, Any] | None], ...]
"""The stages of a recipe, as in a study file; a file may also give the name of a recipe."""


class PublishedTable(Settings):
    """The published table that an ablation is compared with."""

    paper: Name
    """Name of the csv in `analysis/published`."""
    table: Name
    """Name of the table or figure in that csv."""
    rows: Literal["settings", "tasks"] = "settings"
    """Whether the rows of the published table are settings or tasks; its columns are the other."""


class AblationTask(Task):
    """A task of an ablation: `known: NAME`, or the place of the data as in a study file; both for a known set brought by hand."""

    known: str | None = None
    """Name in the table of known tasks."""
    published: str | None = None
    """Its name in the published table; null: its own name."""
    target: bool = True
    """Whether it is fine-tuned and evaluated, or only read as a corpus."""
    corpora: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Corpora that differ from task to task, {name: files, URLs or tasks}: settings name them as entries of a `corpus`. An empty
    list must be filled by the user."""
    stands_for: str | None = None
    """In a scale: the task of the ablation that it replaces, also in corpora, stages and claims."""

    @model_validator(mode="after")
    def _one_source(self) -> AblationTask:
        places = [name for name in ("train", "folder", "hub") if getattr(self, name) is not None]
        if len(places) > 1 or (not places and self.known is None):
            raise ValueError(f"a task needs `known` or exactly one of train, folder, hub; given: {', '.join(places) or 'none'}")
        return self

    @property
    def brought(self) -> bool:
        """Whether the file gives the place of the data, rather than the table of known tasks."""
        return any(getattr(self, name) is not None for name in ("train", "folder", "hub"))

    def task(self) -> Task:
        """Return the task for a study. Raises ConfigError with instructions for a known one that must be brought by hand."""
        from trainables.data.known_tasks import TABLE, resolve

        if not self.brought:
            known = resolve(str(self.known))
            return known if self.domain is None else known.model_copy(update={"domain": self.domain})
        own = {name: value for name, value in self.canonical().items() if name in Task.model_fields}
        if self.known in TABLE and self.domain is None:
            own["domain"] = TABLE[str(self.known)].domain
        return validate(Task, own)


class AblationSetting(Settings):
    """One row of the table, or with `column` one cell of it."""

    row: Name
    """Name of the row, as published."""
    column: str | None = None
    """Name of the column, as published, in a table whose columns are not tasks."""
    set: Values = Field(default_factory=dict)
    """Its changes to the recipe: {`<stage name>.<field>`: value}."""
    recipe: Stages | None = None
    """Its own recipe; null: the ablation's."""
    encoder: Encoder | None = None
    """Its own encoder; null: the task's, or the ablation's."""
    tasks: tuple[str, ...] = ()
    """Tasks on which it is run; empty: all."""
    table: str | None = None
    """The published table of this row; null: the ablation's."""

    @property
    def label(self) -> str:
        """Label of its trials in records: `row` or `row | column`."""
        return self.row if self.column is None else f"{self.row} | {self.column}"


class TablePlace(Settings):
    """The place of a setting in the table."""

    row: Name
    """Its row."""
    column: str | None = None
    """Its column, in a table whose columns are not tasks."""

    @property
    def label(self) -> str:
        """The setting's label."""
        return self.row if self.column is None else f"{self.row} | {self.column}"


class AblationClaim(Settings):
    """A claim of the paper on its table, that one setting is better than another. It gets a verdict."""

    says: Name
    """The claim in a few words."""
    better: TablePlace
    """The setting claimed to be better."""
    worse: TablePlace
    """The setting claimed to be worse."""
    tasks: tuple[str, ...] = ()
    """Tasks that it is about; empty: all."""


class SettingChange(Settings):
    """Changes of a scale to one setting."""

    set: Values = Field(default_factory=dict)
    """Values that override the setting's own."""
    encoder: Encoder | None = None
    """Encoder that replaces the setting's own."""


class Scale(Settings):
    """Changes of a scale to the published ablation."""

    says: str | None = None
    """A remark beside the list of changes, which is generated by comparison."""
    tasks: dict[str, AblationTask] | None = None
    """Tasks that replace the ablation's."""
    encoder: Encoder | None = None
    """Encoder that replaces the ablation's, for all tasks."""
    set: Values = Field(default_factory=dict)
    """Changes to every recipe that has the stage; the settings' own values override them."""
    settings: dict[str, SettingChange] = Field(default_factory=dict)
    """Changes to single settings, by label: `row` or `row | column`."""
    keep: tuple[str, ...] | None = None
    """Labels of the settings that are run; null: all."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """Number of seeds of every cell."""


class Ablation(Settings):
    """A grid of settings x tasks x seeds, with its published source and claims."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the ablation; the run folder is `runs/NAME-SCALE`."""
    title: Name
    """Its subject in a few words."""
    source: PublishedTable | None = None
    """The published table; null without one."""
    tasks: dict[str, AblationTask]
    """Data sets by name."""
    encoder: Encoder
    """The encoder that training starts from."""
    encoders: dict[str, Encoder] = Field(default_factory=dict)
    """Encoders of single tasks, {task: encoder}."""
    recipe: Stages = ({"finetune": {}},)
    """The stages of all settings, as in a study file."""
    settings: tuple[AblationSetting, ...] = ()
    """The rows of the table, or its cells."""
    layout: Literal["table", "curve"] = "table"
    """Form of the results: a table, or curves over `x`, without `x` over the epochs."""
    x: str | None = None
    """The path whose values are the horizontal axis of a curve."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Number of seeds of every cell, counted up from `seed`."""
    seed: int = 0
    """The first seed."""
    precision: Precision = "auto"
    """Arithmetic of matrix products."""
    resources: Resources | None = None
    """Resources of one trial; null: a GPU if this machine has one."""
    session_hours: Annotated[float, Field(gt=0)] | None = None
    """The command stops after so many hours as at Ctrl-C, exit code 130; the same command resumes. null: no limit."""
    claims: tuple[AblationClaim, ...] = ()
    """Claims of the paper on its table."""
    notes: tuple[str, ...] = ()
    """Gaps and contradictions in the paper."""
    scales: dict[Literal["paper", "small", "smoke"], Scale] = Field(default_factory=dict)
    """Its smaller forms. `paper` changes nothing and always exists."""
    statistics: bool = False
    """Whether to compute statistics of the tasks' texts instead of training; then there are no settings."""

    @property
    def targets(self) -> dict[str, AblationTask]:
        """The tasks that are columns of the table."""
        return {name: task for name, task in self.tasks.items() if task.target}

    def encoder_of(self, task: str, setting: AblationSetting | None = None) -> Encoder:
        """Return the encoder that training of a cell starts from."""
        own = setting.encoder if setting is not None else None
        return own or self.encoders.get(task) or self.encoder


@dataclass(frozen=True)
class Loaded:
    """An ablation, and the folder that its relative paths are relative to."""

    ablation: Ablation
    folder: Path


def shipped() -> list[str]:
    """Return the names of the ablations in the package, in the order of the papers."""
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    return sorted(names, key=lambda name: (not name[-1].isdigit(), name[-1], name))


def is_ablation(name: str | Path) -> bool:
    """Whether a name or file is an ablation rather than a study."""
    path = Path(name)
    if str(name) in shipped():
        return True
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    data = read_yaml(path)
    return isinstance(data, dict) and ("settings" in data or "statistics" in data)


def load(name: str | Path) -> Loaded:
    """Load a shipped ablation by name, or one from a file.

    Raises ConfigError with every fault: the path in the file, the value given, the allowed values, the near miss.
    """
    if str(name) in shipped():
        source, folder = FOLDER / f"{name}.yaml", Path.cwd()
    elif Path(name).suffix in (".yaml", ".yml"):
        source, folder = Path(name), Path(name).absolute().parent
    else:
        raise ConfigError([f"{str(name)!r} is neither an ablation nor a file NAME.yaml{near(str(name), shipped())}"])
    data = read_yaml(source)
    if not isinstance(data, dict):
        raise ConfigError([f"{source}: {'empty' if data is None else 'an ablation is a mapping of fields to values'}"])
    return Loaded(parse(data), folder)


def parse(data: Mapping[str, Any]) -> Ablation:
    """Parse an ablation from plain data. Raises ConfigError with every fault."""
    return ablation_of(written_out(data))


def written_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data with the names of known tasks and of the papers' recipes expanded. Raises ConfigError."""
    plain: dict[str, Any] = json.loads(json.dumps(data, default=str))
    tasks = plain.get("tasks")
    if isinstance(tasks, list):
        plain["tasks"] = tasks = dict.fromkeys(map(str, tasks), "known")
    for group in (tasks, *(scale.get("tasks") for scale in _mappings(plain.get("scales")))):
        _expand_known(group)
    if faults := list(_expand_recipes(plain)):
        raise ConfigError(faults)
    return plain


def ablation_of(data: Mapping[str, Any]) -> Ablation:
    """Return the ablation of expanded plain data. Raises ConfigError with every fault."""
    ablation = validate(Ablation, data)
    if faults := list(dict.fromkeys(_faults(ablation))):
        raise ConfigError(faults)
    return ablation


def _mappings(data: Any) -> list[dict[str, Any]]:
    return [value for value in data.values() if isinstance(value, dict)] if isinstance(data, dict) else []


def _expand_known(tasks: Any) -> None:
    """Expand `NAME: known` to `NAME: {known: NAME}`."""
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        if task == "known":
            tasks[name] = {"known": name}


def _expand_recipes(data: dict[str, Any]) -> Iterator[str]:
    """Expand recipes given by name; yield the faults."""
    settings = data.get("settings")
    places = [("", data)]
    places += [(f"settings.{i}.", setting) for i, setting in enumerate(settings if isinstance(settings, list) else ())]
    for place, holder in places:
        if isinstance(holder, dict) and isinstance(holder.get("recipe"), str | dict):
            _, holder["recipe"], faults = stages_of(holder["recipe"])
            yield from (place + fault for fault in faults)


def apply_override(data: dict[str, Any], text: str) -> Iterator[str]:
    """Set one `path=value` of the ablation's own fields in the raw data; yield the faults."""
    path, _, value = text.partition("=")
    keys, at = path.split("."), data
    try:
        for key in keys[:-1]:
            if at.get(key) is None:
                at[key] = {}
            at = at[key]
        at[keys[-1]] = parse_yaml(value, f"--set {path}", path)
    except ConfigError as error:
        yield from error.faults
    except (AttributeError, TypeError):
        yield f"--set {text}: there is nothing at {path} to set"


# Faults --------------------------------------------------------------------------------------------------------------------------


def _faults(ablation: Ablation) -> Iterator[str]:
    """Faults between the fields of an ablation."""
    labels = [setting.label for setting in ablation.settings]
    if ablation.statistics and ablation.settings:
        yield "settings: statistics train nothing; leave settings out, or statistics"
    if not ablation.statistics and not ablation.settings:
        yield "settings: missing; give rows, or statistics: true"
    yield from (f"settings: two are called {label!r}" for label in sorted({name for name in labels if labels.count(name) > 1}))
    if not ablation.targets:
        yield "tasks: none is a target"
    yield from (
        f"encoders.{name}: no task is called {name!r}{near(name, ablation.tasks)}"
        for name in set(ablation.encoders) - {*ablation.tasks}
    )
    yield from _known_faults(ablation.tasks, "tasks")
    yield from _claim_faults(ablation, labels)
    for setting in ablation.settings:
        for name in setting.tasks:
            if name not in ablation.tasks:
                yield f"settings: {setting.label}: tasks: no task is called {name!r}{near(name, ablation.tasks)}"
    if ablation.x is not None and ablation.layout != "curve":
        yield f"x: {ablation.x!r} is the axis of a curve, but layout is {ablation.layout}"
    if ablation.source is not None:
        papers = {path.stem for path in PUBLISHED.glob("*.csv")}
        if papers and ablation.source.paper not in papers:
            yield f"source.paper: no published numbers of {ablation.source.paper!r}{near(ablation.source.paper, papers)}"
        elif papers and ablation.source.table not in (tables := _tables(ablation.source.paper)):
            yield f"source.table: {ablation.source.paper} has no {ablation.source.table!r}{near(ablation.source.table, tables)}"
    for name, scale in ablation.scales.items():
        yield from _scale_faults(ablation, scale, labels, f"scales.{name}")


def _tables(paper: str) -> frozenset[str]:
    """The published tables of a paper."""
    with open(PUBLISHED / f"{paper}.csv", encoding="utf-8", newline="") as file:
        return frozenset(row["table"] for row in csv.DictReader(file))


def _known_faults(tasks: Mapping[str, AblationTask], place: str) -> Iterator[str]:
    from trainables.data.known_tasks import TABLE

    for name, task in tasks.items():
        if task.known is not None and task.known not in TABLE:
            yield f"{place}.{name}.known: no known task is called {task.known!r}{near(task.known, TABLE)}"


def _claim_faults(ablation: Ablation, labels: list[str]) -> Iterator[str]:
    for index, claim in enumerate(ablation.claims):
        for side in ("better", "worse"):
            label = getattr(claim, side).label
            if label not in labels:
                yield f"claims.{index}.{side}: no setting is called {label!r}{near(label, labels)}"
        for name in claim.tasks:
            if name not in ablation.targets:
                yield f"claims.{index}.tasks: no task is called {name!r}{near(name, ablation.targets)}"
        if claim.better.label == claim.worse.label:
            yield f"claims.{index}: {claim.better.label!r} is compared with itself"


def _scale_faults(ablation: Ablation, scale: Scale, labels: list[str], place: str) -> Iterator[str]:
    for field in ("keep", "settings"):
        for label in getattr(scale, field) or ():
            if label not in labels:
                yield f"{place}.{field}: no setting is called {label!r}{near(label, labels)}"
    for name, task in (scale.tasks or {}).items():
        if task.stands_for is not None and task.stands_for not in ablation.tasks:
            yield f"{place}.tasks.{name}.stands_for: no task is called {task.stands_for!r}{near(task.stands_for, ablation.tasks)}"
    yield from _known_faults(scale.tasks or {}, f"{place}.tasks")
    if scale.tasks is not None and not any(task.target for task in scale.tasks.values()):
        yield f"{place}.tasks: none is a target"
