"""Handlers of chat and text completions.

The status line is sent only when the first delta is there, so that a prompt that is too long or a
full queue has its own status even in a stream. All of it happens in the request's own task, under a
watch for clients that leave, so leaving closes the backend's generator at once.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from lmoe_ray.api.backend import Backend, resolved
from lmoe_ray.api.delta_feed import DeltaFeed
from lmoe_ray.api.incoming import read_object, request_id_of
from lmoe_ray.api.openai import Completion, parse_chat, parse_text
from lmoe_ray.api.replies import ChatReply, Json, Reply, TextReply, encode_error, to_json
from lmoe_ray.api.sse import DONE, KEEP_ALIVE, EventStream, encode_event, while_connected
from lmoe_ray.domain.stream import TokenDelta, Usage, total_usage
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
            num_answers = request.sampling.n
            feed = await opened.enter_async_context(DeltaFeed(deltas, self._settings.token_timeout_s, num_answers))
            first = await feed.get()
            ignored, echo, is_legacy_call = completion.ignored, completion.echo, completion.is_legacy_call
            reply = shape(request.request_id, created, decision, ignored, echo, is_legacy_call)
            answer = _Answers(reply, feed, begin_s, num_answers)
            if completion.stream:
                events = answer.events(first, self._keep_alive_s, completion.include_usage)
                return EventStream(events, opened.pop_all(), reply.headers)
            return await answer.whole(first)


@dataclass(frozen=True, slots=True)
class _Answers:
    """The answers to one request under way, after the first delta of any."""

    reply: Reply
    feed: DeltaFeed
    begin_s: float
    num_answers: int
    num_sent_chars: Counter[int] = field(default_factory=Counter)
    last_usages: dict[int, Usage] = field(default_factory=dict)

    async def whole(self, first: TokenDelta) -> Response:
        answers = await self.feed.rest(first)
        content = to_json(self.reply.whole(answers, max(self._finish(answer) for answer in answers)))
        return Response(content, headers=self.reply.headers, media_type="application/json")

    async def events(self, first: TokenDelta, keep_alive_s: float, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """The answers as events. ``[DONE]`` ends them even after an error, or some clients wait for ever."""
        try:
            for index in range(self.num_answers):
                yield encode_event(self.reply.first_chunk(index))
            for chunk in self._chunks(first):
                yield encode_event(chunk)
            while not self.feed.is_complete:
                delta = await self.feed.get_within(keep_alive_s)
                if delta is None:
                    yield KEEP_ALIVE
                    continue
                for chunk in self._chunks(delta):
                    yield encode_event(chunk)
            if include_usage:
                yield encode_event(self.reply.usage_chunk(total_usage(self.last_usages.values())))
        except LMoEError as exc:
            logger.warning("stream broken request_id=%s code=%s", self.reply.request_id, exc.code)
            yield encode_event(encode_error(exc))
        except Exception:
            logger.exception("stream broken request_id=%s", self.reply.request_id)
            yield encode_event(encode_error(InternalError()))
        yield DONE

    def _chunks(self, delta: TokenDelta) -> Iterator[Json]:
        """What is new of one answer, and its end."""
        yield from self.reply.pieces(delta, self.num_sent_chars[delta.index])
        self.num_sent_chars[delta.index] += len(delta.text)
        if delta.finish_reason is not None:
            self.last_usages[delta.index] = delta.usage
            yield self.reply.last_chunk(delta.index, delta.finish_reason, self._finish(delta))

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
