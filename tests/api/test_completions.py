"""The two endpoints that generate: outcomes, extensions, timeouts, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from lmoe_ray.api.http_app import build_app
from lmoe_ray.errors import ExpertNotFound, GenerationTimeout
from lmoe_ray.settings import ApiSettings
from tests.fakes import FakeBackend
from tests.real_server import listening, until

PATHS = ["/v1/chat/completions", "/v1/completions"]
BODY = {"model": "demo", "messages": [{"role": "user", "content": "hello there"}], "prompt": "hello there"}


async def test_who_answers_is_told_in_body_and_headers(serve: Any, chat_body: Any) -> None:
    response = await serve(FakeBackend("Hi")).post("/v1/chat/completions", json=chat_body)
    body = response.json()
    assert body["expert"] == "code"
    assert body["routing"] == {"routed_by": "similarity", "confidence": 0.75}
    assert body["routing_duration"] == 0.125
    assert 0 <= body["duration"] < 1
    assert (response.headers["x-lmoe-expert"], response.headers["x-lmoe-confidence"]) == ("code", "0.7500")


async def test_the_base_model_answers_as_no_expert(serve: Any, chat_body: Any) -> None:
    response = await serve(FakeBackend("Hi", routing="")).post("/v1/chat/completions", json=chat_body)
    assert response.json()["expert"] is None
    assert "x-lmoe-expert" not in response.headers


@pytest.mark.parametrize("fields", [{"expert": "math"}, {"model": "demo:math"}, {"model": "math"}])
async def test_an_expert_can_be_named_in_three_ways(serve: Any, chat_body: Any, fields: dict[str, str]) -> None:
    backend = FakeBackend("Hi")
    body = (await serve(backend).post("/v1/chat/completions", json={**chat_body, **fields})).json()
    assert (body["model"], body["expert"], body["routing"]["routed_by"]) == ("demo", "math", "explicit")
    assert (backend.requests[0].model, backend.requests[0].expert) == ("demo", "math")


@pytest.mark.parametrize("fields", [{"expert": "base"}, {"expert": "demo"}, {"model": "demo:base"}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/route"])
async def test_the_base_model_can_be_named_like_an_expert(
    serve: Any, chat_body: Any, path: str, fields: dict[str, str]
) -> None:
    backend = FakeBackend("Hi")
    asked = {
        "/v1/completions": {"model": "demo", "prompt": "hello"},
        "/v1/responses": {"model": "demo", "input": "hello"},
    }.get(path, chat_body)
    body = (await serve(backend).post(path, json={**asked, **fields})).json()

    assert (body["model"], body["expert"], body.get("routing", body)["routed_by"]) == ("demo", None, "explicit")
    assert (backend.requests[0].expert, backend.requests[0].is_for_base) == (None, True)


async def test_an_unknown_expert_is_refused_before_anything_is_routed(
    serve: Any, chat_body: Any, error_of: Any
) -> None:
    backend = FakeBackend("Hi")
    response = await serve(backend).post("/v1/chat/completions", json={**chat_body, "expert": "law"})
    assert response.status_code == 422
    assert error_of(response)["message"] == str(ExpertNotFound("law", ("code", "math", "base")))
    assert backend.requests == []


async def test_the_callers_request_id_is_the_answers_id(serve: Any, chat_body: Any) -> None:
    client = serve(FakeBackend("Hi"))
    response = await client.post("/v1/chat/completions", json=chat_body, headers={"X-Request-Id": "abc-1"})
    assert response.json()["id"] == "chatcmpl-abc-1"
    first, second = [(await client.post("/v1/chat/completions", json=chat_body)).json()["id"] for _ in range(2)]
    assert first != second


async def test_ignored_fields_are_told_in_body_and_header(serve: Any, chat_body: Any, events_of: Any) -> None:
    client = serve(FakeBackend("Hi"))
    body = {**chat_body, "reasoning_effort": "low", "store": True}
    whole = await client.post("/v1/chat/completions", json=body)
    assert whole.json()["ignored"] == ["reasoning_effort", "store"]
    assert whole.headers["x-lmoe-ignored"] == "reasoning_effort, store"
    first, *others = events_of(await client.post("/v1/chat/completions", json={**body, "stream": True}))
    assert first["ignored"] == ["reasoning_effort", "store"]
    assert not any("ignored" in chunk for chunk in others)


async def test_the_answer_ends_for_length_at_max_tokens_and_says_so(serve: Any, chat_body: Any) -> None:
    client = serve(FakeBackend("a", "b", "c"))
    body = (await client.post("/v1/chat/completions", json={**chat_body, "max_tokens": 2})).json()
    assert (body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]) == ("ab", "length")


async def test_usage_counts_the_prompt_once(serve: Any, chat_body: Any) -> None:
    body = (await serve(FakeBackend("a", "b", "c")).post("/v1/chat/completions", json=chat_body)).json()
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


async def test_an_answer_that_names_the_speakers_is_passed_on_unchanged(serve: Any, chat_body: Any) -> None:
    text = "say ASSISTANT: or ### Instruction"
    body = (await serve(FakeBackend(text)).post("/v1/chat/completions", json=chat_body)).json()
    assert body["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("stream", [True, False])
async def test_echo_repeats_the_prompt_before_the_answer(serve: Any, events_of: Any, stream: bool) -> None:
    body = {"model": "demo", "prompt": "one two", "echo": True, "stream": stream}
    response = await serve(FakeBackend(" three")).post("/v1/completions", json=body)
    pieces = [c["choices"][0]["text"] for c in (events_of(response) if stream else [response.json()])]
    assert "".join(pieces) == "one two three"


async def test_an_engine_may_have_slashes_in_its_name(serve: Any, error_of: Any) -> None:
    response = await serve(FakeBackend("Hi")).post("/v1/engines/meta%2Fllama/completions", json={"prompt": "x"})
    assert response.status_code == 404
    assert error_of(response)["message"].startswith("model 'meta/llama' does not exist")


async def test_deltas_without_text_make_no_chunk(serve: Any, chat_body: Any, events_of: Any) -> None:
    response = await serve(FakeBackend("", 0.01, "a", 0.01, "")).post(
        "/v1/chat/completions", json={**chat_body, "stream": True}
    )
    assert [c["choices"][0]["delta"] for c in events_of(response)] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {},
    ]


async def test_a_silent_stream_is_kept_alive_by_comments(serve: Any, chat_body: Any, events_of: Any) -> None:
    client = serve(FakeBackend("a", 0.05, "b"), keep_alive_s=0.02)
    response = await client.post("/v1/chat/completions", json={**chat_body, "stream": True})
    before, *_, after = response.text.split(": still working\n\n")
    assert before.endswith('"delta":{"content":"a"},"finish_reason":null}]}\n\n')
    assert after.startswith("data: ")
    assert len(events_of(response)) == 4


@pytest.mark.parametrize("stream", [True, False])
async def test_a_token_that_never_comes_is_a_timeout(serve: Any, chat_body: Any, error_of: Any, stream: bool) -> None:
    backend = FakeBackend(10.0, "a")
    client = serve(backend, token_timeout_s=0.02)
    response = await client.post("/v1/chat/completions", json={**chat_body, "stream": stream})
    assert response.status_code == 408
    assert error_of(response)["message"] == str(GenerationTimeout(0.02))
    assert backend.num_running == 0


async def test_a_second_token_that_never_comes_is_an_error_event(serve: Any, chat_body: Any, events_of: Any) -> None:
    backend = FakeBackend("a", 10.0, "b")
    client = serve(backend, token_timeout_s=0.02)
    *_, last = events_of(await client.post("/v1/chat/completions", json={**chat_body, "stream": True}))
    assert last["error"]["code"] == "timeout"
    assert backend.num_running == 0


async def test_an_outcome_is_one_line_in_the_log_without_the_conversation(
    serve: Any, chat_body: Any, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "lmoe_ray")
    headers = {"X-Request-Id": "r1"}
    await serve(FakeBackend("confidential")).post("/v1/chat/completions", json=chat_body, headers=headers)
    [record] = [r for r in caplog.records if r.name.startswith("lmoe_ray")]
    message, _, rest = record.getMessage().partition(" duration_s=")
    assert message == (
        "completion finished request_id=r1 model=demo expert=code routed_by=similarity confidence=0.750 "
        "prompt_tokens=2 completion_tokens=1"
    )
    assert rest.endswith(" reason=stop")


async def test_a_stream_that_breaks_leaves_its_traceback_in_the_log(serve: Any, chat_body: Any, caplog: Any) -> None:
    client = serve(FakeBackend("a", 0.01, ZeroDivisionError("secret"), "b"))
    response = await client.post("/v1/chat/completions", json={**chat_body, "stream": True})
    assert "ZeroDivisionError: secret" in caplog.text
    assert "secret" not in response.text


# ── clients that leave ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_a_real_server_stops_the_work_at_once(stream: bool) -> None:
    backend = FakeBackend("a", 10.0, "b")
    content = json.dumps({**BODY, "stream": stream}).encode()
    head = f"POST {PATHS[0]} HTTP/1.1\r\nHost: lmoe.test\r\nContent-Length: {len(content)}\r\n\r\n"
    async with listening(build_app(backend, ApiSettings())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + content)
        if stream:
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
            await reader.readuntil(b"data: ")
        await until(lambda: backend.num_running == 1)
        writer.close()
        async with asyncio.timeout(0.1):
            await backend.stopped.wait()
    assert backend.num_running == 0


class RawCall:
    """One call of the app without a server: the client leaves, or the server cancels, when told."""

    def __init__(self, backend: FakeBackend, path: str, stream: bool) -> None:
        self.sent: list[dict[str, Any]] = []
        body = {"model": "demo", "input": "hello"} if path == "/v1/responses" else BODY
        self._body = json.dumps({**body, "stream": stream}).encode()
        self._gone = asyncio.Event()
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        scope |= {"asgi": {"spec_version": "2.4"}}
        self.task = asyncio.create_task(build_app(backend, ApiSettings())(scope, self._receive, self._send))

    def leave(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


def stalled(place: str) -> FakeBackend:
    if place == "while routing":
        return FakeBackend("a", routing=10.0)
    return FakeBackend(10.0, "a") if place == "before the first token" else FakeBackend("a", 10.0, "b")


@pytest.mark.parametrize("place", ["while routing", "before the first token", "after the first token"])
@pytest.mark.parametrize("path", [*PATHS, "/v1/responses"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["leaves", "is cancelled"])
async def test_wherever_a_client_leaves_the_work_stops_at_once(place: str, path: str, stream: bool, how: str) -> None:
    backend = stalled(place)
    has_begun = stream and place == "after the first token"
    call = RawCall(backend, path, stream)
    await until(lambda: backend.num_running == 1)
    await until(lambda: bool(call.sent) == has_begun)
    if how == "leaves":
        call.leave()
    else:
        call.task.cancel()
    async with asyncio.timeout(0.1):
        await backend.stopped.wait()
        await asyncio.wait([call.task])
    assert backend.num_running == 0
    assert call.task.cancelled() == (how == "is cancelled")
    assert bool(call.sent) == has_begun


# ── why, if asked ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_whole_decision_is_told_if_asked_for_and_once(
    serve: Any, events_of: Any, path: str, stream: bool
) -> None:
    client = serve(FakeBackend("a", 0.01, "b"))
    decision = (await client.post("/v1/route", json=BODY)).json()
    response = await client.post(path, json={**BODY, "explain": True, "stream": stream})
    first, *others = events_of(response) if stream else [response.json()]

    assert first["routing"] == decision
    assert first["routing"]["candidates"]
    assert not any("routing" in chunk for chunk in others)


async def test_a_named_expert_is_explained_too(serve: Any, chat_body: Any) -> None:
    body = {**chat_body, "expert": "math", "explain": True}
    routing = (await serve(FakeBackend("a")).post(PATHS[0], json=body)).json()["routing"]

    assert (routing["routed_by"], routing["reason"]) == ("explicit", "the client named it")
