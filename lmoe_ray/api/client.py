"""A small client of our own API, for the command line and for measuring.

It reads exactly what ``replies.py`` writes, so that a change of one shows in the tests of the other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import httpx

from lmoe_ray.api.decision_reply import decode_decision
from lmoe_ray.api.replies import Json
from lmoe_ray.domain.chat import Message
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import Usage
from lmoe_ray.errors import ClientError, ServerRefused, ServerUnreachable

_POLL_S = 0.5


class ChatStream:
    """An answer as it arrives: iterate over its text once, then read what is known about it.

    Where several experts answer, :meth:`pieces` tells their texts apart.

    Attributes:
        model: name of the base model.
        expert: who answers, ``None`` for the base model.
        routed_by, confidence: as in :class:`~lmoe_ray.domain.decision.RoutingDecision`.
        decision: all of it, if the request had ``explain``.
        ignored: fields of the request without effect.
        finish_reason, usage: known at the end.
    """

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.model = ""
        self.expert: str | None = None
        self.routed_by = ""
        self.confidence = 0.0
        self.decision: RoutingDecision | None = None
        self.ignored: tuple[str, ...] = ()
        self.finish_reason: str | None = None
        self.usage = Usage(0, 0)

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        async for _, text in self.pieces():
            yield text

    async def pieces(self) -> AsyncGenerator[tuple[int, str], None]:
        """What is new, with the place of its answer among those of the request."""
        async for line in self._lines:
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if text := self._read(chunk):
                yield chunk["choices"][0].get("index", 0), text

    def _read(self, chunk: Json) -> str:
        if "error" in chunk:
            raise _refusal(200, chunk)
        if "routing" in chunk:
            self._read_head(chunk, chunk["routing"])
        if usage := chunk.get("usage"):
            self.usage = Usage(usage["prompt_tokens"], usage["completion_tokens"])
        if not chunk["choices"]:
            return ""
        choice = chunk["choices"][0]
        self.finish_reason = choice["finish_reason"]
        return str(choice["delta"].get("content", ""))

    def _read_head(self, chunk: Json, routing: Json) -> None:
        self.model, self.expert = chunk["model"], chunk.get("expert")
        self.routed_by, self.confidence = routing["routed_by"], routing["confidence"]
        self.decision = decode_decision(routing) if "candidates" in routing else None
        self.ignored = tuple(chunk.get("ignored", ()))


class Client:
    """Talks to one server. Use it as an async context manager.

    Every method raises :class:`ServerUnreachable` if nothing answers and :class:`ServerRefused`, with
    the server's own message, if the answer is an error.
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
        self, messages: Sequence[Message], *, model: str, expert: str | None = None, **fields: Any
    ) -> AsyncIterator[ChatStream]:
        """Ask for an answer; ``fields`` are those of ``/v1/chat/completions``, such as ``temperature``."""
        body = {
            **fields,
            "model": model,
            "expert": expert,
            "messages": _encoded(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self._request("POST", "/v1/chat/completions", body) as response:
            yield ChatStream(response.aiter_lines())

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
                    raise _refusal(response.status_code, _decoded(await response.aread()))
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


def _refusal(http_status: int, body: Json) -> ServerRefused:
    error = body.get("error")
    error = error if isinstance(error, dict) else {}
    return ServerRefused(http_status, str(error.get("code") or "no code"), str(error.get("message") or "no message"))
