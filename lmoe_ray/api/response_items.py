"""What a response answers: a text, or items that are messages, calls and their results, as messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from lmoe_ray.api.lenient_body import Lenient, validated, wrong
from lmoe_ray.api.message_bodies import CalledBody, MessageBody, PlainText
from lmoe_ray.errors import InvalidField, UnsupportedValue, one_line

_KINDS = ("message", "function_call", "function_call_output")


class CallItem(CalledBody):
    """``function_call``: what an earlier answer asked for."""

    call_id: Annotated[str, Field(min_length=1)]


class ResultItem(Lenient):
    """``function_call_output``."""

    call_id: Annotated[str, Field(min_length=1)]
    output: PlainText


def _text_or_items(given: Any) -> Any:
    """A text is the user's only message."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise wrong("must be a string or a list of items")
    return given


class InputBody(Lenient):
    """The conversation to be answered."""

    input: Annotated[
        list[Any],
        BeforeValidator(_text_or_items, str | list[MessageBody | CallItem | ResultItem]),
        Field(min_length=1, description="items have a type: message, function_call or function_call_output"),
    ]
    instructions: Annotated[str | None, Field(description="a system message before the input")] = None


def messages_of(body: InputBody, max_messages: int) -> list[dict[str, Any]]:
    """Messages as a chat body has them; calls in a row, and those after a message of the assistant, are one message.

    Raises:
        InvalidField, UnsupportedValue: naming the item and its field.
    """
    if len(body.input) > max_messages:
        raise InvalidField("input", f"there are {len(body.input)} items, the limit is {max_messages}; drop old ones")
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    for at, item in enumerate(body.input):
        message = _message(item, ("input", at))
        if _is_call(item) and messages and messages[-1]["role"] == "assistant":
            messages[-1]["tool_calls"] += message["tool_calls"]
        else:
            messages.append(message)
    return messages


def _is_call(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "function_call"


def _message(item: Any, place: tuple[str, int]) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise InvalidField(f"input[{place[1]}]", "must be an object")
    kind = item.get("type") or "message"
    if kind == "message":
        message = validated(MessageBody, item, place)
        calls = [_call(call.name, call.arguments, call.id) for call in message.calls]
        return {**message.model_dump(exclude={"tool_calls", "function_call"}), "tool_calls": calls}
    if kind == "function_call":
        asked = validated(CallItem, item, place)
        return {"role": "assistant", "tool_calls": [_call(asked.name, asked.arguments, asked.call_id)]}
    if kind == "function_call_output":
        result = validated(ResultItem, item, place)
        return {"role": "tool", "tool_call_id": result.call_id, "content": result.output}
    supported = ", ".join(_KINDS)
    raise UnsupportedValue(f"input[{place[1]}].type", f"{one_line(kind, 40)!r} is not supported; only {supported}")


def _call(name: str, arguments: str, call_id: str) -> dict[str, Any]:
    return {"id": call_id, "function": {"name": name, "arguments": arguments}}
