"""``/openapi.json`` describes what is served, all of it and nothing else, and answers keep to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.routing import Route

from lmoe_ray.api.access import OPEN_PATHS
from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.bodies import ChatBody, TextBody
from lmoe_ray.api.chat_page import PAGE_FILES
from lmoe_ray.api.http_app import build_app
from lmoe_ray.api.key_file import create_key
from lmoe_ray.api.openapi_document import openapi_document
from lmoe_ray.errors import Overloaded
from lmoe_ray.settings import ApiSettings
from tests.fakes import FakeBackend

DOCUMENT = openapi_document(has_keys=False)
HELLO = {"model": "demo", "messages": [{"role": "user", "content": "hello there"}]}
TOOL = {"type": "function", "function": {"name": "f"}}
CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def check(data: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(data)


def schema_of(path: str, status: int = 200, method: str = "post") -> dict[str, Any]:
    content = DOCUMENT["paths"][path][method]["responses"][str(status)]["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


def event_schema_of(path: str) -> dict[str, Any]:
    content = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]
    schema: dict[str, Any] = content["text/event-stream"]["x-event"]
    return schema


def test_every_path_that_is_served_is_described_and_no_other() -> None:
    routes = build_app(FakeBackend("Hi"), ApiSettings()).routes
    served = {
        (re.sub(r":\w+}", "}", route.path), method)
        for route in routes
        if isinstance(route, Route) and route.path not in PAGE_FILES
        # Starlette answers HEAD wherever it answers GET.
        for method in route.methods - {"HEAD"}
    }

    assert served == {(path, method.upper()) for path, method, _ in operations()}


async def test_the_document_is_served_as_it_is_made(serve: Any) -> None:
    response = await serve(FakeBackend("Hi")).get("/openapi.json")

    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(DOCUMENT))


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))

    assert names <= DOCUMENT["components"]["schemas"].keys()
    assert not re.search(r'"\$ref": "(?!#/components/schemas/)', json.dumps(DOCUMENT))


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("model", [ChatBody, TextBody])
def test_our_own_fields_say_what_they_are_for(model: type[ChatBody | TextBody]) -> None:
    properties = DOCUMENT["components"]["schemas"][model.__name__]["properties"]

    assert properties.keys() == model.model_fields.keys()
    assert all(properties[name]["description"] for name in ("expert", "experts", "route", "explain"))


async def test_keys_are_told_where_they_are_needed(serve: Any, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.yaml", "alice")
    client = serve(FakeBackend("Hi"), keys=KeyRing(tmp_path / "keys.yaml"))
    document = (await client.get("/openapi.json", headers={"api-key": key})).json()

    assert [*document["components"]["securitySchemes"]] == ["bearer", "api-key", "x-api-key"]
    assert document["security"] == [{"bearer": []}, {"api-key": []}, {"x-api-key": []}]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert (operation.get("security") == []) is (path in OPEN_PATHS)
            assert ("401" in operation["responses"]) is (path not in OPEN_PATHS)
    assert "security" not in DOCUMENT
    assert "securitySchemes" not in DOCUMENT["components"]


# ── answers keep to it ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo:code", "/v1/experts", "/healthz", "/readyz"])
async def test_what_is_listed_is_described(serve: Any, path: str) -> None:
    template = "/v1/models/{id}" if path.startswith("/v1/models/") else path

    check((await serve(FakeBackend("Hi")).get(path)).json(), schema_of(template, method="get"))


FIELDS: list[dict[str, Any]] = [
    {},
    {"explain": True},
    {"experts": ["code", "base"]},
    {"expert": "math", "explain": True},
    {"n": 2, "store": True},
]


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("path", [CHAT_PATH, TEXT_PATH])
async def test_answers_are_described_whole_and_in_pieces(
    serve: Any, events_of: Any, path: str, fields: dict[str, Any]
) -> None:
    client = serve(FakeBackend("a", 0.01, "b"))
    body = {**HELLO, "prompt": "hello", **fields}
    if path == TEXT_PATH:
        del body["messages"]
    check((await client.post(path, json=body)).json(), schema_of(path))
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    for event in events_of(await client.post(path, json=streamed)):
        check(event, event_schema_of(path))


async def test_a_decision_is_described(serve: Any) -> None:
    check((await serve(FakeBackend("Hi")).post("/v1/route", json=HELLO)).json(), schema_of("/v1/route"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "demo", "input": "x", "explain": True}),
        ("/v1/embeddings", {"model": "demo", "input": ["x", "y"]}),
        ("/v1/embeddings", {"model": "demo", "input": "x", "encoding_format": "base64"}),
        ("/v1/tokenize", {"prompt": "x"}),
        ("/v1/detokenize", {"tokens": [72, 105]}),
    ],
)
async def test_the_other_endpoints_are_described(serve: Any, path: str, body: dict[str, Any]) -> None:
    check((await serve(FakeBackend("Hi")).post(path, json=body)).json(), schema_of(path))


async def test_errors_are_described_with_their_status(serve: Any, events_of: Any) -> None:
    client = serve(FakeBackend("Hi", routing=Overloaded(2, 1)))
    for fields, status in [({}, 429), ({"n": 9}, 400), ({"model": "x"}, 404), ({"expert": "x"}, 422)]:
        response = await client.post(CHAT_PATH, json={**HELLO, **fields})
        assert response.status_code == status
        check(response.json(), schema_of(CHAT_PATH, status))
    broken = await serve(FakeBackend("a", 0.01, KeyError("x"))).post(CHAT_PATH, json={**HELLO, "stream": True})
    check(events_of(broken)[-1], event_schema_of(CHAT_PATH))


@pytest.mark.parametrize("path", [path for path, method, _ in operations() if method == "post"])
async def test_an_unknown_model_or_expert_is_described_wherever_one_is_asked_for(serve: Any, path: str) -> None:
    body: dict[str, Any] = {"input": "x", "tokens": [72]}
    if path.endswith("completions"):
        body = {**HELLO, "prompt": "x"}
    for model, status in [("nothing", 404), ("demo:nobody", 422)]:
        response = await serve(FakeBackend("Hi")).post(path.format(model=model), json={**body, "model": model})
        assert response.status_code == status
        check(response.json(), schema_of(path, status))


@pytest.mark.parametrize(
    ("path", "fields", "is_described"),
    [
        (CHAT_PATH, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, True),
        (CHAT_PATH, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": None}]}, True),
        (CHAT_PATH, {"logprobs": 0, "stop": "x", "seed": None, "logit_bias": {"5": 1}}, True),
        (CHAT_PATH, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "refusal": 5}]}]}, True),
        (CHAT_PATH, {"messages": [{"role": "user", "content": [{"type": "refusal", "text": "x"}]}]}, False),
        ("/v1/engines/{model}/completions", {"model": 5, "prompt": "x"}, True),
        ("/v1/route", {"messages": None, "input": "x", "prompt": 5}, True),
        ("/v1/route", {"messages": None, "input": ["x"]}, True),
        ("/v1/tokenize", {"messages": None, "input": ["x"]}, True),
        ("/v1/tokenize", {"messages": None, "input": ["x", "y"]}, False),
        (CHAT_PATH, {"n": 1.0}, True),
        ("/v1/route", {"model": ""}, False),
        (CHAT_PATH, {"messages": [{"role": "owner", "content": "x"}]}, False),
        (CHAT_PATH, {"logit_bias": {"05": 1}}, False),
        (CHAT_PATH, {"model": None}, False),
        (CHAT_PATH, {"route": {"threshold": 1.5}}, False),
        (CHAT_PATH, {"route": {"treshold": 0.5}}, False),
        (CHAT_PATH, {"experts": ["code"]}, False),
        (CHAT_PATH, {"route": {"sticky": False, "allowed_experts": ["code"], "threshold": None}}, True),
        (TEXT_PATH, {"prompt": ["x"]}, True),
        (TEXT_PATH, {"prompt": ["x", "y"]}, False),
        (TEXT_PATH, {"prompt": "x", "suffix": "y"}, False),
        ("/v1/route", {"model": None}, True),
    ],
)
async def test_a_body_is_described_if_it_is_read(
    serve: Any, path: str, fields: dict[str, Any], is_described: bool
) -> None:
    body = {name: value for name, value in {**HELLO, **fields}.items() if value is not None}
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    response = await serve(FakeBackend("Hi")).post(path.replace("{model}", "demo"), json=body)

    assert (response.status_code == 200) is is_described
    if is_described:
        check(body, schema)
    else:
        with pytest.raises(jsonschema.ValidationError):
            check(body, schema)
