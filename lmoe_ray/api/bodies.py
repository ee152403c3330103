"""What a request body may hold: every field an OpenAI client may send, with its type and range.

Lenient where clients differ, honest where we cannot do what was asked: ``null`` is the same as
absent, unknown keys are allowed, and a field that would change the answer but is not supported is
refused with an error of type ``unsupported_value``. Ranges come from ``domain/sampling.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from lmoe_ray.domain.chat import Role
from lmoe_ray.domain.sampling import LOGIT_BIAS_RANGE, MAX_STOP_CHARS, MAX_STOPS, RANGES, SamplingParams
from lmoe_ray.errors import one_line

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
UNSUPPORTED = "unsupported_value"
MAX_LOGIT_BIASES = 1024

_DEFAULTS = SamplingParams()
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")
#: Kinds of content parts that are text, and the key that holds it.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def _wrong(problem: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{problem}", {"problem": problem})


def _unsupported(problem: str) -> PydanticCustomError:
    return PydanticCustomError(UNSUPPORTED, "{problem}", {"problem": problem})


def _range(name: str) -> Any:
    low, high = RANGES[name]
    return Field(ge=low, le=high)


def _only(neutral: Any) -> AfterValidator:
    """Accept the value that asks for nothing special; any other is not supported."""

    def check(value: Any) -> Any:
        if value != neutral:
            raise _unsupported(f"only {json.dumps(neutral)} is supported; leave the field out")
        return value

    return AfterValidator(check)


def _plain_text(content: Any) -> str:
    """Text of a message: a string, or text parts, which are joined by a line break."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong("must be a string, a list of parts or null")
    return "\n".join(_part_text(number, part) for number, part in enumerate(content))


def _part_text(number: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise _wrong(f"part {number} must be an object with a 'type'")
    if kind not in _TEXT_PARTS:
        raise _unsupported(f"part {number} is of type {one_line(kind, 40)!r}; only text parts are supported")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise _wrong(f"part {number} has no text in {_TEXT_PARTS[kind]!r}")
    return text


def _json_lines(calls: Any) -> str:
    """Calls as compact JSON, one a line: the model sees what it has asked for, and nothing is lost."""
    try:
        return "\n".join(json.dumps(call, ensure_ascii=False, separators=(",", ":")) for call in calls)
    except RecursionError as exc:
        raise _wrong("is nested too deeply") from exc


def _call_list(calls: Any) -> str:
    if not isinstance(calls, list):
        raise _wrong("must be a list or null")
    return _json_lines(calls)


def _known_role(role: str) -> str:
    if role not in ROLES:
        raise _wrong(f"must be one of {', '.join(ROLES)}")
    return role


def _one_prompt(prompt: Any) -> Any:
    """A prompt is a string, or a list that holds just one."""
    if not isinstance(prompt, list):
        return prompt
    if any(not isinstance(item, str) for item in prompt):
        raise _unsupported("token ids are not supported; send the prompt as a string")
    if len(prompt) != 1:
        raise _unsupported(f"one prompt per request is supported, not {len(prompt)}; send them one by one")
    return prompt[0]


def _stop_list(stop: Any) -> Any:
    if isinstance(stop, str):
        return [stop]
    if stop is not None and not isinstance(stop, list):
        raise _wrong("must be a string, a list of strings or null")
    return stop


def _within_stop_limits(stops: list[str] | None) -> list[str] | None:
    strings = [stop for stop in stops or () if stop]
    if len(strings) > MAX_STOPS:
        raise _wrong(f"there are {len(strings)} strings, the limit is {MAX_STOPS}")
    if any(len(stop) > MAX_STOP_CHARS for stop in strings):
        raise _wrong(f"a string has more than {MAX_STOP_CHARS} characters")
    return stops


def _within_bias_limits(biases: dict[str, float]) -> dict[str, float]:
    low, high = LOGIT_BIAS_RANGE
    if not all(_TOKEN_ID.fullmatch(token_id) for token_id in biases):
        raise _wrong("keys must be token ids, such as '50256'")
    if not all(low <= bias <= high for bias in biases.values()):
        raise _wrong(f"values must lie between {low:g} and {high:g}")
    return biases


def _not_forced(choice: Any) -> Any:
    if choice not in ("auto", "none"):
        raise _unsupported("a call cannot be forced; send 'auto' or leave the field out")
    return choice


def _not_strict(response_format: dict[str, Any]) -> dict[str, Any]:
    schema = response_format.get("json_schema")
    if isinstance(schema, dict) and schema.get("strict") is True:
        raise _unsupported("a strict JSON schema cannot be guaranteed; set strict to false")
    return response_format


class _Lenient(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class MessageBody(_Lenient):
    """One message. Our own replies come back as messages, so whatever else they hold is ignored."""

    role: Annotated[str, AfterValidator(_known_role)]
    content: Annotated[str, BeforeValidator(_plain_text)] = ""
    tool_calls: Annotated[str, BeforeValidator(_call_list)] = ""
    function_call: Annotated[str, BeforeValidator(lambda call: _json_lines([call]))] = ""

    @property
    def text(self) -> str:
        return "\n".join(text for text in (self.content, self.tool_calls, self.function_call) if text)


class StreamOptions(_Lenient):
    include_usage: bool = False


class CompletionBody(_Lenient):
    """Fields of both kinds of completion."""

    model: Annotated[str, Field(min_length=1)]
    expert: str = ""
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
        dict[str, float], Field(max_length=MAX_LOGIT_BIASES), AfterValidator(_within_bias_limits)
    ] = {}
    stop: Annotated[list[str] | None, BeforeValidator(_stop_list), AfterValidator(_within_stop_limits)] = None
    ignore_eos: bool = False
    n: Annotated[int, _only(1)] = 1
    # The newer endpoint asks (false), the older one counts (0); to Python they are equal.
    logprobs: Annotated[Any, _only(False)] = False
    top_logprobs: Annotated[int, _only(0)] = 0


class ChatBody(CompletionBody):
    """``/v1/chat/completions``."""

    messages: Annotated[list[MessageBody], Field(min_length=1)]
    tools: list[Any] = []
    functions: list[Any] = []
    tool_choice: Annotated[Any, AfterValidator(_not_forced)] = "auto"
    function_call: Annotated[Any, AfterValidator(_not_forced)] = "auto"
    response_format: Annotated[dict[str, Any], AfterValidator(_not_strict)] = {}
    modalities: Annotated[Any, _only(["text"])] = ["text"]
    audio: Annotated[Any, _only(None)] = None


class TextBody(CompletionBody):
    """``/v1/completions``."""

    prompt: Annotated[str, BeforeValidator(_one_prompt), Field(min_length=1)]
    echo: bool = False
    suffix: Annotated[str, _only("")] = ""
    best_of: Annotated[int, _only(1)] = 1
