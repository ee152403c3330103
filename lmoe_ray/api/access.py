"""Who may ask what: the key of a request becomes a :class:`Caller`, and the graph shrinks to what it may see.

The middleware admits and refuses before a body is read. Behind it, :class:`CallerBackend` stands before the
graph for one request: experts that are not the caller's are left out of what is listed, found and scored,
so a name that is not allowed is answered exactly as one that does not exist.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncGenerator, Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.backend import Backend
from lmoe_ray.api.chat_page import PAGE_FILES
from lmoe_ray.api.error_boundary import answer_error
from lmoe_ray.api.quotas import Quotas
from lmoe_ray.domain.caller import ANYONE, Caller, Quota
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.embedding import Embeddings, EmbedRequest
from lmoe_ray.domain.served import ServedModel
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.domain.tokenized import TokenizedPrompt
from lmoe_ray.errors import InternalError, InvalidApiKey

logger = logging.getLogger(__name__)

#: What probes ask, who have no key; and the page, which asks its reader for one.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v1/healthz", "/v1/readyz", *PAGE_FILES})

_UNLIMITED = Quota()
_KEY_HEADERS = ("api-key", "x-api-key")


class Access:
    """Middleware. Without a key ring everybody is :data:`ANYONE`, and credentials are not looked at."""

    def __init__(self, app: ASGIApp, keys: KeyRing | None, quotas: Quotas) -> None:
        self._app, self._keys, self._quotas = app, keys, quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises :class:`InvalidApiKey`, :class:`KeysUnavailable` and :class:`QuotaUncounted` to the boundary."""
        if scope["type"] != "http" or _path_of(scope) in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        caller = self._caller(Headers(scope=scope))
        scope = {**scope, "state": {**scope.get("state", {}), "caller": caller}}
        if scope["method"] == "POST" and caller.quota != _UNLIMITED:
            await self._counted(caller, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _caller(self, headers: Headers) -> Caller:
        if self._keys is None:
            return ANYONE
        shown = tuple(_keys_in(headers))
        caller = self._keys.identify(shown)
        if caller is None:
            raise InvalidApiKey(bool(shown))
        return caller

    async def _counted(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        admission = await self._quotas.admit(caller)

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(admission.headers)
            await send(message)

        app = self._app if admission.refusal is None else await answer_error(Request(scope), admission.refusal)
        await app(scope, receive, add_headers)


def caller_of(http: Request) -> Caller:
    """Whom the middleware found; there is none on the paths that are open."""
    caller: Caller = http.state.caller
    return caller


def _path_of(scope: Scope) -> str:
    """The path below the application's own prefix, which a server may leave in ``path``."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _keys_in(headers: Headers) -> Iterator[str]:
    """Every key a request shows; some clients send the same one twice, some a dummy beside the real one."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        yield token.strip()
    yield from (key for name in _KEY_HEADERS if (key := headers.get(name, "").strip()))


class CallerBackend:
    """A :class:`~lmoe_ray.api.backend.Backend` as it is to one caller."""

    def __init__(self, backend: Backend, caller: Caller, quotas: Quotas, log_prompts: bool) -> None:
        self._backend, self._caller, self._quotas, self._log_prompts = backend, caller, quotas, log_prompts

    def models(self) -> tuple[ServedModel, ...]:
        return self._caller.sees(self._backend.models())

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        if self._log_prompts:
            text = request.prompt if request.prompt is not None else [(m.role, m.content) for m in request.messages]
            logger.info("prompt request_id=%s caller=%s text=%r", request.request_id, self._caller.name, text)
        request = self._confined(request)
        decision = await self._backend.route(request)
        _require_allowed(request, decision)
        return decision

    def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        deltas = self._backend.generate(self._confined(request), decision)
        if self._caller.quota == _UNLIMITED:
            return deltas
        return self._quotas.metered(deltas, self._caller, request.request_id)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        embeddings = await self._backend.embed(request)
        await self._quotas.book(self._caller, embeddings.num_tokens)
        return embeddings

    async def tokenize(self, request: GenerateRequest) -> TokenizedPrompt:
        return await self._backend.tokenize(self._confined(request))

    async def detokenize(self, model: str, token_ids: tuple[int, ...]) -> str:
        return await self._backend.detokenize(model, token_ids)

    async def check_ready(self) -> None:
        await self._backend.check_ready()

    def _confined(self, request: GenerateRequest) -> GenerateRequest:
        """May choose among what the caller may use, and of that what the request itself leaves."""
        model = next(model for model in self._backend.models() if model.name == request.model)
        open_to, wanted = self._caller.allowed_of(model), request.allowed_experts
        if open_to is not None and wanted is not None:
            open_to = tuple(name for name in open_to if name in wanted)
        return dataclasses.replace(request, allowed_experts=wanted if open_to is None else open_to)


def _require_allowed(request: GenerateRequest, decision: RoutingDecision) -> None:
    """A router that looked at more than it was told to is a bug, and none of it may get out."""
    if request.allowed_experts is None:
        return
    named = {decision.expert, *(c.expert for c in decision.candidates), *(n.expert for n in decision.neighbours)}
    if strangers := named - {None, *request.allowed_experts}:
        logger.error("router names experts not allowed request_id=%s experts=%s", request.request_id, strangers)
        raise InternalError
