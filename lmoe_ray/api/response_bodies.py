"""The body of ``/v1/responses``, read as the chat body it stands for.

What both APIs call by one name is left to the chat body's reader; what the responses API calls otherwise is
translated, and errors are told in its own names. Nothing is kept between requests, so whatever points back at an
earlier one is refused.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from lmoe_ray.api.lenient_body import AnyNumberOf, Lenient, unsupported, validated
from lmoe_ray.api.openai import Completion, parse_chat
from lmoe_ray.api.response_items import InputBody, messages_of
from lmoe_ray.api.tool_bodies import MAX_TOOLS, Choice, FunctionBody, ToolKind
from lmoe_ray.domain.sampling import MAX_TOP_LOGPROBS, RANGES
from lmoe_ray.errors import InvalidField, RequestError, UnsupportedValue

#: Names of the chat body that are others here; an empty one has no counterpart.
_NAMES_OF_CHAT = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "functions": "tools",
    "function_call": "tool_choice",
    "logprobs": "include",
    "modalities": "",
    "audio": "",
    "experts": "",
}
#: Places in a chat body as they are called here.
_PLACES = (
    (re.compile(r"^messages\b"), "input"),
    (re.compile(r"^max_completion_tokens\b"), "max_output_tokens"),
    (re.compile(r"^response_format(\.json_schema)?\b"), "text.format"),
    (re.compile(r"^(tools\[\d+\])\.function\b"), r"\1"),
)
#: Values that ask for what happens anyway.
_NEUTRAL: Mapping[str, Any] = {"truncation": "disabled", "store": False}
_LOGPROBS = "message.output_text.logprobs"
MAX_METADATA = 16


def _not_here(neutral: Any, instead: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if value != neutral:
            raise unsupported(instead)
        return value

    return AfterValidator(check)


_NOTHING_KEPT = _not_here(None, "nothing is kept between requests; send the whole conversation as input")
_NULL = WithJsonSchema({"type": "null"})


class FlatToolBody(FunctionBody, ToolKind):
    """A function, without the object that a chat body wraps around it."""


class TextFormatBody(Lenient):
    """The schema too stands flat."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool = False


class TextConfigBody(Lenient):
    format: TextFormatBody = TextFormatBody()
    verbosity: Literal["low", "medium", "high"] = "medium"


class ResponseBody(InputBody):
    """``/v1/responses``: the fields that the chat body lacks or calls otherwise."""

    max_output_tokens: Annotated[int | None, Field(ge=RANGES["max_tokens"][0], le=RANGES["max_tokens"][1])] = None
    tools: list[FlatToolBody] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: Choice = "auto"
    text: TextConfigBody = TextConfigBody()
    include: Annotated[AnyNumberOf[str], Field(description=f"{_LOGPROBS} asks for log-probabilities")] = Field(
        default_factory=list
    )
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=MAX_METADATA
    )
    user: str = ""
    n: Annotated[int, _not_here(1, "a response is one answer; ask /v1/chat/completions for several")] = 1
    background: Annotated[bool, _not_here(False, "nothing runs in the background; leave it out, or stream")] = False
    previous_response_id: Annotated[Any, _NOTHING_KEPT, _NULL] = None
    conversation: Annotated[Any, _NOTHING_KEPT, _NULL] = None
    prompt: Annotated[Any, _not_here(None, "no prompts are kept here; send its text as instructions"), _NULL] = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A parsed body: the chat it stands for, and the fields that a response repeats."""

    completion: Completion
    echo: dict[str, Any]


def parse_response(body: Mapping[str, Any], request_id: str, max_messages: int) -> Asked:
    """Read the body of ``/v1/responses``. Raises as :func:`lmoe_ray.api.openai.parse_chat`."""
    _refuse_names_of_chat(body)
    response = validated(ResponseBody, body)
    with in_own_names():
        completion = parse_chat(_chat(response, body, max_messages), request_id, max_messages)
    completion = replace(completion, ignored=tuple(map(_own_place, completion.ignored)))
    return Asked(completion, _echo(response, completion))


@contextmanager
def in_own_names() -> Generator[None, None, None]:
    """Let errors name places as they are called here, not in the chat that stands behind."""
    try:
        yield
    except RequestError as exc:
        exc.param = None if exc.param is None else _own_place(exc.param)
        raise


def _own_place(place: str) -> str:
    for pattern, name in _PLACES:
        place = pattern.sub(name, place)
    return place


def _refuse_names_of_chat(body: Mapping[str, Any]) -> None:
    for name, instead in _NAMES_OF_CHAT.items():
        if body.get(name) is not None:
            hint = f"; here it is {instead}" if instead else "; leave it out"
            raise UnsupportedValue(name, f"belongs to /v1/chat/completions{hint}")


def _chat(response: ResponseBody, body: Mapping[str, Any], max_messages: int) -> dict[str, Any]:
    """The chat body; what neither API knows stays in it, so that it is reported as without effect."""
    own = ResponseBody.model_fields
    passed = {name: value for name, value in body.items() if name not in own and _NEUTRAL.get(name, ()) != value}
    others = [name for name in response.include if name != _LOGPROBS]
    return {
        **passed,
        "messages": messages_of(response, max_messages),
        "max_completion_tokens": response.max_output_tokens,
        "tools": [{"function": tool.model_dump(exclude={"type"})} for tool in response.tools],
        "tool_choice": response.tool_choice,
        "response_format": _chat_format(response.text.format),
        "logprobs": _LOGPROBS in response.include or response.top_logprobs > 0,
        "top_logprobs": response.top_logprobs,
        "verbosity": response.text.verbosity,
        "include": others,
    }


def _chat_format(wanted: TextFormatBody) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    if wanted.schema_ is None:
        raise InvalidField("text.format.schema", "is required with type json_schema")
    schema = {"name": wanted.name, "schema": wanted.schema_, "strict": wanted.strict}
    return {"type": wanted.type, "json_schema": schema}


def _echo(response: ResponseBody, completion: Completion) -> dict[str, Any]:
    sampling, use = completion.generate.sampling, completion.generate.tools
    choice = response.tool_choice
    return {
        "instructions": response.instructions,
        "max_output_tokens": response.max_output_tokens,
        "metadata": response.metadata,
        "parallel_tool_calls": use is None or use.max_calls > 1,
        "temperature": sampling.temperature,
        "text": {"format": _shown(response.text.format), "verbosity": response.text.verbosity},
        "tool_choice": choice if isinstance(choice, str) else {"type": "function", **choice},
        "tools": [
            {"parameters": None, **tool.model_dump(exclude_unset=True), **_kind(tool)} for tool in response.tools
        ],
        "top_logprobs": response.top_logprobs,
        "top_p": sampling.top_p,
        "user": response.user or None,
    }


def _shown(wanted: TextFormatBody) -> dict[str, Any]:
    shown = wanted.model_dump(by_alias=True) if wanted.type == "json_schema" else {}
    return {**shown, "type": wanted.type}


def _kind(tool: FlatToolBody) -> dict[str, Any]:
    return {"type": tool.type, "strict": tool.strict}
