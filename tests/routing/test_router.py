from __future__ import annotations

import asyncio
import dataclasses
import logging

import pytest

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.errors import ExpertNotFound
from lmoe_ray.routing.router import RoutedModel, RouterChain, fall_back
from tests.routing.experts import ask, expert

MODEL = RoutedModel("demo", (expert("code"), expert("function"), expert("math")), fallback="math")


class AlwaysCode:
    """A configured router with one opinion, which takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.num_asked = 0
        self._seconds = seconds

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        self.num_asked += 1
        await asyncio.sleep(self._seconds)
        return RoutingDecision("demo", "code", "similarity", 0.75)


async def test_the_clients_word_wins_over_tools_and_router() -> None:
    router = AlwaysCode()

    decision = await RouterChain(MODEL, router).route(ask("what is 2 + 2?", expert="math", num_tools=3))

    assert (decision.expert, decision.routed_by, decision.confidence) == ("math", "explicit", 1.0)
    assert router.num_asked == 0


async def test_so_it_does_where_it_names_the_base_model() -> None:
    router = AlwaysCode()
    asked = dataclasses.replace(ask("what is 2 + 2?", num_tools=3), is_for_base=True)

    decision = await RouterChain(MODEL, router).route(asked)

    assert (decision.expert, decision.routed_by, decision.confidence) == (None, "explicit", 1.0)
    assert router.num_asked == 0


async def test_the_tools_expert_can_be_named_like_any_other() -> None:
    decision = await RouterChain(MODEL, AlwaysCode()).route(ask("hello", expert="function"))

    assert decision.expert == "function"


async def test_an_expert_of_another_model_is_refused_here() -> None:
    neighbour = RoutedModel("other", (expert("poetry"),))
    assert (await RouterChain(neighbour, None).route(ask("hi", expert="poetry"))).expert == "poetry"

    with pytest.raises(ExpertNotFound, match="'poetry' does not exist; this model has: code, function, math"):
        await RouterChain(MODEL, AlwaysCode()).route(ask("hi", expert="poetry"))


async def test_a_model_without_experts_answers_by_itself() -> None:
    chain = RouterChain(RoutedModel("bare", ()), AlwaysCode())

    decision = await chain.route(ask("hello", num_tools=1))

    assert (decision.model, decision.expert, decision.routed_by) == ("bare", None, "only")
    with pytest.raises(ExpertNotFound):
        await chain.route(ask("hello", expert="code"))


async def test_declared_tools_lead_to_the_tools_expert_without_a_look_at_the_text() -> None:
    router = AlwaysCode()

    decision = await RouterChain(MODEL, router).route(ask("book me a table", num_tools=2))

    assert (decision.expert, decision.routed_by, decision.reason) == (
        "function",
        "tools",
        "the request declares 2 tools",
    )
    assert router.num_asked == 0


async def test_without_a_tools_expert_tools_change_nothing() -> None:
    model = RoutedModel("demo", (expert("code"), expert("math")))

    decision = await RouterChain(model, AlwaysCode()).route(ask("book me a table", num_tools=2))

    assert (decision.expert, decision.routed_by) == ("code", "similarity")


async def test_the_configured_router_decides_the_rest() -> None:
    decision = await RouterChain(MODEL, AlwaysCode()).route(ask("write a loop"))

    assert (decision.expert, decision.confidence) == ("code", 0.75)


async def test_without_a_router_the_fallback_answers() -> None:
    decision = await RouterChain(MODEL, None).route(ask("write a loop"))

    assert (decision.expert, decision.routed_by, decision.confidence) == ("math", "abstained", 0.0)
    assert decision.reason == "no router is configured, so math answers"


async def test_a_fallback_the_model_does_not_have_gives_way_to_the_base(caplog: pytest.LogCaptureFixture) -> None:
    model = RoutedModel("demo", (expert("code"),), fallback="reasoning")

    with caplog.at_level(logging.WARNING):
        chain = RouterChain(model, None)
    decision = await chain.route(ask("hello"))

    assert decision.expert is None
    assert decision.reason == "no router is configured, so the base model answers"
    assert "fallback=reasoning" in caplog.text


def test_falling_back_without_a_fallback_means_the_base() -> None:
    assert fall_back(RoutedModel("demo", (expert("code"),)), "why not").expert is None


async def test_the_time_a_decision_takes_is_told_whatever_the_clock_on_the_wall_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)

    decision = await RouterChain(MODEL, AlwaysCode(seconds=0.02)).route(ask("write a loop"))

    assert 0.02 <= decision.duration_s < 5
