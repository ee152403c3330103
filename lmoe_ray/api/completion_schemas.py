"""What completions look like, whole and as chunks, for ``/openapi.json``; ``completion_replies.py`` writes them."""

from __future__ import annotations

from typing import Literal

from lmoe_ray.api.reply_schemas import ChatLogprobs, ChoiceHead, CompletionHead, Described, TextLogprobs, maybe

#: ``function_call`` answers the older ``functions``.
Reason = Literal["stop", "length", "tool_calls", "function_call"]


class FunctionReply(Described):
    name: str
    arguments: str


class CallReply(Described):
    id: str
    type: Literal["function"]
    function: FunctionReply


class MessageReply(Described):
    role: Literal["assistant"]
    content: str
    tool_calls: list[CallReply] = maybe()
    function_call: FunctionReply = maybe()


class ChatChoice(ChoiceHead):
    message: MessageReply
    logprobs: ChatLogprobs = maybe("only if asked for")
    finish_reason: Reason


class ChatCompletion(CompletionHead):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class FunctionPiece(Described):
    name: str = maybe()
    arguments: str = maybe()


class CallPieceReply(Described):
    index: int
    id: str = maybe("with the first piece of each call")
    type: Literal["function"] = maybe()
    function: FunctionPiece


class DeltaReply(Described):
    role: Literal["assistant"] = maybe()
    content: str = maybe()
    tool_calls: list[CallPieceReply] = maybe()
    function_call: FunctionPiece = maybe()


class ChatChunkChoice(ChoiceHead):
    delta: DeltaReply
    logprobs: ChatLogprobs = maybe("only if asked for")
    finish_reason: Reason | None


class ChatCompletionChunk(CompletionHead):
    """One event of a chat's stream. A chunk of usage has no choices."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]


class TextChoice(ChoiceHead):
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Reason


class TextCompletion(CompletionHead):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class TextChunkChoice(ChoiceHead):
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Reason | None


class TextCompletionChunk(CompletionHead):
    """One event of a text's stream. A chunk of usage has no choices."""

    object: Literal["text_completion"]
    choices: list[TextChunkChoice]
