"""A graph that does whatever a client asks for, so that tests of clients need no model."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.domain.tools import CallPiece, ToolUse
from lmoe_ray.errors import PromptTooLong
from tests.fakes import FakeBackend, Step

#: Characters that reach clients in several events, one of them outside the basic plane.
TEXT = ("Grüße", ", ", "fox 🦊")
JSON = ('{"city": ', '"Paris"}')
MAX_WORDS = 4096


class ObligingBackend(FakeBackend):
    """Says :data:`TEXT`, or JSON if asked for a schema; calls the first function where that is what is wanted."""

    async def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        answering = FakeBackend(*_script(request))
        async for delta in answering.generate(request, decision):
            yield delta


def _script(request: GenerateRequest) -> tuple[Step, ...]:
    num_words = len((request.prompt or " ".join(message.content for message in request.messages)).split())
    if num_words > MAX_WORDS:
        return (PromptTooLong(num_words, MAX_WORDS),)
    if request.tools is not None and _wants_call(request, request.tools):
        return _call(request.tools.callable[0].name)
    return JSON if request.sampling.json_schema else TEXT


def _wants_call(request: GenerateRequest, tools: ToolUse) -> bool:
    """It must be one, or the weather is asked about; once a result is there it is talked about."""
    return tools.must_call or (request.messages[-1].role == "user" and "weather" in request.messages[-1].content)


def _call(name: str) -> tuple[Step, ...]:
    first, rest = JSON
    return (
        TokenDelta("", (1,), Usage(4, 1), calls=(CallPiece(0, name, first),)),
        TokenDelta("", (2,), Usage(4, 2), "tool_calls", calls=(CallPiece(0, arguments=rest),)),
    )
