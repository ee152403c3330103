"""Our own client against our own app."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from lmoe_ray.api.client import Client
from lmoe_ray.api.http_app import build_app
from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.stream import Usage
from lmoe_ray.errors import NotReady, ReplyUnreadable, ServerRefused, ServerUnreachable
from lmoe_ray.settings import ApiSettings
from tests.fakes import FakeBackend

HELLO = [Message("user", "hello there")]


def client_of(backend: FakeBackend) -> Client:
    return Client("http://lmoe.test/", transport=httpx.ASGITransport(build_app(backend, ApiSettings())))


def client_with(handler: Any) -> Client:
    return Client("http://lmoe.test", transport=httpx.MockTransport(handler))


async def test_a_chat_yields_its_text_and_then_what_is_known_of_it() -> None:
    backend = FakeBackend("Grü", 0.01, "", 0.01, "ße")
    async with (
        client_of(backend) as client,
        client.chat(HELLO, model="demo", temperature=0, store=True) as stream,
    ):
        assert [text async for text in stream] == ["Grü", "ße"]
    assert (stream.model, stream.expert, stream.routed_by, stream.confidence) == ("demo", "code", "similarity", 0.75)
    assert (stream.finish_reason, stream.usage, stream.ignored) == ("stop", Usage(2, 3), ("store",))
    assert backend.requests[0].sampling.temperature == 0


async def test_a_chat_can_name_its_expert() -> None:
    async with client_of(FakeBackend("x")) as client, client.chat(HELLO, model="demo", expert="math") as stream:
        assert [text async for text in stream] == ["x"]
    assert (stream.expert, stream.routed_by) == ("math", "explicit")


async def test_experts_that_are_compared_are_told_apart() -> None:
    async with (
        client_of(FakeBackend("a", 0.01, "b")) as client,
        client.chat(HELLO, model="demo", experts=("math", "base")) as stream,
    ):
        pieces = [piece async for piece in stream.pieces()]

    assert ["".join(text for at, text in pieces if at == index) for index in (0, 1)] == ["ab", "ab"]
    assert [(a.expert, a.finish_reason, a.usage) for a in stream.answers] == [
        ("math", "stop", Usage(2, 2)),
        (None, "stop", Usage(2, 2)),
    ]
    assert (stream.routed_by, stream.usage) == ("explicit", Usage(4, 4))


async def test_several_answers_of_one_expert_are_told_apart_too() -> None:
    async with client_of(FakeBackend("a")) as client, client.chat(HELLO, model="demo", n=2) as stream:
        assert sorted([piece async for piece in stream.pieces()]) == [(0, "a"), (1, "a")]
    assert [answer.expert for answer in stream.answers] == ["code", "code"]


HEAD = '{"model":"demo","expert":null,"routing":{"routed_by":"only","confidence":1.0},"choices":[]}'
END = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        (["Hello"], "an event holds 'Hello'"),
        (["[1]"], "an event holds"),
        (['"error"'], "an event holds"),
        (['{"choices":null}'], "an event holds"),
        (['{"model":"demo"}'], "an event holds"),
        (['{"choices":[{"index":0,"delta":{"content":"a"}}]}'], "an event holds"),
        (["[" * 100_000], "an event holds"),
        (['{"choices":[{"index":1,"delta":{"content":"a"},"finish_reason":null}]}'], "an answer 2 where 1 were"),
        (['{"choices":[{"index":-1,"delta":{"content":"a"},"finish_reason":null}]}'], "an answer 0 where 1 were"),
        (['{"choices":[{"index":0,"delta":{"tool_calls":[]},"finish_reason":null}]}'], "it calls a function"),
        ([HEAD], "it ended before answer 1 of 1 was complete"),
        ([HEAD, "[DONE]"], "it ended before answer 1 of 1 was complete"),
        ([HEAD, END, "[DONE]"], None),
    ],
)
async def test_a_stream_that_is_not_understood_is_an_error(events: list[str], problem: str | None) -> None:
    content = "".join(f"data: {event}\n\n" for event in events).encode()
    async with (
        client_with(lambda _: httpx.Response(200, content=content)) as client,
        client.chat(HELLO, model="demo") as stream,
    ):
        if problem is None:
            assert [text async for text in stream] == []
        else:
            with pytest.raises(ReplyUnreadable, match=problem):
                assert [text async for text in stream] == []


async def test_a_route_is_the_servers_decision() -> None:
    backend = FakeBackend("x")
    async with client_of(backend) as client:
        assert await client.route("a loop") == await backend.route(backend.requests[0])
        assert (await client.route("a loop", model="demo:math")).expert == "math"


async def test_models_and_experts_are_listed() -> None:
    async with client_of(FakeBackend("x")) as client:
        assert (await client.models())[:2] == ("demo", "demo:code")
        assert [expert["name"] for expert in await client.experts()] == ["code", "math"]


async def test_a_refusal_carries_the_servers_own_words() -> None:
    async with client_of(FakeBackend("x")) as client:
        with pytest.raises(ServerRefused, match=r"expert 'law' does not exist; .* \(HTTP 422, expert_not_found\)"):
            async with client.chat(HELLO, model="demo", expert="law"):
                pass


async def test_a_refusal_in_mid_stream_does_too() -> None:
    async with client_of(FakeBackend("a", 0.01, KeyError("x"), "b")) as client, client.chat(HELLO, model="demo") as s:
        with pytest.raises(ServerRefused, match="internal server error"):
            assert [text async for text in s] == ["a"]


@pytest.mark.parametrize("content", [b"<html>Bad\ngateway</html>", b"[]", b'{"error":"down"}', b"\xff"])
async def test_an_answer_that_is_not_ours_is_still_an_error_with_its_status(content: bytes) -> None:
    async with client_with(lambda _: httpx.Response(502, content=content)) as client:
        with pytest.raises(ServerRefused, match=r"\(HTTP 502, no code\)"):
            await client.models()


async def test_a_server_that_is_not_there_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    async with client_with(refuse) as client:
        with pytest.raises(ServerUnreachable, match=r"http://lmoe\.test gives no answer \(connection refused\)"):
            await client.models()


async def test_a_connection_that_breaks_in_mid_stream_is_an_error() -> None:
    async def pieces() -> Any:
        yield b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
        raise httpx.ReadError("")

    texts = []

    async def read(client: Client) -> None:
        async with client.chat(HELLO, model="demo") as stream:
            async for text in stream:
                texts.append(text)

    async with client_with(lambda _: httpx.Response(200, content=pieces())) as client:
        with pytest.raises(ServerUnreachable, match="ReadError"):
            await read(client)
    assert texts == ["a"]


async def test_waiting_ends_as_soon_as_the_server_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmoe_ray.api.client._POLL_S", 0.01)
    answers = [httpx.ConnectError("refused"), NotReady("x"), None]

    def answer(request: httpx.Request) -> httpx.Response:
        match answers.pop(0):
            case NotReady():
                return httpx.Response(503)
            case httpx.ConnectError() as error:
                raise error
            case _:
                return httpx.Response(200, json={})

    async with client_with(answer) as client, asyncio.timeout(1):
        await client.wait_ready(10)
    assert answers == []


async def test_waiting_has_an_end_and_tells_the_last_error() -> None:
    async with client_of(FakeBackend("x", not_ready=NotReady("pool small"))) as client:
        with pytest.raises(ServerRefused, match="pool small is not ready yet"):
            await client.wait_ready(0.01)
