"""What all parts of a request body have in common, and how their validators say what is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

#: Type of the error for a field that is valid and refused all the same.
UNSUPPORTED = "unsupported_value"


def wrong(problem: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{problem}", {"problem": problem})


def unsupported(problem: str) -> PydanticCustomError:
    return PydanticCustomError(UNSUPPORTED, "{problem}", {"problem": problem})


class Lenient(BaseModel):
    """``null`` is the same as absent, and unknown keys are allowed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data
