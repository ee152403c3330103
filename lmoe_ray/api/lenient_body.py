"""What all parts of a request body have in common, and how their validators say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError

from lmoe_ray.errors import InvalidField, UnsupportedValue, one_line

#: Type of the error for a field that is valid and refused all the same.
UNSUPPORTED = "unsupported_value"

_PROBLEMS = {
    "missing": "is required",
    "model_type": "must be an object",
    "extra_forbidden": "is no known option here; remove it",
}

Body = TypeVar("Body", bound=BaseModel)
Item = TypeVar("Item")

#: A list of any length, of which the first wrong item is told: an error for each takes seconds and gigabytes.
AnyNumberOf = Annotated[list[Item], Field(fail_fast=True)]


def wrong(problem: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{problem}", {"problem": problem})


def unsupported(problem: str) -> PydanticCustomError:
    return PydanticCustomError(UNSUPPORTED, "{problem}", {"problem": problem})


class Lenient(BaseModel):
    """``null`` is the same as absent, ``1.0`` is a whole number, and unknown keys are allowed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: _whole(value) for name, value in data.items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """As pydantic describes it, and every field that may be absent may be ``null``."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        properties, required = schema.get("properties", {}), schema.get("required", ())
        schema["properties"] = {
            name: field if name in required else _or_null(field) for name, field in properties.items()
        }
        return schema


def _whole(value: Any) -> Any:
    """JSON has one kind of numbers, and its schemas call 1.0 an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _or_null(field: JsonSchemaValue) -> JsonSchemaValue:
    notes: JsonSchemaValue = {name: field[name] for name in ("default", "description") if name in field}
    rest = {name: value for name, value in field.items() if name not in notes}
    kinds = rest["anyOf"] if rest.keys() == {"anyOf"} else [rest]
    return {**notes, "anyOf": kinds if {"type": "null"} in kinds else [*kinds, {"type": "null"}]}


def validated(kind: type[Body], body: Mapping[str, Any], place: tuple[int | str, ...] = ()) -> Body:
    """The body, or the part of one at ``place``, as a model.

    Raises:
        InvalidField, UnsupportedValue: naming the first wrong field, and how many more there are.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as exc:
        first, *rest = exc.errors(include_url=False)
        problem = _problem(first) + (f" (and {len(rest)} more)" if rest else "")
        error = UnsupportedValue if first["type"] == UNSUPPORTED else InvalidField
        raise error(_param((*place, *first["loc"])), problem) from exc


def _param(place: tuple[int | str, ...]) -> str:
    """``("messages", 0, "role")`` as ``messages[0].role``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{one_line(step, 40)}" for step in place)
    return "".join(steps).removeprefix(".")


def _problem(error: ErrorDetails) -> str:
    """What is wrong, with the value if it is short: a long one may be the conversation."""
    if fixed := _PROBLEMS.get(error["type"]):
        return fixed
    value = error["input"]
    is_short = isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 40)
    return error["msg"] + (f" (got {json.dumps(value)[:60]})" if is_short else "")
