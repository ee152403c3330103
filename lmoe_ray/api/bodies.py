"""What a request body may hold: every field an OpenAI client may send, with its type and range.

Lenient where clients differ, honest where we cannot do what was asked: ``null`` is the same as
absent, unknown keys are allowed, and a field that would change the answer but is not supported is
refused with an error of type ``unsupported_value``. Ranges come from ``domain/sampling.py``. The same
models describe the API in ``/openapi.json``, so what a validator takes beyond its type is told to both.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from lmoe_ray.api.lenient_body import AnyNumberOf, Lenient, unsupported, wrong
from lmoe_ray.api.message_bodies import MessageBody
from lmoe_ray.api.route_bodies import ExpertsBody
from lmoe_ray.api.tool_bodies import ToolsBody
from lmoe_ray.domain.sampling import (
    LOGIT_BIAS_RANGE,
    MAX_STOP_CHARS,
    MAX_STOPS,
    MAX_TOP_LOGPROBS,
    RANGES,
    SamplingParams,
)

MAX_LOGIT_BIASES = 1024
#: OpenAI's own limit on the older endpoint.
MAX_LEGACY_LOGPROBS = 5

_DEFAULTS = SamplingParams()
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")
_BIAS_SCHEMA: Any = {
    "propertyNames": {"pattern": f"^({_TOKEN_ID.pattern})$"},
    "additionalProperties": {"type": "number", "minimum": LOGIT_BIAS_RANGE[0], "maximum": LOGIT_BIAS_RANGE[1]},
}


def _range(name: str) -> Any:
    low, high = RANGES[name]
    return Field(ge=low, le=high)


def _only(neutral: Any) -> AfterValidator:
    """Accept the value that asks for nothing special; any other is not supported."""

    def check(value: Any) -> Any:
        if value != neutral:
            raise unsupported(f"only {json.dumps(neutral)} is supported; leave the field out")
        return value

    return AfterValidator(check)


def _one_prompt(prompt: Any) -> Any:
    """A prompt is a string, or a list that holds just one."""
    if not isinstance(prompt, list):
        return prompt
    if any(not isinstance(item, str) for item in prompt):
        raise unsupported("token ids are not supported; send the prompt as a string")
    if len(prompt) != 1:
        raise unsupported(f"one prompt per request is supported, not {len(prompt)}; send them one by one")
    return prompt[0]


_NOT_EMPTY = Annotated[str, Field(min_length=1)]
Prompt = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(_one_prompt, _NOT_EMPTY | Annotated[list[_NOT_EMPTY], Field(min_length=1, max_length=1)]),
]


def _stop_list(stop: Any) -> Any:
    if isinstance(stop, str):
        return [stop]
    if stop is not None and not isinstance(stop, list):
        raise wrong("must be a string, a list of strings or null")
    return stop


def _within_stop_limits(stops: list[str] | None) -> list[str] | None:
    strings = [stop for stop in stops or () if stop]
    if len(strings) > MAX_STOPS:
        raise wrong(f"there are {len(strings)} strings, the limit is {MAX_STOPS}")
    if any(len(stop) > MAX_STOP_CHARS for stop in strings):
        raise wrong(f"a string has more than {MAX_STOP_CHARS} characters")
    return stops


def _within_bias_limits(biases: dict[str, float]) -> dict[str, float]:
    low, high = LOGIT_BIAS_RANGE
    if not all(_TOKEN_ID.fullmatch(token_id) for token_id in biases):
        raise wrong("keys must be token ids, such as '50256'")
    if not all(low <= bias <= high for bias in biases.values()):
        raise wrong(f"values must lie between {low:g} and {high:g}")
    return biases


def _from_legacy(count: Any) -> Any:
    """The newer endpoint asks for log-probabilities by true and false."""
    if isinstance(count, bool):
        raise wrong(f"counts the likeliest tokens to report, 0 to {MAX_LEGACY_LOGPROBS}")
    return count


class StreamOptions(Lenient):
    include_usage: Annotated[bool, Field(description="end the stream with a chunk of token counts")] = False


class CompletionBody(ExpertsBody):
    """Fields of both kinds of completion."""

    model: Annotated[str, Field(min_length=1, description="a base, base:expert, an expert or an alias")]
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Annotated[int | None, _range("max_tokens")] = None
    max_completion_tokens: Annotated[int | None, _range("max_tokens")] = None
    temperature: Annotated[float, _range("temperature")] = _DEFAULTS.temperature
    top_p: Annotated[float, _range("top_p")] = _DEFAULTS.top_p
    top_k: Annotated[int, _range("top_k")] = _DEFAULTS.top_k
    min_p: Annotated[float, _range("min_p")] = _DEFAULTS.min_p
    repetition_penalty: Annotated[float, _range("repetition_penalty")] = _DEFAULTS.repetition_penalty
    presence_penalty: Annotated[float, _range("presence_penalty")] = _DEFAULTS.presence_penalty
    frequency_penalty: Annotated[float, _range("frequency_penalty")] = _DEFAULTS.frequency_penalty
    seed: Annotated[int | None, _range("seed")] = _DEFAULTS.seed
    logit_bias: Annotated[
        dict[str, float],
        Field(max_length=MAX_LOGIT_BIASES, json_schema_extra=_BIAS_SCHEMA),
        AfterValidator(_within_bias_limits),
    ] = Field(default_factory=dict)
    stop: Annotated[
        AnyNumberOf[str] | None,
        BeforeValidator(_stop_list, str | list[str]),
        AfterValidator(_within_stop_limits),
        Field(description=f"at most {MAX_STOPS} strings of {MAX_STOP_CHARS} characters; [] switches default stops off"),
    ] = None
    ignore_eos: bool = False
    n: Annotated[int, _range("n")] = _DEFAULTS.n


class ChatBody(CompletionBody, ToolsBody):
    """``/v1/chat/completions``."""

    messages: Annotated[list[MessageBody], Field(min_length=1)]
    # Some clients send the older endpoint's 0 for "none".
    logprobs: Annotated[bool, BeforeValidator(lambda asked: False if asked == 0 else asked, bool | Literal[0])] = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    modalities: Annotated[Any, _only(["text"]), WithJsonSchema({"const": ["text"]})] = Field(
        default_factory=lambda: ["text"]
    )
    audio: Annotated[Any, _only(None), WithJsonSchema({"type": "null"})] = None


class TextBody(CompletionBody):
    """``/v1/completions``."""

    prompt: Prompt
    echo: bool = False
    suffix: Annotated[str, _only(""), WithJsonSchema({"const": ""})] = ""
    best_of: Annotated[int | None, Field(description="1, or as many as n")] = None
    logprobs: Annotated[int | None, Field(ge=0, le=MAX_LEGACY_LOGPROBS), BeforeValidator(_from_legacy)] = None
