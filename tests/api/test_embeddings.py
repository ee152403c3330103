"""``/v1/embeddings``: which texts are embedded, how vectors are spelled, and what is refused."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.embeddings import MAX_TEXTS
from lmoe_ray.api.key_file import create_key
from lmoe_ray.errors import ReplicaLost
from tests.fakes import FakeBackend

ASK = {"model": "demo", "input": "one two"}


async def test_each_text_has_its_vector_in_order(serve: Any) -> None:
    backend = FakeBackend()
    told = (await serve(backend).post("/v1/embeddings", json={**ASK, "input": ["a b c", "a"]})).json()

    assert [(one["object"], one["index"], one["embedding"]) for one in told["data"]] == [
        ("embedding", 0, [3.0, 0.0]),
        ("embedding", 1, [1.0, 0.0]),
    ]
    assert told["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert (told["object"], told["model"], told["embedder"]) == ("list", "demo", "counting")
    assert backend.embedded[0].texts == ("a b c", "a")


async def test_base64_holds_little_endian_floats(serve: Any) -> None:
    told = (await serve(FakeBackend()).post("/v1/embeddings", json={**ASK, "encoding_format": "base64"})).json()

    assert struct.unpack("<2f", base64.b64decode(told["data"][0]["embedding"])) == (2.0, 0.0)


@pytest.mark.parametrize("model", ["demo", "demo:code", "code", "gpt-4"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/v1/engines/{}/embeddings"])
async def test_every_served_name_leads_to_the_one_embedder(serve: Any, model: str, path: str) -> None:
    response = await serve(FakeBackend()).post(path.format(model), json={"input": "x", "model": model})

    assert (response.status_code, response.json()["model"]) == (200, "demo")


async def test_an_unknown_name_is_served_only_where_the_operator_says_so(serve: Any, error_of: Any) -> None:
    body = {**ASK, "model": "text-embedding-3-small"}
    refused = await serve(FakeBackend()).post("/v1/embeddings", json=body)
    served = await serve(FakeBackend(), unknown_model="default").post("/v1/embeddings", json=body)

    assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
    assert served.status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "problem"),
    [
        ({"input": ""}, "input", "not empty"),
        ({"input": []}, "input", "not empty"),
        ({"input": None}, "input", "is required"),
        ({"input": {"a": 1}}, "input", "not empty"),
        ({"input": ["a", ""]}, "input", "text 1 must be a string that is not empty"),
        ({"input": ["a", 5]}, "input", "text 1 must be a string"),
        ({"input": [1, 2]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1], [2]]}, "input", "token ids are not supported"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, "input", f"there are {MAX_TEXTS + 1} texts, the limit is {MAX_TEXTS}"),
        ({"encoding_format": "int8"}, "encoding_format", "float"),
        ({"dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"dimensions": 3}, "dimensions", "is 2"),
    ],
)
async def test_what_cannot_be_embedded_is_refused(
    serve: Any, error_of: Any, fields: dict[str, Any], param: str, problem: str
) -> None:
    response = await serve(FakeBackend()).post("/v1/embeddings", json={**ASK, **fields})
    error = error_of(response)

    assert (response.status_code, error["param"]) == (400, param)
    assert problem in error["message"]


async def test_what_has_no_effect_is_told(serve: Any) -> None:
    response = await serve(FakeBackend()).post("/v1/embeddings", json={**ASK, "user": "u", "input_type": "query"})

    assert response.headers["x-lmoe-ignored"] == "input_type"


async def test_a_lost_router_is_told_as_such(serve: Any, error_of: Any) -> None:
    class Lost(FakeBackend):
        async def embed(self, request: Any) -> Any:
            raise ReplicaLost("the router")

    response = await serve(Lost()).post("/v1/embeddings", json=ASK)

    assert (response.status_code, error_of(response)["code"]) == (503, "replica_lost")


async def test_requests_and_tokens_count_against_the_quota(serve: Any, tmp_path: Path, error_of: Any) -> None:
    key = create_key(tmp_path / "keys.yaml", "alice", requests_per_minute=9, tokens_per_minute=3)
    client = serve(FakeBackend(), keys=KeyRing(tmp_path / "keys.yaml"))
    client.headers["x-api-key"] = key
    answers = [await client.post("/v1/embeddings", json=ASK) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[1].headers["x-ratelimit-remaining-requests"] == "7"
    assert answers[1].headers["x-ratelimit-remaining-tokens"] == "1"
    assert error_of(answers[2])["code"] == "rate_limit_exceeded"
