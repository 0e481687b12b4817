"""Base class and types of all settings, and the settings that every training stage has."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

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


class Optimisation(Settings):
    """Settings of every training stage: AdamW with decoupled weight decay, and the learning rate schedule."""

    coupled: ClassVar[tuple[str, ...]] = ()
    """Fields that are checked against each other: only their combinations can be invalid where each value is valid."""
    not_identity: ClassVar[tuple[str, ...]] = ("name",)
    """Fields that do not determine the result."""
    scored: ClassVar[tuple[str, ...]] = ()
    """What each of its evaluations measures, beside what those of every kind do."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-5
    """Peak learning rate, of the top layer and the head."""
    batch_size: Annotated[int, Field(ge=1)] = 24
    """Sequences per optimizer step, over all micro-batches and workers."""
    warmup: Share = 0.1
    """Share of the steps in which the rate rises from 0 to its peak."""
    schedule: Literal["linear", "slanted", "cosine", "constant"] = "linear"
    """After the warm-up: linear to 0; slanted: ULMFiT's triangle, from 1/32 and back to 1/32; half a cosine to 0; constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of all weights except biases and LayerNorm."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Adam's decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Adam's decay of the second moment."""
    epsilon: Positive = 1e-6
    """Adam's epsilon, BERT's value."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the whole gradient; 0: no clipping."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of hidden states, attention probabilities and the head."""

    @property
    def switched_off(self) -> tuple[str, ...]:
        """Fields that play no part, since others switch them off."""
        return ()

    @property
    def trains(self) -> bool:
        """Whether the stage has any training step."""
        return True


def switched(*cases: tuple[bool, Iterable[str]]) -> tuple[str, ...]:
    """The fields of the cases that hold."""
    return tuple(field for holds, fields in cases if holds for field in fields)
