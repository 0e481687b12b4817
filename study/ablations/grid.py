"""Apply a scale to an ablation and split it into studies, one for each task, encoder and recipe. Imports no torch, ray, optuna."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import yaml

from study.ablations.ablation_file import SCALES, Ablation, AblationSetting, Loaded, Scale, ablation_of, apply_override, written_out
from study.ablations.changes import changes_of
from study.ablations.raw import Data, label_of, rename_tasks, set_in_recipes
from study.ablations.studies import AblationStudy, parts_of
from study.definition.models import Dumper
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError, near
from trainables.settings.plain_yaml import parse_yaml
from trainables.settings.validate import validate


@dataclass(frozen=True)
class AblationGrid:
    """An ablation as it is run, with the scale applied."""

    ablation: Ablation
    """Without scales: these settings on these tasks over these seeds."""
    scale: str
    says: str | None
    changes: tuple[str, ...]
    """A line for every difference from the published ablation."""
    parts: tuple[AblationStudy, ...]

    @property
    def name(self) -> str:
        """Name with the scale: `table2-smoke`."""
        return f"{self.ablation.name}-{self.scale}"

    def to_yaml(self) -> str:
        """Write as YAML everything that tables need beside the records."""
        data = self.ablation.canonical()
        del data["scales"], data["resources"], data["session_hours"]
        for name, task in self.ablation.tasks.items():
            data["tasks"][name] = task.model_dump(mode="json", exclude_defaults=True) | {"target": task.target}
        data["encoder"], data["encoders"] = _non_empty(data["encoder"]), {k: _non_empty(v) for k, v in data["encoders"].items()}
        data["settings"] = [_non_empty(setting | {"encoder": _non_empty(setting["encoder"])}) for setting in data["settings"]]
        data |= {"scale": self.scale, "says": self.says, "changes": list(self.changes)}
        data["studies"] = [{"folder": p.folder, "task": p.task, "settings": list(p.settings)} for p in self.parts]
        return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def _non_empty(data: Data | None) -> Data:
    return {key: value for key, value in (data or {}).items() if value not in (None, {}, [])}


def grid(
    loaded: Loaded,
    scale: str = "small",
    tasks: Sequence[str] = (),
    seeds: int | None = None,
    encoder: Encoder | None = None,
    overrides: Iterable[str] = (),
    placeholders: bool = False,
) -> AblationGrid:
    """Return an ablation at a scale, on some of its tasks, with other seeds, another encoder or other settings.

    `overrides` are `path=value`, of the ablation's own fields or of stages (`finetune.epochs=2`). With `placeholders` data sets
    that must be brought by hand are included without data, for a plan. Raises ConfigError with every fault.
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
    rename_tasks(data, published)
    faults += _only(data, tasks)
    faults += set_in_recipes(data, stage_values)
    _fitting_claims(data)
    if faults:
        raise ConfigError(faults)
    resolved = ablation_of(data)
    parts = tuple(parts_of(resolved, loaded.folder, placeholders))
    return AblationGrid(resolved, scale, chosen.says, tuple(changes_of(published, resolved)), parts)


# The scale -----------------------------------------------------------------------------------------------------------------------


def _scale(published: Ablation, name: str) -> Scale:
    known = [scale for scale in SCALES if scale == "paper" or scale in published.scales]
    if name not in known:
        raise ConfigError([f"--scale {name}: {published.name} has no such scale{near(name, known)}"])
    return published.scales.get(name, Scale())  # type: ignore[call-overload, no-any-return]


def _scaled(published: Ablation, scale: Scale, encoder: Encoder | None, seeds: int | None) -> Data:
    """Plain data of the ablation with the fields that the scale replaces as a whole."""
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


def _changed(setting: AblationSetting, scale: Scale) -> Data:
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


def _only(data: Data, wanted: Sequence[str]) -> Iterator[str]:
    """Remove all targets but these from the table; the texts of others may still be read. Yields unknown names as faults."""
    tasks = data["tasks"]
    names = {task["stands_for"]: name for name, task in tasks.items() if task.get("stands_for")}
    targets = [name for name, task in tasks.items() if task.get("target", True)]
    chosen = [names.get(name, name) for name in wanted]
    for name in chosen:
        if name not in targets:
            yield f"--tasks {name}: no task is called that{near(name, targets)}"
    for name in targets:
        tasks[name]["target"] = not chosen or name in chosen


def _fitting_claims(data: Data) -> None:
    """Remove claims about settings or tasks that are not run."""
    labels = set(map(label_of, data["settings"]))
    targets = {name for name, task in data["tasks"].items() if task.get("target", True)}
    kept = []
    for claim in data["claims"]:
        tasks = [name for name in claim["tasks"] if name in targets]
        if {label_of(claim["better"]), label_of(claim["worse"])} <= labels and (tasks or not claim["tasks"]):
            kept.append(claim | {"tasks": tasks})
    data["claims"] = kept
