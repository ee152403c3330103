"""A small client of our own API, for the command line and for measuring.

It reads exactly what the API writes, so that a change of one shows in the tests of the other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx

from lmoe_ray.api.chat_stream import ChatStream, refusal
from lmoe_ray.api.decision_reply import decode_decision
from lmoe_ray.api.replies import Json
from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.errors import ClientError, ServerUnreachable

_POLL_S = 0.5


class Client:
    """Talks to one server. Use it as an async context manager.

    Every method raises :class:`ServerUnreachable` if nothing answers and
    :class:`~lmoe_ray.errors.ServerRefused`, with the server's own message, if the answer is an error.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self._base_url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        expert: str | None = None,
        experts: Sequence[str] = (),
        **fields: Any,
    ) -> AsyncIterator[ChatStream]:
        """Ask for an answer, or for one of each of ``experts``.

        ``fields`` are those of ``/v1/chat/completions``, such as ``temperature``.
        """
        body = {
            **fields,
            "model": model,
            "expert": expert,
            "experts": list(experts) or None,
            "messages": _encoded(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self._request("POST", "/v1/chat/completions", body) as response:
            yield ChatStream(response.aiter_lines(), len(experts) or fields.get("n") or 1)

    async def route(self, text: str | Sequence[Message], *, model: str | None = None) -> RoutingDecision:
        """Who would answer ``text``, or the last message of a conversation, and why."""
        asked = {"prompt": text} if isinstance(text, str) else {"messages": _encoded(text)}
        return decode_decision(await self._json("POST", "/v1/route", {"model": model, **asked}))

    async def models(self) -> tuple[str, ...]:
        """Every name that may be asked for as ``model``, the default first."""
        return tuple(entry["id"] for entry in (await self._json("GET", "/v1/models"))["data"])

    async def model(self, name: str | None = None) -> Json:
        """The entry of one name, or of the default: ``id`` and ``max_model_len``, tokens of prompt plus answer."""
        if name is None:
            name = (await self.models())[0]
        return await self._json("GET", f"/v1/models/{name}")

    async def experts(self) -> list[Json]:
        """The live experts: ``name``, ``model``, ``digest``, ``description``, ``licence``."""
        return list((await self._json("GET", "/v1/experts"))["data"])

    async def wait_ready(self, timeout_s: float) -> None:
        """Return as soon as the server can answer; raise its last error if it cannot within ``timeout_s``."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while True:
            try:
                await self._json("GET", "/readyz")
                return
            except ClientError:
                if loop.time() + _POLL_S > end_s:
                    raise
            await asyncio.sleep(_POLL_S)

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
        async with self._request(method, path, body) as response:
            return _decoded(await response.aread())

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        try:
            async with self._http.stream(method, path, json=body) as response:
                if not response.is_success:
                    raise refusal(response.status_code, _decoded(await response.aread()))
                yield response
        except httpx.HTTPError as exc:
            raise ServerUnreachable(self._base_url, str(exc) or type(exc).__name__) from exc


def _encoded(messages: Sequence[Message]) -> list[Json]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _decoded(content: bytes) -> Json:
    """The JSON object in ``content``; a proxy's error page becomes an error object with its first line."""
    try:
        data = json.loads(content)
    except ValueError:
        data = None
    return data if isinstance(data, dict) else {"error": {"message": content[:200].decode(errors="replace")}}
