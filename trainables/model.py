"""What all settings have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


Positive = Annotated[float, Field(gt=0)]


class Model(BaseModel):
    """Base of all settings: immutable, hashable, no unknown fields, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def canonical(self) -> dict[str, Any]:
        """JSON form with every default written out."""
        return self.model_dump(mode="json")
