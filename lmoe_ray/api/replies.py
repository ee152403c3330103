"""From domain types to the JSON that OpenAI's clients read, and to a few keys of our own.

One answer is sent either whole or as chunks; both have the same head. Our extensions are ``expert``,
``routing``, ``routing_duration``, ``duration`` and ``ignored``. Never call one ``event``, ``type``,
``timings``, ``selected_model_id``, ``name``, ``provider``, ``pipeline`` or ``connection_type``: Open
WebUI gives those a meaning.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision
from lmoe_ray.domain.served import ServedModel, wire_names
from lmoe_ray.domain.stream import FinishReason, TokenDelta, Usage
from lmoe_ray.errors import LMoEError, one_line

OWNER = "lmoe_ray"

Json = dict[str, Any]


def to_json(data: Mapping[str, Any]) -> str:
    """One line of ASCII: some clients decode each network packet alone and break a split character."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Reply(ABC):
    """The answer to one request, in the shape of one endpoint."""

    request_id: str
    created: int
    decision: RoutingDecision
    ignored: tuple[str, ...] = ()
    echo: str = ""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def whole(self, answer: TokenDelta, duration_s: float) -> Json:
        """The complete answer as one object."""
        choice = {"index": 0, **self._answer(answer.text), "finish_reason": answer.finish_reason}
        return {
            **self._head(self.whole_object),
            "choices": [choice],
            "usage": encode_usage(answer.usage),
            **self._extensions(),
            "duration": duration_s,
        }

    def first_chunk(self) -> Json:
        """What is known before any text: who answers."""
        return {**self._chunk(self._opening()), **self._extensions()}

    def text_chunk(self, text: str) -> Json:
        return self._chunk(self._piece(text))

    def last_chunk(self, finish_reason: FinishReason | None, duration_s: float) -> Json:
        """Why it ended. It has no text, because some clients stop reading as soon as they see the reason."""
        return {**self._chunk(self._closing(), finish_reason), "duration": duration_s}

    def usage_chunk(self, usage: Usage) -> Json:
        """Only for clients that asked: others break on a chunk without choices."""
        return {**self._head(self.chunk_object), "choices": [], "usage": encode_usage(usage)}

    @property
    def headers(self) -> dict[str, str]:
        """The extensions once more, for those who see headers only."""
        headers = {"x-lmoe-confidence": f"{self.decision.confidence:.4f}"}
        if self.decision.expert is not None:
            headers["x-lmoe-expert"] = self.decision.expert
        if self.ignored:
            headers["x-lmoe-ignored"] = one_line(", ".join(self.ignored))
        return headers

    def _head(self, kind: str) -> Json:
        request_id = self.id_prefix + self.request_id
        return {"id": request_id, "object": kind, "created": self.created, "model": self.decision.model}

    def _chunk(self, choice: Json, finish_reason: FinishReason | None = None) -> Json:
        return {**self._head(self.chunk_object), "choices": [{"index": 0, **choice, "finish_reason": finish_reason}]}

    def _extensions(self) -> Json:
        decision = self.decision
        extensions: Json = {
            "expert": decision.expert,
            "routing": {"routed_by": decision.routed_by, "confidence": decision.confidence},
            "routing_duration": decision.duration_s,
        }
        return {**extensions, "ignored": list(self.ignored)} if self.ignored else extensions

    @abstractmethod
    def _answer(self, text: str) -> Json:
        """A choice with the complete text."""

    @abstractmethod
    def _opening(self) -> Json:
        """The choice of the first chunk."""

    @abstractmethod
    def _piece(self, text: str) -> Json:
        """A choice with some more text."""

    @abstractmethod
    def _closing(self) -> Json:
        """The choice beside the finish reason."""


class ChatReply(Reply):
    """``/v1/chat/completions``. Messages are lean, because clients send them back as they are."""

    __slots__ = ()
    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _answer(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text}}

    def _opening(self) -> Json:
        return {"delta": {"role": "assistant", "content": ""}}

    def _piece(self, text: str) -> Json:
        return {"delta": {"content": text}}

    def _closing(self) -> Json:
        return {"delta": {}}


class TextReply(Reply):
    """``/v1/completions``."""

    __slots__ = ()
    id_prefix = "cmpl-"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def _answer(self, text: str) -> Json:
        return self._piece(self.echo + text)

    def _opening(self) -> Json:
        return self._piece(self.echo)

    def _piece(self, text: str) -> Json:
        return {"text": text, "logprobs": None}

    def _closing(self) -> Json:
        return self._piece("")


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


def encode_models(models: tuple[ServedModel, ...]) -> list[Json]:
    """One entry for every name a client may put into ``model``."""
    return [
        {
            "id": name,
            "object": "model",
            "created": model.created,
            "owned_by": OWNER,
            "max_model_len": model.max_model_len,
        }
        for model in models
        for name in wire_names((model,))
    ]


def encode_experts(models: tuple[ServedModel, ...]) -> list[Json]:
    return [
        {
            "name": expert.name,
            "model": model.name,
            "digest": expert.digest,
            "description": expert.description,
            "licence": expert.licence,
        }
        for model in models
        for expert in model.experts
    ]


def encode_decision(decision: RoutingDecision) -> Json:
    return {
        "model": decision.model,
        "expert": decision.expert,
        "routed_by": decision.routed_by,
        "confidence": decision.confidence,
        "threshold": decision.threshold,
        "reason": decision.reason,
        "candidates": [{"expert": c.expert, "score": c.score} for c in decision.candidates],
        "neighbours": [{"expert": n.expert, "similarity": n.similarity, "text": n.text} for n in decision.neighbours],
        "duration": decision.duration_s,
    }


def decode_decision(data: Mapping[str, Any]) -> RoutingDecision:
    """The inverse of :func:`encode_decision`."""
    return RoutingDecision(
        model=data["model"],
        expert=data["expert"],
        routed_by=data["routed_by"],
        confidence=data["confidence"],
        candidates=tuple(Candidate(**c) for c in data["candidates"]),
        neighbours=tuple(Neighbour(**n) for n in data["neighbours"]),
        threshold=data["threshold"],
        reason=data["reason"],
        duration_s=data["duration"],
    )
