"""Load a study file: all faults are reported at once, before any work. Imports no torch, ray or optuna."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import create_model

from study.definition.models import STAGE_KINDS, Budget, Final, SearchSettings, Study, corpora, members
from study.definition.paths import with_absolute_paths
from study.definition.recipes import missing_texts, stages_of
from study.definition.samplers import SAMPLERS
from study.definition.space import Space, complete, extremes, fixed_values, spanned
from study.definition.space_faults import faults as space_faults
from study.definition.space_faults import given_faults, path_faults, point_faults
from trainables.settings import corpus_names
from trainables.settings.base import Settings
from trainables.settings.errors import ConfigError, near
from trainables.settings.plain_yaml import parse_yaml, read_yaml
from trainables.settings.pretraining import Pretrain
from trainables.settings.stage_rules import marks_faults, scoring_faults
from trainables.settings.stages import Stage
from trainables.settings.task import Task
from trainables.settings.validate import validate

DEFAULT_RECIPE: list[dict[str, Any]] = [{"finetune": {}}]
"""The recipe of a study file that has none, as plain data."""
BROKEN = "(not a stage)"
"""Name of the placeholder for an entry of the recipe that is not a stage."""


def load_study(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), folder: Path | None = None) -> Study:
    """Load a study from a YAML file or plain data, with `path=value` overrides.

    Relative paths in a file are relative to the file, in plain data to `folder`, by default the working directory.
    Raises ConfigError with every fault: the path in the file, the value given, the allowed values, the near miss.
    """
    if isinstance(source, Mapping):
        data, folder = json.loads(json.dumps(source)), folder or Path.cwd()
    else:
        data, folder = read_yaml(source), Path(source).absolute().parent
    if not isinstance(data, dict):
        raise ConfigError([f"{source}: {'empty' if data is None else 'a study file is a mapping of fields to values'}"])
    if isinstance(data.get("tasks"), list):
        data["tasks"] = dict.fromkeys(map(str, data["tasks"]), "known")
    name, faults = _expand_name(data)
    for override in overrides:
        faults += _override(data, override)
        if override.partition("=")[0].strip() == "recipe":
            name, more = _expand_name(data)
            faults += more
    if name is not None:
        faults += missing_texts(name, data["recipe"], data.get("space"))
    faults += [*_expand_tasks(data), *_expand_recipe(data), *_expand_search(data)]
    parts, more = _sections(data)
    _span_given(parts)
    faults += [*more, *_cross_faults(parts, data)]
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return Study.model_validate(with_absolute_paths(parts, folder))


def load_study_at(path: Path, overrides: Iterable[str] = ()) -> Study:
    """Load the study of a file or of a run folder. Raises ConfigError."""
    return load_study(path / "study.yaml" if path.is_dir() else path, overrides)


def run_dir_for(study: Study, out: Path | None = None, source: Path | None = None) -> Path:
    """The run folder of a study: the one that is given, the one that it was loaded from, or runs/NAME."""
    return out or (source if source is not None and source.is_dir() else Path("runs") / study.name)


def overridden(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return the plain data of a study file with `path=value` overrides, not yet validated. Raises ConfigError."""
    changed: dict[str, Any] = json.loads(json.dumps(data))
    if faults := [fault for override in overrides for fault in _override(changed, override)]:
        raise ConfigError(faults)
    return changed


def _override(data: dict[str, Any], text: str) -> list[str]:
    """Set one `path=value` in the raw data; unknown fields are reported later, when everything is validated."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        return [f"--set {text}: expected path=value, such as budget.trials=20"]
    try:
        keys, at = _keys(data, path.strip()), data
        for key in keys[:-1]:
            if isinstance(at, dict):
                key = str(key)  # a task may be called 1
                at[key] = {} if at.get(key) is None else at[key]
            at = at[key]
        at[str(keys[-1]) if isinstance(at, dict) else keys[-1]] = parse_yaml(value, f"--set {path}", path.strip())
    except ConfigError as error:
        return list(error.faults)
    except (TypeError, LookupError):
        return [f"--set {text}: there is nothing at {path} to set"]
    return []


def _keys(data: dict[str, Any], path: str) -> list[Any]:
    """Keys of a path in the raw data: stages of the recipe by name; dimensions, conditions and points are paths themselves."""
    keys: list[Any] = [int(key) if key.isdigit() else key for key in path.split(".")]
    named = {_stage_name(entry): (index, kind) for index, kind, entry in _entries(data.get("recipe", DEFAULT_RECIPE))}
    if keys[0] in named and len(keys) > 1 and keys[0] not in Study.model_fields:
        raise ConfigError([f"--set {path}: a field of a stage is set as recipe.{path}, or searched as space.{path}"])
    if keys[0] == "recipe" and len(keys) > 2 and isinstance(keys[1], str):
        data.setdefault("recipe", json.loads(json.dumps(DEFAULT_RECIPE)))
        if keys[1] not in named:
            raise ConfigError([f"--set {path}: no stage {keys[1]!r} in the recipe{near(keys[1], map(str, named))}"])
        return ["recipe", *named[keys[1]], *keys[2:]]
    start = {"space": 1, "search": 3 if "first" in keys else len(keys)}.get(str(keys[0]), len(keys))
    keys[start:] = _paired(keys[start:])
    return keys


def _paired(keys: list[Any]) -> list[Any]:
    """Join `a, b, rest` to `a.b, rest`; after `when` the rest is joined too."""
    joined = [".".join(map(str, keys[:2])), *keys[2:]] if keys else []
    if joined[1:2] == ["when"]:
        joined[2:] = [".".join(map(str, joined[2:]))] if joined[2:] else []
    return joined


def _entries(recipe: Any) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(index, kind, {kind: settings}) of the recipe's entries in the raw data that have the form `{kind: settings}`."""
    for index, entry in enumerate(recipe if isinstance(recipe, list) else ()):
        if isinstance(entry, dict) and len(entry) == 1:
            yield index, str(next(iter(entry))), entry


def _stage_name(entry: dict[str, Any]) -> str:
    kind, settings = next(iter(entry.items()))
    return str(settings.get("name", kind) if isinstance(settings, dict) else kind)


def _expand_tasks(data: dict[str, Any]) -> Iterator[str]:
    """Expand known tasks from their table; yield the faults."""
    tasks = data.get("tasks")
    if not isinstance(tasks, dict) or "known" not in tasks.values():
        return
    from trainables.data.known_tasks import KNOWN, TABLE, instructions

    for name in [name for name, task in tasks.items() if task == "known"]:
        if name in KNOWN:
            tasks[name] = KNOWN[name].canonical()
        else:
            del tasks[name]
            unknown = f"no known task has this name{near(str(name), TABLE)}"
            yield f"tasks.{name}: {instructions(name) if name in TABLE else unknown}"


def _expand_name(data: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Expand a recipe given by name into its stages. Returns (the name, faults)."""
    if not isinstance(data.get("recipe"), str | dict):
        return None, []
    name, data["recipe"], faults = stages_of(data["recipe"])
    return name, faults


def _expand_recipe(data: dict[str, Any]) -> Iterator[str]:
    """Turn every `{kind: settings}` into settings with their kind; yield the faults."""
    recipe = data.get("recipe")
    if not isinstance(recipe, list):
        return
    stages = {index: (kind, entry[kind]) for index, kind, entry in _entries(recipe)}
    for index, entry in enumerate(recipe):
        kind, settings = stages.get(index, (None, None))
        if kind is None:
            yield f"recipe.{index}: {entry!r:.80} given; a stage is one of {', '.join(f'{{{k}: ...}}' for k in STAGE_KINDS)}"
        elif kind not in STAGE_KINDS:
            yield f"recipe.{index}: no kind of stage is called {kind!r}{near(kind, STAGE_KINDS)}"
        elif not isinstance(settings, dict | None):
            yield f"recipe.{index}.{kind}: {settings!r:.80} given; it should be a mapping of fields to values"
        elif "kind" in (settings or {}):
            yield f"recipe.{index}.{kind}.kind: unknown field; the kind of a stage is its key"
        else:
            recipe[index] = {"kind": kind} | (settings or {})
            continue
        recipe[index] = {"kind": "finetune", "name": BROKEN}  # keeps the indices of later stages


def _expand_search(data: dict[str, Any]) -> Iterator[str]:
    """Expand early stopping given by its kind; drop dimensions that an override has set to null."""
    search, space = data.get("search"), data.get("space")
    if isinstance(search, dict) and "early_stopping" in search:
        kind = search["early_stopping"]
        if kind is None or isinstance(kind, str):
            search["early_stopping"] = {"kind": kind or "none"}
    if isinstance(space, dict):
        data["space"] = {path: dimension for path, dimension in space.items() if dimension is not None}
    yield from ()


def _span_given(parts: dict[str, Any]) -> None:
    """With the sampler `given`, add fields that the points name and the space lacks to the space."""
    recipe, space, search = (parts.get(name) for name in ("recipe", "space", "search"))
    if recipe is not None and space is not None and search is not None and search.how.only_first:
        parts["space"] = spanned(search.first, fixed_values({stage.name: stage for stage in recipe})) | space


@lru_cache(maxsize=64)  # making a model is slow, and a command reads its study several times
def _section(field: str) -> type[Settings]:
    """A model of one top-level field."""
    info = Study.model_fields[field]
    return create_model("Study", __base__=Settings, **{field: (info.rebuild_annotation(), ...)})  # type: ignore[call-overload, no-any-return]


def _sections(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """({top-level field: its value} for those that are valid by themselves, faults of the others)."""
    parts: dict[str, Any] = {}
    faults = [f"{key}: unknown field{near(str(key), Study.model_fields)}" for key in data if key not in Study.model_fields]
    for field, info in Study.model_fields.items():
        if field not in data and not info.is_required():
            parts[field] = info.get_default(call_default_factory=True)
            continue
        try:
            parts[field] = getattr(validate(_section(field), {field: data[field]} if field in data else {}), field)
        except ConfigError as error:
            faults += error.faults
    return parts, faults


def _cross_faults(parts: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Faults between sections that are valid by themselves."""
    faults: list[str] = []
    recipe, space, tasks, search = (parts.get(name) for name in ("recipe", "space", "tasks", "search"))
    if recipe is not None and any(stage.name == BROKEN for stage in recipe):
        recipe = None
    if recipe is not None:
        faults += _recipe_faults(recipe)
    if tasks is not None and "task" in parts:
        faults += _task_faults(parts["task"], tasks, recipe or (), space or {})
    if recipe is None or space is None or faults:
        faults += _path_faults(data)
    else:
        stages = {stage.name: stage for stage in recipe}
        listed = search is not None and search.how.only_first
        wrong = [*given_faults(search.first, stages, "search.first")] if search is not None and listed else []
        wrong = wrong or space_faults(space, stages, combine=not listed)
        faults += wrong or _marks_faults(recipe, space, stages)
        if search is not None:
            faults += _search_faults(search, space, stages if not wrong else None)
    return faults + _budget_faults(parts.get("budget"), parts.get("final"), search)


def _path_faults(data: Mapping[str, Any]) -> Iterator[str]:
    """Faults of single dimensions, for a recipe or space with other faults that prevent the full check."""
    recipe, space = data.get("recipe", [{"kind": "finetune"}]), data.get("space")
    entries = [entry for entry in recipe if entry.get("name") != BROKEN] if isinstance(recipe, list) else []
    stages = {str(entry.get("name", entry["kind"])): STAGE_KINDS[entry["kind"]]() for entry in entries}
    for path, settings in space.items() if isinstance(space, dict) else ():
        if str(path).partition(".")[0] in stages or (stages and len(stages) == len(recipe)):
            with suppress(ConfigError):  # reported with the section
                dimension = validate(_section("space"), {"space": {path: settings}}).space[path]  # type: ignore[attr-defined]
                yield from path_faults(path, dimension, stages)


def _recipe_faults(recipe: tuple[Stage, ...]) -> Iterator[str]:
    names = [stage.name for stage in recipe]
    if not recipe or recipe[-1].kind != "finetune":
        yield "recipe: the last stage must be finetune"
    yield from (f"recipe: two stages are named {n!r}; give each a `name`" for n in sorted({n for n in names if names.count(n) > 1}))
    yield from (f"recipe: the name {name!r} must not be empty or hold a dot" for name in names if not name or "." in name)


def _marks_faults(recipe: Sequence[Stage], space: Space, stages: Mapping[str, Settings]) -> list[str]:
    """Faults of masking by marks without a stage of marks before it, and of marks that no trial can use."""
    fixed = fixed_values(stages)

    def selects(stage: Pretrain) -> bool:
        return any(masking != "random" for masking in extremes(f"{stage.name}.masking", space, fixed))

    return [f"recipe.{fault}" for fault in marks_faults(recipe, selects)]


def _task_faults(task: str, tasks: Mapping[str, Task], recipe: Sequence[Stage], space: Space) -> Iterator[str]:
    if task not in tasks:
        yield f"task: {task!r} is not among tasks{near(task, tasks)}"
    yield from corpus_names.name_faults(tasks)
    places = corpora(recipe, space)
    for entry in corpus_names.unknown(places, tasks):
        yield f"{places[entry]}: {entry!r} is not among tasks{near(entry, [*tasks, *corpus_names.WORDS])}"
    if fault := corpus_names.domain_fault(places, task, tasks):
        yield f"{places[corpus_names.IN_DOMAIN]}: {fault}"
    yield from (f"recipe.{fault}" for fault in scoring_faults(recipe, tasks.get(task)))
    for name, place in members(recipe, space).items():
        if name not in tasks:
            yield f"{place}: {name!r} is not among tasks{near(name, tasks)}"


def _search_faults(search: SearchSettings, space: Space, stages: Mapping[str, Settings] | None) -> Iterator[str]:
    if search.how.enumerated and not search.how.only_first:
        drawn = " or ".join(name for name, sampler in SAMPLERS.items() if not sampler.enumerated)
        for path, dimension in space.items():
            if dimension.values is None:
                needs = f"{search.sampler} needs choice and int dimensions only"
                yield f"search.sampler: {needs}, but space.{path} is a range; use {drawn}"
    if search.how.only_first:
        if not search.first:
            yield f"search.first: empty, but the sampler {search.sampler} needs points there"
        if search.labels and len(search.labels) != len(search.first):
            yield f"search.labels: {len(search.labels)} given for {len(search.first)} points of search.first"
        twice = sorted({label for label in search.labels if search.labels.count(label) > 1})
        yield from (f"search.labels: {label!r} is given twice" for label in twice)
    elif search.labels:
        yield f"search.labels: they name listed points, but the sampler is {search.sampler}; use given"
    if stages is not None:
        fixed = fixed_values(stages)
        for index, point in enumerate(search.first):
            yield from point_faults(point, space, fixed, f"search.first.{index}")
        if search.how.only_first:
            whole = [complete(point, space, fixed) for point in search.first]
            for index, point in enumerate(whole):
                if point in whole[:index]:
                    yield f"search.first.{index}: the same settings as search.first.{whole.index(point)}"


def _budget_faults(budget: Budget | None, final: Final | None, search: SearchSettings | None) -> list[str]:
    faults = []
    if budget and final and final.top_k > budget.trials:
        faults.append(f"final.top_k: {final.top_k} given, but budget.trials allows no more than {budget.trials} settings")
    if final and search and final.label_of_first is not None and not search.first:
        faults.append(f"final.label_of_first: {final.label_of_first!r} labels the first of search.first, which is empty")
    return faults
