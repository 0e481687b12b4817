"""How faulty input is answered: every fault at once, with its place, the value, what is allowed and the near miss.

Imports no torch.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from trainables.model import holds_text

M = TypeVar("M", bound=BaseModel)


class ConfigError(ValueError):
    """Faults of the user's input, all of them, each a line that names the place, the value and what is allowed."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.faults,)  # another process is to read the same lines


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for a near miss, else the allowed names."""
    known = sorted(known)
    if close := closest(name, known):
        return f"; did you mean {close!r}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def closest(name: object, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely misspells; swapped letters count as the smallest slip."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.6)
    return min(close, key=lambda candidate: sorted(candidate) != sorted(str(name)), default=None)


class _Loader(yaml.SafeLoader):
    """Plain data only: no tags, no anchors (an alias bomb stays small on disk and huge in memory), no doubled keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        where = f"line {event.start_mark.line + 1}"
        if getattr(event, "anchor", None) is not None:
            raise ConfigError([f"{where}: anchors and aliases (& and *) are not allowed"])
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ConfigError([f"{where}: the YAML tag {tag!r} is not allowed; a study file is plain data"])
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError([f"line {key.start_mark.line + 1}: a list or mapping stands as the name of a field"])
            if key.value in seen:
                raise ConfigError([f"line {key.start_mark.line + 1}: {key.value!r} is given twice"])
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 2e-5 as a string; everybody who writes it means a number.
FLOAT = re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$")


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+$|0[bx]|[^:]*:)")
_STR, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))


def _as_written(node: yaml.Node | None, path: str, in_list: bool = False) -> None:
    """Take what stands for text as it is written, where YAML 1.1 reads no, 012, 1_000 and 2020-01-01 as something else.

    Names of fields, and values of the fields that hold text; null stays null but in a list of names.
    """
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _STR
                _as_written(value, f"{path}.{key.value}")
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _as_written(each, path, in_list=True)
    elif isinstance(node, yaml.ScalarNode) and holds_text(path) and (node.tag != _NULL or (in_list and node.value)):
        node.tag = _STR
    elif isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and _OTHER_BASE.match(node.value):
        where = f"line {node.start_mark.line + 1}"
        raise ConfigError([f"{where}: {node.value} is no decimal number; YAML 1.1 would read it to another base: write it plainly"])


def parse_yaml(text: str, source: str = "input", path: str = "") -> Any:
    """YAML as plain data, `path` the place that it is the value of. Raises ConfigError for anything else."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _as_written(node, path)
        return None if node is None else loader.construct_document(node)
    except ConfigError as error:
        raise ConfigError(f"{source}: {fault}" for fault in error.faults) from None
    except RecursionError:
        raise ConfigError([f"{source}: nested too deeply"]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{source}: not YAML: {' '.join(str(error).split())}"]) from None


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file as plain data. Raises ConfigError that names the file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None
    return parse_yaml(text, str(path))


def validate(model: type[M], data: Any, place: str = "") -> M:
    """`model` from plain data. Raises ConfigError with every fault: its path, the value, what is allowed, the near miss."""
    try:
        # Through JSON: strict, so that "3" is no number, yet a YAML list is a tuple.
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise ConfigError(_describe(model, fault, place) for fault in error.errors()) from None


def _describe(model: type[BaseModel], fault: Any, place: str) -> str:
    """One line for one fault that pydantic found."""
    path = ".".join([place] * bool(place) + [str(part) for part in fault["loc"]])
    value, context = fault["input"], fault.get("ctx", {})
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    match fault["type"]:
        case "extra_forbidden":
            owner = _model_at(model, fault["loc"][:-1])
            return f"{path}: unknown field{near(str(fault['loc'][-1]), owner.model_fields) if owner else ''}"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            close = closest(value, allowed)
            return f"{path}: {shown} is not one of {', '.join(allowed)}{f'; did you mean {close!r}?' if close else ''}"
        case "missing":
            return f"{path}: missing"
        case "value_error":
            return f"{path}: {context['error']}" if path else str(context["error"])
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{path}: {shown} given; {message.replace('input should', 'it should')}"


def _model_at(model: Any, loc: tuple[Any, ...]) -> type[BaseModel] | None:
    """The settings model that stands at the place `loc`, for naming its fields."""
    for part in loc:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
            continue
        for inner in _models_in(model):
            kind = inner.model_fields.get("kind")
            if kind is not None and kind.default == part:
                model = inner
                break
    found = _models_in(model)
    return found[0] if found else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
