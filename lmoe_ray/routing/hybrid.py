"""Route by samples, and ask a language model where they leave doubt.

Samples answer in milliseconds and are mostly right; asking costs a generation. So only what would be left to the
fallback for want of confidence is asked about. What is unlike everything, or cannot be read, stays with the fallback:
the names of experts would say nothing about it.
"""

from __future__ import annotations

import dataclasses

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.routing.router import RoutedModel, Router


class HybridRouter:
    """
    Args:
        first: decides, or abstains.
        second: asked where the first abstained for want of confidence; may abstain too.
        min_familiarity: what is less familiar than this is left to the fallback.
    """

    def __init__(self, first: Router, second: Router, min_familiarity: float) -> None:
        self._first, self._second, self._min_familiarity = first, second, min_familiarity

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        """The second's decision carries the first's neighbours and both reasons."""
        found = await self._first.route(request)
        if found.routed_by != "abstained" or not found.candidates or found.familiarity < self._min_familiarity:
            return found
        asked = await self._second.route(request)
        return dataclasses.replace(
            asked,
            neighbours=found.neighbours,
            familiarity=found.familiarity,
            reason=f"by samples {found.confidence:.2f} sure at a threshold of {found.threshold:.2f}; {asked.reason}",
        )

    async def update(self, model: RoutedModel) -> None:
        """Both, the one that can fail first."""
        await self._first.update(model)
        await self._second.update(model)
