"""Validate plain data by pydantic models; errors become faults with place, value, allowed values and near miss."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from trainables.settings.errors import ConfigError, closest, near

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], data: Any, place: str = "") -> M:
    """Create a `model` from plain data. Raises ConfigError with every fault: path, value, allowed values, near miss."""
    try:
        # By JSON: strict, so that "3" is not a number, but a list is accepted as a tuple.
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise ConfigError(_describe(model, fault, place) for fault in error.errors()) from None


def _describe(model: type[BaseModel], fault: Any, place: str) -> str:
    """One line for one of pydantic's faults."""
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
    """The settings model at the place `loc`, for the names of its fields."""
    for part in loc:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
            continue
        for inner in _models_in(model):
            kind = inner.model_fields.get("kind")
            if kind is not None and kind.default == part:
                model = inner
                break
    models = _models_in(model)
    return models[0] if models else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
