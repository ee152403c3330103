"""Keys over HTTP: who is let in, what exists for them, and what is never told."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmoe_ray.api.access import CallerBackend
from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.key_file import create_key
from lmoe_ray.api.quotas import Quotas
from lmoe_ray.domain.caller import Caller
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.served import ServedExpert
from tests.fakes import MODEL, FakeBackend

CLOSED = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/demo"),
    ("GET", "/v1/experts"),
    ("GET", "/openapi.json"),
    ("GET", "/models"),
    ("POST", "/v1/route"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/engines/demo/completions"),
    ("OPTIONS", "/v1/models"),
    ("GET", "/v1/healthz/"),
    ("GET", "/v1/models/healthz"),
    ("GET", "/nowhere"),
]
Keyed = Callable[..., tuple[httpx.AsyncClient, str]]


@pytest.fixture
def keyed(serve: Any, tmp_path: Path) -> Keyed:
    """A client that shows no key, and a key with these limits."""

    def keyed(backend: FakeBackend, **limits: Any) -> tuple[httpx.AsyncClient, str]:
        path = tmp_path / "keys.yaml"
        key = create_key(path, "alice", **limits)
        return serve(backend, keys=KeyRing(path)), key

    return keyed


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_every_path_but_the_probes_needs_a_key(keyed: Keyed, error_of: Any, method: str, path: str) -> None:
    client, key = keyed(FakeBackend("Hi"))
    refused = await client.request(method, path, headers={"origin": "https://app.test"})

    assert refused.status_code == 401
    assert error_of(refused)["code"] == "invalid_api_key"
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["access-control-allow-origin"] == "*"
    assert (await client.request(method, path, headers=bearer(key))).status_code != 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/healthz", "/v1/readyz"])
async def test_probes_need_none(keyed: Keyed, path: str) -> None:
    client, _ = keyed(FakeBackend("Hi"))

    assert (await client.get(path)).status_code == 200


async def test_a_preflight_needs_none_and_is_remembered(keyed: Keyed) -> None:
    client, _ = keyed(FakeBackend("Hi"))
    response = await client.options(
        "/v1/chat/completions",
        headers={
            "origin": "https://app.test",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
            "access-control-request-private-network": "true",
        },
    )

    assert response.status_code == 200
    assert response.headers["access-control-allow-headers"] == "authorization,content-type"
    assert response.headers["access-control-max-age"] == "86400"
    assert response.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {key}"},
        {"authorization": "bearer   {key} "},
        {"api-key": "{key}"},
        {"x-api-key": "{key}"},
        {"authorization": "Bearer undefined", "api-key": "{key}"},
        {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": "{key}"},
    ],
)
async def test_a_key_is_accepted_wherever_clients_put_it(keyed: Keyed, headers: dict[str, str]) -> None:
    client, key = keyed(FakeBackend("Hi"))
    shown = {name: value.format(key=key) for name, value in headers.items()}

    assert (await client.get("/v1/models", headers=shown)).status_code == 200


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer wrong", "{key}", "Basic {key}", "Bearer\t{key}"])
async def test_nothing_else_is(keyed: Keyed, value: str) -> None:
    client, key = keyed(FakeBackend("Hi"))

    assert (await client.get("/v1/models", headers={"authorization": value.format(key=key)})).status_code == 401


async def test_a_stranger_is_refused_before_the_body_is_read(keyed: Keyed) -> None:
    client, _ = keyed(FakeBackend("Hi"))

    async def endless() -> Any:
        raise AssertionError("the body was read")
        yield b""

    assert (await client.post("/v1/chat/completions", content=endless())).status_code == 401


async def test_without_keys_any_credentials_will_do(serve: Any) -> None:
    client = serve(FakeBackend("Hi"))

    for headers in ({}, bearer("undefined"), {"api-key": "x"}):
        assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_a_key_is_in_no_log(keyed: Keyed, chat_body: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    client, key = keyed(FakeBackend("Hi"), tokens_per_day=9)
    await client.post("/v1/chat/completions", json=chat_body, headers=bearer(key))
    await client.get(f"/v1/models?api_key={key}")

    ours = [record.getMessage() for record in caplog.records if record.name.startswith("lmoe_ray")]
    assert ours
    assert not any(key in message for message in ours)


# ── experts ──────────────────────────────────────────────────────────────────────────────────────


async def listed(client: httpx.AsyncClient, headers: dict[str, str]) -> str:
    paths = ("/v1/models", "/v1/experts")
    return " ".join([(await client.get(path, headers=headers)).text for path in paths])


async def test_what_a_key_may_not_use_is_listed_nowhere(keyed: Keyed) -> None:
    client, key = keyed(FakeBackend("Hi"), experts=("math",))
    text = await listed(client, bearer(key))

    assert "demo:math" in text
    assert "code" not in text
    assert "c0de" not in text


async def test_a_key_for_no_expert_has_the_base(keyed: Keyed, chat_body: Any) -> None:
    backend = FakeBackend("Hi")
    client, key = keyed(backend, experts=())
    answer = await client.post("/v1/chat/completions", json=chat_body, headers=bearer(key))

    assert answer.json()["expert"] is None
    assert backend.requests[0].allowed_experts == ()


@pytest.mark.parametrize("experts", [(), ("math",)])
async def test_every_key_may_name_the_base_model(keyed: Keyed, chat_body: Any, experts: tuple[str, ...]) -> None:
    client, key = keyed(FakeBackend("Hi", routing="math"), experts=experts)
    fields = {"expert": "base", "route": {"allowed_experts": list(experts)}} if experts else {"expert": "base"}
    answer = (await client.post("/v1/chat/completions", json={**chat_body, **fields}, headers=bearer(key))).json()

    assert (answer["expert"], answer["routing"]["routed_by"]) == (None, "explicit")


@pytest.mark.parametrize(("experts", "named"), [(("math",), None), (("base",), "base")])
async def test_an_expert_called_base_that_is_not_allowed_does_not_exist(
    keyed: Keyed, chat_body: Any, experts: tuple[str, ...], named: str | None
) -> None:
    model = dataclasses.replace(MODEL, experts=(ServedExpert("base", "ba5e"), *MODEL.experts))
    client, key = keyed(FakeBackend("Hi", models=(model,)), experts=experts)
    answer = await client.post("/v1/chat/completions", json={**chat_body, "expert": "base"}, headers=bearer(key))

    assert answer.json()["expert"] == named


@pytest.mark.parametrize(
    "fields", [{"expert": "{}"}, {"model": "demo:{}"}, {"model": "{}"}, {"model": "gpt-4", "expert": "{}"}]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/route"])
async def test_an_expert_that_is_not_allowed_is_answered_as_one_that_does_not_exist(
    keyed: Keyed, error_of: Any, fields: dict[str, str], path: str
) -> None:
    backend = FakeBackend("Hi")
    client, key = keyed(backend, experts=("math",))
    refusals = []
    for name in ("code", "none"):
        body = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "prompt": "x"}
        body |= {field: value.format(name) for field, value in fields.items()}
        response = await client.post(path, json=body, headers=bearer(key))
        error = error_of(response)
        refusals.append((response.status_code, {**error, "message": error["message"].replace(name, "NAME")}))

    assert refusals[0] == refusals[1]
    assert refusals[0][0] in (404, 422)
    assert backend.requests == []


async def test_one_models_card_is_hidden_like_the_list(keyed: Keyed) -> None:
    client, key = keyed(FakeBackend("Hi"), experts=("math",))

    assert (await client.get("/v1/models/demo:math", headers=bearer(key))).status_code == 200
    assert (await client.get("/v1/models/demo:code", headers=bearer(key))).status_code == 404


async def test_the_router_is_told_what_it_may_score(keyed: Keyed, chat_body: Any) -> None:
    backend = FakeBackend("Hi")
    client, key = keyed(backend, experts=("math", "other:code", "gone"))
    for path in ("/v1/route", "/v1/chat/completions"):
        response = await client.post(path, json=chat_body, headers=bearer(key))
        assert response.status_code == 200
        assert "code" not in response.text

    assert [request.allowed_experts for request in backend.requests] == [("math",), ("math",)]


async def test_without_a_list_the_router_may_score_all(keyed: Keyed, serve: Any, chat_body: Any) -> None:
    backend = FakeBackend("Hi")
    client, key = keyed(backend)
    await client.post("/v1/chat/completions", json=chat_body, headers=bearer(key))
    await serve(backend).post("/v1/chat/completions", json=chat_body)

    assert [request.allowed_experts for request in backend.requests] == [None, None]


@pytest.mark.parametrize(("wanted", "left"), [(["math"], ("math",)), (None, ("math",))])
async def test_a_request_narrows_what_a_key_allows_and_never_widens_it(
    keyed: Keyed, chat_body: Any, error_of: Any, wanted: list[str] | None, left: tuple[str, ...]
) -> None:
    backend = FakeBackend("Hi")
    client, key = keyed(backend, experts=("math",))
    for path in ("/v1/route", "/v1/chat/completions"):
        body = {**chat_body, "route": {"allowed_experts": wanted}}
        assert (await client.post(path, json=body, headers=bearer(key))).status_code == 200
        body = {**chat_body, "route": {"allowed_experts": ["math", "code"]}}
        refused = await client.post(path, json=body, headers=bearer(key))
        assert error_of(refused)["message"] == "expert 'code' does not exist; this model has: math"

    assert [request.allowed_experts for request in backend.requests] == [left, left]


async def test_a_backend_confines_a_request_to_what_both_leave() -> None:
    backend = FakeBackend("Hi")
    caller = CallerBackend(backend, Caller("alice", ("math",)), Quotas("async+memory://"), log_prompts=False)
    for asked, left in [(("code",), ()), (("code", "math"), ("math",)), (None, ("math",))]:
        await caller.route(GenerateRequest("r1", "demo", prompt="x", allowed_experts=asked))
        assert backend.requests[-1].allowed_experts == left


async def test_an_expert_can_be_allowed_of_one_base_only(keyed: Keyed) -> None:
    other = dataclasses.replace(MODEL, name="other", aliases=())
    client, key = keyed(FakeBackend("Hi", models=(MODEL, other)), experts=("other:code",))
    data = (await client.get("/v1/experts", headers=bearer(key))).json()["data"]

    assert [(entry["model"], entry["name"]) for entry in data] == [("other", "code")]


class Disobedient(FakeBackend):
    """A router that looks at experts it was told not to."""

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        return await super().route(dataclasses.replace(request, allowed_experts=None))


async def test_a_router_that_disobeys_lets_nothing_out(keyed: Keyed, chat_body: Any, error_of: Any) -> None:
    client, key = keyed(Disobedient("Hi", routing="math"), experts=("math",))
    for path in ("/v1/route", "/v1/chat/completions"):
        response = await client.post(path, json=chat_body, headers=bearer(key))
        assert response.status_code == 500
        assert "code" not in error_of(response)["message"]


# ── prompts in logs ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_logged", [False, True])
async def test_prompts_are_in_the_log_only_if_asked_for(
    serve: Any, chat_body: Any, caplog: Any, is_logged: bool
) -> None:
    caplog.set_level(logging.DEBUG, "lmoe_ray")
    client = serve(FakeBackend("Hi"), log_prompts=is_logged)
    text = "confidential\nrequest_id=forged"
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/route"):
        messages = [{"role": "user", "content": text}]
        bodies = [
            {"model": "demo", "messages": messages, "prompt": text},
            {"model": "demo", "messages": messages, "prompt": text, "temperature": 9},
            {"model": "demo", "expert": "none", "messages": messages, "prompt": text},
        ]
        for body in bodies:
            await client.post(path, content=json.dumps(body))

    assert ("confidential" in caplog.text) is is_logged
    assert not any("\n" in message for message in caplog.messages)
