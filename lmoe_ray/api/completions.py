"""Handlers of chats, responses and text completions.

The status line is sent only when the first delta is there, so that a prompt that is too long or a
full queue has its own status even in a stream. All of it happens in the request's own task, under a
watch for clients that leave, so leaving closes the backend's generator at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from lmoe_ray.api.backend import Backend, resolved
from lmoe_ray.api.comparison import decided, one_each, side_by_side
from lmoe_ray.api.completion_replies import ChatReply, TextReply
from lmoe_ray.api.delta_feed import DeltaFeed
from lmoe_ray.api.incoming import read_object, request_id_of
from lmoe_ray.api.openai import Completion, parse_chat, parse_text
from lmoe_ray.api.replies import Json, Reply, to_json
from lmoe_ray.api.reply_events import ChunkEvents, ReplyEvents
from lmoe_ray.api.response_bodies import in_own_names, parse_response
from lmoe_ray.api.response_events import ResponseEvents
from lmoe_ray.api.responses import ResponseReply
from lmoe_ray.api.sse import KEEP_ALIVE, EventStream, while_connected
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.errors import InternalError, LMoEError
from lmoe_ray.settings import ApiSettings

logger = logging.getLogger(__name__)

#: Makes a reply, as :class:`Reply` is made.
Shape = Callable[..., Reply]


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

    async def response(self, http: Request) -> Response:
        """``POST /v1/responses``."""
        body = await read_object(http, self._settings.max_body_bytes)
        asked = parse_response(body, request_id_of(http), self._settings.max_messages)
        shape = partial(ResponseReply, asked=asked.echo)
        with in_own_names():
            return await self._answer(http, asked.completion, shape, ResponseEvents)

    async def _answer(
        self, http: Request, completion: Completion, shape: Shape, events: Callable[..., ReplyEvents] = ChunkEvents
    ) -> Response:
        begin_s, created = time.monotonic(), int(time.time())
        models = self._backend.models()
        request = resolved(completion.generate, models, self._settings)
        requests = one_each(request, completion.experts, models) if completion.experts else (request,)
        async with while_connected(http.receive), AsyncExitStack() as opened:
            decisions = await decided(requests, self._backend)
            deltas = self._deltas(requests, decisions)
            num_answers = len(requests) * request.sampling.n
            feed = await opened.enter_async_context(DeltaFeed(deltas, self._settings.token_timeout_s, num_answers))
            first = await feed.get()
            reply = _reply(shape, completion, created, decisions)
            answer = _Answers(reply, feed, begin_s)
            if completion.stream:
                told = events(reply, num_answers, completion.include_usage)
                stream = answer.stream(first, told, self._keep_alive_s)
                return EventStream(stream, opened.pop_all(), reply.headers)
            return await answer.whole(first)

    def _deltas(
        self, requests: tuple[GenerateRequest, ...], decisions: tuple[RoutingDecision, ...]
    ) -> AsyncGenerator[TokenDelta, None]:
        streams = [self._backend.generate(*pair) for pair in zip(requests, decisions, strict=True)]
        return side_by_side(streams) if len(streams) > 1 else streams[0]


def _reply(shape: Shape, completion: Completion, created: int, decisions: tuple[RoutingDecision, ...]) -> Reply:
    return shape(
        completion.generate.request_id,
        created,
        decisions[0],
        completion.ignored,
        completion.echo,
        completion.is_legacy_call,
        completion.is_explained,
        decisions if completion.experts else (),
    )


@dataclass(frozen=True, slots=True)
class _Answers:
    """The answers to one request under way, after the first delta of any."""

    reply: Reply
    feed: DeltaFeed
    begin_s: float

    async def whole(self, first: TokenDelta) -> Response:
        answers = await self.feed.rest(first)
        content = to_json(self.reply.whole(answers, max(self._finish(answer) for answer in answers)))
        return Response(content, headers=self.reply.headers, media_type="application/json")

    async def stream(self, first: TokenDelta, events: ReplyEvents, keep_alive_s: float) -> AsyncGenerator[bytes, None]:
        """The answers as events."""
        try:
            for event in (*events.begin(), *self._news(first, events)):
                yield events.encode(event)
            while not self.feed.is_complete:
                delta = await self.feed.get_within(keep_alive_s)
                if delta is None:
                    yield KEEP_ALIVE
                    continue
                for event in self._news(delta, events):
                    yield events.encode(event)
            for event in events.end():
                yield events.encode(event)
        except LMoEError as exc:
            logger.warning("stream broken request_id=%s code=%s", self.reply.request_id, exc.code)
            for event in events.fail(exc):
                yield events.encode(event)
        except Exception:
            logger.exception("stream broken request_id=%s", self.reply.request_id)
            for event in events.fail(InternalError()):
                yield events.encode(event)
        if events.trailer:
            yield events.trailer

    def _news(self, delta: TokenDelta, events: ReplyEvents) -> Iterator[Json]:
        is_last = delta.finish_reason is not None
        return events.news(delta, self._finish(delta) if is_last else time.monotonic() - self.begin_s)

    def _finish(self, last: TokenDelta) -> float:
        """Log the outcome, and return how long it took, in seconds."""
        duration_s = time.monotonic() - self.begin_s
        decision = self.reply.decision_of(last.index)
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
