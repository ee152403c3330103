"""``/openapi.json``: the API as OpenAPI 3.1, made from the table of endpoints and the models that read bodies."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from lmoe_ray import __version__
from lmoe_ray.api.endpoints import ALWAYS, ENDPOINTS, WITH_KEYS, WITH_QUOTAS, Endpoint
from lmoe_ray.api.quotas import RATE_HEADERS
from lmoe_ray.api.replies import Json, to_json
from lmoe_ray.api.reply_schemas import ErrorReply
from lmoe_ray.errors import LMoEError

_REF = "#/components/schemas/{model}"
_PLACEHOLDER = re.compile(r"{(\w+)}")
_ABOUT = """A local mixture of LoRA experts. OpenAI's API, and beyond it: expert and experts say who answers, route \
how the router chooses, explain asks it why; /route decides without answering. Every path also exists without /v1."""
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_HEADERS = {
    "x-lmoe-expert": "who answers, or all who do; absent for the base model alone",
    "x-lmoe-confidence": "of the router, 0 to 1",
    "x-lmoe-ignored": "fields without effect",
}


class _Schemas(GenerateJsonSchema):
    """Pydantic's, without a title for every field, which only repeats its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@functools.cache
def openapi_json(*, has_keys: bool) -> str:
    """The document as it is sent. ``has_keys``: requests need a key."""
    return to_json(openapi_document(has_keys=has_keys))


def document_handler(*, has_keys: bool) -> Callable[[Request], Awaitable[Response]]:
    """``GET /openapi.json``. The document is made now, not while a request waits."""
    content = openapi_json(has_keys=has_keys)

    async def handler(http: Request) -> Response:
        return Response(content, media_type="application/json")

    return handler


def openapi_document(*, has_keys: bool) -> Json:
    """The API as OpenAPI 3.1 describes it."""
    security: Json = {"security": [{name: []} for name in _SECURITY]} if has_keys else {}
    schemes: Json = {"securitySchemes": _SECURITY} if has_keys else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "lmoe_ray", "version": __version__, "description": _ABOUT},
        **security,
        "paths": dict(_paths(has_keys)),
        "components": {"schemas": _schemas(), **schemes},
    }


def _paths(has_keys: bool) -> Iterator[tuple[str, Json]]:
    for prefix in ("/v1", ""):
        for path in dict.fromkeys(endpoint.path for endpoint in ENDPOINTS):
            methods = (endpoint for endpoint in ENDPOINTS if endpoint.path == path)
            yield prefix + path, {each.method.lower(): _operation(each, prefix, has_keys) for each in methods}


def _operation(endpoint: Endpoint, prefix: str, has_keys: bool) -> Json:
    operation: Json = {"summary": endpoint.summary, "operationId": _operation_id(endpoint, prefix)}
    if names := _PLACEHOLDER.findall(endpoint.path):
        operation["parameters"] = [_path_parameter(name) for name in names]
    if endpoint.bodies:
        content = {"application/json": {"schema": _any_of(endpoint.bodies)}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.is_open and has_keys:
        operation["security"] = []
    return {**operation, "responses": {"200": _success(endpoint, has_keys), **dict(_refusals(endpoint, has_keys))}}


def _operation_id(endpoint: Endpoint, prefix: str) -> str:
    words = re.findall(r"\w+", endpoint.path)
    return "_".join([endpoint.method.lower(), *words, *(["unversioned"] if not prefix else [])])


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _success(endpoint: Endpoint, has_keys: bool) -> Json:
    schema = {"type": "object"} if endpoint.reply is None else _ref(endpoint.reply)
    response: Json = {"description": endpoint.summary, "content": {"application/json": {"schema": schema}}}
    if endpoint.event is not None:
        # OpenAPI 3.1 has no word for one event of many; a schema here would be that of the whole stream.
        response["content"]["text/event-stream"] = {"x-event": _any_of((endpoint.event, ErrorReply))}
        response["description"] += "; with stream: true by server-sent events, whose data are as x-event says"
    names = dict(_HEADERS) if endpoint.event is not None else {}
    if has_keys and endpoint.method == "POST":
        names |= dict.fromkeys(RATE_HEADERS, "of the key's quota, if it has one")
    return {**response, "headers": _headers(names)} if names else response


def _refusals(endpoint: Endpoint, has_keys: bool) -> Iterator[tuple[str, Json]]:
    kinds = (*endpoint.refusals, *ALWAYS)
    if has_keys and not endpoint.is_open:
        kinds += WITH_KEYS + (WITH_QUOTAS if endpoint.method == "POST" else ())
    for status in sorted({kind.status for kind in kinds}):
        yield str(status), _refusal([kind for kind in kinds if kind.status == status])


def _refusal(kinds: Sequence[type[LMoEError]]) -> Json:
    about = " ".join(f"{kind.code}: {_first_line(kind)}" for kind in dict.fromkeys(kinds))
    response: Json = {"description": about, "content": {"application/json": {"schema": _ref(ErrorReply)}}}
    if any(kind.retry_after_s is not None for kind in kinds):
        response["headers"] = _headers({"retry-after": "seconds to wait"})
    return response


def _first_line(kind: type[Any]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _headers(names: Mapping[str, str]) -> Json:
    return {name: {"description": about, "schema": {"type": "string"}} for name, about in names.items()}


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}


def _any_of(models: tuple[type[BaseModel], ...]) -> Json:
    return _ref(models[0]) if len(models) == 1 else {"anyOf": [_ref(model) for model in models]}


def _schemas() -> Mapping[str, Any]:
    kinds = dict.fromkeys(
        kind for each in ENDPOINTS for kind in (*each.bodies, each.reply, each.event, ErrorReply) if kind is not None
    )
    _, document = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template=_REF, schema_generator=_Schemas
    )
    schemas: Mapping[str, Any] = document["$defs"]
    return schemas
