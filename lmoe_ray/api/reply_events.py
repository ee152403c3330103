"""How the answers to one request become server-sent events: when which is due is decided by who streams them.

Chat and text completions send chunks of one shape; ``api/response_events.py`` has events of many kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from lmoe_ray.api.completion_replies import CompletionReply
from lmoe_ray.api.replies import Json, encode_error
from lmoe_ray.api.sse import DONE, encode_event
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.errors import LMoEError


class ReplyEvents(ABC):
    """The events of one request, in order.

    Attributes:
        trailer: bytes that end the stream, also after an error.
    """

    trailer: ClassVar[bytes] = b""

    def encode(self, event: Json) -> bytes:
        return encode_event(event)

    @abstractmethod
    def begin(self) -> Iterator[Json]:
        """What is known before any text."""

    @abstractmethod
    def news(self, delta: TokenDelta, duration_s: float) -> Iterator[Json]:
        """What is new of one answer, and its end; ``duration_s`` counts from the request."""

    @abstractmethod
    def end(self) -> Iterator[Json]:
        """After the end of every answer."""

    @abstractmethod
    def fail(self, error: LMoEError) -> Iterator[Json]:
        """Instead of anything that would have come."""


class ChunkEvents(ReplyEvents):
    """Chunks. ``[DONE]`` ends them even after an error, or some clients wait for ever."""

    trailer = DONE

    def __init__(self, reply: CompletionReply, num_answers: int, include_usage: bool) -> None:
        self._reply, self._num_answers, self._include_usage = reply, num_answers, include_usage
        self._num_sent_chars: Counter[int] = Counter()
        self._last_usages: dict[int, Usage] = {}

    def begin(self) -> Iterator[Json]:
        for index in range(self._num_answers):
            yield self._reply.first_chunk(index)

    def news(self, delta: TokenDelta, duration_s: float) -> Iterator[Json]:
        yield from self._reply.pieces(delta, self._num_sent_chars[delta.index])
        self._num_sent_chars[delta.index] += len(delta.text)
        if delta.finish_reason is not None:
            self._last_usages[delta.index] = delta.usage
            yield self._reply.last_chunk(delta, duration_s)

    def end(self) -> Iterator[Json]:
        if self._include_usage:
            yield self._reply.usage_chunk(self._reply.total(self._last_usages.values()))

    def fail(self, error: LMoEError) -> Iterator[Json]:
        yield encode_error(error)
