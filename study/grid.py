"""An ablation at a scale, as studies: one for each task, encoder and recipe. Imports no torch, ray or optuna."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from study.ablations import SCALES, Ablation, AblationTask, Loaded, Scale, Setting, ablation_of, apply_override, written_out
from study.config import load_study
from study.estimate import encoder_name
from study.settings import STAGE_KINDS, Dumper, Study
from study.space import shown
from study.workers import this_machine
from trainables import corpus_names
from trainables.config import Encoder, Task
from trainables.faults import ConfigError, near, parse_yaml, validate
from trainables.tasks import TABLE

Data = dict[str, Any]
LISTS = ("corpus", "tasks")
"""Fields of stages that name tasks."""


@dataclass(frozen=True)
class Part:
    """One study of an ablation."""

    folder: str
    """Its run folder within the ablation's."""
    task: str
    settings: tuple[int, ...]
    """Places in the ablation's settings, in the order of the study's points."""
    study: Study


@dataclass(frozen=True)
class Grid:
    """An ablation as it is run: the scale applied, everything resolved."""

    ablation: Ablation
    """Without scales: these settings on these tasks over these seeds."""
    scale: str
    says: str | None
    changes: tuple[str, ...]
    """What is not as published, a line each."""
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """`table2-smoke`."""
        return f"{self.ablation.name}-{self.scale}"

    def to_yaml(self) -> str:
        """Everything that tables are made of beside the records."""
        data = self.ablation.canonical()
        del data["scales"], data["resources"]
        for name, task in self.ablation.tasks.items():
            data["tasks"][name] = task.model_dump(mode="json", exclude_defaults=True) | {"target": task.target}
        data["encoder"], data["encoders"] = _given(data["encoder"]), {k: _given(v) for k, v in data["encoders"].items()}
        data["settings"] = [_given(setting | {"encoder": _given(setting["encoder"])}) for setting in data["settings"]]
        data |= {"scale": self.scale, "says": self.says, "changes": list(self.changes)}
        data["studies"] = [{"folder": p.folder, "task": p.task, "settings": list(p.settings)} for p in self.parts]
        return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def _given(data: Data | None) -> Data:
    return {key: value for key, value in (data or {}).items() if value not in (None, {}, [])}


def grid(
    loaded: Loaded,
    scale: str = "small",
    tasks: Sequence[str] = (),
    seeds: int | None = None,
    encoder: Encoder | None = None,
    overrides: Iterable[str] = (),
    placeholders: bool = False,
) -> Grid:
    """An ablation at a scale, on some of its tasks, with other seeds, another encoder or other settings.

    `overrides` are `path=value`, of the ablation's own fields or of stages (`finetune.epochs=2`). With `placeholders` data sets
    that have to be brought by hand stand there without data, for a plan. Raises ConfigError with every fault.
    """
    published = loaded.ablation
    chosen = _scale(published, scale)
    data, faults = _scaled(published, chosen, encoder, seeds), list[str]()
    stage_values = {path: json.loads(json.dumps(value)) for path, value in chosen.set.items()}
    for text in overrides:
        if text.partition("=")[0].partition(".")[0] in Ablation.model_fields:
            faults += apply_override(data, text)
        else:
            faults += _stage_override(stage_values, text)
    if faults:
        raise ConfigError(faults)
    data = validate(Ablation, written_out(data)).canonical()
    _rename(data, published)
    faults += _only(data, tasks)
    faults += _set_in_recipes(data, stage_values)
    _fitting_claims(data)
    if faults:
        raise ConfigError(faults)
    made = ablation_of(data)
    parts = tuple(_parts(made, loaded.folder, placeholders))
    return Grid(made, scale, chosen.says, tuple(_changes(published, made)), parts)


# The scale -----------------------------------------------------------------------------------------------------------------------


def _scale(published: Ablation, name: str) -> Scale:
    known = [scale for scale in SCALES if scale == "paper" or scale in published.scales]
    if name not in known:
        raise ConfigError([f"--scale {name}: {published.name} has no such scale{near(name, known)}"])
    return published.scales.get(name, Scale())  # type: ignore[call-overload, no-any-return]


def _scaled(published: Ablation, scale: Scale, encoder: Encoder | None, seeds: int | None) -> Data:
    """Plain data of the ablation with what the scale replaces as a whole."""
    data = published.canonical()
    data["scales"] = {}
    if scale.tasks is not None:
        data["tasks"] = {name: task.canonical() for name, task in scale.tasks.items()}
    replacing = encoder or scale.encoder
    if replacing is not None:
        data |= {"encoder": replacing.canonical(), "encoders": {}}
    data["seeds"] = seeds or scale.seeds or published.seeds
    data["settings"] = [
        _changed(setting, scale) for setting in published.settings if scale.keep is None or setting.label in scale.keep
    ]
    return data


def _changed(setting: Setting, scale: Scale) -> Data:
    data = setting.canonical()
    change = scale.settings.get(setting.label)
    if change is not None:
        plain = change.canonical()
        data["set"] = data["set"] | plain["set"]
        data["encoder"] = plain["encoder"] or data["encoder"]
    return data


def _stage_override(values: Data, text: str) -> Iterator[str]:
    path, equals, value = text.partition("=")
    if not equals or path.count(".") != 1:
        yield f"--set {text}: expected path=value, such as finetune.epochs=2 or resources.gpus=1"
        return
    try:
        values[path.strip()] = parse_yaml(value, f"--set {path}", path.strip())
    except ConfigError as error:
        yield from error.faults


def _renaming(data: Data, published: Ablation) -> Callable[[Any], Any]:
    """A function from lists of names of published tasks to those that stand for them; tasks that are gone are left out."""
    tasks = data["tasks"]
    names = {task["stands_for"]: name for name, task in tasks.items() if task.get("stands_for")}
    gone = {name for name in published.tasks if name not in names and name not in tasks}

    def renamed(entries: Any) -> Any:
        if not isinstance(entries, list):
            return entries
        return [names.get(each, each) for each in entries if each not in gone]

    return renamed


def _rename(data: Data, published: Ablation) -> None:
    """Tasks that stand for others take their published names and their places in corpora, stages and claims."""
    renamed = _renaming(data, published)
    gone = set(published.tasks) - set(data["tasks"])
    data["encoders"] = {name: encoder for name, encoder in data["encoders"].items() if name not in gone}
    for task in data["tasks"].values():
        old = published.tasks.get(task.get("stands_for"))
        if old is not None:
            task["published"] = task.get("published") or old.published
            task["corpora"] = task.get("corpora") or old.canonical()["corpora"]
        task["corpora"] = {name: renamed(entries) for name, entries in task["corpora"].items()}
    for stage in (stage for recipe in _recipes(data) for _, stage in recipe):
        stage |= {field: renamed(stage[field]) for field in LISTS if field in stage}
    for setting in data["settings"]:
        setting["set"] |= {path: renamed(value) for path, value in setting["set"].items() if path.rpartition(".")[2] in LISTS}
    data["settings"] = [each for each in data["settings"] if not each["tasks"] or renamed(each["tasks"])]
    data["claims"] = [each for each in data["claims"] if not each["tasks"] or renamed(each["tasks"])]
    for each in (*data["settings"], *data["claims"]):
        each["tasks"] = renamed(each["tasks"])


def _only(data: Data, wanted: Sequence[str]) -> Iterator[str]:
    """Leave all but these targets out of the table; their texts may still be read."""
    tasks = data["tasks"]
    names = {task["stands_for"]: name for name, task in tasks.items() if task.get("stands_for")}
    targets = [name for name, task in tasks.items() if task.get("target", True)]
    chosen = [names.get(name, name) for name in wanted]
    for name in chosen:
        if name not in targets:
            yield f"--tasks {name}: no task is called that{near(name, targets)}"
    for name in targets:
        tasks[name]["target"] = not chosen or name in chosen


def _recipes(data: Data) -> Iterator[list[tuple[str, Data]]]:
    """(name, settings) of the stages of each recipe in the raw data; the settings are the ones in there."""
    for holder in (data, *data["settings"]):
        stages: list[tuple[str, Data]] = []
        for entry in holder["recipe"] or ():
            for kind in entry:
                entry[kind] = entry[kind] or {}
                stages.append((str(entry[kind].get("name", kind)), entry[kind]))
        yield stages


def _set_in_recipes(data: Data, values: Mapping[str, Any]) -> Iterator[str]:
    """Write values into every recipe that has the stage."""
    found: set[str] = set()
    for recipe in _recipes(data):
        found.update(name for name, _ in recipe)
        for name, stage in recipe:
            stage |= {path.partition(".")[2]: value for path, value in values.items() if path.partition(".")[0] == name}
    for path in values:
        if path.partition(".")[0] not in found:
            hint = near(path.partition(".")[0], [*found, *Ablation.model_fields])
            yield f"--set {path}: no recipe has a stage of that name{hint}"


def _label(place: Data) -> str:
    return str(place["row"] if place.get("column") is None else f"{place['row']} | {place['column']}")


def _fitting_claims(data: Data) -> None:
    """Drop claims about settings or tasks that are not run."""
    labels = set(map(_label, data["settings"]))
    targets = {name for name, task in data["tasks"].items() if task.get("target", True)}
    kept = []
    for claim in data["claims"]:
        tasks = [name for name in claim["tasks"] if name in targets]
        if {_label(claim["better"]), _label(claim["worse"])} <= labels and (tasks or not claim["tasks"]):
            kept.append(claim | {"tasks": tasks})
    data["claims"] = kept


# What it changes -----------------------------------------------------------------------------------------------------------------


def _changes(published: Ablation, made: Ablation) -> Iterator[str]:
    """What is not as published, a line each."""
    yield from _task_changes(published, made)
    yield from _encoder_changes(published, made)
    values: dict[str, list[str]] = {}
    for path, old, new in _value_changes(published, made):
        values.setdefault(path, []).append(f"{shown(old)} -> {shown(new)}")
    yield from (f"{path}: {', '.join(dict.fromkeys(pairs))}" for path, pairs in values.items())
    labels = {setting.label for setting in made.settings}
    dropped = [setting.row for setting in published.settings if setting.label not in labels]
    if dropped:
        out = list(dict.fromkeys(dropped))
        more = f" and {len(out) - 4} more" if len(out) > 4 else ""
        yield f"{len(made.settings)} of {len(published.settings)} settings, without {', '.join(out[:4])}{more}"
    if made.seeds != published.seeds:
        yield f"seeds: {published.seeds} -> {made.seeds}"


def _task_changes(published: Ablation, made: Ablation) -> Iterator[str]:
    stood_for = {task.stands_for for task in made.tasks.values()}
    for name, task in made.targets.items():
        if task.stands_for is not None and task.stands_for in published.tasks:
            yield f"{name} stands for {published.tasks[task.stands_for].published or task.stands_for}"
        elif name not in published.tasks:
            yield f"{name} is no published task"
    out = [name for name in published.targets if name not in made.targets and name not in stood_for]
    if out:
        yield f"without {', '.join(published.tasks[name].published or name for name in out)}"


def _encoder_changes(published: Ablation, made: Ablation) -> Iterator[str]:
    if published.encoder != made.encoder:
        yield f"encoder: {encoder_name(published.encoder)} -> {encoder_name(made.encoder)}"
    olds = {setting.label: setting.encoder for setting in published.settings}
    for setting in made.settings:
        old = olds.get(setting.label)
        if setting.encoder is not None and setting.encoder != old:
            yield f"encoder of {setting.row}: {encoder_name(old or published.encoder)} -> {encoder_name(setting.encoder)}"
    for name, encoder in published.encoders.items():
        if name in made.targets and made.encoder_of(name) not in (encoder, made.encoder):
            yield f"encoder of {name}: {encoder_name(encoder)} -> {encoder_name(made.encoder_of(name))}"


def _value_changes(published: Ablation, made: Ablation) -> Iterator[tuple[str, Any, Any]]:
    """(path, old, new) of every value of a stage that some setting has otherwise than published."""
    renamed = _renaming(made.canonical(), published)
    olds = {setting.label: setting for setting in published.settings}
    for setting in made.settings:
        old = olds.get(setting.label)
        if old is None:
            continue
        before, after = _values(published, old), _values(made, setting)
        for path, value in after.items():
            kind, was = before.get(path, (None, None))
            was = renamed(was) if path.rpartition(".")[2] in LISTS else was
            if kind is not None and was != value[1]:
                yield path, was, value[1]


def _values(ablation: Ablation, setting: Setting) -> dict[str, tuple[str, Any]]:
    """{path: (kind of stage, value)} of everything that a setting's stages hold, defaults included."""
    found: dict[str, tuple[str, Any]] = {}
    recipe = ablation.recipe if setting.recipe is None else setting.recipe
    for kind, stage in ((kind, stage or {}) for entry in recipe for kind, stage in entry.items()):
        name = stage.get("name", kind)
        fields = STAGE_KINDS[kind].model_fields if kind in STAGE_KINDS else {}
        values = {field: info.get_default() for field, info in fields.items()} | stage
        for field, value in values.items():
            path = f"{name}.{field}"
            found[path] = (kind, json.loads(json.dumps(setting.set.get(path, value))))
    return found


# Studies -------------------------------------------------------------------------------------------------------------------------


def _parts(made: Ablation, folder: Path, placeholders: bool) -> Iterator[Part]:
    """The studies of the grid. Raises ConfigError with the faults of all of them."""
    faults: list[str] = []
    found: list[Part] = []
    for task in made.targets if not made.statistics else ():
        groups = _groups(made, task, faults, placeholders)
        if faults:
            continue
        for number, (indices, points, data) in enumerate(groups, start=1):
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", task) + (f"-{number}" if len(groups) > 1 else "")
            labels = [made.settings[index].label for index in indices]
            try:
                data |= {"tasks": _tasks(made, task, data, points, placeholders)}
                data |= {
                    "name": f"{made.name}-{name}",
                    "task": task,
                    "precision": made.precision,
                    "seed": made.seed,
                    "search": {"sampler": "given", "first": points, "labels": labels, "early_stopping": "none"},
                    "budget": {"trials": len(points)},
                    "final": {"top_k": len(points), "seeds": made.seeds, "keep_weights": "none"},
                    "resources": made.resources.canonical() if made.resources else _resources(),
                    "baseline": number == 1,
                }
                found.append(Part(name, task, tuple(indices), load_study(data, folder=folder)))
            except ConfigError as error:
                faults += [_in_words(fault, labels) for fault in error.faults]
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    yield from found


def _resources() -> Data:
    """A GPU for a trial, with its share of the CPUs, where this machine has one."""
    machine = this_machine()
    return {"gpus": 1, "cpus": max(1, int(machine.cpus // machine.gpus))} if machine.gpus else {}


def _in_words(fault: str, labels: Sequence[str]) -> str:
    """A fault of a study's point names the setting."""
    return re.sub(r"search\.first\.(\d+)", lambda match: f"settings: {labels[int(match[1])]}", fault)


def _groups(made: Ablation, task: str, faults: list[str], placeholders: bool) -> list[tuple[list[int], list[Data], Data]]:
    """(places of the settings, their points, encoder and recipe) of each study of a task."""
    groups: dict[str, tuple[list[int], list[Data], Data]] = {}
    for index, setting in enumerate(made.settings):
        if setting.tasks and task not in setting.tasks:
            continue
        own = json.loads(json.dumps({"recipe": made.recipe if setting.recipe is None else setting.recipe, "set": setting.set}))
        recipe, values = own["recipe"], own["set"]
        emptied = {path: value for path, value in values.items() if value is None}  # no point can hold null
        list(_set_in_recipes({"recipe": recipe, "settings": []}, emptied))
        point = {path: value for path, value in values.items() if value is not None}
        faults += _fill_corpora(made, task, setting, recipe, point, placeholders)
        about = {"encoder": made.encoder_of(task, setting).model_dump(mode="json", exclude_defaults=True), "recipe": recipe}
        indices, points, _ = groups.setdefault(json.dumps(about, sort_keys=True), ([], [], about))
        indices.append(index)
        points.append(point)
    return list(groups.values())


def _fill_corpora(made: Ablation, task: str, setting: Setting, recipe: Any, point: Data, placeholders: bool) -> Iterator[str]:
    """Put the task's own corpora where settings or stages name them."""
    own = {name: list(entries) for name, entries in made.tasks[task].corpora.items()}
    if placeholders:
        domain = _domain(made.tasks[task]) or task
        own = {name: entries or [f"{domain}-{name}.txt"] for name, entries in own.items()}
    for stage_name, stage in next(_recipes({"recipe": recipe, "settings": []})):
        path = f"{stage_name}.corpus"
        reads = point.get(path, stage.get("corpus"))
        trains = any(
            point.get(f"{stage_name}.{field}", stage.get(field)) != none for field, none in (("steps", 0), ("epochs", None))
        )
        for name in [entry for entry in reads if entry in own and not own[entry]] if isinstance(reads, list) and trains else ():
            yield (
                f"tasks.{task}.corpora.{name}: empty, but {setting.label} reads it; give files of yours, such as"
                f" --set 'tasks.{task}.corpora.{name}=[FILE.txt]', or leave the task out with --tasks"
            )
        for holder, key in ((point, path), (stage, "corpus")):
            if isinstance(holder.get(key), list):
                holder[key] = [each for entry in holder[key] for each in own.get(entry, (entry,))]


def _domain(task: AblationTask) -> str | None:
    return task.domain or (TABLE[task.known].domain if task.known in TABLE else None)


def _tasks(made: Ablation, target: str, data: Data, points: Iterable[Data], placeholders: bool) -> Data:
    """The tasks that a study can name, as it has them. Raises ConfigError for one that has to be brought by hand."""
    lists = [value for point in points for path, value in point.items() if path.rpartition(".")[2] in LISTS]
    lists += [stage[field] for _, stage in next(_recipes(data | {"settings": []})) for field in LISTS if field in stage]
    named = {each for entries in lists if isinstance(entries, list) for each in entries}
    everything = bool(named & {corpus_names.IN_DOMAIN, corpus_names.CROSS_DOMAIN})
    wanted = [name for name in made.tasks if everything or name == target or name in named]
    found: Data = {}
    faults: list[str] = []
    for name in wanted:
        try:
            task = made.tasks[name].task()
        except ConfigError as error:
            if not placeholders:
                faults += [f"tasks.{name}: {fault}" for fault in error.faults]
                continue
            task = Task(train=f"{name}.csv", test=f"{name}.csv", domain=_domain(made.tasks[name]))
        found[name] = task.canonical()
    if faults:
        raise ConfigError(faults)
    return found
