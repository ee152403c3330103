"""``/tokenize`` and ``/detokenize``: prompts of every kind, the way back, and what no prompt could be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.key_file import create_key
from lmoe_ray.domain.chat import Message
from tests.fakes import FakeBackend


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
async def test_a_text_has_tokens(serve: Any, path: str) -> None:
    told = (await serve(FakeBackend()).post(path, json={"model": "demo", "prompt": "hi"})).json()

    assert told == {"count": 2, "max_model_len": 4096, "tokens": [104, 105]}


async def test_a_conversation_is_read_as_a_chat_is(serve: Any) -> None:
    backend = FakeBackend()
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    told = (await serve(backend).post("/tokenize", json={**body, "add_generation_prompt": True})).json()

    assert told["count"] == 2
    assert (backend.requests[0].model, backend.requests[0].messages) == ("demo", (Message("user", "hi"),))
    assert backend.requests[0].tools is not None


async def test_tokens_become_the_text_again(serve: Any) -> None:
    client = serve(FakeBackend())
    tokens = (await client.post("/tokenize", json={"prompt": "Grüße\0"})).json()["tokens"]
    told = (await client.post("/detokenize", json={"model": "demo:code", "tokens": tokens})).json()

    assert told == {"prompt": "Grüße\0"}
    assert (await client.post("/detokenize", json={"tokens": []})).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "messages"),
        ("/tokenize", {"prompt": ["a", "b"]}, "prompt"),
        ("/tokenize", {"input": ["a", "b"]}, "input"),
        ("/tokenize", {"input": 5, "prompt": "a"}, "input"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
        ("/tokenize", {"messages": [{"role": "user"}], "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"prompt": "a", "return_token_strs": True}, "return_token_strs"),
        ("/tokenize", {"prompt": "a", "model": "x"}, "model"),
        ("/tokenize", {"prompt": "a", "expert": "x"}, "expert"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [2**31]}, "tokens[0]"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
        ("/detokenize", {"tokens": [0x110000]}, "tokens"),
        ("/detokenize", {"tokens": [], "model": "x"}, "model"),
    ],
)
async def test_what_is_no_prompt_is_refused(
    serve: Any, error_of: Any, path: str, body: dict[str, Any], param: str
) -> None:
    response = await serve(FakeBackend()).post(path, json=body)

    assert response.status_code in (400, 404, 422)
    assert error_of(response)["param"] == param


async def test_a_caller_finds_only_experts_that_the_key_opens(serve: Any, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.yaml", "alice", experts=("code",), requests_per_minute=2)
    backend = FakeBackend()
    client = serve(backend, keys=KeyRing(tmp_path / "keys.yaml"))
    client.headers["x-api-key"] = key
    body = {"prompt": "a"}
    statuses = [
        (await client.post("/tokenize", json={**body, "expert": name})).status_code for name in ("code", "math")
    ]

    assert statuses == [200, 422]
    assert backend.requests[0].allowed_experts == ("code",)
    assert (await client.post("/tokenize", json=body)).status_code == 429
