"""A graph that says the first piece of an answer and keeps the rest until the test lets go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.stream import TokenDelta
from tests.fakes import FakeBackend


class HeldBackend(FakeBackend):
    """Set ``released`` from any thread."""

    def __init__(self, *script: str) -> None:
        super().__init__(*script)
        self.released = threading.Event()

    async def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        async with aclosing(super().generate(request, decision)) as deltas:
            async for delta in deltas:
                yield delta
                while not self.released.is_set():  # noqa: ASYNC110 - set from the test's thread
                    await asyncio.sleep(0.01)
