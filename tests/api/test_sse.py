"""Framing to the byte, and what closes when a client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from lmoe_ray.api.sse import DONE, KEEP_ALIVE, EventStream, encode_event, while_connected


class Connection:
    """The server's side of one connection; ``leave`` is what the client may do."""

    def __init__(self, break_after: int | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self._gone = asyncio.Event()
        self._break_after = break_after

    def leave(self) -> None:
        self._gone.set()

    async def receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self._break_after is not None and len(self.sent) >= self._break_after:
            raise OSError("broken pipe")
        self.sent.append(message)


class Events:
    """A source of events that notes whether it was closed, and the generator that reads it."""

    def __init__(self) -> None:
        self.is_closed = False
        self.generator_closed = False
        self.owned = AsyncExitStack()
        self.owned.callback(lambda: setattr(self, "is_closed", True))

    async def read(self, *waits_s: float) -> AsyncGenerator[bytes, None]:
        try:
            for wait_s in waits_s:
                await asyncio.sleep(wait_s)
                yield b": x\n\n"
        finally:
            self.generator_closed = True


async def test_an_event_is_framed_to_the_byte() -> None:
    assert encode_event({"a": "ü\n"}) == b'data: {"a":"\\u00fc\\n"}\n\n'
    assert DONE == b"data: [DONE]\n\n"
    assert KEEP_ALIVE.startswith(b": ")
    assert KEEP_ALIVE.endswith(b"\n\n")


async def test_work_is_left_alone_while_the_client_stays() -> None:
    async with while_connected(Connection().receive):
        await asyncio.sleep(0.01)


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    connection = Connection()
    asyncio.get_running_loop().call_later(0.01, connection.leave)
    with pytest.raises(ClientDisconnect):
        async with asyncio.timeout(1), while_connected(connection.receive):
            await asyncio.sleep(10)


async def test_what_is_left_of_the_body_is_not_taken_for_leaving() -> None:
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(10)

    async with while_connected(receive):
        await asyncio.sleep(0.01)
    assert messages == []


async def test_a_timeout_of_the_work_itself_is_not_taken_for_leaving() -> None:
    with pytest.raises(TimeoutError):
        async with while_connected(Connection().receive):
            raise TimeoutError


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def work() -> None:
        async with while_connected(Connection().receive):
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_stream_that_ends_closes_its_source() -> None:
    events, connection = Events(), Connection()
    await EventStream(events.read(0, 0), events.owned, {"x-a": "b"})({}, connection.receive, connection.send)
    assert (events.is_closed, events.generator_closed) == (True, True)
    start, *bodies = connection.sent
    headers = dict(start["headers"])
    assert (start["status"], headers[b"x-a"]) == (200, b"b")
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert [body["body"] for body in bodies] == [b": x\n\n", b": x\n\n", b""]


async def test_a_stream_whose_client_leaves_closes_its_source_though_it_is_silent() -> None:
    events, connection = Events(), Connection()
    asyncio.get_running_loop().call_later(0.01, connection.leave)
    with pytest.raises(ClientDisconnect):
        await EventStream(events.read(0, 10), events.owned, {})({}, connection.receive, connection.send)
    assert (events.is_closed, events.generator_closed) == (True, True)


@pytest.mark.parametrize("num_messages", [0, 1, 2])
async def test_a_stream_that_cannot_be_sent_closes_its_source_though_it_never_started(num_messages: int) -> None:
    events, connection = Events(), Connection(break_after=num_messages)
    with pytest.raises(ClientDisconnect):
        await EventStream(events.read(0, 0), events.owned, {})({}, connection.receive, connection.send)
    assert events.is_closed
    assert events.generator_closed == (num_messages > 0)


async def test_a_stream_that_is_cancelled_closes_its_source() -> None:
    events, connection = Events(), Connection()
    stream = EventStream(events.read(0, 10), events.owned, {})
    task = asyncio.create_task(stream({}, connection.receive, connection.send))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (events.is_closed, events.generator_closed) == (True, True)
