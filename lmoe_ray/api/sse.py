"""Server-sent events as the strictest of OpenAI's clients read them, and what happens when one leaves.

An event is ``data: ``, one line of JSON, two line feeds: no CR, no ``event:`` or ``id:`` line, because
some clients split on exactly that. Only ``/v1/responses`` names its events, as OpenAI does. A comment
block keeps proxies from closing a silent stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from lmoe_ray.api.replies import to_json

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": still working\n\n"
#: A client that reads nothing for so long, in seconds, while its connection is full, counts as gone.
SEND_TIMEOUT_S = 60.0
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def encode_event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + to_json(data).encode("ascii") + b"\n\n"


def encode_named_event(data: Mapping[str, Any]) -> bytes:
    """With its ``type`` once more as the event's name."""
    return f"event: {data['type']}\n".encode() + encode_event(data)


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel what runs inside as soon as the client has left. The request body must have been read.

    The work stays in the caller's task, so that nothing it returns can get lost between two tasks.

    Raises:
        ClientDisconnect: the client left.
    """
    try:
        async with asyncio.timeout(None) as deadline:
            watcher = asyncio.create_task(_expire_when_gone(receive, deadline))
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError as exc:
        if deadline.expired():
            raise ClientDisconnect from exc
        raise


async def _expire_when_gone(receive: Receive, deadline: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    deadline.reschedule(asyncio.get_running_loop().time())


class EventStream(StreamingResponse):
    """A streaming response that closes what it streams when it ends, for whatever reason it ends.

    Starlette's own leaves its generator to the garbage collector and, with some servers, notices a
    client that left only when it next sends. A generator that was never started cannot clean up, so
    what the events are read from is closed by ``owned``.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], owned: AsyncExitStack, headers: Mapping[str, str]) -> None:
        super().__init__(events, headers={**headers, **_HEADERS}, media_type="text/event-stream")
        self._events, self._owned = events, owned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._owned, aclosing(self._events), while_connected(receive):
            try:
                await self.stream_response(_within_time(send))
            except OSError as exc:
                raise ClientDisconnect from exc


def _within_time(send: Send) -> Send:
    """A ``send`` that raises :class:`TimeoutError` once the client has not read for :data:`SEND_TIMEOUT_S`."""

    async def send_within_time(message: Message) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await send(message)

    return send_within_time
