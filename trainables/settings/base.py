"""Base class and types of all settings."""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


Positive = Annotated[float, Field(gt=0)]


_TEXT: dict[str, bool] = {}
"""{name of a field of any settings: whether its type is text, a list of texts or null in all settings with this field}."""


def holds_text(path: str) -> bool:
    """Whether the value at a path is of type text, such as `tasks.mine.labels` or the choices of such a field."""
    is_text = False
    for part in path.split("."):
        is_text = is_text if part.isdigit() else _TEXT.get(part, False) or (is_text and part == "choice")
    return is_text


def _of_text(annotation: Any) -> bool | None:
    """Whether a type is text only; None for mappings, whose values have types of their own."""
    if get_origin(annotation) is Annotated:
        return _of_text(get_args(annotation)[0])
    if (isinstance(annotation, type) and issubclass(annotation, BaseModel | dict)) or get_origin(annotation) is dict:
        return None
    parts = [part for part in get_args(annotation) if part not in (NoneType, Ellipsis)]
    if annotation is str or not parts or get_origin(annotation) is Literal:
        return annotation is str
    kinds = [_of_text(part) for part in parts]
    return None if None in kinds else all(kinds)


class Settings(BaseModel):
    """Base of all settings: immutable, hashable, no unknown fields, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for name, field in cls.model_fields.items():
            of_text = _of_text(field.annotation)
            if of_text is not None:
                _TEXT[name] = of_text and _TEXT.get(name, True)

    def canonical(self) -> dict[str, Any]:
        """JSON form with every default written out."""
        return self.model_dump(mode="json")
