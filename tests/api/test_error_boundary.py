"""Nothing but OpenAI's error shape leaves the house, and a bug leaves its traceback in the log."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from lmoe_ray.api.error_boundary import ErrorBoundary
from lmoe_ray.errors import EngineFailed, LMoEError, NotReady, Overloaded, ReplicaLost
from tests.fakes import FakeBackend


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded(9, 8), 429, "1"),
        (NotReady("pool small"), 503, "5"),
        (ReplicaLost("pool small"), 503, "1"),
        (EngineFailed("out of memory"), 500, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_token_has_its_own_status(
    serve: Any, error_of: Any, chat_body: Any, error: LMoEError, status: int, retry_after: str | None, stream: bool
) -> None:
    response = await serve(FakeBackend(error)).post("/v1/chat/completions", json={**chat_body, "stream": stream})
    assert response.status_code == status
    assert error_of(response)["message"] == error.message
    assert response.headers.get("retry-after") == retry_after


async def test_a_method_that_is_not_allowed_names_those_that_are(serve: Any, error_of: Any) -> None:
    response = await serve(FakeBackend("Hi")).get("/v1/chat/completions")
    assert error_of(response)["message"] == "/v1/chat/completions does not answer GET"
    assert response.headers["allow"] == "POST"


async def test_a_bug_is_logged_with_its_traceback(serve: Any, chat_body: Any, caplog: Any) -> None:
    await serve(FakeBackend("Hi", routing=ZeroDivisionError("secret"))).post("/v1/chat/completions", json=chat_body)
    assert "ZeroDivisionError: secret" in caplog.text


async def test_a_refusal_is_one_line_in_the_log_without_the_conversation(
    serve: Any, chat_body: Any, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "lmoe_ray")
    body = {**chat_body, "temperature": 9, "messages": [{"role": "user", "content": "confidential"}]}
    await serve(FakeBackend("Hi")).post("/v1/chat/completions", json=body)
    [record] = [r for r in caplog.records if r.name.startswith("lmoe_ray")]
    assert record.getMessage() == (
        "request refused method=POST path=/v1/chat/completions status=400 code=invalid_value param=temperature"
    )


@pytest.mark.parametrize("model", ["demo%1b[2Jx", "demo%e2%80%a8x", "demo%7fx", "d" * 5000])
@pytest.mark.parametrize("routing", ["code", ZeroDivisionError(), ClientDisconnect()])
async def test_a_path_in_the_log_is_printable_and_short(serve: Any, caplog: Any, model: str, routing: Any) -> None:
    caplog.set_level(logging.INFO, "lmoe_ray")
    client = serve(FakeBackend("Hi", routing=routing), unknown_model="default")
    with contextlib.suppress(AssertionError):  # The client has left, so nothing answers it.
        await client.post(f"/v1/engines/{model}/completions", json={"prompt": "" if routing == "code" else "x"})
    logged = "".join(r.getMessage() for r in caplog.records if "path=" in r.getMessage())

    assert "path=/v1/engines/d" in logged
    assert logged.isprintable()
    assert logged.isascii()
    assert len(logged) < 400


async def run(boundary: ErrorBoundary, kind: str = "http") -> list[str]:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        raise AssertionError("nothing to receive")

    await boundary({"type": kind, "path": "/x", "method": "GET", "headers": []}, receive, send)
    return sent


async def test_a_client_that_left_gets_no_answer_and_is_no_error(caplog: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    assert await run(ErrorBoundary(app)) == []
    assert "ERROR" not in caplog.text


async def test_an_answer_that_has_begun_is_broken_off_rather_than_begun_again(caplog: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start"})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(ErrorBoundary(app))
    assert "ZeroDivisionError" in caplog.text


async def test_what_is_not_http_is_not_answered_with_http() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(ErrorBoundary(app), "websocket")
