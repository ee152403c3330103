"""Handlers of chat and text completions.

The status line is sent only when the first delta is there, so that a prompt that is too long or a
full queue has its own status even in a stream. All of it happens in the request's own task, under a
watch for clients that leave, so leaving closes the backend's generator at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from lmoe_ray.api.backend import Backend, resolved
from lmoe_ray.api.delta_feed import DeltaFeed
from lmoe_ray.api.incoming import read_object, request_id_of
from lmoe_ray.api.openai import Completion, parse_chat, parse_text
from lmoe_ray.api.replies import ChatReply, Json, Reply, TextReply, encode_error, to_json
from lmoe_ray.api.sse import DONE, KEEP_ALIVE, EventStream, encode_event, while_connected
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.errors import InternalError, LMoEError
from lmoe_ray.settings import ApiSettings

logger = logging.getLogger(__name__)


class Completions:
    """The endpoints that generate text, over one backend."""

    def __init__(self, backend: Backend, settings: ApiSettings, keep_alive_s: float) -> None:
        self._backend, self._settings, self._keep_alive_s = backend, settings, keep_alive_s

    async def chat(self, http: Request) -> Response:
        """``POST /v1/chat/completions``."""
        body = await read_object(http, self._settings.max_body_bytes)
        return await self._answer(http, parse_chat(body, request_id_of(http), self._settings.max_messages), ChatReply)

    async def text(self, http: Request) -> Response:
        """``POST /v1/completions`` and ``POST /v1/engines/{model}/completions``."""
        body = await read_object(http, self._settings.max_body_bytes)
        return await self._answer(http, parse_text(body, request_id_of(http), http.path_params.get("model")), TextReply)

    async def _answer(self, http: Request, completion: Completion, shape: type[Reply]) -> Response:
        begin_s, created = time.monotonic(), int(time.time())
        request = resolved(completion.generate, self._backend.models(), self._settings)
        async with while_connected(http.receive), AsyncExitStack() as opened:
            decision = await self._backend.route(request)
            deltas = self._backend.generate(request, decision)
            feed = await opened.enter_async_context(DeltaFeed(deltas, self._settings.token_timeout_s))
            first = await feed.get()
            reply = shape(request.request_id, created, decision, completion.ignored, completion.echo)
            answer = _Answer(reply, feed, begin_s)
            if completion.stream:
                events = answer.events(first, self._keep_alive_s, completion.include_usage)
                return EventStream(events, opened.pop_all(), reply.headers)
            return await answer.whole(first)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer under way, after its first delta."""

    reply: Reply
    feed: DeltaFeed
    begin_s: float

    async def whole(self, first: TokenDelta) -> Response:
        delta = await self.feed.rest(first)
        content = to_json(self.reply.whole(delta, self._finish(delta)))
        return Response(content, headers=self.reply.headers, media_type="application/json")

    async def events(self, first: TokenDelta, keep_alive_s: float, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """The answer as events. ``[DONE]`` ends it even after an error, or some clients wait for ever."""
        try:
            yield encode_event(self.reply.first_chunk())
            delta: TokenDelta | None = first
            while delta is None or delta.finish_reason is None:
                for event in self._progress(delta):
                    yield event
                delta = await self.feed.get_within(keep_alive_s)
            for chunk in self._closing_chunks(delta, include_usage):
                yield encode_event(chunk)
        except LMoEError as exc:
            logger.warning("stream broken request_id=%s code=%s", self.reply.request_id, exc.code)
            yield encode_event(encode_error(exc))
        except Exception:
            logger.exception("stream broken request_id=%s", self.reply.request_id)
            yield encode_event(encode_error(InternalError()))
        yield DONE

    def _progress(self, delta: TokenDelta | None) -> Iterator[bytes]:
        """The event of one delta: none if it has no text, a comment if there is no delta."""
        if delta is None:
            yield KEEP_ALIVE
        elif delta.text:
            yield encode_event(self.reply.text_chunk(delta.text))

    def _closing_chunks(self, last: TokenDelta, include_usage: bool) -> Iterator[Json]:
        if last.text:
            yield self.reply.text_chunk(last.text)
        yield self.reply.last_chunk(last.finish_reason, self._finish(last))
        if include_usage:
            yield self.reply.usage_chunk(last.usage)

    def _finish(self, last: TokenDelta) -> float:
        """Log the outcome, and return how long it took, in seconds."""
        duration_s = time.monotonic() - self.begin_s
        decision = self.reply.decision
        logger.info(
            "completion finished request_id=%s model=%s expert=%s routed_by=%s confidence=%.3f "
            "prompt_tokens=%d completion_tokens=%d duration_s=%.3f reason=%s",
            self.reply.request_id,
            decision.model,
            decision.expert,
            decision.routed_by,
            decision.confidence,
            last.usage.prompt_tokens,
            last.usage.completion_tokens,
            duration_s,
            last.finish_reason,
        )
        return duration_s
