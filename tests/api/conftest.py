"""What the API's tests share: an HTTP client on a fake backend, and a strict reader of event streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.backend import Backend
from lmoe_ray.api.http_app import build_app
from lmoe_ray.settings import ApiSettings

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
def chat_body() -> dict[str, Any]:
    """The least a chat request can be."""
    return dict(CHAT)


@pytest.fixture
def serve() -> Callable[..., httpx.AsyncClient]:
    """An HTTP client on the app over a backend; keyword arguments are API settings."""

    def serve(
        backend: Backend, keep_alive_s: float = 10.0, keys: KeyRing | None = None, **settings: Any
    ) -> httpx.AsyncClient:
        app = build_app(backend, ApiSettings(**settings), keys=keys, keep_alive_s=keep_alive_s)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://lmoe.test")

    return serve


@pytest.fixture
def events_of() -> Callable[[httpx.Response], list[dict[str, Any]]]:
    """The JSON objects of an event stream, read as the strictest client does."""

    def events_of(response: httpx.Response) -> list[dict[str, Any]]:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.content.isascii()
        assert b"\r" not in response.content
        *blocks, done, rest = response.text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        events = [block for block in blocks if not block.startswith(": ")]
        assert all(event.startswith("data: ") and "\n" not in event for event in events)
        return [json.loads(event.removeprefix("data: ")) for event in events]

    return events_of


@pytest.fixture
def error_of() -> Callable[[httpx.Response], dict[str, Any]]:
    """The error object of an answer, after checking that its shape is OpenAI's."""

    def error_of(response: httpx.Response) -> dict[str, Any]:
        assert response.status_code >= 400
        assert response.headers["content-type"] == "application/json"
        assert response.json().keys() == {"error"}
        error: dict[str, Any] = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"].isascii()
        assert error["message"].isprintable()
        assert error["message"] != ""
        assert isinstance(error["type"], str)
        assert isinstance(error["code"], str)
        assert error["param"] is None or isinstance(error["param"], str)
        return error

    return error_of
