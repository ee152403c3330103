"""What ``/v1/responses`` answers, for ``/openapi.json``; ``responses.py`` writes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from lmoe_ray.api.reply_schemas import Described, Extensions, PickedToken, maybe

State = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Described):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[PickedToken]


class MessageOutput(Described):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: State
    content: list[OutputText]


class CallOutput(Described):
    id: str
    type: Literal["function_call"]
    status: State
    call_id: str
    name: str
    arguments: str


class ResponseProblem(Described):
    code: str
    message: str


class Incomplete(Described):
    reason: Literal["max_output_tokens"]


class CachedTokens(Described):
    cached_tokens: int
    cache_write_tokens: int


class ReasoningTokens(Described):
    reasoning_tokens: int


class ResponseUsage(Described):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseObject(Extensions):
    """The answer, and the fields of the request it repeats."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None = maybe()
    status: State
    model: str
    output: list[MessageOutput | CallOutput]
    error: ResponseProblem | None
    incomplete_details: Incomplete | None
    usage: ResponseUsage | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    user: str | None
    background: Literal[False]
    previous_response_id: None
    reasoning: dict[str, None]
    store: Literal[False]
    truncation: Literal["disabled"]


class ResponseEvent(Described):
    """One event of a response's stream; what else it holds depends on its type, as in OpenAI's API."""

    model_config = ConfigDict(extra="allow")

    type: str
    sequence_number: Annotated[int, Field(ge=0)]
