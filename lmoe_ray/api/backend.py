"""What the HTTP surface needs from the rest of the house: four methods, and nothing of Ray.

``serving`` implements them over deployment handles, the tests with a fake; so HTTP is tested without
either a cluster or a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from typing import Protocol

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.served import ServedModel, resolve
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.settings import ApiSettings


class Backend(Protocol):
    """The graph behind the API. Every method raises errors of :mod:`lmoe_ray.errors` only.

    In a request handed over, ``model`` is the name of a served base and ``expert`` is one of its
    experts or ``None``: the names clients may use instead are already resolved.
    """

    def models(self) -> tuple[ServedModel, ...]:
        """What is on offer now, at least one; read on every request, so it must cost nothing."""

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        """Choose the expert; an explicit ``request.expert`` is confirmed, not questioned."""

    def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer. Closing the generator, or cancelling it, must stop the work at once."""

    async def check_ready(self) -> None:
        """Raise :class:`~lmoe_ray.errors.NotReady`, naming the part that is still missing."""


def resolved(request: GenerateRequest, models: tuple[ServedModel, ...], settings: ApiSettings) -> GenerateRequest:
    """The request with the names the client used replaced by the base's and the expert's own.

    Raises:
        ModelNotFound, ExpertNotFound: see :func:`lmoe_ray.domain.served.resolve`.
    """
    address = resolve(models, request.model, request.expert, use_default=settings.unknown_model == "default")
    return dataclasses.replace(request, model=address.model.name, expert=address.expert)
