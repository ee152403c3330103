"""What is on offer, why an expert would be chosen, and whether the service is up."""

from __future__ import annotations

from typing import Any

import pytest

from lmoe_ray.errors import NotReady
from tests.fakes import FakeBackend


@pytest.mark.parametrize("name", ["demo", "demo:math", "gpt-4"])
async def test_each_listed_model_can_be_asked_for(serve: Any, name: str) -> None:
    response = await serve(FakeBackend("Hi")).get(f"/v1/models/{name}")
    assert response.json() == {
        "id": name,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "lmoe_ray",
        "max_model_len": 0,
    }


@pytest.mark.parametrize("name", ["nothing", "demo:nothing", "meta/llama", ""])
async def test_a_model_that_is_not_listed_is_not_found(serve: Any, error_of: Any, name: str) -> None:
    response = await serve(FakeBackend("Hi"), unknown_model="default").get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


async def test_experts_are_listed(serve: Any) -> None:
    body = (await serve(FakeBackend("Hi")).get("/v1/experts")).json()
    assert body["object"] == "list"
    assert body["data"][0] == {
        "name": "code",
        "model": "demo",
        "digest": "c0de",
        "description": "writes code",
        "licence": "MIT",
    }


@pytest.mark.parametrize("body", [{"prompt": "a loop"}, {"input": "a loop"}, {"model": "gpt-4", "prompt": ["a loop"]}])
async def test_route_explains_the_decision_and_generates_nothing(serve: Any, body: dict[str, Any]) -> None:
    backend = FakeBackend("Hi")
    response = await serve(backend).post("/v1/route", json=body)
    assert response.json() == {
        "model": "demo",
        "expert": "code",
        "routed_by": "similarity",
        "confidence": 0.75,
        "threshold": 0.5,
        "margin": 0.5,
        "familiarity": 1.0,
        "evidence": {},
        "stays": None,
        "reason": "its samples are nearest",
        "candidates": [
            {"expert": "code", "score": 0.75, "opinions": {}},
            {"expert": "math", "score": 0.25, "opinions": {}},
        ],
        "neighbours": [{"expert": "code", "similarity": 0.5, "text": "write a loop"}],
        "duration": 0.125,
    }
    assert backend.requests[0].prompt == "a loop"
    assert not backend.stopped.is_set()


async def test_route_takes_a_chat_body_and_the_same_names(serve: Any, chat_body: Any, error_of: Any) -> None:
    client = serve(FakeBackend("Hi"))
    chosen = await client.post("/v1/route", json={**chat_body, "model": "demo:math"})
    assert (chosen.json()["expert"], chosen.json()["routed_by"]) == ("math", "explicit")
    unknown = await client.post("/v1/route", json={**chat_body, "expert": "law"})
    assert unknown.status_code == 422
    assert error_of(unknown)["message"] == "expert 'law' does not exist; this model has: code, math, base"


async def test_a_process_is_alive_before_the_graph_is_ready(serve: Any, error_of: Any) -> None:
    client = serve(FakeBackend("Hi", not_ready=NotReady("pool small")))
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert error_of(response)["message"] == "pool small is not ready yet; try again in a few seconds"


async def test_a_ready_graph_says_so(serve: Any) -> None:
    response = await serve(FakeBackend("Hi")).get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


@pytest.mark.parametrize("path", ["/models", "/models/demo", "/experts", "/healthz", "/readyz"])
async def test_every_path_exists_with_and_without_the_version(serve: Any, path: str) -> None:
    client = serve(FakeBackend("Hi"))
    assert (await client.get(path)).status_code == 200
    assert (await client.get(f"/v1{path}")).content == (await client.get(path)).content


@pytest.mark.parametrize("path", ["/v1/route", "/v1/chat/completions", "/v1/completions"])
async def test_a_request_may_narrow_the_choice(serve: Any, chat_body: Any, path: str) -> None:
    backend = FakeBackend("Hi")
    body = {**chat_body, "prompt": "x", "route": {"allowed_experts": ["math"], "threshold": 0.5}}
    answer = (await serve(backend).post(path, json=body)).json()

    assert answer["expert"] is None
    assert backend.requests[0].allowed_experts == ("math",)
    assert backend.requests[0].routing.threshold == 0.5


@pytest.mark.parametrize("path", ["/v1/route", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"route": {"allowed_experts": ["code", "law"]}}, 422, "expert_not_found"),
        ({"route": {"allowed_experts": ["code"]}, "expert": "math"}, 400, "invalid_value"),
        ({"route": {"allowed_experts": ["code"]}, "model": "demo:math"}, 400, "invalid_value"),
        ({"route": {"allowed_experts": ["code"]}, "expert": "code"}, 200, ""),
    ],
)
async def test_a_choice_among_others_than_there_are_is_refused(
    serve: Any, chat_body: Any, error_of: Any, path: str, fields: dict[str, Any], status: int, code: str
) -> None:
    backend = FakeBackend("Hi")
    response = await serve(backend).post(path, json={**chat_body, **fields})

    assert response.status_code == status
    assert bool(backend.requests) is (status == 200)
    if code:
        assert error_of(response)["code"] == code
