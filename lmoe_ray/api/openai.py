"""From a request body as OpenAI's clients write it to domain types; the way back is in ``replies.py``.

What has no effect is told: ``Completion.ignored`` names the fields that were accepted, are not
honoured, and might have been meant to change the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pydantic import BaseModel

from lmoe_ray.api.bodies import ChatBody, CompletionBody, TextBody
from lmoe_ray.api.lenient_body import validated
from lmoe_ray.api.message_bodies import ROLES, MessageBody
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
        experts: who shall answer side by side, as the client wrote them; empty: one expert answers.
        is_explained: tell the whole routing decision.
    """

    generate: GenerateRequest
    stream: bool
    include_usage: bool
    echo: str
    ignored: tuple[str, ...]
    is_legacy_call: bool = False
    experts: tuple[str, ...] = ()
    is_explained: bool = False


def parse_chat(body: Mapping[str, Any], request_id: str, max_messages: int) -> Completion:
    """Read the body of ``/v1/chat/completions``.

    Raises:
        InvalidField: naming the first wrong field, and how many more there are.
        UnsupportedValue: a field asks for what this server does not do.
    """
    messages = body.get("messages")
    if isinstance(messages, list) and len(messages) > max_messages:
        raise InvalidField("messages", f"there are {len(messages)}, the limit is {max_messages}; drop old ones")
    chat = validated(ChatBody, body)
    left_out: list[str] = []
    use, schema = tool_use(chat, left_out), answer_schema(chat.response_format, left_out)
    refuse_both(use, schema)
    generate = GenerateRequest(
        request_id,
        chat.model,
        messages=tuple(_message(message) for message in chat.messages),
        expert=chat.expert or None,
        routing=chat.route.options,
        allowed_experts=chat.route.allowed,
        sampling=replace(_chat_logprobs(chat), json_schema="" if use else schema),
        num_tools=0 if use is None else len(use.tools),
        tools=use,
    )
    ignored = (*without_effect(ChatBody, body), *left_out)[:_MAX_REPORTED]
    return _completion(chat, generate, "", ignored, is_legacy_call=bool(chat.functions))


def _completion(
    body: CompletionBody,
    generate: GenerateRequest,
    echo: str,
    ignored: tuple[str, ...],
    *,
    is_legacy_call: bool = False,
) -> Completion:
    experts = _compared(body)
    include_usage = body.stream_options.include_usage
    return Completion(generate, body.stream, include_usage, echo, ignored, is_legacy_call, experts, body.explain)


def _compared(body: CompletionBody) -> tuple[str, ...]:
    if body.experts is None:
        return ()
    if body.expert:
        raise InvalidField("experts", "send either expert or experts, not both")
    if body.n > 1:
        raise InvalidField("n", "each of the experts gives one answer; leave n out")
    if body.explain:
        raise InvalidField("explain", "experts are named, so nothing is routed; leave it out, or ask /v1/route")
    return tuple(body.experts)


def _message(body: MessageBody) -> Message:
    # OpenAI's older way has no ids: the function's name tells whose result it is.
    return Message(ROLES[body.role], body.content, body.calls, body.name, body.tool_call_id)


def _chat_logprobs(chat: ChatBody) -> SamplingParams:
    if chat.top_logprobs and not chat.logprobs:
        raise InvalidField("top_logprobs", "needs logprobs: true")
    return replace(_sampling(chat), logprobs=chat.logprobs, top_logprobs=chat.top_logprobs)


def parse_text(body: Mapping[str, Any], request_id: str, model: str | None = None) -> Completion:
    """Read the body of ``/v1/completions``; ``model`` from the path wins. Raises as :func:`parse_chat`."""
    text = validated(TextBody, body if model is None else {**body, "model": model})
    if text.best_of not in (None, 1, text.n):
        raise UnsupportedValue("best_of", "answers are not ranked; leave it out and use n")
    if text.echo and text.logprobs is not None:
        raise UnsupportedValue("logprobs", "those of the prompt are not computed; set echo to false")
    sampling = replace(_sampling(text), logprobs=text.logprobs is not None, top_logprobs=text.logprobs or 0)
    generate = GenerateRequest(
        request_id,
        text.model,
        prompt=text.prompt,
        expert=text.expert or None,
        sampling=sampling,
        routing=text.route.options,
        allowed_experts=text.route.allowed,
    )
    return _completion(text, generate, text.prompt if text.echo else "", without_effect(TextBody, body))


def parse_route(body: Mapping[str, Any], request_id: str, max_messages: int, default_model: str) -> GenerateRequest:
    """Read the body of ``/v1/route``: a chat body, or a bare text as ``prompt`` or ``input``.

    ``model`` may be left out. Raises as :func:`parse_chat`.
    """
    given = {name: value for name, value in body.items() if value is not None}
    given.setdefault("model", default_model)
    if "experts" in given:
        raise InvalidField("experts", "are named, so there is nothing to route; leave them out")
    if "messages" in given:
        return parse_chat(given, request_id, max_messages).generate
    if "input" in given:
        given["prompt"] = given["input"]
    if "prompt" not in given:
        raise InvalidField("messages", "is required, or a text as 'prompt'")
    try:
        return parse_text(given, request_id).generate
    except InvalidField as exc:
        if exc.param == "prompt" and "input" in given:
            exc.param = "input"
        raise


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


def without_effect(kind: type[BaseModel], body: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of fields that the endpoint does not honour and that might have been meant to change the answer."""
    honoured = kind.model_fields.keys() | _LABELS
    names = (
        one_line(name, 64)
        for name, value in body.items()
        if value and name not in honoured and value not in _NEUTRAL.get(name, ())
    )
    return tuple(islice(names, _MAX_REPORTED))
