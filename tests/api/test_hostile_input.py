"""What is sent by mistake or in malice: refused quickly, in OpenAI's shape, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from lmoe_ray.api import incoming, sse
from lmoe_ray.api.http_app import build_app
from lmoe_ray.settings import ApiSettings
from tests import real_server
from tests.fakes import FakeBackend
from tests.real_server import until

CHAT = "/v1/chat/completions"
POSTS = [CHAT, "/v1/completions", "/v1/route"]
HUGE = 50 * 1024 * 1024


def body_of(text: str, **fields: Any) -> dict[str, Any]:
    """Good for every path that takes a body."""
    return {"model": "demo", "messages": [{"role": "user", "content": text}], "prompt": text, **fields}


def listening(backend: FakeBackend) -> AbstractAsyncContextManager[int]:
    """A real HTTP server on a free port, whose streams are never silent for long."""
    return real_server.listening(build_app(backend, ApiSettings(), keep_alive_s=0.02))


async def answer_to(port: int, head: str, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer; stops sending as soon as it comes, as a good client does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: lmoe.test\r\n{head}\r\n".encode())
        status_line = asyncio.create_task(reader.readline())
        for piece in pieces:
            if status_line.done():
                break
            writer.write(piece)
            await asyncio.wait({asyncio.create_task(writer.drain()), status_line}, return_when="FIRST_COMPLETED")
        async with asyncio.timeout(5):
            status = int((await status_line).split()[1])
            headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(headers.split("content-length: ")[1].split("\r\n")[0])
            return status, json.loads(await reader.readexactly(length))
    finally:
        writer.close()


async def test_fifty_megabytes_announced_are_refused_before_they_are_sent() -> None:
    async with listening(FakeBackend("Hi")) as port:
        status, body = await answer_to(port, f"Content-Length: {HUGE}\r\n")

    assert (status, body["error"]["code"]) == (413, "request_too_large")


async def test_fifty_megabytes_unannounced_are_refused_once_they_are_too_many() -> None:
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    async with listening(FakeBackend("Hi")) as port:
        status, body = await answer_to(port, "Transfer-Encoding: chunked\r\n", *[piece] * (HUGE // 0x10000))

    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert int(body["error"]["message"].split()[5]) < 2 * ApiSettings().max_body_bytes


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "value", ["[" * 2_000_000, '{"a":' * 100_000, "[" * 65 + "]" * 65, '[{"a":' * 40 + "1" + "}]" * 40]
)
async def test_deep_nesting_is_refused_quickly(serve: Any, error_of: Any, path: str, value: str) -> None:
    begin_s = time.monotonic()
    response = await serve(FakeBackend("Hi")).post(path, content=f'{{"model": "demo", "tools": {value}}}')

    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_json"
    assert "nested too deeply" in error_of(response)["message"]
    assert time.monotonic() - begin_s < 2


async def test_nesting_that_tools_may_need_passes(serve: Any) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(20):
        schema = {"type": "object", "properties": {"a": schema}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]

    assert (await serve(FakeBackend("Hi")).post(CHAT, json=body_of("x", tools=tools))).status_code == 200


@pytest.mark.parametrize("path", POSTS)
async def test_a_nul_is_a_character_in_a_text_and_harmless_in_a_name(serve: Any, error_of: Any, path: str) -> None:
    backend = FakeBackend("Hi")
    client = serve(backend)

    assert (await client.post(path, json=body_of("a\0b"))).status_code == 200
    assert backend.requests[0].prompt == "a\0b" or backend.requests[0].messages[0].content == "a\0b"
    for field in ("model", "expert"):
        assert error_of(await client.post(path, json=body_of("x", **{field: "a\0\r\nx: y"})))["param"] == field


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("field", ["messages", "prompt", "model", "expert", "stop", "user", "tools"])
async def test_half_a_character_is_refused_wherever_it_stands(serve: Any, error_of: Any, path: str, field: str) -> None:
    backend = FakeBackend("Hi")
    half: Any = [{"role": "user", "content": "\ud83e"}] if field in ("messages", "tools") else "\ud83e"
    response = await serve(backend).post(path, content=json.dumps(body_of("x", **{field: half})))

    assert (response.status_code, error_of(response)["param"]) == (400, field)
    assert backend.requests == []


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("word", ["a", " ", "\n", "🦊", "́"])
async def test_a_word_of_a_million_characters_is_read_at_once(serve: Any, path: str, word: str) -> None:
    client = serve(FakeBackend("Hi"), max_body_bytes=16 << 20)
    begin_s = time.monotonic()
    response = await client.post(path, json=body_of(word * 1_000_000))

    assert response.status_code == 200
    assert time.monotonic() - begin_s < 2


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [1] * 1000}]}, "messages[0].tool_calls[0]"),
        (CHAT, {"stop": [1] * 1000}, "stop[0]"),
        ("/v1/completions", {"stop": [1] * 1000}, "stop[0]"),
        ("/v1/responses", {"input": "x", "include": [1] * 1000}, "include[0]"),
        ("/v1/detokenize", {"tokens": [-1] * 1000}, "tokens[0]"),
    ],
)
async def test_of_very_many_wrong_items_only_the_first_is_looked_at(
    serve: Any, error_of: Any, path: str, fields: dict[str, Any], param: str
) -> None:
    good = {"model": "demo"} if path in ("/v1/responses", "/v1/detokenize") else body_of("x")
    error = error_of(await serve(FakeBackend("Hi")).post(path, json={**good, **fields}))

    assert error["param"] == param
    assert "more)" not in error["message"]


async def test_too_many_messages_are_counted_before_any_is_read(serve: Any, error_of: Any) -> None:
    body = {**body_of("x"), "messages": [1] * 2049}
    error = error_of(await serve(FakeBackend("Hi")).post(CHAT, json=body))

    assert error["message"] == "messages: there are 2049, the limit is 2048; drop old ones"


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("field", ["model", "expert"])
async def test_a_name_of_a_million_characters_is_not_echoed(serve: Any, error_of: Any, path: str, field: str) -> None:
    response = await serve(FakeBackend("Hi")).post(path, json=body_of("x", **{field: "a" * 1_000_000}))

    assert response.status_code in (400, 404, 422)
    assert len(error_of(response)["message"]) <= 400


async def test_more_headers_than_the_limit_are_refused(serve: Any, error_of: Any) -> None:
    client = serve(FakeBackend("Hi"), max_headers=20)
    few, many = ([(f"x-{number}", "1") for number in range(count)] for count in (5, 30))

    assert (await client.get("/v1/models", headers=few)).status_code == 200
    refused = await client.get("/v1/models", headers=[*many, ("origin", "https://app.test")])
    assert refused.status_code == 431
    assert error_of(refused)["code"] == "too_many_headers"
    assert refused.headers["access-control-allow-origin"] == "*"


async def test_a_websocket_is_refused_whatever_its_headers() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    headers = [(b"x-%d" % number, b"1") for number in range(100)]
    scope = {"type": "websocket", "path": CHAT, "headers": headers, "query_string": b"", "subprotocols": []}
    await build_app(FakeBackend("Hi"), ApiSettings())(scope, receive, send)

    assert sent == ["websocket.close"]


@pytest.mark.parametrize("value", [b"\xff\xfe", b"Bearer \xe9\x00", b"Bearer " + b"x" * 8000])
async def test_strange_credentials_are_only_strange(serve: Any, value: bytes) -> None:
    response = await serve(FakeBackend("Hi")).get("/v1/models", headers=[(b"authorization", value)])

    assert response.status_code == 200


async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "BODY_TIMEOUT_S", 0.05)
    async with listening(FakeBackend("Hi")) as port:
        status, body = await answer_to(port, "Content-Length: 100\r\n", b'{"model":')

    assert (status, body["error"]["code"]) == (408, "request_timeout")


MANY = "a" * 1_000_000
HOSTILE = {
    "nested arrays": '{"model": "demo", "messages": ' + "[" * 1_000_000,
    "nested options": '{"model": "demo", "route": ' + '{"route": ' * 100 + "1" + "}" * 101,
    "half a character": '{"model": "demo", "messages": [{"role": "user", "content": "\\ud83e"}]}',
    "half a character among experts": '{"model": "demo", "experts": ["code", "\\ud83e"]}',
    "a NUL among experts": json.dumps(body_of("x", experts=["code", "math\0"])),
    "a long name among experts": json.dumps(body_of("x", experts=["code", MANY])),
    "a long name of an allowed expert": json.dumps(body_of("x", route={"allowed_experts": [MANY]})),
    "very many allowed experts": json.dumps(body_of("x", route={"allowed_experts": ["a"] * 500_000})),
    "very many experts": json.dumps(body_of("x", experts=["a"] * 500_000)),
    "a long name of an option": json.dumps(body_of("x", route={MANY: 1})),
    "a long name of a function": json.dumps(body_of("x", tools=[{"function": {"name": MANY}}])),
    "a long role": json.dumps({**body_of("x"), "messages": [{"role": MANY, "content": "x"}]}),
    "a long stop": json.dumps(body_of("x", stop=MANY)),
    "a number with very many digits": '{"model": "demo", "seed": ' + "9" * 100_000 + "}",
    "a number without end in a schema": json.dumps(
        body_of("x", tools=[{"function": {"name": "f", "parameters": {"minimum": "1e400"}}}], tool_choice="none")
    ).replace('"1e400"', "1e400"),
    "an exponent without end": '{"model": "demo", "temperature": 1e999999}',
    "bytes that are no text": b"\xff\xfe".decode("latin-1"),
    "nothing": "",
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_real_server_refuses_quickly_and_goes_on(kind: str) -> None:
    content, good = HOSTILE[kind].encode("latin-1"), json.dumps(body_of("x")).encode()
    async with listening(FakeBackend("Hi")) as port:
        begin_s = time.monotonic()
        status, body = await answer_to(port, f"Content-Length: {len(content)}\r\n", content)
        assert time.monotonic() - begin_s < 2
        again, _ = await answer_to(port, f"Content-Length: {len(good)}\r\n", good)

    assert status in (400, 422)
    assert len(body["error"]["message"]) <= 400
    assert body["error"]["message"].isprintable()
    assert "Traceback" not in body["error"]["message"]
    assert again == 200


@asynccontextmanager
async def asking(port: int, **fields: Any) -> AsyncIterator[asyncio.StreamReader]:
    """A connection that has asked for a stream; the client leaves at the end."""
    content = json.dumps(body_of("x", stream=True, **fields)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    try:
        yield reader
    finally:
        writer.close()


@pytest.mark.parametrize("fields", [{}, {"n": 3}, {"experts": ["code", "math", "base"]}])
async def test_a_client_that_leaves_a_stream_stops_every_answer(fields: dict[str, Any]) -> None:
    backend = FakeBackend("a", 60.0, "b")
    async with listening(backend) as port:
        async with asyncio.timeout(5), asking(port, **fields) as reader:
            await reader.readuntil(b'"content":"a"')
            assert backend.num_running == len(fields.get("experts", "1"))
        await until(lambda: backend.num_running == 0)


async def test_a_client_that_stalls_for_a_while_still_gets_every_word() -> None:
    words = [f"{number:06d}" + "x" * 50_000 for number in range(32)]
    async with listening(FakeBackend(*words)) as port, asyncio.timeout(5), asking(port) as reader:
        await reader.readuntil(b"data: ")
        await asyncio.sleep(0.1)
        text = b""
        while b"[DONE]" not in text[-64:]:
            text += await reader.read(1 << 16)

    assert [text.count(word[:7].encode()) for word in words] == [1] * len(words)


async def test_a_client_that_does_not_read_is_given_up_and_its_work_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 0.1)
    backend = FakeBackend(*["x" * 1_000_000] * 12, 60.0, "end")
    content = json.dumps(body_of("x", stream=True)).encode()
    async with listening(backend) as port:
        # What the system keeps for a server that writes and a client that does not read is 4 MB and this.
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        ours.connect(("127.0.0.1", port))
        _, writer = await asyncio.open_connection(sock=ours, limit=1024)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        try:
            await until(lambda: backend.num_running == 1)
            await until(lambda: backend.num_running == 0)
        finally:
            writer.close()
