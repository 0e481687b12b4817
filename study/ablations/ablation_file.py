"""Ablations as data: a grid of settings x tasks x seeds with the published cells it answers to. Imports no torch, ray or optuna."""

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
"""The stages of a recipe as a study file has them; in a file a named recipe may stand for them."""


class Source(Settings):
    """The published table that an ablation answers to."""

    paper: Name
    """Name of the csv in `analysis/published`."""
    table: Name
    """Table or figure, as that csv calls it."""
    rows: Literal["settings", "tasks"] = "settings"
    """What the rows of the published table are; its columns are the other."""


class AblationTask(Task):
    """A task of an ablation: `known: NAME`, or where the data lie as in a study file; both where you bring a known set by hand."""

    known: str | None = None
    """Name in the table of known tasks."""
    published: str | None = None
    """What the published table calls it; null: its own name."""
    target: bool = True
    """Whether it is fine-tuned and evaluated, and not only read as a corpus."""
    corpora: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Corpora that differ from task to task, {name: files, URLs or tasks}: settings name them as entries of a `corpus`. An empty
    list is one that you have to give."""
    stands_for: str | None = None
    """In a scale: the ablation's task in whose place it is; corpora, stages and claims that name that task then mean this one."""

    @model_validator(mode="after")
    def _one_source(self) -> AblationTask:
        given = [name for name in ("train", "folder", "hub") if getattr(self, name) is not None]
        if len(given) > 1 or (not given and self.known is None):
            raise ValueError(f"a task needs `known` or exactly one of train, folder, hub; given: {', '.join(given) or 'none'}")
        return self

    @property
    def brought(self) -> bool:
        """Whether the data are where the file says, and not where the table of known tasks says."""
        return any(getattr(self, name) is not None for name in ("train", "folder", "hub"))

    def task(self) -> Task:
        """The task as a study has it. Raises ConfigError for a known one that has to be brought by hand, with how to do that."""
        from trainables.data.known_tasks import TABLE, resolve

        if not self.brought:
            known = resolve(str(self.known))
            return known if self.domain is None else known.model_copy(update={"domain": self.domain})
        own = {name: value for name, value in self.canonical().items() if name in Task.model_fields}
        if self.known in TABLE and self.domain is None:
            own["domain"] = TABLE[str(self.known)].domain
        return validate(Task, own)


class Setting(Settings):
    """One row of the table, or one cell of it where `column` is given."""

    row: Name
    """Name of the row, as published."""
    column: str | None = None
    """Name of the column, as published, in a table whose columns are not tasks."""
    set: Values = Field(default_factory=dict)
    """What it changes in the recipe: {`<stage name>.<field>`: value}."""
    recipe: Stages | None = None
    """A recipe of its own; null: the ablation's."""
    encoder: Encoder | None = None
    """An encoder of its own; null: the task's, or the ablation's."""
    tasks: tuple[str, ...] = ()
    """Tasks on which it is run; empty: all."""
    table: str | None = None
    """The published table of this row where it is not the ablation's."""

    @property
    def label(self) -> str:
        """What trials of this setting are called in records: `row` or `row | column`."""
        return self.row if self.column is None else f"{self.row} | {self.column}"


class Place(Settings):
    """Where a setting stands in the table."""

    row: Name
    """Its row."""
    column: str | None = None
    """Its column, in a table whose columns are not tasks."""

    @property
    def label(self) -> str:
        """The setting's label."""
        return self.row if self.column is None else f"{self.row} | {self.column}"


class Claim(Settings):
    """What the paper says its table shows: one setting is better than another. It gets a verdict."""

    says: Name
    """The claim in a few words."""
    better: Place
    """The setting that is said to have fewer errors."""
    worse: Place
    """The setting that is said to have more."""
    tasks: tuple[str, ...] = ()
    """Tasks of which it is said; empty: of all."""


class SettingChange(Settings):
    """What a scale changes in one setting."""

    set: Values = Field(default_factory=dict)
    """Over the setting's own."""
    encoder: Encoder | None = None
    """In place of the setting's own."""


class Scale(Settings):
    """What a scale changes in the ablation as published."""

    says: str | None = None
    """What is worth knowing beside the list of changes, which is made by comparison."""
    tasks: dict[str, AblationTask] | None = None
    """These tasks in place of the ablation's."""
    encoder: Encoder | None = None
    """In place of the ablation's, for all tasks."""
    set: Values = Field(default_factory=dict)
    """Changes of every recipe that has the stage; the settings' own stand over them."""
    settings: dict[str, SettingChange] = Field(default_factory=dict)
    """Changes of single settings, by label: `row` or `row | column`."""
    keep: tuple[str, ...] | None = None
    """Labels of the settings that are run; null: all."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """Seeds of every cell."""


class Ablation(Settings):
    """A grid of settings x tasks x seeds, and what was published about it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the ablation; the run folder is `runs/NAME-SCALE`."""
    title: Name
    """What it is about, in a few words."""
    source: Source | None = None
    """The published table; null where there is none."""
    tasks: dict[str, AblationTask]
    """Data sets by name."""
    encoder: Encoder
    """Where training starts."""
    encoders: dict[str, Encoder] = Field(default_factory=dict)
    """Encoders of single tasks, {task: encoder}."""
    recipe: Stages = ({"finetune": {}},)
    """The stages of all settings, as in a study file."""
    settings: tuple[Setting, ...] = ()
    """The rows of the table, or its cells."""
    layout: Literal["table", "curve"] = "table"
    """How results are shown: as a table, or as curves, over `x` or, without one, over the epochs."""
    x: str | None = None
    """The path whose values are the horizontal axis of a curve."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Seeds of every cell, counted up from `seed`."""
    seed: int = 0
    """The first seed."""
    precision: Precision = "auto"
    """Arithmetic of matrix products."""
    resources: Resources | None = None
    """What one trial gets; null: a GPU where this machine has one."""
    claims: tuple[Claim, ...] = ()
    """What the paper says its table shows."""
    notes: tuple[str, ...] = ()
    """What the paper leaves unsaid, or contradicts itself in."""
    scales: dict[Literal["paper", "small", "smoke"], Scale] = Field(default_factory=dict)
    """Smaller forms of it. `paper` changes nothing, and is always there."""
    statistics: bool = False
    """Statistics of the tasks' texts in place of training: there are no settings then."""

    @property
    def targets(self) -> dict[str, AblationTask]:
        """The tasks that are columns of the table."""
        return {name: task for name, task in self.tasks.items() if task.target}

    def encoder_of(self, task: str, setting: Setting | None = None) -> Encoder:
        """Where training of a cell starts."""
        own = setting.encoder if setting is not None else None
        return own or self.encoders.get(task) or self.encoder


@dataclass(frozen=True)
class Loaded:
    """An ablation, and the folder that its relative paths are relative to."""

    ablation: Ablation
    folder: Path


def shipped() -> list[str]:
    """Names of the ablations that come with the package, in the order of the papers."""
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    return sorted(names, key=lambda name: (not name[-1].isdigit(), name[-1], name))


def is_ablation(name: str | Path) -> bool:
    """Whether a name or file is an ablation, and not a study."""
    path = Path(name)
    if str(name) in shipped():
        return True
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    data = read_yaml(path)
    return isinstance(data, dict) and ("settings" in data or "statistics" in data)


def load(name: str | Path) -> Loaded:
    """A shipped ablation by name, or one from a file.

    Raises ConfigError with every fault: the path in the file, the value given, what is allowed, the near miss.
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
    """An ablation from plain data. Raises ConfigError with every fault."""
    return ablation_of(written_out(data))


def written_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with known tasks and the papers' recipes, which a file may name, written out. Raises ConfigError."""
    plain: dict[str, Any] = json.loads(json.dumps(data, default=str))
    tasks = plain.get("tasks")
    if isinstance(tasks, list):
        plain["tasks"] = tasks = dict.fromkeys(map(str, tasks), "known")
    for each in (tasks, *(scale.get("tasks") for scale in _mappings(plain.get("scales")))):
        _expand_known(each)
    if faults := list(_expand_recipes(plain)):
        raise ConfigError(faults)
    return plain


def ablation_of(data: Mapping[str, Any]) -> Ablation:
    """An ablation from whole plain data. Raises ConfigError with every fault."""
    made = validate(Ablation, data)
    if faults := list(dict.fromkeys(_faults(made))):
        raise ConfigError(faults)
    return made


def _mappings(data: Any) -> list[dict[str, Any]]:
    return [each for each in data.values() if isinstance(each, dict)] if isinstance(data, dict) else []


def _expand_known(tasks: Any) -> None:
    """`NAME: known` as `NAME: {known: NAME}`."""
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        if task == "known":
            tasks[name] = {"known": name}


def _expand_recipes(data: dict[str, Any]) -> Iterator[str]:
    """Write out recipes that are given by their names."""
    settings = data.get("settings")
    places = [("", data)]
    places += [(f"settings.{i}.", each) for i, each in enumerate(settings if isinstance(settings, list) else ())]
    for place, holder in places:
        if isinstance(holder, dict) and isinstance(holder.get("recipe"), str | dict):
            _, holder["recipe"], faults = stages_of(holder["recipe"])
            yield from (place + fault for fault in faults)


def apply_override(data: dict[str, Any], text: str) -> Iterator[str]:
    """Set one `path=value` of the ablation's own fields in the raw data."""
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


def _faults(made: Ablation) -> Iterator[str]:
    """Faults between the fields of an ablation."""
    labels = [setting.label for setting in made.settings]
    if made.statistics and made.settings:
        yield "settings: statistics train nothing; leave settings out, or statistics"
    if not made.statistics and not made.settings:
        yield "settings: missing; give rows, or statistics: true"
    yield from (f"settings: two are called {label!r}" for label in sorted({each for each in labels if labels.count(each) > 1}))
    if not made.targets:
        yield "tasks: none is a target"
    yield from (
        f"encoders.{name}: no task is called {name!r}{near(name, made.tasks)}" for name in set(made.encoders) - {*made.tasks}
    )
    yield from _known_faults(made.tasks, "tasks")
    yield from _claim_faults(made, labels)
    for setting in made.settings:
        for name in setting.tasks:
            if name not in made.tasks:
                yield f"settings: {setting.label}: tasks: no task is called {name!r}{near(name, made.tasks)}"
    if made.x is not None and made.layout != "curve":
        yield f"x: {made.x!r} is the axis of a curve, but layout is {made.layout}"
    if made.source is not None:
        papers = {path.stem for path in PUBLISHED.glob("*.csv")}
        if papers and made.source.paper not in papers:
            yield f"source.paper: no published numbers of {made.source.paper!r}{near(made.source.paper, papers)}"
        elif papers and made.source.table not in (tables := _tables(made.source.paper)):
            yield f"source.table: {made.source.paper} has no {made.source.table!r}{near(made.source.table, tables)}"
    for name, scale in made.scales.items():
        yield from _scale_faults(made, scale, labels, f"scales.{name}")


def _tables(paper: str) -> frozenset[str]:
    """The published tables of a paper."""
    with open(PUBLISHED / f"{paper}.csv", encoding="utf-8", newline="") as file:
        return frozenset(row["table"] for row in csv.DictReader(file))


def _known_faults(tasks: Mapping[str, AblationTask], place: str) -> Iterator[str]:
    from trainables.data.known_tasks import TABLE

    for name, task in tasks.items():
        if task.known is not None and task.known not in TABLE:
            yield f"{place}.{name}.known: no known task is called {task.known!r}{near(task.known, TABLE)}"


def _claim_faults(made: Ablation, labels: list[str]) -> Iterator[str]:
    for index, claim in enumerate(made.claims):
        for side in ("better", "worse"):
            label = getattr(claim, side).label
            if label not in labels:
                yield f"claims.{index}.{side}: no setting is called {label!r}{near(label, labels)}"
        for name in claim.tasks:
            if name not in made.targets:
                yield f"claims.{index}.tasks: no task is called {name!r}{near(name, made.targets)}"
        if claim.better.label == claim.worse.label:
            yield f"claims.{index}: {claim.better.label!r} is compared with itself"


def _scale_faults(made: Ablation, scale: Scale, labels: list[str], place: str) -> Iterator[str]:
    for field in ("keep", "settings"):
        for label in getattr(scale, field) or ():
            if label not in labels:
                yield f"{place}.{field}: no setting is called {label!r}{near(label, labels)}"
    for name, task in (scale.tasks or {}).items():
        if task.stands_for is not None and task.stands_for not in made.tasks:
            yield f"{place}.tasks.{name}.stands_for: no task is called {task.stands_for!r}{near(task.stands_for, made.tasks)}"
    yield from _known_faults(scale.tasks or {}, f"{place}.tasks")
    if scale.tasks is not None and not any(task.target for task in scale.tasks.values()):
        yield f"{place}.tasks: none is a target"
