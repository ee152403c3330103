"""From a request body as OpenAI's clients write it to domain types; the way back is in ``replies.py``.

What has no effect is told: ``Completion.ignored`` names the fields that were accepted, are not
honoured, and might have been meant to change the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lmoe_ray.api.bodies import ROLES, ChatBody, CompletionBody, MessageBody, TextBody
from lmoe_ray.api.lenient_body import UNSUPPORTED
from lmoe_ray.api.tool_bodies import answer_schema, refuse_both, tool_use
from lmoe_ray.domain.chat import GenerateRequest, Message
from lmoe_ray.domain.sampling import RANGES, SamplingParams
from lmoe_ray.errors import InvalidField, UnsupportedValue, one_line

#: Labels, which ask for nothing.
_LABELS = frozenset({"user", "safety_identifier", "prompt_cache_key"})
#: Values that ask for what happens anyway.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
}
_MAX_REPORTED = 32

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Completion:
    """A parsed body: what the graph is asked, and what only the reply has to know.

    Attributes:
        generate: for the backend; ``model`` and ``expert`` still as the client wrote them.
        stream: answer as server-sent events.
        include_usage: end the stream with token counts.
        echo: text to repeat before the answer; empty unless ``/v1/completions`` asked for it.
        ignored: names of fields without effect, in the order they came, then places in schemas.
        is_legacy_call: functions were declared in OpenAI's older way, so calls are answered in it.
    """

    generate: GenerateRequest
    stream: bool
    include_usage: bool
    echo: str
    ignored: tuple[str, ...]
    is_legacy_call: bool = False


def parse_chat(body: Mapping[str, Any], request_id: str, max_messages: int) -> Completion:
    """Read the body of ``/v1/chat/completions``.

    Raises:
        InvalidField: naming the first wrong field, and how many more there are.
        UnsupportedValue: a field asks for what this server does not do.
    """
    chat = _validated(ChatBody, body)
    if len(chat.messages) > max_messages:
        raise InvalidField("messages", f"there are {len(chat.messages)}, the limit is {max_messages}; drop old ones")
    left_out: list[str] = []
    use, schema = tool_use(chat, left_out), answer_schema(chat.response_format, left_out)
    refuse_both(use, schema)
    generate = GenerateRequest(
        request_id,
        chat.model,
        messages=tuple(_message(message) for message in chat.messages),
        expert=chat.expert or None,
        sampling=replace(_chat_logprobs(chat), json_schema="" if use else schema),
        num_tools=0 if use is None else len(use.tools),
        tools=use,
    )
    ignored = (*_ignored(ChatBody, body), *left_out)[:_MAX_REPORTED]
    include_usage, is_legacy_call = chat.stream_options.include_usage, bool(chat.functions)
    return Completion(generate, chat.stream, include_usage, "", ignored, is_legacy_call)


def _message(body: MessageBody) -> Message:
    # OpenAI's older way has no ids: the function's name tells whose result it is.
    return Message(ROLES[body.role], body.content, body.calls, body.name, body.tool_call_id)


def _chat_logprobs(chat: ChatBody) -> SamplingParams:
    if chat.top_logprobs and not chat.logprobs:
        raise InvalidField("top_logprobs", "needs logprobs: true")
    return replace(_sampling(chat), logprobs=chat.logprobs, top_logprobs=chat.top_logprobs)


def parse_text(body: Mapping[str, Any], request_id: str, model: str | None = None) -> Completion:
    """Read the body of ``/v1/completions``; ``model`` from the path wins. Raises as :func:`parse_chat`."""
    text = _validated(TextBody, body if model is None else {**body, "model": model})
    if text.best_of not in (None, 1, text.n):
        raise UnsupportedValue("best_of", "answers are not ranked; leave it out and use n")
    if text.echo and text.logprobs is not None:
        raise UnsupportedValue("logprobs", "those of the prompt are not computed; set echo to false")
    sampling = replace(_sampling(text), logprobs=text.logprobs is not None, top_logprobs=text.logprobs or 0)
    generate = GenerateRequest(
        request_id, text.model, prompt=text.prompt, expert=text.expert or None, sampling=sampling
    )
    echo = text.prompt if text.echo else ""
    return Completion(generate, text.stream, text.stream_options.include_usage, echo, _ignored(TextBody, body))


def parse_route(body: Mapping[str, Any], request_id: str, max_messages: int, default_model: str) -> GenerateRequest:
    """Read the body of ``/v1/route``: a chat body, or a bare text as ``prompt`` or ``input``.

    ``model`` may be left out. Raises as :func:`parse_chat`.
    """
    given = {name: value for name, value in body.items() if value is not None}
    given.setdefault("model", default_model)
    if "messages" in given:
        return parse_chat(given, request_id, max_messages).generate
    if "input" in given:
        given["prompt"] = given["input"]
    if "prompt" not in given:
        raise InvalidField("messages", "is required, or a text as 'prompt'")
    return parse_text(given, request_id).generate


def _sampling(body: CompletionBody) -> SamplingParams:
    numbers = {name: getattr(body, name) for name in RANGES}
    if body.max_completion_tokens is not None:
        numbers["max_tokens"] = body.max_completion_tokens
    return SamplingParams(
        **numbers,
        logit_bias=tuple((int(token_id), bias) for token_id, bias in body.logit_bias.items()),
        stop=tuple(stop for stop in body.stop or () if stop),
        use_default_stops=body.stop != [],
        ignore_eos=body.ignore_eos,
    )


def _ignored(kind: type[CompletionBody], body: Mapping[str, Any]) -> tuple[str, ...]:
    honoured = kind.model_fields.keys() | _LABELS
    names = (
        one_line(name, 64)
        for name, value in body.items()
        if value and name not in honoured and value not in _NEUTRAL.get(name, ())
    )
    return tuple(islice(names, _MAX_REPORTED))


def _validated(kind: type[Body], body: Mapping[str, Any]) -> Body:
    try:
        return kind.model_validate(body)
    except ValidationError as exc:
        first, *rest = exc.errors(include_url=False)
        problem = _problem(first) + (f" (and {len(rest)} more)" if rest else "")
        error = UnsupportedValue if first["type"] == UNSUPPORTED else InvalidField
        raise error(_param(first["loc"]), problem) from exc


def _param(place: tuple[int | str, ...]) -> str:
    """``("messages", 0, "role")`` as ``messages[0].role``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{one_line(step, 40)}" for step in place)
    return "".join(steps).removeprefix(".")


def _problem(error: ErrorDetails) -> str:
    """What is wrong, with the value if it is short: a long one may be the conversation."""
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "model_type":
        return "must be an object"
    value = error["input"]
    is_short = isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 40)
    return error["msg"] + (f" (got {json.dumps(value)[:60]})" if is_short else "")
