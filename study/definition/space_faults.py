"""Find the faults of a search space, or of a point in it: a line for every fault, with its place in the study file."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import create_model

from study.definition.space import (
    NOT_SEARCHED,
    Dimension,
    Params,
    Space,
    complete,
    fixed_values,
    is_active,
    listed,
    ordered,
    same,
    shown,
    with_params,
)
from trainables.settings.base import Settings
from trainables.settings.errors import ConfigError, closest, near
from trainables.settings.stages import SETTINGS, Stage
from trainables.settings.validate import validate


def faults(space: Space, stages: Mapping[str, Stage], combine: bool = True) -> list[str]:
    """Return every fault of a space that varies the fields of the stages {name: fixed settings}.

    Without `combine` invalid combinations are not looked for, since only listed points of the space are tried.
    """
    lines = [line for path, dimension in space.items() for line in path_faults(path, dimension, stages)]
    if lines:
        return lines
    lines = [line for path in space for line in _condition_faults(path, space, stages)]
    if not lines:
        try:
            ordered(space)
        except ConfigError as error:
            lines += error.faults
    return lines or (_combination_faults(space, stages) if combine else [])


def path_fault(path: str, stages: Mapping[str, Stage]) -> str | None:
    """Return the fault of a path with the near miss; None if it is a field of a stage."""
    if path in fixed_values(stages):
        return None
    name, _, field = path.partition(".")
    fields = {stage: [f for f in type(model).model_fields if f not in NOT_SEARCHED] for stage, model in stages.items()}
    if name in stages:
        return f"stage {name!r} has no field {field!r}{near(field, fields[name])}"
    stage = closest(name, stages) or next((other for other in stages if name in fields[other]), None)
    close = closest(field or name, fields[stage]) if stage else None
    hint = f"; did you mean '{stage}.{close}'?" if close else near(name, stages)
    return f"a path is <stage name>.<field>, and no stage of the recipe is called {name!r}{hint}"


def path_faults(path: str, dimension: Dimension, stages: Mapping[str, Stage]) -> list[str]:
    """Return the faults of a dimension by itself: its path, and the values that its field refuses."""
    if fault := path_fault(path, stages):
        return [f"space.{path}: {fault}"]
    name, _, field = path.partition(".")
    values = list(dimension.corners())
    if dimension.bounds and dimension.int is None:  # a value inside the range shows whether the field takes fractions
        lower, upper = dimension.bounds
        inside = lower + (upper - lower) * 0.3819660112501051
        if value_faults(stages[name], field, inside, "") and not value_faults(stages[name], field, math.ceil(inside), ""):
            return [f"space.{path}: takes whole numbers only; use int: [{lower:g}, {upper:g}]"]
    return list(dict.fromkeys(line for value in values for line in value_faults(stages[name], field, value, f"space.{name}")))


def value_faults(stage: Settings, field: str, value: Any, place: str) -> list[str]:
    """Return the faults of one value for one field of a stage."""
    try:
        validate(_only(type(stage), field), {field: value}, place)
    except ConfigError as error:
        return list(error.faults)
    return []


@lru_cache(maxsize=256)  # making a model is slow, and each value of a choice is checked
def _only(stage: type[Settings], field: str) -> type[Settings]:
    """A model of one field of a stage, without the stage's checks between fields."""
    info = stage.model_fields[field]
    annotation: Any = info.annotation
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    return create_model(field, __base__=Settings, **{field: (annotation, ...)})  # type: ignore[call-overload, no-any-return]


def _condition_faults(path: str, space: Space, stages: Mapping[str, Stage]) -> Iterator[str]:
    fixed = fixed_values(stages)
    for parent, when in space[path].when.items():
        place = f"space.{path}.when.{parent}"
        if parent == path:
            yield f"{place}: a dimension cannot depend on itself"
        elif fault := path_fault(parent, stages):
            yield f"{place}: {fault}"
        elif parent in space and space[parent].values is None:
            yield f"{place}: is a range; a condition needs a choice or int dimension, or a fixed field"
        elif parent in space:
            for value in listed(when):
                if not space[parent].holds(value):
                    close = closest(value, [choice for choice in space[parent].choice or () if isinstance(choice, str)])
                    hint = f"; did you mean {close!r}?" if close else ""
                    yield f"{place}: {shown(value)} never occurs: the dimension gives {space[parent].allowed()}{hint}"
        elif not any(same(fixed[parent], value) for value in listed(when)):
            yield f"{place}: never holds: {parent} is fixed at {shown(fixed[parent])}"


def _combination_faults(space: Space, stages: Mapping[str, Stage]) -> list[str]:
    """Faults of combinations in the space that the stages' checks between fields refuse.

    These checks are monotonic in every number, so the corners of the space suffice.
    """
    lines: dict[str, list[str]] = {}
    for name, stage in stages.items():
        paths = [f"{name}.{field}" for field in stage.coupled]
        for params in combinations(space, fixed_values(stages), paths):
            try:
                validate(SETTINGS[stage.kind], with_params(name, stage, params))
            except ConfigError as error:
                values = ", ".join(f"{path} {shown(value)}" for path, value in params.items())
                lines.setdefault(f"recipe.{name}" if not params else "space", []).append(
                    (f"{values}: " if values else "") + "; ".join(error.faults)
                )
    return [
        f"{place}: {line}" + (f" (and {len(group) - 3} more combinations)" if index == 2 and len(group) > 3 else "")
        for place, group in lines.items()
        for index, line in enumerate(group[:3])
    ]


def combinations(space: Space, fixed: Mapping[str, Any], paths: list[str]) -> Iterator[Params]:
    """Yield the combinations of the extreme values of `paths` and of the dimensions that they depend on."""
    relevant: list[str] = []
    todo = [path for path in paths if path in space]
    while todo:
        path = todo.pop()
        if path not in relevant:
            relevant.append(path)
            todo += [parent for parent in space[path].when if parent in space]
    order = [path for path in ordered(space) if path in relevant]
    compared = {
        path: [v for d in space.values() for v in listed(d.when.get(path, ()))] for path in order if space[path].choice is None
    }
    options = [list(dict.fromkeys((*space[path].corners(), *compared.get(path, ())))) for path in order]
    seen = set()
    for values in itertools.product(*options):
        params: Params = {}
        for path, value in zip(order, values, strict=True):
            if is_active(space[path], {**fixed, **params}):
                params[path] = value
        if (key := json.dumps(params)) not in seen:
            seen.add(key)
            yield params


def point_faults(point: Params, space: Space, fixed: Mapping[str, Any], place: str) -> list[str]:
    """Return every fault of a point in the space: unknown paths, values outside, inactive dimensions, missing values."""
    lines = []
    for path, value in point.items():
        if path not in space:
            hint = "it is fixed in the recipe" if path in fixed else near(path, space).removeprefix("; ")
            lines.append(f"{place}.{path}: is no dimension of the space; {hint}")
        elif not space[path].holds(tuple(value) if isinstance(value, list) else value):
            lines.append(f"{place}.{path}: {shown(value)} is outside the space: {space[path].allowed()}")
    if lines:
        return lines
    whole = complete(point, space, fixed)
    for path in point:
        if path not in whole:
            conditions = ", ".join(
                f"{parent} is {' or '.join(map(shown, listed(when)))}" for parent, when in space[path].when.items()
            )
            lines.append(f"{place}.{path}: applies only when {conditions}; leave it out of this point")
    for path, value in whole.items():
        if path not in point and not space[path].holds(value):
            lines.append(
                f"{place}: {path} is missing, and its fixed value {shown(value)} is outside the space: {space[path].allowed()}"
            )
    return lines


def given_faults(points: Iterable[Params], stages: Mapping[str, Stage], place: str) -> Iterator[str]:
    """Yield every fault of listed points: unknown paths, values that their fields refuse, invalid combinations."""
    for index, point in enumerate(points):
        lines = []
        for path, value in point.items():
            name, _, field = path.partition(".")
            if fault := path_fault(path, stages):
                lines.append(f"{place}.{index}.{path}: {fault}")
            else:
                lines += value_faults(stages[name], field, value, f"{place}.{index}.{name}")
        for name, stage in stages.items() if not lines else ():
            try:
                validate(SETTINGS[stage.kind], with_params(name, stage, point))
            except ConfigError as error:
                lines.append(f"{place}.{index}: {name}: {'; '.join(error.faults)}")
        yield from lines
