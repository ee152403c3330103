"""Headers on every answer, whatever became of it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import HTMLResponse

from lmoe_ray.api.security_headers import HEADERS, SecurityHeaders
from tests.fakes import FakeBackend


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/healthz", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/route", 405),
        ("POST", "/v1/chat/completions", 400),
    ],
)
async def test_every_answer_has_them(serve: Any, method: str, path: str, status: int) -> None:
    response = await serve(FakeBackend("Hi")).request(method, path)

    assert response.status_code == status
    assert {name: response.headers[name] for name in HEADERS} == HEADERS


async def test_a_stream_and_a_preflight_have_them_and_keep_their_own(serve: Any, chat_body: Any) -> None:
    client = serve(FakeBackend("Hi"))
    stream = await client.post("/v1/chat/completions", json={**chat_body, "stream": True})
    preflight = await client.options("/", headers={"origin": "https://a.test", "access-control-request-method": "GET"})

    assert stream.headers["cache-control"] == "no-cache"
    for response in (stream, preflight):
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_page_may_allow_its_own_scripts() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    page = HTMLResponse("<p>", headers={"content-security-policy": "default-src 'self'"})
    await SecurityHeaders(page)({"type": "http"}, None, send)  # type: ignore[arg-type]
    headers = dict(sent[0]["headers"])

    assert headers[b"content-security-policy"] == b"default-src 'self'"
    assert headers[b"x-frame-options"] == b"DENY"
