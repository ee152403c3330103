"""OpenAI's own Python client against the app."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock

import anyio
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from pydantic import BaseModel

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import RoutingDecision
from lmoe_ray.domain.embedding import Embeddings, EmbedRequest
from lmoe_ray.domain.stream import TokenDelta, Usage
from lmoe_ray.domain.tools import CallPiece
from lmoe_ray.errors import Overloaded, PromptTooLong
from tests.fakes import FakeBackend


class Place(BaseModel):
    place: str


class Hesitating(FakeBackend):
    """Overloaded the first time it is asked."""

    num_refused = 0

    def _hesitate(self) -> None:
        if not self.num_refused:
            self.num_refused += 1
            raise Overloaded(9, 8)

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        self._hesitate()
        return await super().route(request)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self._hesitate()
        return await super().embed(request)


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
    with pytest.raises(openai.NotFoundError, match="no route POST /v1/images/generations"):
        await connect(FakeBackend("Hi")).images.generate(model="demo", prompt="x")
    with pytest.raises(openai.NotFoundError, match="no route GET /v1/responses/resp_1"):
        await connect(FakeBackend("Hi")).responses.retrieve("resp_1")


async def test_an_answer_is_parsed_into_the_model_that_was_asked_for(connect: Any) -> None:
    client = connect(FakeBackend('{"place": ', '"Oslo"}'))
    chat = await client.chat.completions.parse(model="demo", messages=HELLO, response_format=Place)
    response = await client.responses.parse(model="demo", input="Where?", text_format=Place)

    assert chat.choices[0].message.parsed == Place(place="Oslo")
    assert response.output_parsed == Place(place="Oslo")


async def test_a_response_is_answered_and_its_items_go_back_in(connect: Any) -> None:
    backend = FakeBackend("Hel", "lo")
    client = connect(backend)
    first = await client.responses.create(model="demo", input="hello there", instructions="Be brief.")
    again = [{"role": "user", "content": "hello there"}, *first.output, {"role": "user", "content": "and?"}]
    await client.responses.create(model="demo", input=again)

    assert (first.output_text, first.status, first.usage.total_tokens, first.expert) == (
        "Hello",
        "completed",
        6,
        "code",
    )
    assert [(m.role, m.content) for m in backend.requests[1].messages][1:] == [("assistant", "Hello"), ("user", "and?")]


async def test_a_response_is_streamed_and_parsed(connect: Any) -> None:
    client = connect(FakeBackend('{"place": ', 0.01, '"Oslo"}'))
    async with client.responses.stream(model="demo", input="Where?", text_format=Place) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()

    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == '{"place": "Oslo"}'
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_parsed == Place(place="Oslo")


async def test_a_call_in_a_response_is_streamed_and_parsed(connect: Any) -> None:
    usage, tool = Usage(2, 3), openai.pydantic_function_tool(Place, name="go")
    flat = {"type": "function", **tool["function"]}
    deltas = [
        TokenDelta("", (1,), usage, calls=(CallPiece(0, "go", '{"place"'),)),
        TokenDelta("", (2,), usage, "tool_calls", calls=(CallPiece(0, arguments=': "Oslo"}'),)),
    ]
    client = connect(FakeBackend(deltas[0], 0.01, deltas[1]))
    async with client.responses.stream(model="demo", input="Go!", tools=[flat]) as stream:
        [item] = (await stream.get_final_response()).output
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "done"}
    whole = await client.responses.create(model="demo", input=[item, result], tools=[flat])

    assert (item.type, item.name, item.arguments, item.status) == (
        "function_call",
        "go",
        '{"place": "Oslo"}',
        "completed",
    )
    assert whole.output[0].arguments == item.arguments


async def test_vectors_arrive_as_floats_whichever_way_they_travel(connect: Any) -> None:
    client = connect(FakeBackend())
    travelled = await client.embeddings.create(model="demo", input=["a b", "a"])
    plain = await client.embeddings.create(model="demo", input=["a b", "a"], encoding_format="float")

    assert (
        [one.embedding for one in travelled.data] == [one.embedding for one in plain.data] == [[2.0, 0.0], [1.0, 0.0]]
    )
    assert travelled.usage.total_tokens == 3


@pytest.mark.parametrize("ask", ["chat", "responses", "embeddings"])
async def test_what_may_be_tried_again_is_tried_again(serve: Any, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    """OpenAI's client waits as long as ``Retry-After`` says; what it says without one is never a whole second."""
    waited_s: list[float] = []
    monkeypatch.setattr(anyio, "sleep", AsyncMock(side_effect=waited_s.append))
    backend = Hesitating("Hi")
    http = serve(backend)
    client = openai.AsyncOpenAI(api_key="x", base_url="http://lmoe.test/v1", http_client=http, max_retries=2)
    if ask == "chat":
        await client.chat.completions.create(model="demo", messages=HELLO)
    elif ask == "responses":
        assert (await client.responses.create(model="demo", input="hello")).output_text == "Hi"
    else:
        await client.embeddings.create(model="demo", input="hello")

    assert backend.num_refused == 1
    assert waited_s == [1.0]
