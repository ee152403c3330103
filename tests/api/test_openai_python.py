"""OpenAI's own Python client against the app."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.domain.tools import CallPiece
from lmoe_ray.errors import Overloaded, PromptTooLong
from tests.fakes import FakeBackend

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def connect(serve: Any) -> Any:
    def connect(backend: FakeBackend) -> openai.AsyncOpenAI:
        http = serve(backend)
        return openai.AsyncOpenAI(api_key="x", base_url="http://lmoe.test/v1", http_client=http, max_retries=0)

    return connect


async def test_a_chat_is_answered(connect: Any) -> None:
    answer = await connect(FakeBackend("Hel", "lo")).chat.completions.create(model="demo", messages=HELLO)
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 4
    assert answer.expert == "code"


async def test_a_chat_is_streamed_with_usage(connect: Any) -> None:
    stream = await connect(FakeBackend("Grü", 0.01, "ße")).chat.completions.create(
        model="demo", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Grüße"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 2


async def test_a_prompt_is_completed_and_streamed(connect: Any) -> None:
    client = connect(FakeBackend("very", 0.01, " fast"))
    whole = await client.completions.create(model="demo", prompt="Are cats fast?", echo=True)
    assert whole.choices[0].text == "Are cats fast?very fast"
    stream = await client.completions.create(model="demo", prompt="Are cats fast?", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "very fast"


async def test_several_answers_to_one_chat_are_told_apart(connect: Any) -> None:
    client = connect(FakeBackend("Hel", 0.01, "lo"))
    whole = await client.chat.completions.create(model="demo", messages=HELLO, n=3)
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [(n, "Hello") for n in range(3)]
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (2, 6)
    stream = await client.chat.completions.create(
        model="demo", messages=HELLO, n=3, stream=True, stream_options={"include_usage": True}
    )
    texts, reasons, usage = ["", "", ""], {}, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.delta.content is not None or choice.finish_reason
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
    assert (texts, reasons) == (["Hello"] * 3, dict.fromkeys(range(3), "stop"))
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 6)


async def test_a_call_is_put_together_from_a_stream_as_from_a_whole_answer(connect: Any) -> None:
    pieces = [
        (CallPiece(0, "f", '{"a'),),
        (CallPiece(0, arguments='": 1}'), CallPiece(1, "g")),
        (CallPiece(1, "", "{}"),),
    ]
    usage, ends = Usage(2, 3), (None, None, "tool_calls")
    deltas = [TokenDelta("", (1,), usage, end, calls=calls) for calls, end in zip(pieces, ends, strict=True)]
    client = connect(FakeBackend(*deltas))
    fields = {"model": "demo", "messages": HELLO, "tools": [openai_tool("f"), openai_tool("g")]}
    whole = (await client.chat.completions.create(**fields)).choices[0]
    calls = [(call.id, call.function.name, call.function.arguments) for call in whole.message.tool_calls]
    assert ([call[1:] for call in calls], whole.finish_reason) == ([("f", '{"a": 1}'), ("g", "{}")], "tool_calls")
    grown: dict[int, list[str]] = {}
    async for chunk in await client.chat.completions.create(**fields, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            if call.id:
                grown[call.index] = [call.function.name, ""]
            grown[call.index][1] += call.function.arguments
    assert grown == {0: ["f", '{"a": 1}'], 1: ["g", "{}"]}


def openai_tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


async def test_models_are_listed_and_retrieved(connect: Any) -> None:
    client = connect(FakeBackend("Hi"))
    assert [model.id async for model in client.models.list()][:3] == ["demo", "demo:code", "demo:math"]
    assert (await client.models.retrieve("demo:code")).owned_by == "lmoe_ray"


@pytest.mark.parametrize(
    ("backend", "fields", "kind", "code"),
    [
        (FakeBackend("x"), {"model": "nothing"}, openai.NotFoundError, "model_not_found"),
        (FakeBackend("x"), {"n": 9}, openai.BadRequestError, "invalid_value"),
        (FakeBackend("x"), {"modalities": ["audio"]}, openai.BadRequestError, "unsupported_value"),
        (FakeBackend("x"), {"temperature": 9}, openai.BadRequestError, "invalid_value"),
        (FakeBackend(PromptTooLong(9, 8)), {}, openai.BadRequestError, "context_length_exceeded"),
        (FakeBackend(Overloaded(9, 8)), {}, openai.RateLimitError, "overloaded"),
        (FakeBackend(KeyError("x")), {}, openai.InternalServerError, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_arrives_as_its_own_class(
    connect: Any,
    backend: FakeBackend,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    with pytest.raises(kind) as caught:
        await connect(backend).chat.completions.create(
            **{"model": "demo", "messages": HELLO, "stream": stream, **fields}
        )
    assert caught.value.code == code


async def test_an_error_in_mid_stream_arrives_as_an_error(connect: Any) -> None:
    client = connect(FakeBackend("Hel", 0.01, Overloaded(9, 8), "lo"))
    stream = await client.chat.completions.create(model="demo", messages=HELLO, stream=True)
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", "Hel"]
    with pytest.raises(openai.APIError, match="requests are waiting"):
        await anext(stream)


async def test_what_we_do_not_serve_is_not_found(connect: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no route POST /v1/embeddings"):
        await connect(FakeBackend("Hi")).embeddings.create(model="demo", input="x")
