"""Recipes of the papers by name, as data: `recipe: TAPT`, or `recipe: {DAPT+TAPT: {dapt.corpus: [pool.txt], finetune.epochs: 3}}`.

A name is expanded into its stages before anything else is read, so that overrides, the space and the stored study contain stages
only. The table holds a paper's differences from the defaults in `trainables/settings/`, which are those of Sun et al. (2019).
`docs/recipes.md` is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from study.definition.models import STAGE_KINDS
from study.definition.space import NOT_SEARCHED
from trainables.settings.errors import closest, near

Entry = dict[str, dict[str, Any]]
"""A stage as a study file writes it: {kind: settings}."""


@dataclass(frozen=True)
class PaperRecipe:
    """A recipe that a paper names."""

    what: str
    """Description in a line."""
    source: str
    stages: tuple[Entry, ...]
    needs: Mapping[str, str] = field(default_factory=dict)
    """{stage: example of its corpus}, for corpora that the user must name."""


SUN = "Sun et al. 2019, {}"
_FURTHER = {"objective": "mlm+nsp"}
_FIT: Entry = {"finetune": {}}

GURURANGAN = "Gururangan et al. 2020, {}"
_ADAM = {"epsilon": 1e-6, "beta1": 0.9, "beta2": 0.98, "weight_decay": 0.01, "warmup": 0.06, "schedule": "linear"}
_MLM = _ADAM | {"objective": "mlm", "max_length": 512}
_DAPT = _MLM | {"steps": 12_500, "schedule_steps": 12_500, "batch_size": 2048, "learning_rate": 5e-4}
_TAPT = _MLM | {"epochs": 100, "batch_size": 256, "learning_rate": 1e-4}
_SELECTED = {name: value for name, value in _TAPT.items() if name != "epochs"} | {"steps": 1100, "schedule_steps": 1100}
_CLASSIFIER: Entry = {
    "finetune": _ADAM
    | {"learning_rate": 2e-5, "batch_size": 16, "epochs": 10, "dropout": 0.1, "max_length": 512, "truncation": "head", "xi": 1.0}
    | {"pooling": "pooled"}
}


def _pretrain(name: str, settings: Mapping[str, Any], **more: Any) -> Entry:
    return {"pretrain": {"name": name, **settings, **more}}


RECIPES = {
    "BERT-FiT": PaperRecipe("fine-tuning only", SUN.format("5.1"), (_FIT,)),
    "BERT-ITPT-FiT": PaperRecipe(
        "further pre-training on the task's own training texts, then fine-tuning",
        SUN.format("5.4.1"),
        ({"pretrain": {"corpus": ["within-task"], **_FURTHER}}, _FIT),
    ),
    "BERT-IDPT-FiT": PaperRecipe(
        "the same on the training texts of all tasks of the target's domain",
        SUN.format("5.4.2"),
        ({"pretrain": {"corpus": ["in-domain"], **_FURTHER}}, _FIT),
    ),
    "BERT-CDPT-FiT": PaperRecipe(
        "the same on the training texts of all tasks",
        SUN.format("5.4.2"),
        ({"pretrain": {"corpus": ["cross-domain"], **_FURTHER}}, _FIT),
    ),
    "BERT-CDPT-MFiT-FiT": PaperRecipe(
        "that, then fine-tuning on all tasks at once, then on the target at a lower rate (the paper does not say which)",
        SUN.format("5.5"),
        ({"pretrain": {"corpus": ["cross-domain"], **_FURTHER}}, {"multitask": {}}, {"finetune": {"learning_rate": 1e-5}}),
    ),
    "BERT-Feat": PaperRecipe(
        "no fine-tuning: the encoder's features into a biLSTM with self-attention",
        SUN.format("5.4.3"),
        ({"finetune": {"freeze": "encoder", "pooling": "bilstm"}},),
    ),
    "RoBERTa-FiT": PaperRecipe("fine-tuning only, with this paper's settings", GURURANGAN.format("3.1"), (_CLASSIFIER,)),
    "DAPT": PaperRecipe(
        "further pre-training on a large corpus of the task's domain",
        GURURANGAN.format("3"),
        (_pretrain("dapt", _DAPT), _CLASSIFIER),
        {"dapt": "[domain.txt]"},
    ),
    "not-DAPT": PaperRecipe(
        "the same on a domain that is unrelated to the task: the control",
        GURURANGAN.format("3.3"),
        (_pretrain("dapt", _DAPT), _CLASSIFIER),
        {"dapt": "[another-domain.txt]"},
    ),
    "TAPT": PaperRecipe(
        "further pre-training on the task's own training texts, 100 epochs",
        GURURANGAN.format("4"),
        (_pretrain("tapt", _TAPT, corpus=["within-task"]), _CLASSIFIER),
    ),
    "DAPT+TAPT": PaperRecipe(
        "the domain first, then the task",
        GURURANGAN.format("4.2"),
        (_pretrain("dapt", _DAPT), _pretrain("tapt", _TAPT, corpus=["within-task"]), _CLASSIFIER),
        {"dapt": "[domain.txt]"},
    ),
    "curated-TAPT": PaperRecipe(
        "TAPT on a larger collection of texts like the task's own, without labels",
        GURURANGAN.format("5.1"),
        (_pretrain("tapt", _TAPT), _CLASSIFIER),
        {"tapt": "[within-task, collection.txt]"},
    ),
    "kNN-TAPT": PaperRecipe(
        "TAPT on the task's texts and 50 nearest neighbours of each from a domain corpus; steps as for the 500 texts of RCT-500",
        GURURANGAN.format("5.2 and Table 9"),
        (_pretrain("tapt", _SELECTED, select="nearest", neighbours=50), _CLASSIFIER),
        {"tapt": "[within-task, domain.txt]"},
    ),
    "RAND-TAPT": PaperRecipe(
        "the same with as many texts of the corpus drawn at random: the control",
        GURURANGAN.format("5.2"),
        (_pretrain("tapt", _SELECTED, select="random", neighbours=50), _CLASSIFIER),
        {"tapt": "[within-task, domain.txt]"},
    ),
}


def stages_of(recipe: str | dict[str, Any]) -> tuple[str | None, list[Entry], list[str]]:
    """Return (name, stages, faults) of `recipe` in a study file: a name, or {name: {path: value}} with changed settings.

    If no recipe has the name, it is None and the stages are those of the simplest recipe.
    """
    name, settings = _name_and_settings(recipe)
    if name not in RECIPES:
        kinds = ", ".join(STAGE_KINDS)
        stage = f"; stages must be in a list: recipe: [{{{name}: ...}}]" if name in STAGE_KINDS else _near(str(name))
        what = (
            f"no recipe is called {name!r}{stage}" if name else f"{recipe!r:.80} given; it should be one name, or a list of {kinds}"
        )
        return None, deepcopy([_FIT]), [f"recipe: {what}"]
    stages = deepcopy(list(RECIPES[name].stages))
    if not isinstance(settings, dict | None):
        example = f"{{{_stage_names(stages)[-1]}.learning_rate: 3e-5}}"
        return name, stages, [f"recipe.{name}: {settings!r:.80} given; it should be settings by their paths, such as {example}"]
    return name, stages, list(_set_all(name, stages, settings or {}))


def _near(name: str) -> str:
    """End of an error message: the closest name, ignoring case, else all names."""
    folded = {recipe.casefold(): recipe for recipe in RECIPES}
    close = closest(name.casefold(), folded)
    return f"; did you mean {folded[close]!r}?" if close else f"; allowed: {', '.join(RECIPES)}"


def _name_and_settings(recipe: str | dict[str, Any]) -> tuple[str | None, Any]:
    if isinstance(recipe, str):
        return recipe, None
    if len(recipe) != 1:
        return None, None
    ((name, settings),) = recipe.items()
    return str(name), settings


def _stage_names(stages: Iterable[Entry]) -> list[str]:
    return [settings.get("name", kind) for entry in stages for kind, settings in entry.items()]


def _set_all(name: str, stages: list[Entry], values: Mapping[Any, Any]) -> Iterator[str]:
    """Put settings {<stage name>.<field>: value} into the stages; yield a fault for every unknown path."""
    named = dict(zip(_stage_names(stages), (next(iter(entry.items())) for entry in stages), strict=True))
    for path, value in values.items():
        stage, dot, setting = str(path).partition(".")
        if stage not in named or not dot:
            known = [f"{other}.{setting or 'learning_rate'}" for other in named]
            yield f"recipe.{name}.{path}: a path is <stage>.<field>{near(str(path), known)}"
            continue
        kind, settings = named[stage]
        fields = [field for field in STAGE_KINDS[kind].model_fields if field not in NOT_SEARCHED]
        if setting not in fields:
            yield f"recipe.{name}.{path}: unknown field{near(setting, fields)}"
        else:
            settings[setting] = value


def missing_texts(name: str, recipe: Any, space: Any) -> Iterator[str]:
    """Yield a fault for every corpus that the user must name and has not, with the line to write."""
    stages = {
        str(settings.get("name", kind)): settings
        for entry in (recipe if isinstance(recipe, list) else ())
        if isinstance(entry, dict)
        for kind, settings in entry.items()
        if isinstance(settings, dict)
    }
    for stage, corpus in RECIPES[name].needs.items():
        if stage in stages and "corpus" not in stages[stage] and f"{stage}.corpus" not in (space or ()):
            yield (
                f"recipe: {name} is {RECIPES[name].what}, and only you can name these texts; write"
                f" `recipe: {{{name}: {{{stage}.corpus: {corpus}}}}}` with your file"
            )


# Output --------------------------------------------------------------------------------------------------------------------------


def show() -> str:
    """Format all named recipes for the terminal, at most 80 columns wide."""
    lines = []
    for name, recipe in RECIPES.items():
        lines += [f"{name}: {' -> '.join(_stage_names(recipe.stages))}", *_indented(f"{recipe.what} ({recipe.source})")]
        lines += _indented(_line(name)) if recipe.needs else []
    return "\n".join([*lines, "", "Settings: docs/recipes.md. Changed settings: recipe: {TAPT: {tapt.epochs: 10}}"])


def _indented(text: str) -> list[str]:
    return wrap(text, 80, initial_indent="    ", subsequent_indent="    ")


def _line(name: str) -> str:
    """The line of a study file that uses a recipe."""
    needs = ", ".join(f"{stage}.corpus: {corpus}" for stage, corpus in RECIPES[name].needs.items())
    return f"recipe: {{{name}: {{{needs}}}}}" if needs else f"recipe: {name}"


HEAD = """# Named recipes

Written by `make docs` from `study/definition/recipes.py`; `study recipes` lists them. In a study file a name replaces the
stages:

```yaml
recipe: BERT-ITPT-FiT
```

and with changed settings by `<stage>.<field>`, still in one line:

```yaml
recipe: {DAPT+TAPT: {dapt.corpus: [domain.txt], finetune.epochs: 3}}
```

`--set recipe.dapt.steps=1000` and the paths of the space use the names of stages below. The `study.yaml` of a run folder holds the
expanded stages. Settings that are not listed here have their defaults, see [the study file](study-file.md). No recipe sets the
encoder: Sun et al. took BERT, Gururangan et al. RoBERTa. `mlm+nsp` needs an encoder for pairs of texts; for others set
`pretrain.objective: mlm`.
"""


def document() -> str:
    """Return the table as Markdown: for every recipe a description, the line to write, the settings of its stages."""
    parts = [HEAD]
    for name, recipe in RECIPES.items():
        parts += [f"## {name}", "", f"{recipe.what[0].upper()}{recipe.what[1:]} ({recipe.source}).", "", f"`{_line(name)}`", ""]
        parts += ["| stage | kind | settings |", "|---|---|---|"]
        parts += [_row(kind, settings) for entry in recipe.stages for kind, settings in entry.items()]
        parts.append("")
    return "\n".join(parts)


def _row(kind: str, settings: Mapping[str, Any]) -> str:
    shown = [f"`{key}: {_text(value)}`" for key, value in settings.items() if key != "name"]
    return f"| {settings.get('name', kind)} | {kind} | {', '.join(shown) or 'the defaults'} |"


def _text(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
