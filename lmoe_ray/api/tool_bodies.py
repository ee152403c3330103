"""The part of a chat body that shapes the answer: functions it may call, and JSON it must be.

OpenAI has two ways to declare functions. ``tools`` is today's; ``functions`` was there before it, allows one
call, and is answered in its own shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from lmoe_ray.api.json_schema import ANY_OBJECT, MAX_SCHEMAS, SchemaReader
from lmoe_ray.api.lenient_body import Lenient, unsupported, wrong
from lmoe_ray.domain.tools import Tool, ToolUse
from lmoe_ray.errors import InvalidField, UnsupportedValue, one_line

MAX_TOOLS = 128
#: As JSON Schema writes the name of a function.
_NAME = "^[A-Za-z0-9_-]{1,64}$"
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


class FunctionBody(Lenient):
    # Names stand in prompts and grammars as they are.
    name: Annotated[str, Field(pattern=r"\A[A-Za-z0-9_-]{1,64}\z", json_schema_extra={"pattern": _NAME})]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


def _only_functions(kind: str) -> str:
    if kind != "function":
        raise unsupported(f"tools of type {one_line(kind, 40)!r} are not supported; only 'function'")
    return kind


class ToolKind(Lenient):
    type: Annotated[str, AfterValidator(_only_functions), Field(json_schema_extra={"enum": ["function"]})] = "function"


class ToolBody(ToolKind):
    function: FunctionBody


def _choice(choice: Any) -> Any:
    """``auto``, ``none``, ``required``, or a function's name in an object."""
    if choice in ("auto", "none", "required"):
        return choice
    if isinstance(choice, dict) and choice.get("type", "function") == "function":
        named = choice.get("function", choice)
        if isinstance(named, dict) and isinstance(named.get("name"), str):
            return {"name": named["name"]}
    if isinstance(choice, dict) and isinstance(choice.get("type"), str):
        raise unsupported(f"a choice of type {one_line(choice['type'], 40)!r} is not supported; name one function")
    raise wrong("must be 'none', 'auto', 'required', or an object that names a function")


_KIND = {"const": "function"}
_NAMED = {"type": "object", "properties": {"type": _KIND, "name": {"type": "string"}}, "required": ["name"]}
_WRAPPED = {"type": "object", "properties": {"type": _KIND, "function": _NAMED}, "required": ["function"]}
_CHOICE_SCHEMA = {"anyOf": [{"enum": ["none", "auto", "required"]}, _WRAPPED, _NAMED]}
Choice = Annotated[Any, BeforeValidator(_choice), WithJsonSchema(_CHOICE_SCHEMA)]


class SchemaBody(Lenient):
    name: str = ""
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool = False


class FormatBody(Lenient):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: SchemaBody | None = None


class ToolsBody(Lenient):
    """The fields of a chat body that declare functions; ``api/bodies.py`` mixes them in."""

    tools: list[ToolBody] = Field(default_factory=list, max_length=MAX_TOOLS)
    functions: list[FunctionBody] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: Choice = "auto"
    function_call: Choice = "auto"
    parallel_tool_calls: bool = True
    response_format: FormatBody = FormatBody()


def tool_use(body: ToolsBody, left_out: list[str]) -> ToolUse | None:
    """What may be called; ``None``: nothing. Places of parameters' keywords without effect go to ``left_out``.

    Raises:
        InvalidField, UnsupportedValue: naming the place.
    """
    if body.tools and body.functions:
        raise InvalidField("functions", "send either tools or functions, not both")
    if body.functions or (body.function_call != "auto" and not body.tools):
        tools = _tools(body.functions, "functions[{}]", left_out)
        use = _chosen(ToolUse(tools), body.function_call, "function_call")
        return None if use is None else replace(use, max_calls=1)
    tools = _tools([tool.function for tool in body.tools], "tools[{}].function", left_out)
    use = _chosen(ToolUse(tools), body.tool_choice, "tool_choice")
    return use if use is None or body.parallel_tool_calls else replace(use, max_calls=1)


def _chosen(use: ToolUse, choice: Any, param: str) -> ToolUse | None:
    if choice == "none" or (choice == "auto" and not use.tools):
        return None
    if not use.tools:
        raise InvalidField(param, "asks for a call, but no function is declared; send tools")
    if choice == "auto":
        return use
    if choice == "required":
        return replace(use, must_call=True)
    names = [tool.name for tool in use.tools]
    if choice["name"] not in names:
        known = one_line(", ".join(names), 200)
        raise InvalidField(param, f"function {one_line(choice['name'], 64)!r} is not declared; there are: {known}")
    return replace(use, must_call=True, only=choice["name"], max_calls=1)


def _tools(functions: Sequence[FunctionBody], place: str, left_out: list[str]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    num_left = MAX_SCHEMAS
    for at, function in enumerate(functions):
        here = place.format(at)
        if function.name in [tool.name for tool in tools]:
            raise InvalidField(f"{here}.name", f"function {function.name!r} is declared twice")
        reader = SchemaReader(is_strict=function.strict, num_left=num_left)
        tools.append(Tool(function.name, function.description, _parameters(function, reader, f"{here}.parameters")))
        left_out += reader.left_out
        num_left = reader.num_left
    return tuple(tools)


def _parameters(function: FunctionBody, reader: SchemaReader, place: str) -> str:
    schema = {"type": "object", **(function.parameters or _NO_PARAMETERS)}
    if schema["type"] != "object":
        raise InvalidField(f"{place}.type", "must be 'object': arguments have names")
    return reader.read(schema, place)


def answer_schema(wanted: FormatBody, left_out: list[str]) -> str:
    """The schema the whole answer must satisfy, as JSON text; empty: it is free.

    Raises:
        InvalidField, UnsupportedValue: naming the place.
    """
    if wanted.type == "text":
        return ""
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None:
        raise InvalidField("response_format.json_schema", "is required with type json_schema")
    reader = SchemaReader(is_strict=wanted.json_schema.strict)
    text = reader.read(wanted.json_schema.schema_, "response_format.json_schema.schema")
    left_out += reader.left_out
    return text


def refuse_both(use: ToolUse | None, schema: str) -> None:
    """
    Raises:
        UnsupportedValue: the answer may be a call, and must be JSON if it is none.
    """
    if schema and use is not None and not use.must_call:
        problem = "JSON and tools cannot be combined while tool_choice is auto; ask for one after the other"
        raise UnsupportedValue("response_format", problem)
