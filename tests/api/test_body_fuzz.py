"""Whatever is posted, the answer is a reply or an error of OpenAI's shape, and never our fault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmoe_ray.api.bodies import ChatBody, TextBody
from lmoe_ray.api.embeddings import EmbeddingBody
from lmoe_ray.api.http_app import build_app
from lmoe_ray.api.message_bodies import ROLES
from lmoe_ray.api.response_bodies import ResponseBody
from lmoe_ray.api.token_routes import DetokenizeBody, TokenizeBody
from lmoe_ray.errors import RequestError
from lmoe_ray.settings import ApiSettings
from tests.fakes import FakeBackend

pytestmark = pytest.mark.slow

APP = build_app(FakeBackend("Hi"), ApiSettings())
STATUSES = {200, RequestError.status, *(kind.status for kind in RequestError.__subclasses__())}
PATHS = st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/engines/demo/completions", "/v1/route"])
FIELDS = sorted(ChatBody.model_fields.keys() | TextBody.model_fields.keys() | {"input", "unknown"})

# A handful of characters that have caused trouble somewhere, half a surrogate pair among them.
TEXT = st.text(st.sampled_from("a0é🦊\ud800\udfff\x00\n\r\u2028\"'{}"), max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from([0, 1, 2**63, 1e999])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2))
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "refusal", "image_url"]) | JSON, "text": JSON})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from([*ROLES]) | JSON},
    optional={"content": TEXT | st.lists(PART, max_size=2) | JSON, "tool_calls": JSON, "function_call": JSON},
)
GOOD = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["demo", "demo:code", "gpt-4"]),
        "messages": st.lists(MESSAGE, min_size=1, max_size=2),
        "prompt": st.just("a"),
        "stream": st.booleans(),
    }
)
ODD = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3)


@pytest.fixture(scope="module")
def post() -> Iterator[Callable[[str, bytes], httpx.Response]]:
    """Post bytes to the app; one event loop for all of them."""

    async def send(path: str, content: bytes) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://lmoe.test") as client:
            return await client.post(path, content=content)

    with asyncio.Runner() as runner:
        yield lambda path, content: runner.run(send(path, content))


def check(response: httpx.Response) -> None:
    assert response.status_code in STATUSES
    if response.status_code != 200:
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["message"].isascii()
        assert error["message"].isprintable()
        assert (error["param"] or "").isprintable()


@settings(max_examples=80, deadline=None, database=None)
@given(path=PATHS, good=GOOD, odd=ODD)
def test_any_object_is_answered_or_refused(post: Any, path: str, good: dict[str, Any], odd: dict[str, Any]) -> None:
    check(post(path, json.dumps({**good, **odd}).encode()))


@settings(max_examples=60, deadline=None, database=None)
@given(path=PATHS, content=st.binary(max_size=40) | JSON.map(lambda data: json.dumps(data).encode()))
def test_any_bytes_are_answered_or_refused(post: Any, path: str, content: bytes) -> None:
    check(post(path, content))


ITEM = MESSAGE | st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]) | JSON},
    optional={"role": st.just("user"), "content": TEXT | JSON, "call_id": TEXT, "name": TEXT, "output": TEXT | JSON},
)
FORMAT = st.fixed_dictionaries({"type": st.sampled_from(["text", "json_schema"]) | JSON}, optional={"schema": JSON})
OTHERS = {
    "/v1/responses": (
        {"input": TEXT | st.lists(ITEM, max_size=2), "stream": st.booleans()},
        {"tools": st.lists(JSON, max_size=2), "text": st.fixed_dictionaries({"format": FORMAT}) | JSON},
        ResponseBody.model_fields.keys() | ChatBody.model_fields.keys(),
    ),
    "/v1/embeddings": ({"input": TEXT | st.lists(TEXT, max_size=2) | JSON}, {}, EmbeddingBody.model_fields.keys()),
    "/v1/engines/demo/embeddings": ({"input": TEXT}, {}, EmbeddingBody.model_fields.keys()),
    "/tokenize": ({"prompt": TEXT}, {"messages": st.lists(MESSAGE, max_size=2)}, TokenizeBody.model_fields.keys()),
    "/detokenize": ({"tokens": st.lists(st.integers() | JSON, max_size=2)}, {}, DetokenizeBody.model_fields.keys()),
}


@pytest.mark.parametrize("path", OTHERS)
@settings(max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_any_object_is_answered_or_refused_by_the_other_endpoints(post: Any, path: str, data: st.DataObject) -> None:
    needed, optional, fields = OTHERS[path]
    body = data.draw(st.fixed_dictionaries({"model": st.just("demo"), **needed}, optional=optional))
    odd = data.draw(st.dictionaries(st.sampled_from(sorted({*fields, "unknown"})), JSON, max_size=2))
    check(post(path, json.dumps({**body, **odd}).encode()))


@pytest.mark.parametrize("path", OTHERS)
@settings(max_examples=30, deadline=None, database=None)
@given(content=st.binary(max_size=40) | JSON.map(lambda data: json.dumps(data).encode()))
def test_any_bytes_are_answered_or_refused_by_the_other_endpoints(post: Any, path: str, content: bytes) -> None:
    check(post(path, content))
