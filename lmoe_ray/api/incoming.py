"""What arrives: headers, the body of a request as one JSON object, or an error that says why not, and its id.

JSON is read more strictly than ``json.loads`` does: what two readers could understand differently (a key
twice, ``NaN``, ``1e400``, half a surrogate pair) is refused here, so that nobody behind has to think of it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import uuid
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lmoe_ray.errors import BodyTimeout, BodyTooLarge, InvalidField, MalformedBody, TooManyHeaders, one_line

#: Levels of objects and arrays in a body: more than any schema of a tool has, less than any stack.
MAX_DEPTH = 64
#: Keys of one object in a body, and values in all of it: more than any schema declares, and any context has tokens.
#: What looks at each of them holds up every other request.
MAX_KEYS, MAX_VALUES = 5_000, 200_000
#: Seconds a body may take; 4 MiB at 1 Mbit/s take 34.
BODY_TIMEOUT_S = 60.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class HeaderLimit:
    """Middleware that refuses a request with more headers than ``max_headers``."""

    def __init__(self, app: ASGIApp, max_headers: int) -> None:
        self._app, self._max_headers = app, max_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A websocket cannot be told why; it is refused further in, as there is none to connect to.
        num_headers = len(scope["headers"]) if scope["type"] == "http" else 0
        if num_headers > self._max_headers:
            raise TooManyHeaders(num_headers, self._max_headers)
        await self._app(scope, receive, send)


def request_id_of(http: Request) -> str:
    """The caller's ``x-request-id`` if it can stand in a log line, else a new one."""
    given = http.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


async def read_object(http: Request, max_body_bytes: int) -> dict[str, Any]:
    """Read the body of a request as a JSON object; never holds more than the limit plus one piece.

    Raises:
        BodyTooLarge: announced or real length above ``max_body_bytes``.
        BodyTimeout: not complete within :data:`BODY_TIMEOUT_S`.
        MalformedBody: see :func:`parse_object`.
        ClientDisconnect: the client left before the body was complete.
    """
    announced = http.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:18]) > max_body_bytes:
        raise BodyTooLarge(int(announced[:18]), max_body_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return parse_object(await _read_within(http, max_body_bytes))
    except TimeoutError as exc:
        raise BodyTimeout(BODY_TIMEOUT_S) from exc


async def _read_within(http: Request, max_body_bytes: int) -> bytes:
    body = bytearray()
    async for piece in http.stream():
        body += piece
        if len(body) > max_body_bytes:
            raise BodyTooLarge(len(body), max_body_bytes)
    return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``.

    Raises:
        MalformedBody: not UTF-8, not JSON, not an object, a key twice, a number JSON does not have, nested
            deeper than :data:`MAX_DEPTH`, or above :data:`MAX_KEYS` or :data:`MAX_VALUES`.
        InvalidField: a text holds half a surrogate pair, which no tokenizer can read.
    """
    try:
        text = body.decode("utf-8-sig")
        data = json.loads(
            text, object_pairs_hook=_without_repeats, parse_float=_finite, parse_constant=_refuse_constant
        )
        if not isinstance(data, dict):
            raise MalformedBody(f"it is {_kind(data)}")
        _require_modest(data)
        if _SURROGATE_ESCAPE.search(text):
            _refuse_half_characters(data)
    except RecursionError as exc:
        raise MalformedBody("it is nested too deeply") from exc
    except ValueError as exc:
        raise MalformedBody(one_line(exc, 160)) from exc
    return data


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise MalformedBody(f"an object has {len(pairs)} keys, the limit is {MAX_KEYS}")
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise MalformedBody(f"key {one_line(name, 40)!r} appears twice")
        data[name] = value
    return data


def _require_modest(data: dict[str, Any]) -> None:
    """Look at one level after the other, because what recurses can run out of stack."""
    level: list[Any] = [data]
    num_values = 0
    for _ in range(MAX_DEPTH):
        num_values += sum(map(len, level))
        if num_values > MAX_VALUES:
            raise MalformedBody(f"it has more than {MAX_VALUES} values; send fewer at once")
        values = (value for node in level for value in (node.values() if isinstance(node, dict) else node))
        level = [value for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise MalformedBody(f"it is nested too deeply: the limit is {MAX_DEPTH} levels")


def _finite(digits: str) -> float:
    """Python reads ``1e400`` as infinity, which no JSON can say again."""
    number = float(digits)
    if math.isinf(number):
        raise MalformedBody(f"{one_line(digits, 40)} is too large a number")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedBody(f"{name} is not a JSON number")


def _refuse_half_characters(data: dict[str, Any]) -> None:
    """Encode each field once more, which fails exactly where a surrogate stands alone."""
    for name, value in data.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            problem = "holds half a surrogate pair (\\ud800 to \\udfff alone), which is no character; remove it"
            raise InvalidField(one_line(name, 40), problem) from exc


def _kind(data: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(data), "a number")
