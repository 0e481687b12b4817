"""Generate the reference of the study file from the models that validate it."""

from __future__ import annotations

import json
from typing import Any

from study.definition.models import Budget, EarlyStopping, Final, Resources, SearchSettings, Study
from study.definition.space import Dimension
from trainables.settings.base import Settings
from trainables.settings.encoder import Encoder
from trainables.settings.stages import SETTINGS
from trainables.settings.task import Task

HEAD = """# Study file

Written by `make docs` from the models in `study/definition/` and `trainables/settings/`.

A study file is YAML: plain data, without tags, anchors and repeated keys. It is validated before any work, and all faults are
reported at once. `study run FILE --set path=value` overrides a field: `--set budget.trials=20`, `--set recipe.finetune.epochs=2`
(a stage by its name), `--set 'space.finetune.xi={uniform: [0.9, 1]}'` (`null` removes the dimension from the space).
Relative paths are relative to the file.

Text is read as written, also without quotes: `labels: [no, yes]`, `[0, 1]`, `text: off`, names of tasks and
stages. `null` stays null, but not in a list of names. Numbers that YAML reads to another base (010, 0x1f, 1:30) are refused.

Labels are read over all splits together, and mean the same in every format: 1.0 is 1 if all labels are whole numbers or if 1 occurs
as well; dates, booleans and +1 stay text as written. Several labels in one cell are read if all cells have the same form, and
refused if that is in doubt. `study tasks --stats FILE` shows how a file is read.
"""

EXAMPLES = {
    "pretrain": (
        "`recipe: [{pretrain: {corpus: [in-domain, more.txt]}}, {finetune: {}}]`. All trials with the same settings share one"
        " trajectory. In the space: `pretrain.corpus: {choice: [[within-task], [in-domain], [cross-domain]]}`."
    ),
    "multitask": (
        "`recipe: [{multitask: {tasks: [imdb, yelp_polarity]}}, {finetune: {learning_rate: 5e-6}}]`. The next stage starts from"
        " the shared encoder and pooler; fine-tuning on one of the tasks also starts from the head of that task. All trials with"
        " the same settings share the stage."
    ),
    "marks": (
        "`recipe: [{marks: {}}, {pretrain: {masking: selective, corpus: [reviews.txt], max_length: 256, learning_rate: 2e-5,"
        " warmup: 0.2}}, {finetune: {}}]`, as in the paper; `space: {pretrain.masking: {choice: [random, matched, selective]}}`"
        " compares selective masking with its controls. `study marks RUN` shows the words."
    ),
    "finetune": "The last stage of every recipe. The defaults are those of Sun et al. (2019).",
}
"""{kind of stage: example in a study file}"""
SECTIONS: tuple[tuple[str, type[Settings], str], ...] = (
    ("The study", Study, ""),
    (
        "tasks",
        Task,
        (
            "`tasks: {my_reviews: {train: reviews.csv, test: test.csv}}`. A known task needs only its name:"
            " `tasks: {imdb: known}` or `tasks: [imdb, yelp_polarity]`."
        ),
    ),
    ("encoder", Encoder, "`encoder: {hub: google-bert/bert-base-uncased}`"),
    *((f"recipe: {kind}", model, EXAMPLES.get(kind, "")) for kind, model in SETTINGS.items()),
    (
        "space",
        Dimension,
        (
            "`space: {finetune.learning_rate: {log_uniform: [1e-5, 1e-4]}, finetune.head_tokens: {int: [16, 256], when:"
            " {finetune.truncation: head+tail}}}`: dimensions by `<stage name>.<field>`. Every combination in the space"
            " must be valid."
        ),
    ),
    ("search", SearchSettings, ""),
    ("search.early_stopping", EarlyStopping, "`early_stopping: none` and `early_stopping: asha` are short for `{kind: ...}`."),
    ("budget", Budget, ""),
    ("final", Final, ""),
    ("resources", Resources, ""),
)

TAIL = """## What may change when a run is resumed

`name`, `budget`, `final`, `resources`, `baseline`, `store` and `track`. A file with other differences is another study and needs
another run folder; the message names the differences. The folders of data files, and tasks that no stage reads, do not count.
"""


def document() -> str:
    """Return the Markdown reference of every field: its meaning with unit, the allowed values, the default."""
    return "\n".join([HEAD, *(_section(*section) for section in SECTIONS), TAIL])


def _section(title: str, model: type[Settings], text: str) -> str:
    schema = model.model_json_schema()
    required = schema.get("required", ())
    lines = [f"## {title}", "", " ".join((model.__doc__ or "").split()), *(["", text] if text else [])]
    lines += ["", "| field | meaning | allowed | default |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        if name != "kind" or "enum" in field:  # the kind of a stage is its key in the file
            default = "required" if name in required else _default(field, model, name)
            meaning = " ".join((model.model_fields[name].description or "").split()).replace("|", "\\|")
            lines.append(f"| `{name}` | {meaning} | {_allowed(field)} | {default} |")
    return "\n".join([*lines, ""])


def _default(field: dict[str, Any], model: type[Settings], name: str) -> str:
    value = field.get("default", model.model_fields[name].get_default(call_default_factory=True))
    if name == "recipe":
        return "`[{finetune: {}}]`"
    if isinstance(value, Settings) or (isinstance(value, dict) and value):
        return "see below"
    text = value if isinstance(value, str) else json.dumps(value)
    return "none" if value is None or value == {} else f"`{text}`".replace("|", "\\|")


def _allowed(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_allowed(option) for option in field["anyOf"] if option.get("type") != "null"))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"[{', '.join(_allowed(item) for item in field['prefixItems'])}]"
    match field.get("type"):
        case "array":
            return f"list of {_allowed(field['items'])}".replace("whole number", "whole numbers")
        case "object":
            return "mapping"
        case "integer" | "number" as kind:
            return {"integer": "whole number", "number": "number"}[kind] + _bounds(field)
        case "string":
            return "text"
        case "boolean":
            return "`true`, `false`"
    return "settings, see below" if "oneOf" in field or "$ref" in field else "any"


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [(sign, field[key]) for key, sign in signs.items() if abs(field.get(key, 2**53)) < 2**53]
    return ",".join(f" {sign} {bound:g}" for sign, bound in bounds)
