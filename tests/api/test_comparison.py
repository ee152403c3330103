"""Several experts asked at once: who answers what, what it costs, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from lmoe_ray.api.api_keys import KeyRing
from lmoe_ray.api.comparison import side_by_side
from lmoe_ray.api.key_file import create_key
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.domain.tools import CallPiece
from lmoe_ray.errors import ExpertNotFound, LMoEError, Overloaded
from tests.fakes import FakeBackend

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BODY = {"model": "demo", "messages": [{"role": "user", "content": "hello there"}], "prompt": "hello there"}


class Choir(FakeBackend):
    """Each expert says its own name, a letter at a time, when all who are asked have begun."""

    def __init__(self, num_voices: int, failing: str | None = None) -> None:
        super().__init__()
        self._all_here = asyncio.Barrier(num_voices)
        self._failing = failing

    async def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        self.num_running += 1
        name = decision.expert or "base"
        try:
            async with asyncio.timeout(1):
                await self._all_here.wait()
            for at, letter in enumerate(name, 1):
                yield TokenDelta(letter, (at,), Usage(2, at), "stop" if at == len(name) else None)
                await asyncio.sleep(0.005)
                if name == self._failing:
                    raise Overloaded(2, 1)
        finally:
            self.num_running -= 1


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_each_expert_gives_one_choice_in_the_order_asked(serve: Any, path: str) -> None:
    response = await serve(Choir(3)).post(path, json={**BODY, "experts": ["math", "base", "code"]})
    body = response.json()
    texts = [c["message"]["content"] if path == CHAT else c["text"] for c in body["choices"]]

    assert [(choice["index"], choice["expert"]) for choice in body["choices"]] == [(0, "math"), (1, None), (2, "code")]
    assert texts == ["math", "base", "code"]
    assert "expert" not in body
    assert body["routing"] == {"routed_by": "explicit", "confidence": 1.0}
    assert response.headers["x-lmoe-expert"] == "math, base, code"


async def test_they_run_at_once_and_the_prompt_is_counted_for_each(serve: Any) -> None:
    body = (await serve(Choir(2)).post(CHAT, json={**BODY, "experts": ["code", "math"]})).json()

    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12}


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_each_tells_its_own_tokens_whole_and_at_its_end(serve: Any, events_of: Any, path: str) -> None:
    body = {**BODY, "experts": ["code", "base"]}
    choices = (await serve(Choir(2)).post(path, json=body)).json()["choices"]
    events = events_of(await serve(Choir(2)).post(path, json={**body, "stream": True}))
    streamed = [choice for event in events for choice in event["choices"] if choice["finish_reason"]]

    for told in (choices, sorted(streamed, key=lambda choice: choice["index"])):
        assert [c["usage"] for c in told] == [{"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}] * 2
    assert sum("usage" in choice for event in events for choice in event["choices"]) == 2


async def test_their_chunks_come_interleaved_and_each_says_whose_it_is(serve: Any, events_of: Any) -> None:
    fields = {"experts": ["code", "math"], "stream": True, "stream_options": {"include_usage": True}}
    *events, usage = events_of(await serve(Choir(2)).post(CHAT, json={**BODY, **fields}))
    pieces = [
        (choice["index"], choice["delta"].get("content"))
        for event in events
        for choice in event["choices"]
        if choice["delta"].get("content")
    ]

    assert all(choice["expert"] == ["code", "math"][choice["index"]] for e in events for choice in e["choices"])
    assert ["".join(text for at, text in pieces if at == index) for index in (0, 1)] == ["code", "math"]
    assert {index for index, _ in pieces[:3]} == {0, 1}
    assert [c["finish_reason"] for event in events for c in event["choices"] if c["finish_reason"]] == ["stop"] * 2
    assert ["routing" in event for event in events] == [True, *[False] * (len(events) - 1)]
    assert usage["usage"] == {"prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12}


async def test_one_that_fails_ends_the_stream_for_all_with_its_error(serve: Any, events_of: Any) -> None:
    backend = Choir(2, failing="math")
    *_, last = events_of(await serve(backend).post(CHAT, json={**BODY, "experts": ["code", "math"], "stream": True}))

    assert last["error"]["code"] == "overloaded"
    assert backend.num_running == 0


async def test_one_that_fails_fails_a_whole_answer(serve: Any, error_of: Any) -> None:
    backend = Choir(2, failing="math")
    response = await serve(backend).post(CHAT, json={**BODY, "experts": ["code", "math"]})

    assert error_of(response)["code"] == "overloaded"
    assert backend.num_running == 0


@pytest.mark.parametrize("name", ["base", "demo", "gpt-4"])
async def test_the_base_has_several_names(serve: Any, name: str) -> None:
    body = (await serve(Choir(2)).post(CHAT, json={**BODY, "experts": [name, "code"]})).json()

    assert [choice["message"]["content"] for choice in body["choices"]] == ["base", "code"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"experts": ["code"]}, "experts"),
        ({"experts": []}, "experts"),
        ({"experts": ["code"] * 2}, "experts"),
        ({"experts": ["base", "demo"]}, "experts"),
        ({"experts": [str(number) for number in range(9)]}, "experts"),
        ({"experts": "code"}, "experts"),
        ({"experts": ["code", 5]}, "experts[1]"),
        ({"experts": ["code", ""]}, "experts[1]"),
        ({"experts": ["code", "math"], "expert": "code"}, "experts"),
        ({"experts": ["code", "math"], "model": "demo:code"}, "experts"),
        ({"experts": ["code", "math"], "model": "demo:base"}, "experts"),
        ({"experts": ["code", "math"], "n": 2}, "n"),
        ({"experts": ["code", "math"], "explain": True}, "explain"),
        ({"experts": ["code", "math"], "route": {"allowed_experts": ["code"]}}, "route.allowed_experts"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_what_cannot_be_compared_is_refused(
    serve: Any, error_of: Any, path: str, fields: dict[str, Any], param: str
) -> None:
    backend = FakeBackend("Hi")
    response = await serve(backend).post(path, json={**BODY, **fields})

    assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert backend.requests == []


async def test_there_is_nothing_to_route(serve: Any, error_of: Any) -> None:
    response = await serve(FakeBackend("Hi")).post("/v1/route", json={**BODY, "experts": ["code", "math"]})

    assert (response.status_code, error_of(response)["param"]) == (400, "experts")


async def test_an_unknown_expert_is_named_with_the_known_ones(serve: Any, error_of: Any) -> None:
    backend = FakeBackend("Hi")
    response = await serve(backend).post(CHAT, json={**BODY, "experts": ["code", "law"]})

    assert response.status_code == 422
    assert error_of(response)["message"] == str(ExpertNotFound("law", ("code", "math", "base")))
    assert backend.requests == []


async def test_an_expert_that_is_not_allowed_does_not_exist(serve: Any, error_of: Any, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.yaml", "alice", experts=("math",), tokens_per_day=20)
    client = serve(Choir(2), keys=KeyRing(tmp_path / "keys.yaml"))
    refused, answered = [
        await client.post(CHAT, json={**BODY, "experts": names}, headers={"api-key": key})
        for names in (["math", "code"], ["math", "base"])
    ]

    assert error_of(refused)["message"] == str(ExpertNotFound("code", ("math", "base")))
    assert [choice["expert"] for choice in answered.json()["choices"]] == ["math", None]


async def test_a_quota_pays_for_every_expert(serve: Any, tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.yaml", "alice", tokens_per_day=100)
    client = serve(Choir(2), keys=KeyRing(tmp_path / "keys.yaml"))
    headers = {"api-key": key}
    await client.post(CHAT, json={**BODY, "experts": ["code", "math"]}, headers=headers)
    after = await client.post("/v1/route", json=BODY, headers=headers)

    assert after.headers["x-ratelimit-remaining-tokens"] == str(100 - 12)


async def test_the_callers_seed_and_limits_hold_for_each(serve: Any) -> None:
    backend = FakeBackend("a", "b", "c")
    body = {**BODY, "experts": ["code", "math"], "max_tokens": 2, "seed": 7}
    choices = (await serve(backend).post(CHAT, json=body)).json()["choices"]

    assert [(choice["message"]["content"], choice["finish_reason"]) for choice in choices] == [("ab", "length")] * 2
    assert [(request.expert, request.sampling.seed) for request in backend.requests] == [("code", 7), ("math", 7)]


async def test_calls_of_two_experts_have_ids_of_their_own(serve: Any) -> None:
    delta = TokenDelta("", (1,), Usage(2, 1), "tool_calls", calls=(CallPiece(0, "f", "{}"),))
    body = {**BODY, "experts": ["code", "math"], "tools": [{"type": "function", "function": {"name": "f"}}]}
    choices = (await serve(FakeBackend(delta)).post(CHAT, json=body)).json()["choices"]
    ids = {call["id"] for choice in choices for call in choice["message"]["tool_calls"]}

    assert len(ids) == 2


# ── streams side by side ─────────────────────────────────────────────────────────────────────────


class Source:
    """A stream that notes how often it was closed."""

    num_closed = 0

    async def say(self, *steps: str | float | LMoEError) -> AsyncGenerator[TokenDelta, None]:
        try:
            for step in steps:
                if isinstance(step, LMoEError):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield TokenDelta(step, (1,), Usage(1, 1))
        finally:
            self.num_closed += 1


async def test_what_is_read_says_which_stream_it_came_from() -> None:
    source = Source()
    deltas = [(d.index, d.text) async for d in side_by_side([source.say("a", 0.02, "c"), source.say(0.01, "b")])]

    assert deltas == [(0, "a"), (1, "b"), (0, "c")]
    assert source.num_closed == 2


async def test_leaving_closes_every_stream() -> None:
    source = Source()
    deltas = side_by_side([source.say("a", 10.0), source.say(10.0, "b")])
    assert (await anext(deltas)).text == "a"
    await deltas.aclose()

    assert source.num_closed == 2


async def test_a_failure_closes_the_others() -> None:
    source = Source()
    with pytest.raises(Overloaded):
        async for _ in side_by_side([source.say(10.0, "a"), source.say(Overloaded(2, 1))]):
            pass

    assert source.num_closed == 2
