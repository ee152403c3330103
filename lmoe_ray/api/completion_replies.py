"""The answers of the two endpoints that complete: a chat's messages, and text that goes on."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from lmoe_ray.api.replies import Json, Reply, encode_usage
from lmoe_ray.api.reply_parts import (
    call_deltas,
    chat_logprobs,
    legacy_call,
    legacy_call_deltas,
    text_logprobs,
    whole_calls,
)
from lmoe_ray.domain.stream import FinishReason, TokenDelta, Usage


class CompletionReply(Reply):
    """A reply with choices, sent either whole or as chunks; both have the same head."""

    __slots__ = ()
    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def whole(self, answers: tuple[TokenDelta, ...], duration_s: float) -> Json:
        """Complete answers as one object."""
        choices = [
            {
                "index": answer.index,
                **self._speaker(answer.index),
                **self._answer(answer),
                "finish_reason": self._reason(answer.finish_reason),
                **self._cost(answer.usage),
            }
            for answer in answers
        ]
        return {
            **self._head(self.whole_object),
            "choices": choices,
            "usage": encode_usage(self.total(answer.usage for answer in answers)),
            **self._extensions(),
            "duration": duration_s,
        }

    def first_chunk(self, index: int = 0) -> Json:
        """What is known before any text; who answers is told with the first answer."""
        return {**self._chunk(index, self._opening()), **({} if index else self._extensions())}

    def pieces(self, delta: TokenDelta, offset: int = 0) -> list[Json]:
        """Chunks for what is new of an answer; ``offset``: characters of its text sent before."""
        return [self._chunk(delta.index, choice) for choice in self._pieces(delta, offset)]

    def last_chunk(self, last: TokenDelta, duration_s: float) -> Json:
        """Why an answer ended. It has no text, because some clients stop reading as soon as they see the reason."""
        closing = {**self._closing(), **self._cost(last.usage)}
        return {**self._chunk(last.index, closing, self._reason(last.finish_reason)), "duration": duration_s}

    def usage_chunk(self, usage: Usage) -> Json:
        """Only for clients that asked: others break on a chunk without choices."""
        return {**self._head(self.chunk_object), "choices": [], "usage": encode_usage(usage)}

    def _head(self, kind: str) -> Json:
        request_id = self.id_prefix + self.request_id
        return {"id": request_id, "object": kind, "created": self.created, "model": self.decision.model}

    def _chunk(self, index: int, choice: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": index, **self._speaker(index), **choice, "finish_reason": finish_reason}
        return {**self._head(self.chunk_object), "choices": [choice]}

    def _cost(self, usage: Usage) -> Json:
        """Of one answer; the reply's own usage tells that of all."""
        return {"usage": encode_usage(usage)} if self.compared else {}

    def _reason(self, reason: FinishReason | None) -> str | None:
        return "function_call" if reason == "tool_calls" and self.is_legacy_call else reason

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


class ChatReply(CompletionReply):
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


class TextReply(CompletionReply):
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
