"""What the HTTP surface needs from the rest of the house: a few methods, and nothing of Ray.

``serving`` implements them over deployment handles, the tests with a fake; so HTTP is tested without
either a cluster or a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from typing import Protocol

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.embedding import Embeddings, EmbedRequest
from lmoe_ray.domain.served import ServedModel, resolve
from lmoe_ray.domain.stream import TokenDelta
from lmoe_ray.domain.tokenized import TokenizedPrompt
from lmoe_ray.errors import ExpertNotFound, InvalidField, one_line
from lmoe_ray.settings import ApiSettings


class Backend(Protocol):
    """The graph behind the API. Every method raises errors of :mod:`lmoe_ray.errors` only.

    In a request handed over, ``model`` is the name of a served base, and ``expert`` is one of its experts or
    ``None``; then ``is_for_base`` tells whether there is anything to choose. The names that clients may use
    instead are already resolved.
    """

    def models(self) -> tuple[ServedModel, ...]:
        """What is on offer now, at least one; read on every request, so it must cost nothing."""

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        """Choose the expert; what the client named is confirmed, not questioned."""

    def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer. Closing the generator, or cancelling it, must stop the work at once."""

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Vectors of texts, from the embedder that all models share."""

    async def tokenize(self, request: GenerateRequest) -> TokenizedPrompt:
        """The request's prompt as the base model would read it, however long."""

    async def detokenize(self, model: str, token_ids: tuple[int, ...]) -> str:
        """The text that tokens of a base model spell, special ones included."""

    async def check_ready(self) -> None:
        """Raise :class:`~lmoe_ray.errors.NotReady`, naming the part that is still missing."""


def resolved(request: GenerateRequest, models: tuple[ServedModel, ...], settings: ApiSettings) -> GenerateRequest:
    """The request with the names the client used replaced by the base's and the expert's own.

    Raises:
        ModelNotFound, ExpertNotFound: see :func:`lmoe_ray.domain.served.resolve`; an allowed expert is unknown too.
        InvalidField: the expert asked for is not among those allowed.
    """
    address = resolve(models, request.model, request.expert, use_default=settings.unknown_model == "default")
    for name in request.allowed_experts or ():
        if name not in address.model.expert_names:
            raise ExpertNotFound(name, address.model.expert_names)
    require_allowed(address.expert, request.allowed_experts)
    return dataclasses.replace(request, model=address.model.name, expert=address.expert, is_for_base=address.is_base)


def require_allowed(expert: str | None, allowed: tuple[str, ...] | None) -> None:
    """
    Raises:
        InvalidField: the request asks for an expert, and allows only others.
    """
    if expert is not None and allowed is not None and expert not in allowed:
        problem = f"expert {one_line(expert, 80)!r} is asked for and not among them; add it, or do not ask for it"
        raise InvalidField("route.allowed_experts", problem)
