"""How a model writes a call of a function, and how functions and results are told to models without a template for it.

Models that were trained on a format of their own keep to it: the engine finds it in their chat template. All others
use ours, which is airoboros' own: a JSON object alone on a line. ::

    {"function": "get_weather", "params": {"city": "Bergen"}}

What a client wrote is quoted as JSON or kept on one line, so that none of it can act as a line of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.tools import Tool, ToolCall, ToolUse


@dataclass(frozen=True, slots=True)
class ToolDialect:
    """A call is ``opening``, an object of two keys, ``closing``; ``separator`` stands between two calls.

    Attributes:
        is_templated: the chat template writes tools, calls and results itself.
    """

    opening: str = ""
    closing: str = ""
    separator: str = "\n"
    name_key: str = "function"
    arguments_key: str = "params"
    is_templated: bool = False

    @property
    def trigger(self) -> str:
        """The shortest text that nothing but a call begins with."""
        return self.opening.rstrip() or f'{{"{self.name_key}": '

    @property
    def may_follow_text(self) -> bool:
        """Whether a text may go over into a call; without an opening a call is the whole answer."""
        return bool(self.opening)

    def head(self, name: str) -> str:
        """The object of a call as far as its arguments."""
        return f'{{"{self.name_key}": {json.dumps(name)}, "{self.arguments_key}": '

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        written = (f"{self.head(call.name)}{_one_line_json(call.arguments)}}}" for call in calls)
        return self.separator.join(self.opening + call + self.closing for call in written)


#: Ours, and airoboros'.
PLAIN = ToolDialect()


def in_plain_words(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A conversation with its calls and results as text of assistant and user."""
    names = {call.id: call.name for message in messages for call in message.calls if call.id}
    return tuple(_in_plain_words(message, names) for message in messages)


def _in_plain_words(message: Message, names: Mapping[str, str]) -> Message:
    if message.calls:
        parts = (message.content, PLAIN.write(message.calls))
        return Message(message.role, "\n".join(part for part in parts if part))
    name = message.name or names.get(message.call_id, "")
    if message.role == "tool" and name:
        return Message("user", f"Result of {' '.join(name.split())}: {message.content}")
    return message


def with_system_section(messages: Sequence[Message], use: ToolUse) -> tuple[Message, ...]:
    """The functions at the end of the system text, each as a line of JSON."""
    specs = (json.dumps(describe(tool), ensure_ascii=False) for tool in use.tools)
    section = "\n".join((f"You can call functions. {_how_to_answer(use)}", "Functions:", *specs))
    if messages and messages[0].role == "system" and messages[0].content:
        first, *others = messages
        return (replace(first, content=f"{first.content}\n\n{section}"), *others)
    return (Message("system", section), *messages)


def with_airoboros_question(messages: Sequence[Message], use: ToolUse) -> tuple[Message, ...]:
    """The last user's turn as airoboros' agents were asked: what to do, the input, then the functions."""
    asked = list(messages)
    at = next((i for i in reversed(range(len(asked))) if asked[i].role == "user"), None)
    question = "" if at is None else asked[at].content.strip()
    listed = "\n".join(line for tool in use.tools for line in _listing(tool))
    text = (
        "Act as an agent: choose from the available functions the one that serves the input best, "
        f"and state its parameters. {_how_to_answer(use)}\n\nInput: {question}\n\nAvailable functions:\n{listed}"
    )
    if at is None:
        return (*asked, Message("user", text))
    asked[at] = replace(asked[at], content=text)
    return tuple(asked)


def describe(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}


def _how_to_answer(use: ToolUse) -> str:
    sentences = ['To call one, answer with JSON on one line: {"function": name, "params": {parameters}}.']
    if use.max_calls > 1:
        sentences.append("Several calls stand on a line each.")
    if use.only:
        sentences.append(f"Call {use.only}.")
    elif not use.must_call:
        sentences.append("If none of them fits, answer in plain text.")
    return " ".join(sentences)


def _listing(tool: Tool) -> Iterator[str]:
    yield f"{tool.name}:"
    if tool.description:
        yield f"  description: {_one_line(tool.description)}"
    schema = json.loads(tool.parameters)
    if properties := schema.get("properties"):
        yield "  params:"
        required = schema.get("required", ())
        for name, wanted in properties.items():
            yield f"    {_one_line(name)}: {_wanted(wanted, name in required)}"


def _wanted(schema: Any, is_required: bool) -> str:
    """What a parameter means in a few words; anything beyond type, choices and description stays for the decoder."""
    schema = schema if isinstance(schema, dict) else {}
    kind = schema.get("type", "any")
    notes = [kind if isinstance(kind, str) else " or ".join(map(str, kind))]
    if "enum" in schema:
        notes.append("one of " + ", ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"]))
    if not is_required:
        notes.append("optional")
    return f"{_one_line(str(schema.get('description', '')))} ({', '.join(notes)})".strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _one_line_json(text: str) -> str:
    """JSON text without line breaks; what is no JSON becomes a string of it."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
