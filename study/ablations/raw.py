"""Edit an ablation as plain data: rename tasks that stand for others, set values in recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from study.ablations.ablation_file import Ablation
from trainables.settings.errors import near

Data = dict[str, Any]
LISTS = ("corpus", "tasks")
"""Fields of stages that name tasks."""


def renaming(data: Data, published: Ablation) -> Callable[[Any], Any]:
    """Return a function that replaces published tasks in a list of names by those that stand for them, and drops removed ones."""
    tasks = data["tasks"]
    names = {task["stands_for"]: name for name, task in tasks.items() if task.get("stands_for")}
    gone = {name for name in published.tasks if name not in names and name not in tasks}

    def renamed(entries: Any) -> Any:
        if not isinstance(entries, list):
            return entries
        return [names.get(entry, entry) for entry in entries if entry not in gone]

    return renamed


def rename_tasks(data: Data, published: Ablation) -> None:
    """Give tasks that stand for others their published names and their places in corpora, stages and claims."""
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
    data["settings"] = [setting for setting in data["settings"] if not setting["tasks"] or renamed(setting["tasks"])]
    data["claims"] = [claim for claim in data["claims"] if not claim["tasks"] or renamed(claim["tasks"])]
    for entry in (*data["settings"], *data["claims"]):
        entry["tasks"] = renamed(entry["tasks"])


def recipes_of(data: Data) -> Iterator[list[tuple[str, Data]]]:
    """Yield for every recipe in the raw data the (name, settings) of its stages; the settings are references into the data."""
    for holder in (data, *data["settings"]):
        stages: list[tuple[str, Data]] = []
        for entry in holder["recipe"] or ():
            for kind in entry:
                entry[kind] = entry[kind] or {}
                stages.append((str(entry[kind].get("name", kind)), entry[kind]))
        yield stages


def set_in_recipes(data: Data, values: Mapping[str, Any]) -> Iterator[str]:
    """Write values into every recipe that has the stage; yield a fault for every stage that no recipe has."""
    stages: set[str] = set()
    for recipe in recipes_of(data):
        stages.update(name for name, _ in recipe)
        for name, stage in recipe:
            stage |= {path.partition(".")[2]: value for path, value in values.items() if path.partition(".")[0] == name}
    for path in values:
        if path.partition(".")[0] not in stages:
            hint = near(path.partition(".")[0], [*stages, *Ablation.model_fields])
            yield f"--set {path}: no recipe has a stage of that name{hint}"


def label_of(place: Data) -> str:
    """Return the label of a setting or place: `row` or `row | column`."""
    return str(place["row"] if place.get("column") is None else f"{place['row']} | {place['column']}")
