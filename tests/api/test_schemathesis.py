"""What the API says of itself in ``/openapi.json``, tried out: requests made from it, and good ones gone wrong.

``LMOE_FUZZ_CASES`` says how many of each; from 2,000 on the edges of every field are tried too, one by one.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from lmoe_ray.api.http_app import build_app
from lmoe_ray.settings import ApiSettings
from tests.fakes import FakeBackend

pytestmark = pytest.mark.fuzz
pytest_plugins = ["schemathesis.pytest.plugin"]

NUM_CASES = int(os.environ.get("LMOE_FUZZ_CASES", "150"))
#: Seconds one answer may take on a busy machine.
PATIENCE_S = 5.0
APP = build_app(FakeBackend("Hi", " there"), ApiSettings(unknown_model="default"))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP).include(path_regex="^/v1/")
SCHEMA.config.phases.coverage.enabled = NUM_CASES >= 2000
DOCUMENT = SCHEMA.raw_schema
NUM_OPERATIONS = SCHEMA.statistic.operations.selected
#: Without a database, because what failed once gets a test of its own.
CHOICES: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def test_the_document_is_openapi() -> None:
    SCHEMA.validate()


@SCHEMA.parametrize()  # type: ignore[untyped-decorator]
@settings(max_examples=max(NUM_CASES // NUM_OPERATIONS, 1), **CHOICES)
def test_whatever_is_sent_the_answer_is_as_described(case: Any) -> None:
    begin_s = time.monotonic()
    response = case.call()
    assert time.monotonic() - begin_s < PATIENCE_S
    assert "Traceback" not in response.text
    # No schema tells which fields exclude each other, or which experts there are.
    case.validate_response(response, excluded_checks=[positive_data_acceptance])


# ── good ones gone wrong ─────────────────────────────────────────────────────────────────────────

MESSAGES = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "input_text", "text": "there"}]},
    {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "array", "items": {"enum": [1, "x"]}}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "does", "parameters": PARAMETERS, "strict": True}
SAMPLING = {"temperature": 0.5, "top_p": 1, "max_tokens": 5, "seed": 7, "stop": ["x"], "logit_bias": {"5": 1.5}, "n": 2}
CHAT = {"model": "demo", "messages": MESSAGES}
ROUTE = {"threshold": 0.5, "allowed_experts": ["code"], "sticky": False}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {**CHAT, **SAMPLING, "route": ROUTE, "explain": True}),
    ("/v1/chat/completions", {**CHAT, **SAMPLING, **STREAM, "logprobs": True, "top_logprobs": 2}),
    (
        "/v1/chat/completions",
        {**CHAT, "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"},
    ),
    ("/v1/chat/completions", {**CHAT, "functions": [FUNCTION], "function_call": {"name": "f"}, "stream": True}),
    (
        "/v1/chat/completions",
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}},
    ),
    ("/v1/chat/completions", {**CHAT, **STREAM, "experts": ["code", "base", "math"]}),
    ("/v1/chat/completions", {**CHAT, "experts": ["code", "math"], "route": {"sticky": True}}),
    ("/v1/completions", {"model": "demo:code", "prompt": ["x"], **SAMPLING, **STREAM, "echo": True, "explain": True}),
    ("/v1/engines/{model}/completions", {"prompt": "x", "logprobs": 2, "best_of": 1, "suffix": ""}),
    ("/v1/route", {**CHAT, "route": ROUTE, "expert": "code"}),
    ("/v1/route", {"input": "x", "route": {"threshold": 1}}),
    (
        "/v1/responses",
        {
            "model": "demo",
            "input": [
                {"role": "user", "content": "hello"},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            ],
            "instructions": "be kind",
            "tools": [{"type": "function", **FUNCTION}],
            "text": {"format": {"type": "text"}},
            "metadata": {"a": "b"},
            "explain": True,
        },
    ),
    ("/v1/embeddings", {"model": "demo", "input": ["a b", "c"], "encoding_format": "base64", "dimensions": 2}),
    ("/v1/engines/{model}/embeddings", {"input": "a b", "truncate": True}),
    ("/v1/tokenize", {**CHAT, "add_generation_prompt": True}),
    ("/v1/detokenize", {"model": "demo", "tokens": [72, 105]}),
]
ODD_NUMBERS = [0, -1, 1.5, 2**63, -(2**64), 1e308]
ODD_TEXTS = ["", "x", "demo:x", "0", "a\0b", "é🦊\u2028", "x" * 5000, "\ud83e"]
ODD_LISTS = [[], [[]], [None], ["x"] * 300, [{"role": 1}]]
ODD_OBJECTS = [{}, {"": None}, {"type": "x"}, {str(number): number for number in range(300)}]
ODD = st.sampled_from([None, True, *ODD_NUMBERS, *ODD_TEXTS, *ODD_LISTS, *ODD_OBJECTS])


def places(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where every value stands."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def change(data: Any, path: tuple[str | int, ...], edit: Callable[[Any, Any], None]) -> None:
    for key in path[:-1]:
        data = data[key]
    edit(data, path[-1])


@st.composite
def nearly_good(draw: Any) -> tuple[str, dict[str, Any]]:
    """A good request, up to two values of which are others, gone, or under another name."""
    path, body = draw(st.sampled_from(GOOD))
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.sampled_from([*places(body)])) if body else None
        how, odd = draw(st.sampled_from(["other", "other", "gone", "beside"])), copy.deepcopy(draw(ODD))
        if where is None:
            break
        if how == "other":
            change(body, where, lambda inside, key, odd=odd: inside.__setitem__(key, odd))
        elif how == "gone":
            change(body, where, lambda inside, key: inside.__delitem__(key))
        else:
            body[draw(st.sampled_from(["experts", "expert", "route", "explain", "n", "tools", "x"]))] = odd
    return path, body


@pytest.fixture(scope="module")
def post() -> Iterator[Callable[[str, Any], httpx.Response]]:
    """Post a body to the app; one event loop for all of them."""

    async def send(path: str, body: Any) -> httpx.Response:
        async with (
            asyncio.timeout(PATIENCE_S),
            httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://lmoe.test") as client,
        ):
            return await client.post(path.replace("{model}", "demo"), content=json.dumps(body).encode())

    with asyncio.Runner() as runner:
        yield lambda path, body: runner.run(send(path, body))


def check(response: httpx.Response, path: str) -> None:
    """Status, media type and content are those described."""
    described = DOCUMENT["paths"][path]["post"]["responses"][str(response.status_code)]["content"]
    content = described[response.headers["content-type"].partition(";")[0]]
    if "x-event" not in content:
        conforms(response.json(), content["schema"])
        return
    for line in response.text.splitlines():
        if line.startswith("data: {"):
            conforms(json.loads(line.removeprefix("data: ")), content["x-event"])


def conforms(data: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(data)


@settings(max_examples=NUM_CASES, **CHOICES)
@given(request=nearly_good())
def test_a_request_nearly_good_is_answered_or_refused_as_described(post: Any, request: tuple[str, Any]) -> None:
    path, body = request
    response = post(path, body)

    assert response.status_code < 500
    assert "Traceback" not in response.text
    check(response, path)


@pytest.mark.parametrize(("path", "body"), GOOD)
def test_the_good_ones_are_good(post: Any, path: str, body: dict[str, Any]) -> None:
    response = post(path, body)

    assert response.status_code == 200, response.text
    check(response, path)
