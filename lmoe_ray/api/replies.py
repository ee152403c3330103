"""From domain types to the JSON that OpenAI's clients read, and to a few keys of our own.

Our extensions are ``expert``,
``routing``, ``routing_duration``, ``duration`` and ``ignored``; where experts answer side by side,
each choice has its ``expert`` instead. Never call one ``event``, ``type``,
``timings``, ``selected_model_id``, ``name``, ``provider``, ``pipeline`` or ``connection_type``: Open
WebUI gives those a meaning.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lmoe_ray.api.decision_reply import encode_decision
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.served import BASE
from lmoe_ray.domain.stream import TokenDelta, Usage, total_usage
from lmoe_ray.errors import LMoEError, one_line

Json = dict[str, Any]


def to_json(data: Mapping[str, Any]) -> str:
    """One line of ASCII: some clients decode each network packet alone and break a split character."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Reply(ABC):
    """The answer to one request, in the shape of one endpoint.

    Attributes:
        decision: who answers; where several do, the first.
        ignored, echo, is_legacy_call, is_explained: as in :class:`~lmoe_ray.api.openai.Completion`.
        compared: who gives each answer where experts are compared; else empty.
    """

    request_id: str
    created: int
    decision: RoutingDecision
    ignored: tuple[str, ...] = ()
    echo: str = ""
    is_legacy_call: bool = False
    is_explained: bool = False
    compared: tuple[RoutingDecision, ...] = ()

    @abstractmethod
    def whole(self, answers: tuple[TokenDelta, ...], duration_s: float) -> Json:
        """Complete answers as one object."""

    def decision_of(self, index: int) -> RoutingDecision:
        """Who gives answer ``index``."""
        return self.compared[index] if self.compared else self.decision

    def total(self, usages: Iterable[Usage]) -> Usage:
        """Of all answers: the prompt counts once, but once for each expert that read it."""
        if not self.compared:
            return total_usage(usages)
        counted = tuple(usages)
        return Usage(sum(u.prompt_tokens for u in counted), sum(u.completion_tokens for u in counted))

    @property
    def headers(self) -> dict[str, str]:
        """The extensions once more, for those who see headers only."""
        headers = {"x-lmoe-confidence": f"{self.decision.confidence:.4f}"}
        if self.compared:
            headers["x-lmoe-expert"] = ", ".join(decision.expert or BASE for decision in self.compared)
        elif self.decision.expert is not None:
            headers["x-lmoe-expert"] = self.decision.expert
        if self.ignored:
            headers["x-lmoe-ignored"] = one_line(", ".join(self.ignored))
        return headers

    def _speaker(self, index: int) -> Json:
        return {"expert": self.compared[index].expert} if self.compared else {}

    def _extensions(self) -> Json:
        decision = self.decision
        routing = {"routed_by": decision.routed_by, "confidence": decision.confidence}
        extensions = {
            **({} if self.compared else {"expert": decision.expert}),
            "routing": encode_decision(decision) if self.is_explained else routing,
            "routing_duration": max(each.duration_s for each in self.compared or (decision,)),
        }
        return {**extensions, "ignored": list(self.ignored)} if self.ignored else extensions


def encode_usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def encode_error(error: LMoEError) -> Json:
    """OpenAI's error object: the only shape their clients show to people."""
    param = None if error.param is None else one_line(error.param, 80)
    return {"error": {"message": error.message, "type": error.type, "param": param, "code": error.code}}
