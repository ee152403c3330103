"""Schemas: what goes to the decoder, what is refused and where, what is left out and reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmoe_ray.api.json_schema import MAX_DEPTH, MAX_SCHEMAS, SchemaReader
from lmoe_ray.errors import InvalidField, UnsupportedValue


def read(schema: Any, *, is_strict: bool = True) -> tuple[Any, list[str]]:
    reader = SchemaReader(is_strict=is_strict)
    return json.loads(reader.read(schema, "s")), reader.left_out


def test_every_keyword_the_decoder_enforces_goes_to_it_as_it_is() -> None:
    schema = {
        "title": "T",
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"], "minLength": 1, "maxLength": 9, "pattern": "^a"},
            "b": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
            "c": {"anyOf": [{"const": 1}, {"enum": ["x", None]}, {"$ref": "#/$defs/d"}]},
            "e": {"type": "array", "prefixItems": [{"type": "number", "multipleOf": 0.5}], "items": False},
            "f": {"type": "string", "format": "date-time", "description": "when"},
        },
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"d": {"type": "boolean"}},
    }
    assert read(schema) == (schema, [])


@pytest.mark.parametrize(
    ("schema", "place", "what"),
    [
        ({"not": {"type": "string"}}, "s.not", "keyword 'not'"),
        ({"properties": {"a": {"uniqueItems": True}}}, "s.properties.a.uniqueItems", "keyword 'uniqueItems'"),
        ({"anyOf": [{}, {"maxlength": 3}]}, "s.anyOf[1].maxlength", "keyword 'maxlength'"),
        ({"items": {"format": "zork"}}, "s.items.format", "format 'zork'"),
        ({"x-guidance": {"lenient": True}}, "s.x-guidance", "keyword 'x-guidance'"),
    ],
)
def test_what_cannot_be_enforced_is_refused_if_strict_and_reported_if_not(schema: Any, place: str, what: str) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        read(schema)
    assert caught.value.param == place
    assert str(caught.value) == f"{place}: {what} cannot be enforced; remove it, or set strict to false"
    cleaned, left_out = read(schema, is_strict=False)
    assert left_out == [place]
    assert place.rpartition(".")[2] not in json.dumps(cleaned)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "strng"}, "s.type"),
        ({"type": []}, "s.type"),
        ({"enum": []}, "s.enum"),
        ({"required": "a"}, "s.required"),
        ({"properties": []}, "s.properties"),
        ({"properties": {"a": 1}}, "s.properties.a"),
        ({"items": [{}]}, "s.items"),
        ({"anyOf": []}, "s.anyOf"),
        ({"maxLength": -1}, "s.maxLength"),
        ({"minItems": True}, "s.minItems"),
        ({"maximum": "9"}, "s.maximum"),
        ({"multipleOf": 0}, "s.multipleOf"),
        ({"$ref": "http://elsewhere/x"}, "s.$ref"),
    ],
)
@pytest.mark.parametrize("is_strict", [True, False])
def test_what_is_no_schema_is_refused_by_its_place(schema: Any, place: str, is_strict: bool) -> None:
    with pytest.raises(InvalidField) as caught:
        read(schema, is_strict=is_strict)
    assert caught.value.param == place


def test_headings_are_passed_over() -> None:
    assert read({"$schema": "http://json-schema.org/x", "$id": "y", "$comment": "z", "type": "null"}) == (
        {"type": "null"},
        [],
    )


def test_an_object_that_leaves_other_properties_open_is_closed() -> None:
    inner = {"type": "object", "properties": {"a": {}}}
    closed = {**inner, "additionalProperties": False}
    assert read({"items": inner})[0] == {"items": closed}
    assert read({"anyOf": [inner]})[0] == {"anyOf": [closed]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
    ],
)
def test_but_not_where_that_would_forbid_what_the_schema_asks_for(schema: Any) -> None:
    assert read(schema)[0] == schema


def test_schemas_nested_without_end_are_refused() -> None:
    schema: Any = {}
    for _ in range(MAX_DEPTH):
        schema = {"items": schema}
    with pytest.raises(InvalidField, match="nested deeper than 40"):
        read(schema)


@pytest.mark.parametrize("kind", ["properties", "anyOf", "prefixItems"])
def test_a_schema_holds_so_many_others_and_no_more(kind: str) -> None:
    def holding(number: int) -> Any:
        return {kind: {str(at): True for at in range(number)} if kind == "properties" else [{}] * number}

    assert read(holding(MAX_SCHEMAS - 1))[1] == []
    with pytest.raises(InvalidField, match=f"there are more than {MAX_SCHEMAS} schemas of properties, items") as caught:
        read(holding(MAX_SCHEMAS))
    assert str(caught.value.param).startswith(f"s.{kind}")
