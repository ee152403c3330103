"""A caller who may use some experts only: the others are not scored, not named, and nobody's fallback."""

from __future__ import annotations

import dataclasses

import pytest

from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.errors import ExpertNotFound
from lmoe_ray.routing.agent import AgentRouter
from lmoe_ray.routing.router import RoutedModel, RouterChain
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.settings import RouterSettings
from tests.fakes import HashingEncoder
from tests.routing.experts import ask, expert

CODE = expert("code", "write a loop in python", "fix this python function", "sort a list in rust")
POETRY = expert("poetry", "a haiku about rain", "a sonnet about love", "a poem about the sea")
TOOLS = expert("function", "call the weather tool", "use the search tool now", "invoke the calculator tool")
SILENT = expert("silent")
MODEL = RoutedModel("demo", (CODE, POETRY, TOOLS, SILENT), fallback="poetry")


def only(names: tuple[str, ...], request: GenerateRequest) -> GenerateRequest:
    return dataclasses.replace(request, allowed_experts=names)


async def route(request: GenerateRequest, **settings: object) -> RoutingDecision:
    router = SimilarityRouter(MODEL, HashingEncoder(), RouterSettings.model_validate(settings), None)
    return await RouterChain(MODEL, router).route(request)


async def test_the_best_of_the_allowed_answers() -> None:
    decision = await route(only(("code", "function"), ask("a haiku about the sea")))

    assert decision.expert in ("code", "function")
    assert {c.expert for c in decision.candidates} == {"code", "function"}
    assert sum(c.score for c in decision.candidates) == pytest.approx(1)
    assert {n.expert for n in decision.neighbours} <= {"code", "function"}
    assert "poetry" not in decision.reason


async def test_a_fallback_that_is_not_allowed_is_the_base_model() -> None:
    decision = await route(only(("code", "function"), ask("colourless green ideas")), threshold=1.0)

    assert (decision.expert, decision.routed_by) == (None, "abstained")
    assert "the base model answers" in decision.reason


async def test_an_expert_that_is_not_allowed_is_unknown_and_not_listed() -> None:
    with pytest.raises(ExpertNotFound) as caught:
        await route(dataclasses.replace(only(("code",), ask("hello there you")), expert="poetry"))

    assert "function" not in str(caught.value)


async def test_tools_go_to_their_expert_only_if_it_is_allowed() -> None:
    request = dataclasses.replace(only(("code", "poetry"), ask("a haiku about rain")), num_tools=1)

    assert (await route(request)).expert == "poetry"


@pytest.mark.parametrize(("allowed", "routed_by"), [((), "only"), (("silent",), "abstained")])
async def test_with_no_expert_to_score_the_base_model_answers(allowed: tuple[str, ...], routed_by: str) -> None:
    decision = await route(only(allowed, ask("a haiku about rain")))

    assert (decision.expert, decision.routed_by) == (None, routed_by)


async def test_the_agent_is_asked_about_the_allowed_alone() -> None:
    asked: list[tuple[tuple[Message, ...], tuple[str, ...]]] = []

    async def answer(messages: tuple[Message, ...], names: tuple[str, ...]) -> tuple[str, float]:
        asked.append((messages, names))
        return names[0], 0.9

    decision = await AgentRouter(MODEL, answer).route(only(("code", "function"), ask("a haiku about rain")))

    ((messages, names),) = asked
    assert names == ("code", "function")
    assert "poetry" not in messages[0].content
    assert {c.expert for c in decision.candidates} == {"code", "function"}
