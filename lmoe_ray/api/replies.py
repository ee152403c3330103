"""From domain types to the JSON that OpenAI's clients read, and to a few keys of our own.

Answers are sent either whole or as chunks; both have the same head. Our extensions are ``expert``,
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

from lmoe_ray.api.reply_parts import (
    call_deltas,
    chat_logprobs,
    legacy_call,
    legacy_call_deltas,
    text_logprobs,
    whole_calls,
)
from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision
from lmoe_ray.domain.served import ServedModel, wire_names
from lmoe_ray.domain.stream import FinishReason, TokenDelta, Usage, total_usage
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
    is_legacy_call: bool = False

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def whole(self, answers: tuple[TokenDelta, ...], duration_s: float) -> Json:
        """Complete answers as one object."""
        choices = [
            {"index": answer.index, **self._answer(answer), "finish_reason": self._reason(answer.finish_reason)}
            for answer in answers
        ]
        return {
            **self._head(self.whole_object),
            "choices": choices,
            "usage": encode_usage(total_usage(answer.usage for answer in answers)),
            **self._extensions(),
            "duration": duration_s,
        }

    def first_chunk(self, index: int = 0) -> Json:
        """What is known before any text; who answers is told with the first answer."""
        return {**self._chunk(index, self._opening()), **({} if index else self._extensions())}

    def pieces(self, delta: TokenDelta, offset: int = 0) -> list[Json]:
        """Chunks for what is new of an answer; ``offset``: characters of its text sent before."""
        return [self._chunk(delta.index, choice) for choice in self._pieces(delta, offset)]

    def last_chunk(self, index: int, finish_reason: FinishReason | None, duration_s: float) -> Json:
        """Why it ended. It has no text, because some clients stop reading as soon as they see the reason."""
        return {**self._chunk(index, self._closing(), self._reason(finish_reason)), "duration": duration_s}

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

    def _chunk(self, index: int, choice: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": index, **choice, "finish_reason": finish_reason}
        return {**self._head(self.chunk_object), "choices": [choice]}

    def _reason(self, reason: FinishReason | None) -> str | None:
        return "function_call" if reason == "tool_calls" and self.is_legacy_call else reason

    def _extensions(self) -> Json:
        decision = self.decision
        extensions: Json = {
            "expert": decision.expert,
            "routing": {"routed_by": decision.routed_by, "confidence": decision.confidence},
            "routing_duration": decision.duration_s,
        }
        return {**extensions, "ignored": list(self.ignored)} if self.ignored else extensions

    @abstractmethod
    def _answer(self, answer: TokenDelta) -> Json:
        """A choice with a complete answer."""

    @abstractmethod
    def _opening(self) -> Json:
        """The choice of the first chunk."""

    @abstractmethod
    def _pieces(self, delta: TokenDelta, offset: int) -> list[Json]:
        """Choices with what is new."""

    @abstractmethod
    def _closing(self) -> Json:
        """The choice beside the finish reason."""


class ChatReply(Reply):
    """``/v1/chat/completions``. Messages are lean, because clients send them back as they are."""

    __slots__ = ()
    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _answer(self, answer: TokenDelta) -> Json:
        message: Json = {"role": "assistant", "content": answer.text}
        if answer.calls and self.is_legacy_call:
            message["function_call"] = legacy_call(answer.calls)
        elif answer.calls:
            message["tool_calls"] = whole_calls(answer.calls, self.request_id, answer.index)
        return {"message": message, **_chat_logprobs(answer)}

    def _opening(self) -> Json:
        return {"delta": {"role": "assistant", "content": ""}}

    def _pieces(self, delta: TokenDelta, offset: int) -> list[Json]:
        """Text first, then calls; log-probabilities with the first of them."""
        deltas: list[Json] = [{"content": delta.text}] if delta.text else []
        if self.is_legacy_call:
            deltas += legacy_call_deltas(delta.calls)
        else:
            deltas += call_deltas(delta.calls, self.request_id, delta.index)
        logprobs = _chat_logprobs(delta)
        if logprobs and not deltas:
            deltas = [{"content": ""}]
        return [{"delta": piece, **({} if at else logprobs)} for at, piece in enumerate(deltas)]

    def _closing(self) -> Json:
        return {"delta": {}}


class TextReply(Reply):
    """``/v1/completions``."""

    __slots__ = ()
    id_prefix = "cmpl-"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def _answer(self, answer: TokenDelta) -> Json:
        return {"text": self.echo + answer.text, "logprobs": _text_logprobs(answer, 0)}

    def _opening(self) -> Json:
        return {"text": self.echo, "logprobs": None}

    def _pieces(self, delta: TokenDelta, offset: int) -> list[Json]:
        logprobs = _text_logprobs(delta, offset)
        return [{"text": delta.text, "logprobs": logprobs}] if delta.text or logprobs else []

    def _closing(self) -> Json:
        return {"text": "", "logprobs": None}


def _chat_logprobs(delta: TokenDelta) -> Json:
    """Absent unless asked for."""
    return {"logprobs": chat_logprobs(delta.logprobs)} if any(token.token for token in delta.logprobs) else {}


def _text_logprobs(delta: TokenDelta, offset: int) -> Json | None:
    return text_logprobs(delta.logprobs, offset) if any(token.token for token in delta.logprobs) else None


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
