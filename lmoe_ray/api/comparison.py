"""Several experts asked at once: who they are, and their answers as one stream.

Each is a request of its own, so they meet in the engine's next step as requests of different clients would.
What tells their deltas apart is the index: the expert's place in the request.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from lmoe_ray.api.backend import Backend, require_allowed
from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.served import BASE, ServedModel
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.errors import InvalidField


def one_each(
    request: GenerateRequest, names: tuple[str, ...], models: tuple[ServedModel, ...]
) -> tuple[GenerateRequest, ...]:
    """One request for each expert, ``None`` for the base model; ``request`` has its names resolved.

    Raises:
        ExpertNotFound: the model has no such expert.
        InvalidField: the model's name has named one already, it is not allowed, or the base is named twice.
    """
    if request.expert is not None or request.is_for_base:
        raise InvalidField("experts", "model names an expert already; name the base model there")
    model = next(model for model in models if model.name == request.model)
    experts = [model.named(name) for name in names]
    if experts.count(None) > 1:
        raise InvalidField("experts", f"the base model is named more than once, as {BASE!r} and by its name")
    for expert in experts:
        require_allowed(expert, request.allowed_experts)
    return tuple(dataclasses.replace(request, expert=expert, is_for_base=expert is None) for expert in experts)


async def decided(requests: Sequence[GenerateRequest], backend: Backend) -> tuple[RoutingDecision, ...]:
    """Who answers each request; all are asked at once, and the first that fails is raised when all have ended."""
    decisions = await asyncio.gather(*map(backend.route, requests), return_exceptions=True)
    for decision in decisions:
        if isinstance(decision, BaseException):
            raise decision
    return tuple(decision for decision in decisions if isinstance(decision, RoutingDecision))


async def side_by_side(streams: Sequence[AsyncGenerator[TokenDelta, None]]) -> AsyncGenerator[TokenDelta, None]:
    """The deltas of every stream as they come, with the stream's place as their index.

    The first that fails ends all; closing this closes all.
    """
    arrived: asyncio.Queue[TokenDelta | asyncio.Task[None]] = asyncio.Queue()

    async def read(index: int, deltas: AsyncGenerator[TokenDelta, None]) -> None:
        async with aclosing(deltas):
            async for delta in deltas:
                arrived.put_nowait(dataclasses.replace(delta, index=index))

    readers = [asyncio.create_task(read(index, deltas)) for index, deltas in enumerate(streams)]
    for reader in readers:
        reader.add_done_callback(arrived.put_nowait)
    try:
        num_unfinished = len(readers)
        while num_unfinished:
            item = await arrived.get()
            if isinstance(item, TokenDelta):
                yield item
            else:
                item.result()
                num_unfinished -= 1
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
