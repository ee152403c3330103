"""Finds the calls in an answer's text while it comes, by the dialect its decoding is confined to.

::

    TEXT --trigger--> HEAD --"params": --> ARGUMENTS --their last brace--> TAIL --closing--> BETWEEN --separator--> HEAD

Between calls the grammar leaves no choice, so each stage knows what it waits for. Arguments are shown as
they come.
"""

from __future__ import annotations

import json
from enum import Enum, auto

from lmoe_ray.domain.tool_dialect import ToolDialect
from lmoe_ray.domain.tools import CallPiece


class _Stage(Enum):
    TEXT = auto()
    PLAIN_TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    TAIL = auto()
    BETWEEN = auto()


class JsonEnd:
    """Watches JSON of an object go by and tells where it ends."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def find(self, text: str) -> int | None:
        """How much of ``text`` belongs to the object if it ends there, else ``None``."""
        for at, char in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif char == "\\":
                self._is_escaped = True
            elif char == '"':
                self._is_in_string = not self._is_in_string
            elif not self._is_in_string and self._closes(char):
                return at + 1
        return None

    def _closes(self, char: str) -> bool:
        self._depth += (char in "{[") - (char in "]}")
        return char in "]}" and self._depth == 0


class CallReader:
    """One answer's.

    Attributes:
        num_whole: calls that are complete.
        num_passed: characters that were taken out of the text, calls and what stands around them.
    """

    def __init__(self, dialect: ToolDialect) -> None:
        self.num_whole = 0
        self.num_passed = 0
        self._dialect = dialect
        self._stage = _Stage.TEXT
        self._held = ""
        self._json = JsonEnd()

    def push(self, text: str) -> tuple[str, tuple[CallPiece, ...]]:
        """Add text; returns what of it is plain text for sure, and what was added to calls."""
        self._held += text
        shown, pieces, before = "", list[CallPiece](), None
        while self._stage is not before:
            before = self._stage
            if before is _Stage.TEXT or before is _Stage.PLAIN_TEXT:
                shown += self._take_text()
            else:
                pieces += self._take_call(before)
        return shown, tuple(pieces)

    def flush(self) -> str:
        """Text still held back; no more will come. Half a call's frame is not text."""
        held, self._held = self._held, ""
        if self._stage is _Stage.TEXT or self._stage is _Stage.PLAIN_TEXT:
            return held
        self.num_passed += len(held)
        return ""

    def _take_text(self) -> str:
        """Text up to a call; what may become one is held."""
        trigger = self._dialect.trigger
        if self._stage is _Stage.PLAIN_TEXT:
            return self._cut(len(self._held))
        at = self._held.find(trigger)
        if self._dialect.may_follow_text:
            if at >= 0:
                self._stage = _Stage.HEAD
                return self._cut(at)
            return self._cut(len(self._held) - _num_begun(self._held, trigger))
        if at == 0:
            self._stage = _Stage.HEAD
        elif not trigger.startswith(self._held):
            self._stage = _Stage.PLAIN_TEXT
        return ""

    def _take_call(self, stage: _Stage) -> list[CallPiece]:
        if stage is _Stage.HEAD:
            return self._take_head()
        if stage is _Stage.ARGUMENTS:
            return self._take_arguments()
        if stage is _Stage.TAIL:
            self._take_tail()
        else:
            self._take_separator()
        return []

    def _take_head(self) -> list[CallPiece]:
        """The frame of a call with its name, once that is complete."""
        begin = f'{self._dialect.opening}{{"{self._dialect.name_key}": '
        end = f', "{self._dialect.arguments_key}": '
        at = self._held.find(end, len(begin))
        if at < 0:
            return []
        name = json.loads(self._held[len(begin) : at])
        self._pass(at + len(end))
        self._stage, self._json = _Stage.ARGUMENTS, JsonEnd()
        return [CallPiece(self.num_whole, name)]

    def _take_arguments(self) -> list[CallPiece]:
        end = self._json.find(self._held)
        arguments = self._held[:end]
        self._pass(len(arguments))
        if end is not None:
            self._stage = _Stage.TAIL
        return [CallPiece(self.num_whole, arguments=arguments)] if arguments else []

    def _take_tail(self) -> None:
        tail = "}" + self._dialect.closing
        if len(self._held) >= len(tail):
            self._pass(len(tail))
            self.num_whole += 1
            self._stage = _Stage.BETWEEN

    def _take_separator(self) -> None:
        separator = self._dialect.separator
        if self._held and len(self._held) >= len(separator):
            self._pass(len(separator))
            self._stage = _Stage.HEAD

    def _cut(self, num_chars: int) -> str:
        text, self._held = self._held[:num_chars], self._held[num_chars:]
        return text

    def _pass(self, num_chars: int) -> None:
        self.num_passed += len(self._cut(num_chars))


def _num_begun(text: str, trigger: str) -> int:
    """Length of the longest end of a text that begins the trigger."""
    for length in range(min(len(text), len(trigger) - 1), 0, -1):
        if trigger.startswith(text[-length:]):
            return length
    return 0
