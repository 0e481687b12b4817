"""The studies of a grid: one for each task, encoder and recipe, as study files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.ablations.ablation_file import Ablation, AblationTask, Setting
from study.ablations.raw import LISTS, Data, recipes_of, set_in_recipes
from study.cluster.machine import this_machine
from study.definition.models import Study
from study.definition.study_file import load_study
from trainables.data.known_tasks import TABLE
from trainables.settings import corpus_names
from trainables.settings.errors import ConfigError
from trainables.settings.task import Task


@dataclass(frozen=True)
class AblationStudy:
    """One study of an ablation."""

    folder: str
    """Its run folder within the ablation's."""
    task: str
    settings: tuple[int, ...]
    """Places in the ablation's settings, in the order of the study's points."""
    study: Study


# Studies -------------------------------------------------------------------------------------------------------------------------


def parts_of(made: Ablation, folder: Path, placeholders: bool) -> Iterator[AblationStudy]:
    """The studies of the grid. Raises ConfigError with the faults of all of them."""
    faults: list[str] = []
    found: list[AblationStudy] = []
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
                found.append(AblationStudy(name, task, tuple(indices), load_study(data, folder=folder)))
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
        list(set_in_recipes({"recipe": recipe, "settings": []}, emptied))
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
    for stage_name, stage in next(recipes_of({"recipe": recipe, "settings": []})):
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
    lists += [stage[field] for _, stage in next(recipes_of(data | {"settings": []})) for field in LISTS if field in stage]
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
