"""The HTTP surface as one Starlette app: which path leads where, and what every answer passes through.

::

    CORS ─ error boundary ─ known errors ─ routes ─ handlers ─ Backend

Every path exists with and without ``/v1``, because clients differ in whether their base URL has it.
Credentials are accepted and not looked at.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from lmoe_ray.api.backend import Backend
from lmoe_ray.api.completions import Completions
from lmoe_ray.api.error_boundary import Cors, ErrorBoundary, answer_error, answer_http_exception
from lmoe_ray.api.expert_routes import ExpertRoutes
from lmoe_ray.errors import LMoEError
from lmoe_ray.settings import ApiSettings

#: Silence after which a stream sends a comment; half of the shortest idle timeout common in proxies.
KEEP_ALIVE_S = 10.0


def build_app(backend: Backend, settings: ApiSettings, *, keep_alive_s: float = KEEP_ALIVE_S) -> Starlette:
    """The ASGI app over ``backend``. It keeps no state, so any number of processes may run it."""
    app = Starlette(
        routes=_routes(Completions(backend, settings, keep_alive_s), ExpertRoutes(backend, settings)),
        middleware=[_cors(settings), Middleware(ErrorBoundary)],
        exception_handlers={LMoEError: answer_error, HTTPException: answer_http_exception},
    )
    # A redirect names this host as we see it, which behind a proxy is not where the client is.
    app.router.redirect_slashes = False
    return app


def _routes(completions: Completions, experts: ExpertRoutes) -> list[Route]:
    table = [
        ("POST", "/chat/completions", completions.chat),
        ("POST", "/completions", completions.text),
        ("POST", "/engines/{model:path}/completions", completions.text),
        ("POST", "/route", experts.route),
        ("GET", "/models", experts.models),
        ("GET", "/models/{id:path}", experts.model),
        ("GET", "/experts", experts.experts),
        ("GET", "/healthz", experts.alive),
        ("GET", "/readyz", experts.ready),
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
        expose_headers=["x-lmoe-expert", "x-lmoe-confidence", "x-lmoe-ignored", "x-request-id", "retry-after"],
        max_age=86400,
    )
