"""How a conversation becomes the text a model reads, and where its answer must stop.

Two formats. ``airoboros`` is byte-identical to the predecessor's, because published adapters were
trained on it::

    A chat.
    USER: hello
    ASSISTANT: hi
    USER: how are you?
    ASSISTANT:·              (· is one trailing space)

``chat`` is the base model's own Jinja chat template; transformers renders it, so the caller hands
in that function and this module stays free of it.

Functions the model may call stand in the prompt in the words of its :class:`ToolDialect`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

from lmoe_ray.domain.chat import Message, Role
from lmoe_ray.domain.tool_dialect import (
    describe,
    in_plain_words,
    with_airoboros_question,
    with_system_section,
)
from lmoe_ray.domain.tools import ToolUse

DEFAULT_SYSTEM = "A chat."

#: OpenAI-style message dicts, or its dicts of tools.
Turns = list[dict[str, Any]]
#: Renders OpenAI-style message dicts with the tokenizer's template, ready for the assistant's turn.
ApplyTemplate = Callable[[Turns], str]


class PromptFormat(StrEnum):
    """Name of a format, as written in ``lmoe.yaml``."""

    AIROBOROS = "airoboros"
    CHAT = "chat"

    @property
    def default_stops(self) -> tuple[str, ...]:
        """Stop strings that apply unless the client switches them off."""
        if self is PromptFormat.AIROBOROS:
            return ("USER:", "ASSISTANT:", "### Instruction", "### Response")
        return ()


def render(messages: Sequence[Message], prompt_format: PromptFormat, apply_template: ApplyTemplate) -> str:
    """The prompt for the next assistant turn. Any order of roles is accepted: see :func:`_in_order`."""
    if prompt_format is PromptFormat.AIROBOROS:
        return render_airoboros(messages)
    return apply_template(plain_turns(messages))


def plain_turns(messages: Sequence[Message]) -> Turns:
    """Turns for any chat template."""
    return [{"role": m.role, "content": m.content} for m in _in_order(messages)]


def render_airoboros(messages: Sequence[Message]) -> str:
    """The predecessor's layout (airoboros/lmoe/api.py, lines 195 to 224), byte for byte.

    It refused other orders than ``system, user, (assistant, user)*``; :func:`_in_order` brings
    every other order into that form first, and leaves that form untouched.
    """
    ordered = _in_order(messages)
    if not ordered or ordered[0].role != "system":
        ordered = (Message("system", DEFAULT_SYSTEM), *ordered)
    lines = [ordered[0].content]
    for message in ordered[1:]:
        speaker = "ASSISTANT" if message.role == "assistant" else "USER"
        lines.append(f"{speaker}: {message.content.strip()}")
    return "\n".join([*lines, "ASSISTANT: "])


def spell_out_tools(
    messages: Sequence[Message], use: ToolUse | None, prompt_format: PromptFormat
) -> tuple[Message, ...]:
    """The conversation for :func:`render` when no template knows of tools: functions, calls and results are text."""
    plain = in_plain_words(messages)
    if use is None:
        return plain
    tell = with_airoboros_question if prompt_format is PromptFormat.AIROBOROS else with_system_section
    return tell(plain, use)


def templated_turns(messages: Sequence[Message]) -> Turns:
    """Turns for a template that knows of tools: as in :func:`render`, but calls and results keep their form."""
    return [_templated_turn(message) for message in _in_order(messages, keeps_tools=True)]


def templated_tools(use: ToolUse) -> Turns:
    """Functions for a template that knows of tools."""
    return [{"type": "function", "function": describe(tool)} for tool in use.tools]


def _templated_turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        turn["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": _parsed(call.arguments)}}
            for call in message.calls
        ]
    if message.role == "tool":
        turn |= {"name": message.name, "tool_call_id": message.call_id}
    return turn


def _parsed(arguments: str) -> Any:
    """Templates write arguments as JSON themselves, and would quote a string once more."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _in_order(messages: Sequence[Message], *, keeps_tools: bool = False) -> tuple[Message, ...]:
    """System text first, then turns that alternate and begin with the user.

    Clients repeat user turns after a failure, put an assistant turn right after the system text
    when they dropped the oldest one, and send system turns and tool results in mid-conversation. So
    a leading run of system turns is the system text; later system and tool turns speak as the user;
    neighbours of one role are joined by a blank line; an opening assistant turn, and a conversation
    without turns, get an empty user turn, because templates insist on one. With ``keeps_tools`` each
    tool result stays a turn of its own.
    """
    system: list[str] = []
    turns: list[Message] = []
    for message in messages:
        if message.role == "system" and not turns:
            system.append(message.content)
            continue
        role: Role = "user" if message.role == "system" else message.role
        if role == "tool" and not keeps_tools:
            role = "user"
        last = turns[-1] if turns else None
        if last is not None and last.role == role != "tool":
            content = f"{last.content}\n\n{message.content}"
            turns[-1] = replace(last, content=content, calls=last.calls + message.calls)
        else:
            turns.append(replace(message, role=role))
    if not turns or turns[0].role == "assistant":
        turns.insert(0, Message("user", ""))
    head = (Message("system", "\n\n".join(system)),) if system else ()
    return (*head, *turns)
