"""The streamed answers to one chat request, as our own client reads them: exactly what ``replies.py`` writes.

What is not understood is an error, so that nobody takes half an answer, or two mixed up, for a whole one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from lmoe_ray.api.decision_reply import decode_decision
from lmoe_ray.api.replies import Json
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import Usage
from lmoe_ray.errors import ReplyUnreadable, ServerRefused

_CALLS = frozenset({"tool_calls", "function_call"})


@dataclass(slots=True)
class StreamedAnswer:
    """What is known of one answer beside its text.

    Attributes:
        expert: who gives it, ``None`` for the base model; known before its text.
        finish_reason: ``None`` until its end.
        usage: known at the end; zero where several answers of one expert are counted together only.
    """

    expert: str | None = None
    finish_reason: str | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))


class ChatStream:
    """Answers as they arrive: read :meth:`pieces` once, or iterate where there is one; then what is known of them.

    Attributes:
        model: name of the base model.
        routed_by, confidence: as in :class:`~lmoe_ray.domain.decision.RoutingDecision`.
        decision: all of it, if the request had ``explain``.
        ignored: fields of the request without effect.
        answers: in the order asked for.
        usage: of all, known at the end; the prompt counts once for each expert.
    """

    def __init__(self, lines: AsyncIterator[str], num_answers: int = 1) -> None:
        self._lines = lines
        self.model = ""
        self.routed_by = ""
        self.confidence = 0.0
        self.decision: RoutingDecision | None = None
        self.ignored: tuple[str, ...] = ()
        self.answers = tuple(StreamedAnswer() for _ in range(num_answers))
        self.usage = Usage(0, 0)

    @property
    def expert(self) -> str | None:
        """Who gives the first answer."""
        return self.answers[0].expert

    @property
    def finish_reason(self) -> str | None:
        """Of the first answer."""
        return self.answers[0].finish_reason

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        assert len(self.answers) == 1, "several answers, read as one. This is a bug."
        async for _, text in self.pieces():
            yield text

    async def pieces(self) -> AsyncGenerator[tuple[int, str], None]:
        """What is new, with the place of its answer among those of the request.

        Raises:
            ServerRefused: the server ended all answers by an error.
            ReplyUnreadable: it sent something else than these answers, or not all of them.
        """
        async for line in self._lines:
            if line.startswith("data: ") and line != "data: [DONE]":
                for piece in self._read(line.removeprefix("data: ")):
                    yield piece
        if unfinished := [number for number, a in enumerate(self.answers, 1) if a.finish_reason is None]:
            raise ReplyUnreadable(f"it ended before answer {unfinished[0]} of {len(self.answers)} was complete")

    def _read(self, data: str) -> list[tuple[int, str]]:
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise refusal(200, chunk)
            return self._news(chunk)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
            raise ReplyUnreadable(f"an event holds {data[:80]!r}") from exc

    def _news(self, chunk: Json) -> list[tuple[int, str]]:
        if "routing" in chunk:
            self._read_head(chunk, chunk["routing"])
        if usage := chunk.get("usage"):
            self.usage = _usage(usage)
            if len(self.answers) == 1:
                self.answers[0].usage = self.usage
        return [piece for piece in map(self._read_choice, chunk["choices"]) if piece[1]]

    def _read_head(self, chunk: Json, routing: Json) -> None:
        self.model = chunk["model"]
        self.routed_by, self.confidence = routing["routed_by"], routing["confidence"]
        self.decision = decode_decision(routing) if "candidates" in routing else None
        self.ignored = tuple(chunk.get("ignored", ()))
        for answer in self.answers:
            answer.expert = chunk.get("expert")

    def _read_choice(self, choice: Json) -> tuple[int, str]:
        index, delta = choice.get("index", 0), choice["delta"]
        if not 0 <= index < len(self.answers):
            raise ReplyUnreadable(f"there is an answer {index + 1} where {len(self.answers)} were asked for")
        if delta.keys() & _CALLS:
            raise ReplyUnreadable("it calls a function, and this client reads text only; ask without tools")
        answer = self.answers[index]
        answer.expert = choice.get("expert", answer.expert)
        answer.finish_reason = choice["finish_reason"]
        if usage := choice.get("usage"):
            answer.usage = _usage(usage)
        return index, str(delta.get("content") or "")


def _usage(usage: Json) -> Usage:
    return Usage(usage["prompt_tokens"], usage["completion_tokens"])


def refusal(http_status: int, body: Json) -> ServerRefused:
    """The error that ``body`` tells, in the server's own words."""
    error = body.get("error")
    error = error if isinstance(error, dict) else {}
    return ServerRefused(http_status, str(error.get("code") or "no code"), str(error.get("message") or "no message"))
