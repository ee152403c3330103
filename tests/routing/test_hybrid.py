from __future__ import annotations

import dataclasses

import pytest

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision
from lmoe_ray.errors import Overloaded
from lmoe_ray.routing.hybrid import HybridRouter
from lmoe_ray.routing.router import RoutedModel
from tests.routing.experts import ask, expert

CANDIDATES = (Candidate("code", 0.5), Candidate("qa", 0.25), Candidate("math", 0.25))
NEIGHBOURS = (Neighbour("code", 0.75),)

SURE = RoutingDecision(
    "demo", "code", "similarity", 0.5, CANDIDATES, NEIGHBOURS, threshold=0.25, familiarity=0.75, reason="near code"
)
UNSURE = dataclasses.replace(SURE, expert="qa", routed_by="abstained", threshold=0.75)
ASKED = RoutingDecision("demo", "math", "agent", 0.875, (Candidate("math", 0.875),), reason="the model answered math")


class Decided:
    """A router that always answers the same, or fails, and remembers what it was given."""

    def __init__(self, answer: RoutingDecision | Exception, update: Exception | None = None) -> None:
        self.answer, self.failure = answer, update
        self.requests: list[GenerateRequest] = []
        self.models: list[RoutedModel] = []

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def update(self, model: RoutedModel) -> None:
        if self.failure is not None:
            raise self.failure
        self.models.append(model)


async def test_a_sure_first_is_taken_at_its_word_and_nobody_is_asked() -> None:
    second = Decided(ASKED)

    assert await HybridRouter(Decided(SURE), second, 0.5).route(ask("write a loop")) is SURE
    assert second.requests == []


async def test_the_second_is_asked_about_the_same_request_when_the_first_is_not_sure_enough() -> None:
    second, request = Decided(ASKED), ask("add a loop")

    decision = await HybridRouter(Decided(UNSURE), second, 0.5).route(request)

    assert (decision.expert, decision.routed_by, decision.confidence) == ("math", "agent", 0.875)
    assert decision.candidates == ASKED.candidates
    assert second.requests == [request]


async def test_the_answer_carries_both_reasons_and_what_the_first_saw() -> None:
    decision = await HybridRouter(Decided(UNSURE), Decided(ASKED), 0.5).route(ask("add a loop"))

    assert decision.reason == "by samples 0.50 sure at a threshold of 0.75; the model answered math"
    assert (decision.neighbours, decision.familiarity) == (NEIGHBOURS, 0.75)


@pytest.mark.parametrize(("familiarity", "expert"), [(0.25, "qa"), (0.5, "math")])
async def test_what_is_less_familiar_than_the_bound_is_not_asked_about(familiarity: float, expert: str) -> None:
    second = Decided(ASKED)
    first = Decided(dataclasses.replace(UNSURE, familiarity=familiarity))

    decision = await HybridRouter(first, second, 0.5).route(ask("an unheard of thing"))

    assert decision.expert == expert
    assert len(second.requests) == (expert == "math")


async def test_what_the_first_could_not_read_is_not_asked_about() -> None:
    unread = RoutingDecision("demo", "qa", "abstained", 0.0, reason="the request has no text to route by")
    second = Decided(ASKED)

    assert await HybridRouter(Decided(unread), second, 0.5).route(ask(("system", "A chat."))) is unread
    assert second.requests == []


async def test_the_second_may_abstain_too() -> None:
    doubt = dataclasses.replace(ASKED, expert="qa", routed_by="abstained", reason="the model named no expert")

    decision = await HybridRouter(Decided(UNSURE), Decided(doubt), 0.5).route(ask("add a loop"))

    assert (decision.expert, decision.routed_by) == ("qa", "abstained")
    assert decision.reason.endswith("; the model named no expert")


async def test_an_overload_of_the_second_reaches_the_caller() -> None:
    with pytest.raises(Overloaded):
        await HybridRouter(Decided(UNSURE), Decided(Overloaded(9, 8)), 0.5).route(ask("add a loop"))


async def test_an_update_reaches_both() -> None:
    model = RoutedModel("demo", (expert("code"),))
    first, second = Decided(SURE), Decided(ASKED)

    await HybridRouter(first, second, 0.5).update(model)

    assert first.models == second.models == [model]


async def test_an_update_that_the_first_cannot_follow_leaves_the_second_as_it_was() -> None:
    second = Decided(ASKED)

    with pytest.raises(RuntimeError, match="no room"):
        await HybridRouter(Decided(SURE, RuntimeError("no room")), second, 0.5).update(RoutedModel("demo", ()))

    assert second.models == []
