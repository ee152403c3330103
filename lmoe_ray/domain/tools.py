"""Functions a model may call: what a client declares, what it permits, and what a model asked for.

Arguments and schemas stay JSON text: nobody between client and engine looks into them.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Calls one answer may hold if the client allows several: a small model would go on for ever.
MAX_CALLS = 16


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the client can run.

    Attributes:
        name: letters, digits, ``_`` and ``-``.
        parameters: JSON Schema of its arguments, an object, as JSON text.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}, "additionalProperties": false}'


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Which calls an answer may hold.

    Attributes:
        tools: in the client's order; all of them stand in the prompt.
        must_call: the answer is a call, not a text.
        only: the one function that may be called; empty: any of ``tools``.
        max_calls: at least 1.
    """

    tools: tuple[Tool, ...]
    must_call: bool = False
    only: str = ""
    max_calls: int = MAX_CALLS

    @property
    def callable(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if self.only in ("", tool.name))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call in the conversation so far, as a client sent it back.

    Attributes:
        arguments: JSON text, if the client kept to it.
        id: names the call where its result is told; may be empty.
    """

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class CallPiece:
    """Part of a call in an answer. The first piece of a call has its ``name``, and only that one.

    Attributes:
        call: 0 for the first call of the answer.
        arguments: what is added to the JSON text of the arguments.
    """

    call: int
    name: str = ""
    arguments: str = ""

    def __add__(self, later: CallPiece) -> CallPiece:
        assert (self.call, "") == (later.call, later.name), "pieces of two calls. This is a bug."
        return CallPiece(self.call, self.name, self.arguments + later.arguments)


def join(pieces: tuple[CallPiece, ...], later: tuple[CallPiece, ...]) -> tuple[CallPiece, ...]:
    """All pieces in order, one for each call."""
    joined = list(pieces)
    for piece in later:
        if joined and joined[-1].call == piece.call:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)
