"""The HTTP surface as one Starlette app: which path leads where, and what every answer passes through.

::

    security headers ─ CORS ─ error boundary ─ header limit ─ access ─ known errors ─ routes ─ handlers ─ CallerBackend

Every path exists with and without ``/v1``, because clients differ in whether their base URL has it; the chat
page alone is at ``/``. The handlers are made anew for each request, over the backend as it is to the caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmoe_ray.api.access import Access, CallerBackend, caller_of
from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.backend import Backend
from lmoe_ray.api.chat_page import page_routes
from lmoe_ray.api.completions import Completions
from lmoe_ray.api.embeddings import EmbeddingRoutes
from lmoe_ray.api.error_boundary import Cors, ErrorBoundary, answer_error, answer_http_exception
from lmoe_ray.api.expert_routes import ExpertRoutes
from lmoe_ray.api.incoming import HeaderLimit
from lmoe_ray.api.openapi_document import document_handler
from lmoe_ray.api.quotas import RATE_HEADERS, Quotas
from lmoe_ray.api.security_headers import SecurityHeaders
from lmoe_ray.api.token_routes import TokenRoutes
from lmoe_ray.errors import LMoEError
from lmoe_ray.settings import ApiSettings

#: Silence after which a stream sends a comment; half of the shortest idle timeout common in proxies.
KEEP_ALIVE_S = 10.0


Handler = Callable[[Request], Awaitable[Response]]


def build_app(
    backend: Backend, settings: ApiSettings, *, keys: KeyRing | None = None, keep_alive_s: float = KEEP_ALIVE_S
) -> Starlette:
    """The ASGI app over ``backend``. Without ``keys`` nobody is asked for one.

    It keeps no state but the counts of ``settings.quota_storage``, so any number of processes may run it.

    Raises:
        SettingsError: the quota storage cannot be used.
    """
    quotas = Quotas(settings.quota_storage)
    app = Starlette(
        routes=[
            *_routes(_Handlers(backend, settings, quotas, keep_alive_s), document_handler(has_keys=keys is not None)),
            *page_routes(),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            _cors(settings),
            Middleware(ErrorBoundary),
            Middleware(HeaderLimit, max_headers=settings.max_headers),
            Middleware(Access, keys=keys, quotas=quotas),
        ],
        exception_handlers={LMoEError: answer_error, HTTPException: answer_http_exception},
    )
    # A redirect names this host as we see it, which behind a proxy is not where the client is.
    app.router.redirect_slashes = False
    return app


class _Handlers:
    """Makes the handlers of one request, over the backend of its caller."""

    def __init__(self, backend: Backend, settings: ApiSettings, quotas: Quotas, keep_alive_s: float) -> None:
        self._backend, self._settings, self._quotas, self._keep_alive_s = backend, settings, quotas, keep_alive_s

    def completion(self, answer: Callable[[Completions, Request], Awaitable[Response]]) -> Handler:
        async def handler(http: Request) -> Response:
            return await answer(Completions(self._backend_of(http), self._settings, self._keep_alive_s), http)

        return handler

    def listing(self, answer: Callable[[ExpertRoutes, Request], Awaitable[Response]]) -> Handler:
        async def handler(http: Request) -> Response:
            return await answer(ExpertRoutes(self._backend_of(http), self._settings), http)

        return handler

    def embedding(self, answer: Callable[[EmbeddingRoutes, Request], Awaitable[Response]]) -> Handler:
        async def handler(http: Request) -> Response:
            return await answer(EmbeddingRoutes(self._backend_of(http), self._settings), http)

        return handler

    def tokens(self, answer: Callable[[TokenRoutes, Request], Awaitable[Response]]) -> Handler:
        async def handler(http: Request) -> Response:
            return await answer(TokenRoutes(self._backend_of(http), self._settings), http)

        return handler

    def probe(self, answer: Callable[[ExpertRoutes, Request], Awaitable[Response]]) -> Handler:
        """For whom nobody has identified: there is no caller."""

        async def handler(http: Request) -> Response:
            return await answer(ExpertRoutes(self._backend, self._settings), http)

        return handler

    def _backend_of(self, http: Request) -> Backend:
        return CallerBackend(self._backend, caller_of(http), self._quotas, self._settings.log_prompts)


def _routes(handlers: _Handlers, document: Handler) -> list[Route]:
    table = [
        ("POST", "/chat/completions", handlers.completion(Completions.chat)),
        ("POST", "/completions", handlers.completion(Completions.text)),
        ("POST", "/engines/{model:path}/completions", handlers.completion(Completions.text)),
        ("POST", "/responses", handlers.completion(Completions.response)),
        ("POST", "/embeddings", handlers.embedding(EmbeddingRoutes.embed)),
        ("POST", "/engines/{model:path}/embeddings", handlers.embedding(EmbeddingRoutes.embed)),
        ("POST", "/tokenize", handlers.tokens(TokenRoutes.tokenize)),
        ("POST", "/detokenize", handlers.tokens(TokenRoutes.detokenize)),
        ("POST", "/route", handlers.listing(ExpertRoutes.route)),
        ("GET", "/models", handlers.listing(ExpertRoutes.models)),
        ("GET", "/models/{id:path}", handlers.listing(ExpertRoutes.model)),
        ("GET", "/experts", handlers.listing(ExpertRoutes.experts)),
        ("GET", "/openapi.json", document),
        ("GET", "/healthz", handlers.probe(ExpertRoutes.alive)),
        ("GET", "/readyz", handlers.probe(ExpertRoutes.ready)),
    ]
    return [
        Route(prefix + path, handler, methods=[method]) for prefix in ("/v1", "") for method, path, handler in table
    ]


def _cors(settings: ApiSettings) -> Middleware:
    return Middleware(
        Cors,
        allow_origins=settings.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_private_network=True,
        expose_headers=[
            "x-lmoe-expert",
            "x-lmoe-confidence",
            "x-lmoe-ignored",
            "x-request-id",
            "retry-after",
            *RATE_HEADERS,
        ],
        max_age=86400,
    )
