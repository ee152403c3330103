"""Who answers a request to one base model: the client's word, then evidence, then the fallback.

::

    expert or base named ─► no experts at all ─► tools declared ─► configured router ─► fallback
          explicit               only                 tools          similarity, agent    abstained

The first rule that applies decides. Only the configured router reads the conversation. A model with a
single expert is no special case: its router may still find that the base model should answer.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import Protocol

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.package import Expert
from lmoe_ray.errors import ExpertNotFound

logger = logging.getLogger(__name__)

#: Expert that takes requests which declare tools. The name is the predecessor's.
TOOLS_EXPERT = "function"


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """What a router knows of one base model. ``fallback`` is an expert's name, or empty for the base."""

    name: str
    experts: tuple[Expert, ...]
    fallback: str = ""

    @property
    def expert_names(self) -> tuple[str, ...]:
        return tuple(expert.name for expert in self.experts)

    @property
    def fallback_expert(self) -> str | None:
        """The fallback if this model has it, else ``None``: the base model."""
        return self.fallback if self.fallback in self.expert_names else None

    def as_seen_by(self, request: GenerateRequest) -> RoutedModel:
        """The model with those experts only that whoever asks may use; the others do not exist for them."""
        allowed = request.allowed_experts
        if allowed is None:
            return self
        return dataclasses.replace(self, experts=tuple(expert for expert in self.experts if expert.name in allowed))


class Router(Protocol):
    """Chooses an expert of one base model."""

    async def route(self, request: GenerateRequest) -> RoutingDecision: ...

    async def update(self, model: RoutedModel) -> None:
        """Go by another state of the model's experts from now on; if this fails, by the former."""
        ...


class RouterChain:
    """Every rule of one base model, in the order drawn above.

    Args:
        model: the base model and its experts.
        configured: the router of the settings, or ``None`` if the fallback shall answer everything.
    """

    def __init__(self, model: RoutedModel, configured: Router | None) -> None:
        self._model = model
        self._configured = configured
        if model.fallback and model.fallback_expert is None:
            logger.warning(
                "fallback is no expert, the base model takes its place model=%s fallback=%s", model.name, model.fallback
            )

    async def update(self, model: RoutedModel) -> None:
        """Go by another state of the model's experts, once the configured router can."""
        if self._configured is not None:
            await self._configured.update(model)
        self._model = model

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        """Decide, and say how long it took.

        Raises:
            ExpertNotFound: the request names an expert this model does not have.
        """
        started_s = time.monotonic()
        model = self._model.as_seen_by(request)
        decision = _without_reading(model, request)
        if decision is None and self._configured is not None:
            decision = await self._configured.route(request)
        if decision is None:
            decision = fall_back(model, "no router is configured")
        return dataclasses.replace(decision, duration_s=time.monotonic() - started_s)


def _without_reading(model: RoutedModel, request: GenerateRequest) -> RoutingDecision | None:
    """What the request's fields decide, before anybody looks at the conversation."""
    names = model.expert_names
    if request.expert is not None:
        if request.expert not in names:
            raise ExpertNotFound(request.expert, names)
        return RoutingDecision(model.name, request.expert, "explicit", reason="the client named the expert")
    if request.is_for_base:
        return RoutingDecision(model.name, None, "explicit", reason="the client named the base model")
    if not names:
        return RoutingDecision(model.name, None, "only", reason="the model has no experts")
    if request.num_tools > 0 and TOOLS_EXPERT in names:
        reason = f"the request declares {request.num_tools} tools"
        return RoutingDecision(model.name, TOOLS_EXPERT, "tools", reason=reason)
    return None


def fall_back(model: RoutedModel, reason: str) -> RoutingDecision:
    """The decision when there was nothing to choose by: the model's fallback answers."""
    return abstain(model, RoutingDecision(model.name, None, "abstained", confidence=0.0), reason)


def abstain(model: RoutedModel, decision: RoutingDecision, reason: str) -> RoutingDecision:
    """The same evidence, but the model's fallback answers; ``reason`` says why nobody was chosen."""
    return dataclasses.replace(
        decision,
        expert=model.fallback_expert,
        routed_by="abstained",
        reason=f"{reason}, so {model.fallback_expert or 'the base model'} answers",
    )
