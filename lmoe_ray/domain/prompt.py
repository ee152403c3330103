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
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from lmoe_ray.domain.chat import Message, Role

DEFAULT_SYSTEM = "A chat."

#: Renders OpenAI-style message dicts with the tokenizer's template, ready for the assistant's turn.
ApplyTemplate = Callable[[list[dict[str, str]]], str]


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
    return apply_template([{"role": m.role, "content": m.content} for m in _in_order(messages)])


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


def _in_order(messages: Sequence[Message]) -> tuple[Message, ...]:
    """System text first, then turns that alternate and begin with the user.

    Clients repeat user turns after a failure, put an assistant turn right after the system text
    when they dropped the oldest one, and send system turns and tool results in mid-conversation. So
    a leading run of system turns is the system text; later system and tool turns speak as the user;
    neighbours of one role are joined by a blank line; an opening assistant turn, and a conversation
    without turns, get an empty user turn, because templates insist on one.
    """
    system: list[str] = []
    turns: list[Message] = []
    for message in messages:
        if message.role == "system" and not turns:
            system.append(message.content)
            continue
        role: Role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1].role == role:
            turns[-1] = Message(role, f"{turns[-1].content}\n\n{message.content}")
        else:
            turns.append(Message(role, message.content))
    if not turns or turns[0].role == "assistant":
        turns.insert(0, Message("user", ""))
    head = (Message("system", "\n\n".join(system)),) if system else ()
    return (*head, *turns)
