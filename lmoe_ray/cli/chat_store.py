"""Conversations on disk: JSON that is at once a body of ``/v1/chat/completions``, and Markdown for people.

The state folder keeps one file for each conversation, so that a short question never takes the place of a long
talk; ``lmoe chat --continue`` takes up the one that was written last.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmoe_ray.cli.chat_history import ChatHistory, Turn, estimate
from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.sampling import RANGES
from lmoe_ray.errors import ConversationUnusable

#: Sampling fields a conversation may set.
SETTABLE = {"temperature": float, "max_tokens": int, "top_p": float, "seed": int}
#: The oldest beyond this many are removed.
MAX_KEPT = 200
_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Conversation:
    """All there is to take up again. ``expert`` is the pinned one; ``fields`` are of :data:`SETTABLE`."""

    model: str
    system: str = ""
    turns: tuple[Turn, ...] = ()
    expert: str | None = None
    fields: Mapping[str, float] = field(default_factory=dict)

    def history(self, max_model_len: int) -> ChatHistory:
        return ChatHistory(max_model_len, self.system, turns=list(self.turns))


def encoded(conversation: Conversation) -> str:
    """As JSON."""
    head = [{"role": "system", "content": conversation.system}] if conversation.system else []
    body = {
        "model": conversation.model,
        **({"expert": conversation.expert} if conversation.expert else {}),
        **conversation.fields,
        "messages": head + [_encoded(turn) for turn in conversation.turns],
    }
    return json.dumps(body, ensure_ascii=False, indent=1) + "\n"


def _encoded(turn: Turn) -> dict[str, str]:
    told = {"role": turn.message.role, "content": turn.message.content}
    return {**told, "expert": turn.expert} if turn.expert else told


def as_markdown(conversation: Conversation) -> str:
    """For people; it cannot be loaded again, because an answer may hold the same headings."""
    parts = [f"# A conversation with {conversation.model}"]
    if conversation.system:
        parts.append(f"## System\n\n{conversation.system}")
    for turn in conversation.turns:
        who = "You" if turn.message.role == "user" else turn.expert or "Base model"
        parts.append(f"## {who}\n\n{turn.message.content}")
    return "\n\n".join(parts) + "\n"


def decoded(text: str, source: str) -> Conversation:
    """The inverse of :func:`encoded`; any chat body of plain texts will do.

    Raises:
        ConversationUnusable: it is none; ``source`` says which file.
    """
    try:
        body = json.loads(text)
        messages = [_message(entry) for entry in body["messages"]]
        system = "\n\n".join(message.content for message, _ in messages if message.role == "system")
        turns = tuple(Turn(m, estimate(m.content), expert) for m, expert in messages if m.role != "system")
        fields = {name: checked(name, body[name]) for name in SETTABLE if body.get(name) is not None}
        return Conversation(_text(body["model"]), system, turns, _text(body.get("expert") or "") or None, fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ConversationUnusable(source, f"is no conversation of lmoe chat: {exc!r}") from exc


def _message(entry: Mapping[str, Any]) -> tuple[Message, str | None]:
    role = entry["role"]
    if role not in (*_ROLES, "system"):
        raise ValueError(f"a message's role is {role!r}, not user, assistant or system")
    return Message(role, _text(entry["content"])), _text(entry.get("expert") or "") or None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} should be a text")
    return value


def checked(name: str, value: object) -> float:
    """A sampling field's value, as number or text.

    Raises:
        ValueError: it is no number of that kind, or out of range.
    """
    kind, (low, high) = SETTABLE[name], RANGES[name]
    try:
        number: float = kind(str(value))
    except ValueError:
        raise ValueError(f"{name} is {value!r}, not {'a whole' if kind is int else 'a'} number") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}, not between {low} and {high}")
    return number


class ChatStore:
    """The conversations in one folder, readable by their owner alone."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / _fresh_name()

    def start(self) -> None:
        """What is kept from now on is another conversation."""
        self._path = self._folder / _fresh_name()

    def keep(self, conversation: Conversation) -> None:
        """Write the current conversation; one without turns leaves nothing behind.

        Raises:
            ConversationUnusable: the folder cannot be written.
        """
        try:
            make_private(self._folder)
            if conversation.turns:
                _replace(self._path, encoded(conversation))
            else:
                self._path.unlink(missing_ok=True)
            for old in self._newest_first()[MAX_KEPT:]:
                old.unlink(missing_ok=True)
        except OSError as exc:
            raise ConversationUnusable(str(self._folder), f"cannot be written ({exc.strerror}); --no-keep") from exc

    def take_up(self) -> Conversation:
        """The conversation written last, which is the current one from now on.

        Raises:
            ConversationUnusable: there is none, or it cannot be read.
        """
        newest = self._newest_first()
        if not newest:
            raise ConversationUnusable(str(self._folder), "holds no conversation to continue; start one with lmoe chat")
        self._path = newest[0]
        return load(self._path)

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def load(path: Path) -> Conversation:
    """Raises: ConversationUnusable."""
    try:
        return decoded(path.read_text("utf-8"), str(path))
    except OSError as exc:
        raise ConversationUnusable(str(path), f"cannot be read ({exc.strerror})") from exc


def make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _replace(path: Path, text: str) -> None:
    """Write the whole file or nothing, mode 0600."""
    partial = path.with_suffix(f".{os.getpid()}")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def _fresh_name() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}.json"
