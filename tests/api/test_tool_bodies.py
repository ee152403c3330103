"""Tools and response formats in a chat body: what becomes of each, and what is refused where."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmoe_ray.api.json_schema import MAX_SCHEMAS
from lmoe_ray.api.openai import Completion, parse_chat
from lmoe_ray.domain.tools import MAX_CALLS, Tool, ToolUse
from lmoe_ray.errors import InvalidField, UnsupportedValue

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
F = {"name": "f", "description": "does f", "parameters": SCHEMA}
TOOL_F, TOOL_G = Tool("f", "does f", json.dumps(SCHEMA)), Tool("g")


def chat(**fields: Any) -> Completion:
    return parse_chat({"model": "demo", "messages": [{"role": "user", "content": "x"}], **fields}, "r1", 8)


def use(**fields: Any) -> ToolUse | None:
    tools = [{"type": "function", "function": F}, {"type": "function", "function": {"name": "g"}}]
    return chat(tools=tools, **fields).generate.tools


def test_tools_may_be_called_several_times_or_not_at_all() -> None:
    assert use() == use(tool_choice="auto") == use(tool_choice=None) == ToolUse((TOOL_F, TOOL_G))
    assert use(parallel_tool_calls=False) == ToolUse((TOOL_F, TOOL_G), max_calls=1)


def test_a_call_is_forbidden_required_or_named() -> None:
    assert use(tool_choice="none") is None
    assert use(tool_choice="required") == ToolUse((TOOL_F, TOOL_G), must_call=True, max_calls=MAX_CALLS)
    named = use(tool_choice={"type": "function", "function": {"name": "g"}})
    assert named == ToolUse((TOOL_F, TOOL_G), must_call=True, only="g", max_calls=1)
    assert named.callable == (TOOL_G,)


def test_tools_that_may_not_be_called_do_not_speak_for_an_expert() -> None:
    tools = [{"type": "function", "function": F}]
    assert chat(tools=tools).generate.num_tools == 1
    assert chat(tools=tools, tool_choice="none").generate.num_tools == 0


def test_functions_allow_one_call_and_are_answered_in_their_own_way() -> None:
    completion = chat(functions=[F])
    assert (completion.generate.tools, completion.is_legacy_call) == (ToolUse((TOOL_F,), max_calls=1), True)
    assert chat(functions=[F], function_call="none").generate.tools is None
    named = chat(functions=[F], function_call={"name": "f"}).generate.tools
    assert named == ToolUse((TOOL_F,), must_call=True, only="f", max_calls=1)


@pytest.mark.parametrize(
    "function", [{"name": "f"}, {"name": "f", "parameters": None}, {"name": "f", "parameters": {}}]
)
def test_a_function_without_parameters_takes_none(function: Any) -> None:
    completion = chat(functions=[function])
    assert completion.generate.tools is not None
    assert completion.generate.tools.tools == (Tool("f"),)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"functions": [{"name": 'f": {"x'}]}, "functions[0].name"),
        ({"functions": [{"name": "f\n"}]}, "functions[0].name"),
        ({"functions": [F, F]}, "functions[1].name"),
        ({"functions": [{"name": "f"}] * 129}, "functions"),
        ({"functions": [{"name": "f", "parameters": {"type": "string"}}]}, "functions[0].parameters.type"),
        ({"functions": [{"name": "f", "parameters": {"required": 1}}]}, "functions[0].parameters.required"),
        ({"functions": [F], "tools": [{"function": F}]}, "functions"),
        ({"functions": [F], "function_call": {"name": "g"}}, "function_call"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"function": F}], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [{"function": F}], "tool_choice": {"function": {"name": "zork"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}},
            "response_format.json_schema.schema.type",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"function": F}], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [{"function": F}], "response_format": {"type": "json_object"}}, "response_format"),
        (
            {"functions": [{"name": "f", "strict": True, "parameters": {"properties": {"a": {"not": {}}}}}]},
            "functions[0].parameters.properties.a.not",
        ),
    ],
)
def test_what_this_server_does_not_do_is_refused_as_unsupported(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        chat(**fields)
    assert caught.value.param == param


def test_a_format_becomes_the_schema_of_the_whole_answer() -> None:
    def schema(**wanted: Any) -> str:
        return chat(response_format=wanted).generate.sampling.json_schema

    assert schema(type="text") == ""
    assert json.loads(schema(type="json_object")) == {"type": "object"}
    assert json.loads(schema(type="json_schema", json_schema={"name": "n", "schema": SCHEMA})) == SCHEMA


def test_json_is_no_matter_where_a_call_is_required() -> None:
    fields: dict[str, Any] = {"tools": [{"function": F}], "tool_choice": "required"}
    generate = chat(**fields, response_format={"type": "json_object"}).generate
    assert (generate.tools is not None, generate.sampling.json_schema) == (True, "")


def test_keywords_without_effect_are_reported_by_their_place_after_the_fields() -> None:
    unique = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    wanted = {"type": "json_schema", "json_schema": {"schema": unique}}
    assert chat(response_format=wanted, store=True).ignored == (
        "store",
        "response_format.json_schema.schema.properties.a.uniqueItems",
    )
    assert chat(functions=[{"name": "f", "parameters": unique}]).ignored == (
        "functions[0].parameters.properties.a.uniqueItems",
    )


@pytest.mark.parametrize("field", ["tool_choice", "function_call"])
@pytest.mark.parametrize("choice", ["required", {"name": "f"}])
def test_a_call_of_what_is_not_declared_is_refused_in_either_way(field: str, choice: Any) -> None:
    with pytest.raises(InvalidField, match="no function is declared") as caught:
        chat(**{field: choice})
    assert caught.value.param == field


def test_the_schemas_of_all_functions_are_counted_together() -> None:
    def functions(num_properties: int) -> list[Any]:
        parameters = {"properties": {str(at): True for at in range(num_properties)}}
        return [{"name": f"f{at}", "parameters": parameters} for at in range(2)]

    half = MAX_SCHEMAS // 2
    assert chat(functions=functions(half - 1)).generate.tools is not None
    with pytest.raises(InvalidField, match=f"more than {MAX_SCHEMAS} schemas") as caught:
        chat(functions=functions(half))
    assert str(caught.value.param).startswith("functions[1].parameters.properties.")
