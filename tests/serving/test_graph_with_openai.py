"""OpenAI's own Python client against the real graph: every endpoint it knows of those we have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import openai
import pytest
from pydantic import BaseModel

from lmoe_ray.pretrained.model_source import resolve
from lmoe_ray.routing.choose_embedder import choose_embedder
from lmoe_ray.settings import RouterSettings
from tests.tiny_graph import tiny_graph

pytestmark = [pytest.mark.ray, pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

HELLO: Any = [{"role": "user", "content": "hello"}]
#: Tokens of a tiny random model say nothing, so an answer is bounded, and always the same.
BOUND: Any = {"max_tokens": 8, "temperature": 0}
OWN: Any = {"extra_body": {"expert": "code"}}
#: Random enough to get out of a string again.
FREE: Any = {"temperature": 1.5, "extra_body": {"seed": 1}}


class Choice(BaseModel):
    a: Literal["x", "y"]


@pytest.fixture(scope="module")
def url(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tiny_graph(tmp_path_factory.mktemp("graph")) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="x", base_url=f"{url}/v1", max_retries=0, timeout=120) as client:
        yield client


def test_a_chat_is_the_same_whole_and_in_a_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="left", messages=HELLO, **BOUND, **OWN)
    stream = client.chat.completions.create(
        model="left", messages=HELLO, stream=True, stream_options={"include_usage": True}, **BOUND, **OWN
    )
    chunks = list(stream)

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 8


def test_a_response_is_the_same_whole_and_in_a_stream(client: openai.OpenAI) -> None:
    asked: Any = {"model": "left", "input": "hello", "max_output_tokens": 8, "temperature": 0, **OWN}
    whole = client.responses.create(**asked)
    chat = client.chat.completions.create(model="left", messages=HELLO, **BOUND, **OWN)
    events = list(client.responses.create(**asked, stream=True))

    assert whole.output_text == chat.choices[0].message.content
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == f"response.{whole.status}"
    assert events[-1].response.usage == whole.usage  # type: ignore[union-attr]
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.model_extra["expert"]) == (chat.usage.prompt_tokens, "code")  # type: ignore


def test_an_answer_is_parsed_into_the_model_that_was_asked_for(client: openai.OpenAI) -> None:
    chat = client.chat.completions.parse(model="left", messages=HELLO, response_format=Choice, max_tokens=60, **FREE)
    response = client.responses.parse(model="left", input="hello", text_format=Choice, max_output_tokens=60, **FREE)
    with client.responses.stream(
        model="left", input="hello", text_format=Choice, max_output_tokens=60, **FREE
    ) as stream:
        streamed = stream.get_final_response()

    assert chat.choices[0].message.parsed is not None
    assert chat.choices[0].message.parsed.a in ("x", "y")
    assert response.output_parsed == streamed.output_parsed == chat.choices[0].message.parsed


def test_a_call_is_parsed_and_its_result_goes_back(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Choice, name="choose")
    # A random model would go on calling until it is cut off.
    one: Any = {"tool_choice": "required", "parallel_tool_calls": False, **FREE}
    chat = client.chat.completions.parse(model="left", messages=HELLO, tools=[tool], max_tokens=90, **one)
    [call] = (chat.choices[0].message.tool_calls or [])[:1]
    flat: Any = {"type": "function", **tool["function"]}
    with client.responses.stream(model="left", input="hello", tools=[flat], max_output_tokens=90, **one) as stream:
        response = stream.get_final_response()
    [item] = response.output
    result: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "done"}  # type: ignore[union-attr]
    after = client.responses.create(model="left", input=[item, result], tools=[flat], tool_choice="none", **FREE)  # type: ignore[list-item]

    assert isinstance(call.function.parsed_arguments, Choice)
    assert item.type == "function_call"
    assert json.loads(item.arguments)["a"] in ("x", "y")
    assert (response.model_extra or {})["expert"] == "function"
    assert after.output[0].type == "message"


def test_vectors_are_those_of_the_routers_embedder(client: openai.OpenAI, cache_dir: Path) -> None:
    texts = ["write a loop in python", "a haiku about snow", "the rain in spain " * 20, "null\0byte", "é🦊"]
    told = client.embeddings.create(model="left", input=texts)
    settings = RouterSettings()
    own = choose_embedder(resolve(settings.embedder, None, cache_dir), settings, [], cache_dir).embed(texts)
    vectors = np.array([one.embedding for one in told.data], dtype=np.float32)

    assert np.array_equal(vectors, own)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert told.usage.total_tokens > 90
    assert (told.model_extra or {})["embedder"] == "all-minilm-l6-v2"


def test_vectors_of_another_length_and_texts_that_are_too_long_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="makes vectors of 384 numbers"):
        client.embeddings.create(model="left", input="x", dimensions=100)
    with pytest.raises(openai.BadRequestError, match="text 1 has more than the 256 tokens"):
        client.embeddings.create(model="left", input=["x", "word " * 300])
    cut = client.embeddings.create(model="left", input="word " * 300, dimensions=384, extra_body={"truncate": True})
    assert cut.usage.total_tokens == 256


def test_tokens_are_those_that_a_chat_is_charged_for(client: openai.OpenAI, url: str) -> None:
    chat = client.chat.completions.create(model="right", messages=HELLO, **BOUND, **OWN)
    told = httpx.post(f"{url}/tokenize", json={"model": "right", "messages": HELLO}).json()
    text = httpx.post(f"{url}/detokenize", json={"model": "right", "tokens": told["tokens"]}).json()["prompt"]
    refused = httpx.post(f"{url}/detokenize", json={"model": "right", "tokens": [1, 10**6]}).json()["error"]

    assert chat.usage is not None
    assert (told["count"], told["max_model_len"]) == (chat.usage.prompt_tokens, 1024)
    assert text.startswith("A chat.\nUSER: hello")
    assert text.endswith("\nASSISTANT: ")
    assert (refused["param"], refused["code"]) == ("tokens[1]", "invalid_value")


def test_an_error_arrives_as_its_own_class(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="nothing", input="hello")
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(model="left", input="word " * 2000)
    with pytest.raises(openai.BadRequestError) as kept:
        client.responses.create(model="left", input="hello", previous_response_id="resp_1")

    assert unknown.value.code == "model_not_found"
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input")
    assert (kept.value.code, kept.value.param) == ("unsupported_value", "previous_response_id")


async def test_requests_that_find_the_queue_full_are_tried_again_until_it_has_room(url: str) -> None:
    """Four run, four wait; the others are refused with 429, and OpenAI's client comes back."""

    async def flood(max_retries: int) -> list[Any]:
        async with openai.AsyncOpenAI(
            api_key="x", base_url=f"{url}/v1", max_retries=max_retries, timeout=120
        ) as client:
            asked: Any = {"model": "left", "input": "hello", "max_output_tokens": 300}
            body = {"extra_body": {"ignore_eos": True, "expert": "code"}}
            answers = (client.responses.create(**asked, **body) for _ in range(16))
            return await asyncio.gather(*answers, return_exceptions=True)

    impatient = await flood(0)
    assert {type(answer) for answer in impatient} == {openai.types.responses.Response, openai.RateLimitError}
    refused = next(answer for answer in impatient if isinstance(answer, openai.RateLimitError))
    assert (refused.code, refused.response.headers["retry-after"]) == ("overloaded", "1")
    assert [answer.usage.output_tokens for answer in await flood(20)] == [300] * 16
