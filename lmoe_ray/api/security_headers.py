"""Headers that tell a browser what an answer is not: not another type, not a frame, not for a cache.

An answer that sets one of them itself keeps its own, so a page may allow its scripts. None of them
concerns a client that is no browser.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    # What is listed depends on the key, which a cache in between does not look at.
    "cache-control": "no-store",
}


class SecurityHeaders:
    """Outermost middleware: sees every answer, refusals and preflights too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, add_headers)
