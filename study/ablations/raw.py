"""An ablation's study files as plain data: names made unique, values set in recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from study.ablations.ablation_file import Ablation
from trainables.settings.errors import near

Data = dict[str, Any]
LISTS = ("corpus", "tasks")
"""Fields of stages that name tasks."""


def renaming(data: Data, published: Ablation) -> Callable[[Any], Any]:
    """A function from lists of names of published tasks to those that stand for them; tasks that are gone are left out."""
    tasks = data["tasks"]
    names = {task["stands_for"]: name for name, task in tasks.items() if task.get("stands_for")}
    gone = {name for name in published.tasks if name not in names and name not in tasks}

    def renamed(entries: Any) -> Any:
        if not isinstance(entries, list):
            return entries
        return [names.get(each, each) for each in entries if each not in gone]

    return renamed


def rename_tasks(data: Data, published: Ablation) -> None:
    """Tasks that stand for others take their published names and their places in corpora, stages and claims."""
    renamed = renaming(data, published)
    gone = set(published.tasks) - set(data["tasks"])
    data["encoders"] = {name: encoder for name, encoder in data["encoders"].items() if name not in gone}
    for task in data["tasks"].values():
        old = published.tasks.get(task.get("stands_for"))
        if old is not None:
            task["published"] = task.get("published") or old.published
            task["corpora"] = task.get("corpora") or old.canonical()["corpora"]
        task["corpora"] = {name: renamed(entries) for name, entries in task["corpora"].items()}
    for stage in (stage for recipe in recipes_of(data) for _, stage in recipe):
        stage |= {field: renamed(stage[field]) for field in LISTS if field in stage}
    for setting in data["settings"]:
        setting["set"] |= {path: renamed(value) for path, value in setting["set"].items() if path.rpartition(".")[2] in LISTS}
    data["settings"] = [each for each in data["settings"] if not each["tasks"] or renamed(each["tasks"])]
    data["claims"] = [each for each in data["claims"] if not each["tasks"] or renamed(each["tasks"])]
    for each in (*data["settings"], *data["claims"]):
        each["tasks"] = renamed(each["tasks"])


def recipes_of(data: Data) -> Iterator[list[tuple[str, Data]]]:
    """(name, settings) of the stages of each recipe in the raw data; the settings are the ones in there."""
    for holder in (data, *data["settings"]):
        stages: list[tuple[str, Data]] = []
        for entry in holder["recipe"] or ():
            for kind in entry:
                entry[kind] = entry[kind] or {}
                stages.append((str(entry[kind].get("name", kind)), entry[kind]))
        yield stages


def set_in_recipes(data: Data, values: Mapping[str, Any]) -> Iterator[str]:
    """Write values into every recipe that has the stage."""
    found: set[str] = set()
    for recipe in recipes_of(data):
        found.update(name for name, _ in recipe)
        for name, stage in recipe:
            stage |= {path.partition(".")[2]: value for path, value in values.items() if path.partition(".")[0] == name}
    for path in values:
        if path.partition(".")[0] not in found:
            hint = near(path.partition(".")[0], [*found, *Ablation.model_fields])
            yield f"--set {path}: no recipe has a stage of that name{hint}"


def label_of(place: Data) -> str:
    return str(place["row"] if place.get("column") is None else f"{place['row']} | {place['column']}")
