"""A client's JSON Schema, read for the decoder: what it can enforce is kept, what it cannot is named by its place.

JSON Schema says to pass over keywords one does not know. Here a strict schema with one is refused, since the
answer would be promised more than it keeps; from another the keyword is left out and reported.

Objects that declare properties and leave open whether there are others are closed: an answer then
satisfies the schema all the same, and no model goes on inventing names. A schema that joins others by
``allOf`` stays as it is, since its parts must not exclude each other's properties.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from lmoe_ray.errors import InvalidField, UnsupportedValue, one_line

#: Levels of schemas inside schemas.
MAX_DEPTH = 40
#: Schemas in one request: of properties, items and alternatives. Compiling so many takes seconds.
MAX_SCHEMAS = 10_000
ANY_OBJECT = '{"type": "object"}'

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
#: Without effect by their definition.
_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"})
#: About the schema itself, not about what it describes.
_HEADINGS = frozenset({"$schema", "$comment", "$id"})
_COMPOSING = ("anyOf", "oneOf", "allOf", "$ref")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_types(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(name in _TYPES for name in names if isinstance(name, str)) and _are_strings(names)


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_COUNT = (_is_count, "must be a whole number, 0 or more")
_NUMBER = (_is_number, "must be a number")
#: Keywords whose value holds no schema: what it must be.
_VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_are_types, f"must be {', '.join(_TYPES[:-1])} or {_TYPES[-1]}, or a list of these"),
    "enum": (lambda value: isinstance(value, list) and bool(value), "must be a list that is not empty"),
    "const": (lambda value: True, ""),
    "required": (_are_strings, "must be a list of names"),
    "pattern": (lambda value: isinstance(value, str), "must be a string"),
    "$ref": (lambda value: isinstance(value, str) and value.startswith("#"), "must point into the same schema, as #/…"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "must be a number above 0"),
    **dict.fromkeys(("minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"), _COUNT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
}
_ONE_SCHEMA = frozenset({"items", "additionalProperties"})
_SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SCHEMA_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions"})


class SchemaReader:
    """Reads one schema.

    Attributes:
        left_out: places of keywords that were left out, in their order.
        num_left: schemas that the request may still hold.
    """

    def __init__(self, *, is_strict: bool, num_left: int = MAX_SCHEMAS) -> None:
        self.left_out: list[str] = []
        self.num_left = num_left
        self._is_strict = is_strict

    def read(self, schema: Mapping[str, Any], place: str) -> str:
        """The schema as the decoder takes it, as JSON text; ``place`` is where it stands in the body.

        Raises:
            UnsupportedValue: it is strict and has a keyword or format that cannot be enforced.
            InvalidField: it is no schema, or one too many.
        """
        return json.dumps(self._schema(schema, place, MAX_DEPTH, closes=not _has_key(schema, "allOf")))

    def _schema(self, schema: Any, place: str, depth: int, *, closes: bool) -> Any:
        self.num_left -= 1
        if self.num_left < 0:
            problem = f"there are more than {MAX_SCHEMAS} schemas of properties, items and alternatives; declare fewer"
            raise InvalidField(one_line(place, 80), problem)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise InvalidField(place, "must be a JSON Schema: an object, true or false")
        if not depth:
            raise InvalidField(one_line(place, 80), f"schemas are nested deeper than {MAX_DEPTH}; flatten them")
        inner_closes = closes and "properties" not in schema
        read: dict[str, Any] = {}
        for name, value in schema.items():
            part = f"{place}.{one_line(name, 40)}"
            if name in _ONE_SCHEMA:
                read[name] = self._schema(value, part, depth - 1, closes=closes)
            elif name in _SCHEMA_LISTS:
                inner = closes if name == "prefixItems" else inner_closes
                read[name] = self._schemas(value, part, depth - 1, closes=inner)
            elif name in _SCHEMA_MAPS:
                read[name] = self._named_schemas(value, part, depth - 1, closes=closes)
            elif self._keeps(name, value, part):
                read[name] = value
        if closes and _is_left_open(schema):
            read["additionalProperties"] = False
        return read

    def _schemas(self, value: Any, place: str, depth: int, *, closes: bool) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise InvalidField(place, "must be a list of schemas that is not empty")
        return [self._schema(item, f"{place}[{at}]", depth, closes=closes) for at, item in enumerate(value)]

    def _named_schemas(self, value: Any, place: str, depth: int, *, closes: bool) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise InvalidField(place, "must be an object of schemas")
        return {
            name: self._schema(schema, f"{place}.{one_line(name, 40)}", depth, closes=closes)
            for name, schema in value.items()
        }

    def _keeps(self, name: str, value: Any, place: str) -> bool:
        """Whether a keyword without schemas in it goes to the decoder."""
        if name in _NOTES or name in _HEADINGS:
            return name in _NOTES
        if name in _VALUES:
            is_right, problem = _VALUES[name]
            if not is_right(value):
                raise InvalidField(place, problem)
            return True
        if name == "format" and value in _FORMATS:
            return True
        return self._leave_out(name, value, place)

    def _leave_out(self, name: str, value: Any, place: str) -> bool:
        if self._is_strict:
            what = f"format {one_line(value, 40)!r}" if name == "format" else f"keyword {one_line(name, 40)!r}"
            raise UnsupportedValue(place, f"{what} cannot be enforced; remove it, or set strict to false")
        self.left_out.append(place)
        return False


def _is_left_open(schema: Mapping[str, Any]) -> bool:
    says = ("additionalProperties", "patternProperties", *_COMPOSING)
    return bool(schema.get("properties")) and not any(name in schema for name in says)


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(inner, key) for inner in value.values())
    return isinstance(value, list) and any(_has_key(inner, key) for inner in value)
