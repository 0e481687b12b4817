"""Build the studies of a grid: one for each task, encoder and recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.ablations.ablation_file import Ablation, AblationSetting, AblationTask
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
    """Indices of its settings in the ablation, in the order of the study's points."""
    study: Study


# Studies -------------------------------------------------------------------------------------------------------------------------


def parts_of(ablation: Ablation, folder: Path, placeholders: bool) -> Iterator[AblationStudy]:
    """Yield the studies of the grid. Raises ConfigError with the faults of all of them."""
    faults: list[str] = []
    parts: list[AblationStudy] = []
    for task in ablation.targets if not ablation.statistics else ():
        groups = _groups(ablation, task, faults, placeholders)
        if faults:
            continue
        for number, (indices, points, data) in enumerate(groups, start=1):
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", task) + (f"-{number}" if len(groups) > 1 else "")
            labels = [ablation.settings[index].label for index in indices]
            try:
                data |= {"tasks": _tasks(ablation, task, data, points, placeholders)}
                data |= {
                    "name": f"{ablation.name}-{name}",
                    "task": task,
                    "precision": ablation.precision,
                    "seed": ablation.seed,
                    "search": {"sampler": "given", "first": points, "labels": labels, "early_stopping": "none"},
                    "budget": {"trials": len(points)},
                    "final": {"top_k": len(points), "seeds": ablation.seeds, "keep_weights": "none"},
                    "resources": ablation.resources.canonical() if ablation.resources else _resources(),
                    "baseline": number == 1,
                }
                parts.append(AblationStudy(name, task, tuple(indices), load_study(data, folder=folder)))
            except ConfigError as error:
                faults += [_in_words(fault, labels) for fault in error.faults]
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    yield from parts


def _resources() -> Data:
    """For every trial the share of the CPUs that belongs to its GPU, if this machine has GPUs."""
    machine = this_machine()
    return {"cpus": max(1, int(machine.cpus // machine.gpus))} if machine.gpus else {}


def _in_words(fault: str, labels: Sequence[str]) -> str:
    """Rewrite the fault of a study's point to name the setting."""
    return re.sub(r"search\.first\.(\d+)", lambda match: f"settings: {labels[int(match[1])]}", fault)


def _groups(ablation: Ablation, task: str, faults: list[str], placeholders: bool) -> list[tuple[list[int], list[Data], Data]]:
    """(indices of the settings, their points, encoder and recipe) of every study of a task."""
    groups: dict[str, tuple[list[int], list[Data], Data]] = {}
    for index, setting in enumerate(ablation.settings):
        if setting.tasks and task not in setting.tasks:
            continue
        own = json.loads(json.dumps({"recipe": ablation.recipe if setting.recipe is None else setting.recipe, "set": setting.set}))
        recipe, values = own["recipe"], own["set"]
        emptied = {path: value for path, value in values.items() if value is None}  # no point can hold null
        list(set_in_recipes({"recipe": recipe, "settings": []}, emptied))
        point = {path: value for path, value in values.items() if value is not None}
        faults += _fill_corpora(ablation, task, setting, recipe, point, placeholders)
        common = {"encoder": ablation.encoder_of(task, setting).model_dump(mode="json", exclude_defaults=True), "recipe": recipe}
        indices, points, _ = groups.setdefault(json.dumps(common, sort_keys=True), ([], [], common))
        indices.append(index)
        points.append(point)
    return list(groups.values())


def _fill_corpora(
    ablation: Ablation, task: str, setting: AblationSetting, recipe: Any, point: Data, placeholders: bool
) -> Iterator[str]:
    """Replace the names of the task's corpora in settings and stages by their entries; yield a fault for every empty one."""
    own = {name: list(entries) for name, entries in ablation.tasks[task].corpora.items()}
    if placeholders:
        domain = _domain(ablation.tasks[task]) or task
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
                holder[key] = [file for entry in holder[key] for file in own.get(entry, (entry,))]


def _domain(task: AblationTask) -> str | None:
    return task.domain or (TABLE[task.known].domain if task.known in TABLE else None)


def _tasks(ablation: Ablation, target: str, data: Data, points: Iterable[Data], placeholders: bool) -> Data:
    """The tasks that a study reads. Raises ConfigError with every task that must be brought by hand."""
    lists = [value for point in points for path, value in point.items() if path.rpartition(".")[2] in LISTS]
    lists += [stage[field] for _, stage in next(recipes_of(data | {"settings": []})) for field in LISTS if field in stage]
    named = {entry for entries in lists if isinstance(entries, list) for entry in entries}
    everything = bool(named & {corpus_names.IN_DOMAIN, corpus_names.CROSS_DOMAIN})
    wanted = [name for name in ablation.tasks if everything or name == target or name in named]
    tasks: Data = {}
    faults: list[str] = []
    for name in wanted:
        try:
            task = ablation.tasks[name].task()
        except ConfigError as error:
            if not placeholders:
                faults += [f"tasks.{name}: {fault}" for fault in error.faults]
                continue
            task = Task(train=f"{name}.csv", test=f"{name}.csv", domain=_domain(ablation.tasks[name]))
        tasks[name] = task.canonical()
    if faults:
        raise ConfigError(faults)
    return tasks
