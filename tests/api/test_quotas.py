"""Requests and tokens of a key: counted, told in OpenAI's headers, and refused when used up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from limits.errors import StorageError

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.key_file import create_key
from lmoe_ray.api.quotas import Quotas
from lmoe_ray.domain.caller import Caller, Quota
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.errors import QuotaUncounted, SettingsError
from tests.fakes import FakeBackend

Limited = Callable[..., httpx.AsyncClient]


@pytest.fixture
def limited(serve: Any, tmp_path: Path) -> Limited:
    """A client with a key that has these limits."""

    def limited(backend: FakeBackend, **limits: int) -> httpx.AsyncClient:
        path = tmp_path / "keys.yaml"
        key = create_key(path, "alice", **limits)
        client: httpx.AsyncClient = serve(backend, keys=KeyRing(path))
        client.headers["x-api-key"] = key
        return client

    return limited


async def test_one_request_too_many_in_a_minute_is_refused(limited: Limited, chat_body: Any, error_of: Any) -> None:
    client = limited(FakeBackend("Hi"), requests_per_minute=2)
    answers = [await client.post("/v1/chat/completions", json=chat_body) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"2"}
    error = error_of(answers[2])
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert error["message"].startswith("key 'alice' has used its 2 requests per minute; try again in ")
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert 0 < float(answers[2].headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60


async def test_looking_around_is_not_counted(limited: Limited) -> None:
    client = limited(FakeBackend("Hi"), requests_per_minute=1)
    for _ in range(3):
        response = await client.get("/v1/models")
        assert response.status_code == 200
        assert "x-ratelimit-limit-requests" not in response.headers


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_of_prompt_and_answer_are_booked_and_then_it_is_over(
    limited: Limited, chat_body: Any, stream: bool
) -> None:
    """Two tokens of prompt and three of answer: the first leaves one, the second overdraws, the third is refused."""
    client = limited(FakeBackend("a", "b", "c"), tokens_per_minute=6)
    body = {**chat_body, "stream": stream}
    answers = [await client.post("/v1/chat/completions", json=body) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-tokens"] for answer in answers] == ["6", "1", "0"]
    assert "6 tokens per minute" in answers[2].json()["error"]["message"]


async def test_the_day_ends_later_than_the_minute(limited: Limited, chat_body: Any) -> None:
    client = limited(FakeBackend("a", "b", "c"), tokens_per_minute=100, tokens_per_day=5)
    answers = [await client.post("/v1/chat/completions", json=chat_body) for _ in range(2)]

    assert answers[0].headers["x-ratelimit-limit-tokens"] == "5"
    assert answers[1].status_code == 429
    assert 60 < int(answers[1].headers["retry-after"]) <= 86400


async def test_a_request_refused_for_tokens_costs_no_request(limited: Limited, chat_body: Any) -> None:
    client = limited(FakeBackend("a"), tokens_per_minute=1, requests_per_minute=2)
    await client.post("/v1/chat/completions", json=chat_body)
    refused = [await client.post("/v1/chat/completions", json=chat_body) for _ in range(3)]

    assert {"1 tokens per minute" in answer.json()["error"]["message"] for answer in refused} == {True}


async def test_keys_do_not_share_their_counts_nor_requests_theirs_with_tokens() -> None:
    quotas, quota = Quotas("async+memory://"), Quota(requests_per_minute=1, tokens_per_minute=1)
    first = await quotas.admit(Caller("alice", quota=quota))

    assert first.headers["x-ratelimit-remaining-tokens"] == "1"
    assert (await quotas.admit(Caller("alice", quota=quota))).refusal is not None
    assert (await quotas.admit(Caller("bob", quota=quota))).refusal is None


def answer_of(backend: FakeBackend, prompt: str) -> AsyncGenerator[TokenDelta, None]:
    return backend.generate(GenerateRequest("r1", "demo", prompt=prompt), RoutingDecision("demo", None, "only"))


async def drain(deltas: AsyncGenerator[TokenDelta, None]) -> None:
    async for _ in deltas:
        pass


async def test_what_was_made_before_the_client_left_is_booked() -> None:
    quotas, caller = Quotas("async+memory://"), Caller("alice", quota=Quota(tokens_per_day=100))
    backend = FakeBackend("a", "b", 60.0, "c")
    task = asyncio.create_task(drain(quotas.metered(answer_of(backend, "one two three"), caller, "r1")))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert backend.num_running == 0
    assert (await quotas.admit(caller)).headers["x-ratelimit-remaining-tokens"] == "95"


async def test_a_long_answer_is_booked_before_it_ends() -> None:
    quotas, caller = Quotas("async+memory://"), Caller("alice", quota=Quota(tokens_per_day=1000))
    deltas = quotas.metered(answer_of(FakeBackend(*["a"] * 600), "x"), caller, "r1")
    for _ in range(520):
        await anext(deltas)

    assert (await quotas.admit(caller)).headers["x-ratelimit-remaining-tokens"] == str(1000 - 2 - 512)
    await deltas.aclose()
    assert (await quotas.admit(caller)).headers["x-ratelimit-remaining-tokens"] == str(1000 - 521)


async def test_several_answers_are_booked_together_and_their_prompt_once() -> None:
    """Ten of prompt, then four tokens of answer 0 and six of answer 1."""
    quotas, caller = Quotas("async+memory://"), Caller("alice", quota=Quota(tokens_per_day=100))

    async def two_answers() -> AsyncGenerator[TokenDelta, None]:
        yield TokenDelta("a", (1,), Usage(10, 1), index=1)
        yield TokenDelta("b", (1, 2, 3, 4), Usage(10, 4), "stop", index=0)
        yield TokenDelta("c", (2, 3, 4, 5, 6), Usage(10, 6), "stop", index=1)

    await drain(quotas.metered(two_answers(), caller, "r1"))

    assert (await quotas.admit(caller)).headers["x-ratelimit-remaining-tokens"] == "80"


async def test_a_storage_that_does_not_answer_admits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    quotas, caller = Quotas("async+memory://"), Caller("alice", quota=Quota(requests_per_minute=1))

    async def broken(*_: object, **__: object) -> int:
        raise StorageError(ConnectionError("refused"))

    monkeypatch.setattr(quotas._counters.storage, "incr", broken)
    with pytest.raises(QuotaUncounted):
        await quotas.admit(caller)


@pytest.mark.parametrize("uri", ["memory://", "async+nowhere://u:s3cret@host", "async+redis://u:s3cret@host", "x"])
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(SettingsError, match="quota_storage") as refused:
        Quotas(uri)
    assert "s3cret" not in str(refused.value)
