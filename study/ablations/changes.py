"""List the differences between an ablation as published and as run: tasks, encoders, values, settings, seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from study.ablations.ablation_file import Ablation, AblationSetting
from study.ablations.raw import LISTS, renaming
from study.definition.models import STAGE_KINDS
from study.definition.space import shown
from study.planning.estimate import encoder_name


def changes_of(published: Ablation, actual: Ablation) -> Iterator[str]:
    """Yield a line for every difference from the published ablation."""
    yield from _task_changes(published, actual)
    yield from _encoder_changes(published, actual)
    values: dict[str, list[str]] = {}
    for path, old, new in _value_changes(published, actual):
        values.setdefault(path, []).append(f"{shown(old)} -> {shown(new)}")
    yield from (f"{path}: {', '.join(dict.fromkeys(pairs))}" for path, pairs in values.items())
    labels = {setting.label for setting in actual.settings}
    dropped = [setting.row for setting in published.settings if setting.label not in labels]
    if dropped:
        out = list(dict.fromkeys(dropped))
        more = f" and {len(out) - 4} more" if len(out) > 4 else ""
        yield f"{len(actual.settings)} of {len(published.settings)} settings, without {', '.join(out[:4])}{more}"
    if actual.seeds != published.seeds:
        yield f"seeds: {published.seeds} -> {actual.seeds}"


def _task_changes(published: Ablation, actual: Ablation) -> Iterator[str]:
    stood_for = {task.stands_for for task in actual.tasks.values()}
    for name, task in actual.targets.items():
        if task.stands_for is not None and task.stands_for in published.tasks:
            yield f"{name} stands for {published.tasks[task.stands_for].published or task.stands_for}"
        elif name not in published.tasks:
            yield f"{name} is no published task"
    out = [name for name in published.targets if name not in actual.targets and name not in stood_for]
    if out:
        yield f"without {', '.join(published.tasks[name].published or name for name in out)}"


def _encoder_changes(published: Ablation, actual: Ablation) -> Iterator[str]:
    if published.encoder != actual.encoder:
        yield f"encoder: {encoder_name(published.encoder)} -> {encoder_name(actual.encoder)}"
    olds = {setting.label: setting.encoder for setting in published.settings}
    for setting in actual.settings:
        old = olds.get(setting.label)
        if setting.encoder is not None and setting.encoder != old:
            yield f"encoder of {setting.row}: {encoder_name(old or published.encoder)} -> {encoder_name(setting.encoder)}"
    for name, encoder in published.encoders.items():
        if name in actual.targets and actual.encoder_of(name) not in (encoder, actual.encoder):
            yield f"encoder of {name}: {encoder_name(encoder)} -> {encoder_name(actual.encoder_of(name))}"


def _value_changes(published: Ablation, actual: Ablation) -> Iterator[tuple[str, Any, Any]]:
    """(path, old, new) of every value of a stage in which some setting differs from the published one."""
    renamed = renaming(actual.canonical(), published)
    olds = {setting.label: setting for setting in published.settings}
    for setting in actual.settings:
        old = olds.get(setting.label)
        if old is None:
            continue
        before, after = _values(published, old), _values(actual, setting)
        for path, value in after.items():
            kind, was = before.get(path, (None, None))
            was = renamed(was) if path.rpartition(".")[2] in LISTS else was
            if kind is not None and was != value[1]:
                yield path, was, value[1]


def _values(ablation: Ablation, setting: AblationSetting) -> dict[str, tuple[str, Any]]:
    """{path: (kind of stage, value)} of all fields of a setting's stages, defaults included."""
    fields_by_path: dict[str, tuple[str, Any]] = {}
    recipe = ablation.recipe if setting.recipe is None else setting.recipe
    for kind, stage in ((kind, stage or {}) for entry in recipe for kind, stage in entry.items()):
        name = stage.get("name", kind)
        fields = STAGE_KINDS[kind].model_fields if kind in STAGE_KINDS else {}
        values = {field: info.get_default() for field, info in fields.items()} | stage
        for field, value in values.items():
            path = f"{name}.{field}"
            fields_by_path[path] = (kind, json.loads(json.dumps(setting.set.get(path, value))))
    return fields_by_path
