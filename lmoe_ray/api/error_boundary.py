"""Every answer that is not a success, in the one shape OpenAI's clients show to people.

Starlette's outermost error handler sits outside every middleware, so its answers would have no CORS
headers, and it raises again afterwards, upon which uvicorn drops the connection under the next
request. The boundary here lies inside CORS and lets nothing through.
"""

from __future__ import annotations

import logging
import math

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmoe_ray.api.replies import encode_error, to_json
from lmoe_ray.errors import InternalError, InvalidField, LMoEError, MethodNotAllowed, RouteNotFound, one_line

logger = logging.getLogger(__name__)


def error_response(error: LMoEError) -> Response:
    headers = {} if error.retry_after_s is None else {"retry-after": str(math.ceil(error.retry_after_s))}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(to_json(encode_error(error)), error.status, headers, "application/json")


async def answer_error(request: Request, error: Exception) -> Response:
    """Exception handler for :class:`LMoEError`. The log line has no query: some put their key there."""
    assert isinstance(error, LMoEError)
    logger.info(
        "request refused method=%s path=%s status=%d code=%s param=%s",
        request.method,
        _shown(request.url.path),
        error.status,
        error.code,
        error.param,
    )
    return error_response(error)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for what Starlette's router raises: 404 and 405."""
    assert isinstance(error, HTTPException)
    kind = MethodNotAllowed if error.status_code == 405 else RouteNotFound
    response = await answer_error(request, kind(request.method, request.url.path))
    response.headers.update(error.headers or {})
    return response


def _shown(path: object) -> str:
    """As it may stand in a log: whoever wrote it may want to write to a terminal, or very much."""
    return one_line(path, 200)


class ErrorBoundary:
    """Answers what the middleware inside refuses; what nobody foresaw is logged and becomes a plain 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def note_start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except ClientDisconnect:
            logger.info("client left path=%s", _shown(scope["path"]))
        except LMoEError as exc:
            if has_started or scope["type"] != "http":
                raise
            response = await answer_error(Request(scope), exc)
            await response(scope, receive, send)
        except Exception:
            logger.exception("unforeseen error path=%s", _shown(scope.get("path")))
            if has_started or scope["type"] != "http":
                raise
            await error_response(InternalError())(scope, receive, send)


class Cors(CORSMiddleware):
    """Starlette's, except that a refused preflight has a body like every other error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        refused = error_response(InvalidField("origin", bytes(response.body).decode()))
        refused.headers.update({k: v for k, v in response.headers.items() if k.startswith("access-control-")})
        return refused
