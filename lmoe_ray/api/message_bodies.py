"""One message of a conversation as clients write it: text, parts of text, calls and their results.

Our own replies come back as messages, so whatever else a message holds is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lmoe_ray.api.lenient_body import AnyNumberOf, Lenient, unsupported, wrong
from lmoe_ray.domain.chat import Role
from lmoe_ray.domain.tools import ToolCall
from lmoe_ray.errors import one_line

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
#: Kinds of content parts that are text, and the key that holds it.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def _plain_text(content: Any) -> str:
    """Text of a message: a string, or text parts, which are joined by a line break."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong("must be a string, a list of parts or null")
    return "\n".join(_part_text(number, part) for number, part in enumerate(content))


def _part_text(number: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise wrong(f"part {number} must be an object with a 'type'")
    if kind not in _TEXT_PARTS:
        raise unsupported(f"part {number} is of type {one_line(kind, 40)!r}; only text parts are supported")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise wrong(f"part {number} has no text in {_TEXT_PARTS[kind]!r}")
    return text


def _arguments(arguments: Any) -> Any:
    """Arguments are JSON text; some clients send them as the object they stand for."""
    if not isinstance(arguments, dict):
        return arguments
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except RecursionError as exc:
        raise wrong("is nested too deeply") from exc


def _call_list(calls: Any) -> Any:
    if not isinstance(calls, list):
        raise wrong("must be a list or null")
    return calls


def _known_role(role: str) -> str:
    if role not in ROLES:
        raise wrong(f"must be one of {', '.join(ROLES)}")
    return role


class TextPartBody(Lenient):
    """A part of a message's content, as the API describes it."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPartBody(Lenient):
    """A refusal, which is text too."""

    type: Literal["refusal"]
    refusal: str


PlainText = Annotated[str, BeforeValidator(_plain_text, str | list[TextPartBody | RefusalPartBody])]


class CalledBody(Lenient):
    """``arguments`` are JSON text, or the object it stands for."""

    name: str
    arguments: Annotated[str, BeforeValidator(_arguments, str | dict[str, Any])] = "{}"


class CallBody(Lenient):
    id: str = ""
    function: CalledBody


class MessageBody(Lenient):
    """One message. Our own replies come back as messages, so whatever else they hold is ignored."""

    role: Annotated[str, AfterValidator(_known_role), Field(json_schema_extra={"enum": [*ROLES]})]
    content: PlainText = ""
    tool_calls: Annotated[AnyNumberOf[CallBody], BeforeValidator(_call_list, list[CallBody])] = Field(
        default_factory=list
    )
    function_call: CalledBody | None = None
    name: str = ""
    tool_call_id: str = ""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """In whichever way they came."""
        legacy = [] if self.function_call is None else [CallBody(function=self.function_call)]
        return tuple(
            ToolCall(call.function.name, call.function.arguments, call.id) for call in (*self.tool_calls, *legacy)
        )
