"""An answer as ``/v1/responses`` shows it: a list of items, a message or calls, within an object that tells its status.

An answer that holds calls has a message before them only if it has text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lmoe_ray.api.replies import Json, Reply
from lmoe_ray.api.reply_parts import call_id, chat_logprobs
from lmoe_ray.domain.stream import TokenDelta, TokenLogprob, Usage
from lmoe_ray.domain.tools import CallPiece
from lmoe_ray.errors import LMoEError, RequestError

Status = Literal["in_progress", "completed", "incomplete", "failed"]

#: What every response says of features that are not here.
_WITHOUT = {
    "background": False,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "truncation": "disabled",
}


@dataclass(frozen=True, slots=True)
class ResponseReply(Reply):
    """``/v1/responses``.

    Attributes:
        asked: fields of the request that the response repeats.
    """

    asked: Mapping[str, Any] = field(default_factory=dict)

    def whole(self, answers: tuple[TokenDelta, ...], duration_s: float) -> Json:
        (answer,) = answers
        status = status_of(answer)
        outcome = {
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "completed_at": None if status == "incomplete" else int(self.created + duration_s),
            "usage": encode_usage(answer.usage),
            "duration": duration_s,
        }
        return self._response(status, self.items(answer), **outcome)

    def begun(self) -> Json:
        """Before any item."""
        return self._response("in_progress", [])

    def broken(self, error: LMoEError, answer: TokenDelta | None) -> Json:
        """With the items that were there when it broke."""
        problem = {"code": _code(error), "message": error.message}
        return self._response("failed", [] if answer is None else self.items(answer), error=problem)

    def items(self, answer: TokenDelta) -> list[Json]:
        """``output``; what the end cut off is incomplete."""
        status: Status = "incomplete" if answer.finish_reason in (None, "length") else "completed"
        calls = [self.call_item(piece, "completed") for piece in answer.calls]
        if calls:
            calls[-1]["status"] = status
        if calls and not answer.text:
            return calls
        spoken: Status = "completed" if calls else status
        part = text_part(answer.text, () if calls else answer.logprobs)
        return [self.message_item(spoken, [part]), *calls]

    def message_item(self, status: Status, content: list[Json]) -> Json:
        message = {"id": f"msg_{self.request_id}", "type": "message", "role": "assistant"}
        return {**message, "status": status, "content": content}

    def call_item(self, piece: CallPiece, status: Status) -> Json:
        name_of_call = call_id(self.request_id, 0, piece.call)
        return {
            "id": name_of_call.replace("call_", "fc_"),
            "type": "function_call",
            "status": status,
            "call_id": name_of_call,
            "name": piece.name,
            "arguments": piece.arguments,
        }

    def _response(self, status: Status, output: list[Json], **outcome: Any) -> Json:
        return {
            "id": f"resp_{self.request_id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.decision.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **self.asked,
            **_WITHOUT,
            **self._extensions(),
            **outcome,
        }


def status_of(answer: TokenDelta) -> Literal["completed", "incomplete"]:
    return "incomplete" if answer.finish_reason == "length" else "completed"


def text_part(text: str, logprobs: Iterable[TokenLogprob] = ()) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": encode_logprobs(logprobs)}


def encode_logprobs(tokens: Iterable[TokenLogprob]) -> list[Json]:
    content: list[Json] = chat_logprobs(tokens)["content"]
    return content


def encode_usage(usage: Usage) -> Json:
    """Tokens taken from the cache of prefixes are not told apart."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _code(error: LMoEError) -> str:
    """One of those a response may name."""
    if isinstance(error, RequestError):
        return "invalid_prompt"
    return "rate_limit_exceeded" if error.status == 429 else "server_error"
