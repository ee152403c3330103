"""Handlers that show what is on offer, why an expert would be chosen, and whether the service is up."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from lmoe_ray.api.backend import Backend, resolved
from lmoe_ray.api.decision_reply import encode_decision
from lmoe_ray.api.incoming import read_object, request_id_of
from lmoe_ray.api.listings import encode_experts, encode_models
from lmoe_ray.api.openai import parse_route
from lmoe_ray.api.replies import Json, to_json
from lmoe_ray.api.sse import while_connected
from lmoe_ray.domain.served import wire_names
from lmoe_ray.errors import ModelNotFound
from lmoe_ray.settings import ApiSettings


class ExpertRoutes:
    """The endpoints that generate nothing, over one backend."""

    def __init__(self, backend: Backend, settings: ApiSettings) -> None:
        self._backend, self._settings = backend, settings

    async def models(self, http: Request) -> Response:
        """``GET /v1/models``: every name a client may use as ``model``."""
        return _json({"object": "list", "data": encode_models(self._backend.models())})

    async def model(self, http: Request) -> Response:
        """``GET /v1/models/{id}``."""
        wanted = http.path_params["id"]
        models = self._backend.models()
        for entry in encode_models(models):
            if entry["id"] == wanted:
                return _json(entry)
        raise ModelNotFound(wanted, wire_names(models))

    async def experts(self, http: Request) -> Response:
        """``GET /v1/experts``: descriptions and digests of the experts that are live."""
        return _json({"object": "list", "data": encode_experts(self._backend.models())})

    async def route(self, http: Request) -> Response:
        """``POST /v1/route``: the routing decision for a conversation or text, and nothing else."""
        body = await read_object(http, self._settings.max_body_bytes)
        models = self._backend.models()
        request = parse_route(body, request_id_of(http), self._settings.max_messages, models[0].name)
        async with while_connected(http.receive):
            decision = await self._backend.route(resolved(request, models, self._settings))
        return _json(encode_decision(decision))

    async def alive(self, http: Request) -> Response:
        """``GET /healthz``: this process answers."""
        return _json({"status": "ok"})

    async def ready(self, http: Request) -> Response:
        """``GET /readyz``: every part of the graph answers."""
        await self._backend.check_ready()
        return _json({"status": "ready"})


def _json(data: Json) -> Response:
    return Response(to_json(data), media_type="application/json")
